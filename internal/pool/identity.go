package pool

import (
	"context"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
)

// Identities is what pools need to know of managed identities.
type Identities interface {
	// AdmitIdentity checks that an identity is there and that a caller may assign it,
	// and gives its id in the spelling of what is there.
	AdmitIdentity(ctx context.Context, caller millpond.Caller, id string) (string, error)
}

// admitIdentities checks the identities that a pool is to have; those that it had
// need no right.
func (s *Service) admitIdentities(ctx context.Context, caller millpond.Caller, ids, had []string) ([]string, error) {
	var out []string
	for _, id := range ids {
		if i := slices.IndexFunc(had, func(h string) bool { return strings.EqualFold(h, id) }); i >= 0 {
			out = append(out, had[i])
			continue
		}
		if s.Identities == nil {
			return nil, millpond.InvalidProperty("identity.userAssignedIdentities", id, "There are no managed identities here.")
		}
		admitted, err := s.Identities.AdmitIdentity(ctx, caller, id)
		if err != nil {
			return nil, err
		}
		out = append(out, admitted)
	}
	return out, nil
}

// checkFileIdentities wants the start task to name identities that the pool has.
func checkFileIdentities(p *millpond.PoolSpec) error {
	if p.StartTask == nil {
		return nil
	}
	for _, f := range p.StartTask.ResourceFiles {
		if f.Identity == "" {
			continue
		}
		if _, err := p.HasIdentity(f.Identity); err != nil {
			return err
		}
	}
	return nil
}
