package compute

import (
	"context"
	"errors"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// PutPlacement makes a placement resource or replaces its settings; created tells
// which.
func (s *Service) PutPlacement(ctx context.Context, p *millpond.Placement) (created bool, err error) {
	return putKept(ctx, s, p)
}

// Placement returns one placement resource.
func (s *Service) Placement(ctx context.Context, id millpond.ResourceID) (*millpond.Placement, error) {
	return loadKept[millpond.Placement](ctx, s, id)
}

// Placements lists those of one type by key.
func (s *Service) Placements(ctx context.Context, typ string, q sqlite.Query) ([]*millpond.Placement, error) {
	return listKept[millpond.Placement](ctx, s, typ, q)
}

// DeleteKept deletes a placement resource or an SSH public key, which nothing hangs
// on; false if it was not there.
func (s *Service) DeleteKept(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		if err := unnamed(tx, id); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	return found, err
}

// unnamed refuses to delete a disk access that disks or snapshots still name.
func unnamed(tx *sqlite.Tx, id millpond.ResourceID) error {
	if !id.Is(millpond.TypeDiskAccess) {
		return nil
	}
	for _, typ := range []string{millpond.TypeDisk, millpond.TypeSnapshot} {
		all, err := sqlite.List[millpond.Disk](tx, sqlite.Query{Type: typ, Subscription: id.Subscription})
		if err != nil {
			return err
		}
		for _, d := range all {
			if strings.EqualFold(d.AccessID, id.String()) {
				return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The disk access '%s' is named by '%s'. Change that first: az resource update --ids %s --set properties.networkAccessPolicy=DenyAll", id.Name(), d.ID.Name(), d.ID)
			}
		}
	}
	return nil
}

// TagKept replaces the tags of one of them.
func (s *Service) TagKept(ctx context.Context, id millpond.ResourceID, tags map[string]string) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		err := tx.SetTags(id.Key(), tags)
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.Resources.NotFound(tx, id)
		}
		return err
	})
}

// kept is a noun whose row is all there is of it.
type kept[T any] interface {
	*T
	sqlite.Noun
}

func putKept[T any, P kept[T]](ctx context.Context, s *Service, n P) (created bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		r := n.Base()
		if r.ID, r.Location, err = s.Resources.Admit(tx, r.ID, r.Location); err != nil {
			return err
		}
		old, err := sqlite.Load[T, P](tx, r.ID.Key())
		created = errors.Is(err, sqlite.ErrNoRow)
		if err != nil && !created {
			return err
		}
		if !created {
			r.Created = P(old).Base().Created
		}
		r.State = millpond.StateSucceeded
		return tx.Put(n)
	})
	return created, err
}

func loadKept[T any, P kept[T]](ctx context.Context, s *Service, id millpond.ResourceID) (n *T, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		n, err = sqlite.Load[T, P](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.Resources.NotFound(tx, id)
		}
		return err
	})
	return n, err
}

func listKept[T any, P kept[T]](ctx context.Context, s *Service, typ string, q sqlite.Query) (out []*T, err error) {
	q.Type = typ
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.List[T, P](tx, q)
		return err
	})
	return out, err
}
