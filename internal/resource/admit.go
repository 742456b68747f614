package resource

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Admit checks that a resource may be written: its subscription, group and
// parent are there, nothing above it is being deleted, the location is a region
// and stays what it was. It returns the id in the spelling of what is there,
// the location (the group's if none is given), and registers the provider in
// the subscription, as a first create does.
func (s *Service) Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error) {
	g, err := group(tx, id.GroupScope())
	if err != nil {
		return id, "", err
	}
	if g.State == millpond.StateDeleting {
		return id, "", millpond.Errorf(millpond.Conflict, "ResourceGroupBeingDeleted", "The resource group '%s' is being deleted. Wait until it has gone and try again.", g.Name)
	}
	id.Subscription, id.Group = g.Subscription, g.Name
	if p, ok := id.Parent(); ok {
		parent, err := tx.Resource(p.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return id, "", millpond.Errorf(millpond.NotFound, "ParentResourceNotFound", "Can not perform requested operation on nested resource. Parent resource '%s' not found. Create it first.", strings.Join(p.Names, "/"))
		}
		if err != nil {
			return id, "", err
		}
		if parent.State == millpond.StateDeleting {
			return id, "", millpond.Errorf(millpond.Conflict, "Conflict", "The parent resource %s is being deleted.", parent.ID)
		}
		id = parent.ID.Child(id.Types[len(id.Types)-1], id.Name())
	}
	if location == "" {
		location = g.Location
	}
	region, err := s.Region(location)
	if err != nil {
		return id, "", err
	}
	old, err := tx.Resource(id.Key())
	if err == nil {
		id = old.ID
		if old.Location != region.Name {
			return id, "", millpond.Errorf(millpond.Conflict, "InvalidResourceLocation",
				"The resource '%s' already exists in location '%s'. A resource with the same name cannot be created in location '%s'. Choose another name or that location.", id.Name(), old.Location, region.Name)
		}
	} else if !errors.Is(err, sqlite.ErrNoRow) {
		return id, "", err
	}
	return id, region.Name, tx.Register(id.Subscription, id.Namespace)
}

// Begin records a long-running operation inside a verb's transaction.
func (s *Service) Begin(tx *sqlite.Tx, id millpond.ResourceID, verb string) (millpond.Operation, error) {
	op := millpond.Operation{ID: uuid.NewString(), Subscription: id.Subscription, Target: id.Key(), Verb: verb, Status: millpond.OperationInProgress, Started: tx.Now}
	return op, tx.StartOperation(op)
}

// NotFound is the error for a resource that is not there; if its group is
// missing, it says so.
func (s *Service) NotFound(tx *sqlite.Tx, id millpond.ResourceID) error {
	if _, err := group(tx, id.GroupScope()); err != nil {
		return err
	}
	return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The Resource '%s/%s' under resource group '%s' was not found. List what is there with: az resource list -g %s",
		id.Type(), strings.Join(id.Names, "/"), id.Group, id.Group)
}

// List lists resources of any kind, by key.
func (s *Service) List(ctx context.Context, q sqlite.Query) (out []millpond.Resource, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		if q.Group != "" {
			if _, err := group(tx, q.Group); err != nil {
				return err
			}
		}
		out, err = tx.Resources(q)
		return err
	})
	if q.Tag == "" {
		return out, err
	}
	return slices.DeleteFunc(out, func(r millpond.Resource) bool { return !tagged(r.Tags, q.Tag) }), err
}

// tagged says whether tags have one of NAME or NAME=VALUE. Names have no case.
func tagged(tags map[string]string, tag string) bool {
	name, value, withValue := strings.Cut(tag, "=")
	for k, v := range tags {
		if strings.EqualFold(k, name) && (!withValue || v == value) {
			return true
		}
	}
	return false
}

// Get returns one resource of any kind.
func (s *Service) Get(ctx context.Context, id millpond.ResourceID) (r millpond.Resource, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		r, err = tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.NotFound(tx, id)
		}
		return err
	})
	return r, err
}

// TagOp says what to do with tags.
type TagOp string

const (
	TagMerge   TagOp = "Merge"
	TagReplace TagOp = "Replace"
	TagDelete  TagOp = "Delete"
)

// Tags returns the tags of a resource or group scope.
func (s *Service) Tags(ctx context.Context, scope string) (tags map[string]string, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		tags, err = s.tags(tx, scope)
		return err
	})
	return tags, err
}

func (s *Service) tags(tx *sqlite.Tx, scope string) (map[string]string, error) {
	if id, ok := millpond.ParseResourceID(scope); ok {
		r, err := tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil, s.NotFound(tx, id)
		}
		return r.Tags, err
	}
	g, err := group(tx, scope)
	return g.Tags, err
}

// SetTags changes the tags of a resource or group scope.
func (s *Service) SetTags(ctx context.Context, scope string, op TagOp, tags map[string]string) (out map[string]string, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		old, err := s.tags(tx, scope)
		if err != nil {
			return err
		}
		out = applyTags(old, op, tags)
		if err := CheckTags(out); err != nil {
			return err
		}
		if id, ok := millpond.ParseResourceID(scope); ok {
			return tx.SetTags(id.Key(), out)
		}
		g, err := group(tx, scope)
		if err != nil {
			return err
		}
		g.Tags = out
		return tx.PutGroup(g)
	})
	return out, err
}

// applyTags is pure: the tags after an operation. Names compare without case.
func applyTags(old map[string]string, op TagOp, tags map[string]string) map[string]string {
	out := map[string]string{}
	if op != TagReplace {
		for k, v := range old {
			out[k] = v
		}
	}
	for k, v := range tags {
		for o, ov := range out {
			if strings.EqualFold(o, k) && (op != TagDelete || v == "" || v == ov) {
				delete(out, o)
			}
		}
		if op != TagDelete {
			out[k] = v
		}
	}
	return out
}
