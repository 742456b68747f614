// Package managedidentity holds the verbs of user-assigned identities: principals
// without a secret, which are assigned to Batch accounts and pools. An identity's
// row and its principal in the directory are made and end together, in one
// transaction; roles are assigned to the principal as to any other.
//
// It issues no tokens: directory does. The edge armapi calls it; package pool asks
// it whether a caller may assign an identity, package node who it is whose token a
// node wants.
package managedidentity

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Resources is what this package needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Authorizer says whether a caller may do something.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// Service is safe for concurrent use.
type Service struct {
	db        *sqlite.DB
	resources Resources
	auth      Authorizer
}

// New makes a Service.
func New(db *sqlite.DB, resources Resources, auth Authorizer) *Service {
	return &Service{db: db, resources: resources, auth: auth}
}

// AdmitIdentity checks that an identity can be assigned by a caller, and gives its id
// in the spelling of what is there. Who has no right to it does not learn whether it
// is there.
func (s *Service) AdmitIdentity(ctx context.Context, caller millpond.Caller, text string) (string, error) {
	id, ok := millpond.ParseResourceID(text)
	if !ok || !id.Is(millpond.TypeManagedIdentity) {
		return "", millpond.InvalidProperty("identity.userAssignedIdentities", text, "It must be the resource id of a user-assigned identity: /subscriptions/…/resourceGroups/…/providers/"+millpond.TypeManagedIdentity+"/NAME.")
	}
	if caller.Object == "" {
		return "", millpond.Errorf(millpond.Forbidden, "LinkedAuthorizationFailed", "An account's key gives no right to the identity %s. Sign in, for example with az login, and make the pool by the Resource Manager.", id)
	}
	if err := s.auth.Authorize(ctx, caller, millpond.TypeManagedIdentity+"/assign/action", id.String()); err != nil {
		return "", millpond.Errorf(millpond.Forbidden, "LinkedAuthorizationFailed", "The identity %s cannot be assigned: %s", id, millpond.AsError(err).Message)
	}
	m, err := s.Get(ctx, id)
	if millpond.KindOf(err) == millpond.NotFound {
		return "", millpond.Errorf(millpond.Invalid, "FailedIdentityOperation", "The identity %s does not exist. Create it with: az identity create -g %s -n %s", id, id.Group, id.Name())
	}
	if err != nil {
		return "", err
	}
	return m.ID.String(), nil
}

// Select finds the identity among those assigned that a client means by its client id,
// principal id or resource id, or the only one. The words are those of Azure's
// metadata service, which clients look for.
func (s *Service) Select(ctx context.Context, assigned []string, client, principal, resource string) (*millpond.ManagedIdentity, error) {
	var all []*millpond.ManagedIdentity
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		for _, text := range assigned {
			id, _ := millpond.ParseResourceID(text)
			m, err := sqlite.Load[millpond.ManagedIdentity](tx, id.Key())
			if errors.Is(err, sqlite.ErrNoRow) {
				continue // it was deleted
			}
			if err != nil {
				return err
			}
			all = append(all, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if client == "" && principal == "" && resource == "" && len(all) > 1 {
		return nil, millpond.Errorf(millpond.Invalid, "invalid_request", "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request")
	}
	for _, m := range all {
		if (client == "" || strings.EqualFold(client, m.ClientID)) && (principal == "" || strings.EqualFold(principal, m.PrincipalID)) && (resource == "" || strings.EqualFold(resource, m.ID.String())) {
			return m, nil
		}
	}
	return nil, millpond.Errorf(millpond.Invalid, "invalid_request", "Identity not found")
}

// name is Azure's rule for the names of identities.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{2,127}$`)

// Change is a PUT or PATCH of an identity, of which only tags can change.
type Change struct {
	ID       millpond.ResourceID
	Location string
	Tags     map[string]string
	// Patch leaves what is absent; tags are then nil.
	Patch bool
}

// Put makes an identity with its principal, or changes its tags; created tells which.
func (s *Service) Put(ctx context.Context, c Change) (out *millpond.ManagedIdentity, created bool, err error) {
	if !c.Patch && !name.MatchString(c.ID.Name()) {
		return nil, false, millpond.Errorf(millpond.Invalid, "InvalidResourceName", "The identity name %q is not valid: 3 to 128 letters, digits, '-' and '_', beginning with a letter or digit.", c.ID.Name())
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.Load[millpond.ManagedIdentity](tx, c.ID.Key())
		missing := errors.Is(err, sqlite.ErrNoRow)
		if err != nil && !missing {
			return err
		}
		if c.Patch {
			if missing {
				return s.resources.NotFound(tx, c.ID)
			}
			if c.Tags != nil {
				out.Tags = c.Tags
			}
			return tx.Put(out)
		}
		if c.ID, c.Location, err = s.resources.Admit(tx, c.ID, c.Location); err != nil {
			return err
		}
		if missing {
			sub, err := tx.Subscription(c.ID.Subscription)
			if err != nil {
				return err
			}
			out = &millpond.ManagedIdentity{Tenant: sub.Tenant, ClientID: uuid.NewString(), PrincipalID: uuid.NewString()}
			out.ID, out.Location, out.State = c.ID, c.Location, millpond.StateSucceeded
			if err := tx.InsertManagedPrincipal(millpond.ServicePrincipal{ID: out.PrincipalID, AppID: out.ClientID, Tenant: out.Tenant, DisplayName: c.ID.Name(), Managed: c.ID.String(), Created: tx.Now}); err != nil {
				return err
			}
			created = true
		}
		out.Tags = c.Tags
		return tx.Put(out)
	})
	return out, created, err
}

// Get returns one identity.
func (s *Service) Get(ctx context.Context, id millpond.ResourceID) (out *millpond.ManagedIdentity, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.Load[millpond.ManagedIdentity](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.resources.NotFound(tx, id)
		}
		return err
	})
	return out, err
}

// List lists identities by key.
func (s *Service) List(ctx context.Context, q sqlite.Query) (out []*millpond.ManagedIdentity, err error) {
	q.Type = millpond.TypeManagedIdentity
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[millpond.ManagedIdentity](tx, q)
		return err
	})
	return out, err
}

// Delete deletes an identity and its principal; false if it was not there. Pools
// that have it keep its name, as in Azure, and their nodes get no more tokens.
func (s *Service) Delete(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		m, err := sqlite.Load[millpond.ManagedIdentity](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		if err := tx.DeleteManagedPrincipal(m.PrincipalID); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	return found, err
}
