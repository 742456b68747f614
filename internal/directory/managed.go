package directory

import (
	"context"
	"errors"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// IssueManaged signs a token for a managed identity's principal, given by its object
// id. Who asks has proved that it is a machine with this identity. Its errors but
// Internal ones are for the machine, with OAuth's codes.
func (s *Service) IssueManaged(ctx context.Context, principal, resource string) (Token, error) {
	if a := classify(resource, ""); a == audienceUnknown {
		return Token{}, millpond.Errorf(millpond.Invalid, "invalid_resource", "AADSTS500011: The resource principal named %s was not found in the tenant. Ask for the resource of a service that this server has, such as https://management.azure.com/, https://batch.core.windows.net/ or https://storage.azure.com/.", resource)
	}
	var p millpond.ServicePrincipal
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		p, err = tx.ServicePrincipal(principal)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && p.Managed == "" {
		return Token{}, millpond.Errorf(millpond.Invalid, "invalid_request", "Identity not found")
	}
	if err != nil {
		return Token{}, err
	}
	return s.issue(p, resource)
}
