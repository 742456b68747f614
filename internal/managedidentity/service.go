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

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Resources is what this package needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Service is safe for concurrent use.
type Service struct {
	db        *sqlite.DB
	resources Resources
}

// New makes a Service.
func New(db *sqlite.DB, resources Resources) *Service {
	return &Service{db: db, resources: resources}
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
