package resource

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// groupName leaves the length to its caller: a bound of repetitions would be compiled into
// as many copies of all letters there are, 4 MB in each process.
var groupName = regexp.MustCompile(`^[\p{L}\p{N}_\-.()]+$`)

// groupNameLimit is how many characters a name has at most.
const groupNameLimit = 90

func validGroupName(name string) bool {
	return groupName.MatchString(name) && utf8.RuneCountInString(name) <= groupNameLimit && !strings.HasSuffix(name, ".")
}

// NoGroup is the error for a group that is not there.
func NoGroup(name string) error {
	return millpond.Errorf(millpond.NotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found. Create it with: az group create --name %s --location REGION", name, name)
}

// PutGroup makes a group or changes its tags. created tells which.
func (s *Service) PutGroup(ctx context.Context, g millpond.Group) (out millpond.Group, created bool, err error) {
	if !validGroupName(g.Name) {
		return g, false, millpond.Errorf(millpond.Invalid, "InvalidResourceGroup", "The group name %q is not valid: 1 to 90 letters, digits, '_', '-', '.', '(' or ')', not ending in '.'.", g.Name)
	}
	if err := CheckTags(g.Tags); err != nil {
		return g, false, err
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		old, err := tx.Group(g.Scope())
		if errors.Is(err, sqlite.ErrNoRow) {
			region, err := s.Region(g.Location)
			if err != nil {
				return err
			}
			out, created = g, true
			out.Location, out.State = region.Name, millpond.StateSucceeded
			return tx.PutGroup(out)
		}
		if err != nil {
			return err
		}
		if old.State == millpond.StateDeleting {
			return millpond.Errorf(millpond.Conflict, "ResourceGroupBeingDeleted", "The resource group '%s' is being deleted. Wait until it has gone and try again.", old.Name)
		}
		if g.Location != "" && millpond.NormalizeRegion(g.Location) != old.Location {
			return millpond.Errorf(millpond.Conflict, "InvalidResourceGroupLocation",
				"Invalid resource group location '%s'. The resource group '%s' already exists in location '%s'.", g.Location, old.Name, old.Location)
		}
		out = old
		out.Tags = g.Tags
		return tx.PutGroup(out)
	})
	return out, created, err
}

// PatchGroup replaces a group's tags when tags is not nil.
func (s *Service) PatchGroup(ctx context.Context, scope string, tags map[string]string) (g millpond.Group, err error) {
	if err := CheckTags(tags); err != nil {
		return g, err
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if g, err = group(tx, scope); err != nil {
			return err
		}
		if tags != nil {
			g.Tags = tags
		}
		return tx.PutGroup(g)
	})
	return g, err
}

func group(tx *sqlite.Tx, scope string) (millpond.Group, error) {
	g, err := tx.Group(scope)
	if errors.Is(err, sqlite.ErrNoRow) {
		return g, NoGroup(scope[strings.LastIndexByte(scope, '/')+1:])
	}
	return g, err
}

// Group returns one group.
func (s *Service) Group(ctx context.Context, scope string) (g millpond.Group, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		g, err = group(tx, scope)
		return err
	})
	return g, err
}

// Groups lists a subscription's groups after a key.
func (s *Service) Groups(ctx context.Context, subscription, after string, limit int, tag string) (out []millpond.Group, err error) {
	if tag != "" {
		limit = 0 // it filters after the page is cut
	}
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = tx.Groups(subscription, after, limit)
		return err
	})
	if tag != "" {
		out = slices.DeleteFunc(out, func(g millpond.Group) bool { return !tagged(g.Tags, tag) })
	}
	return out, err
}

// DeleteGroup starts to delete a group and everything in it.
func (s *Service) DeleteGroup(ctx context.Context, scope string) (op millpond.Operation, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		g, err := group(tx, scope)
		if err != nil {
			return err
		}
		g.State = millpond.StateDeleting
		op = millpond.Operation{ID: uuid.NewString(), Subscription: g.Subscription, Target: scope, Verb: "delete", Started: tx.Now, Status: millpond.OperationInProgress}
		if err := tx.StartOperation(op); err != nil {
			return err
		}
		return tx.PutGroup(g)
	})
	s.wake.Wake()
	return op, err
}

// Loop deletes groups that are to be deleted, members first and the members of
// members before them, and forgets old operations.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "resource groups", Every: 10 * time.Second, Wake: s.wake, Run: s.run}
}

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var doomed []millpond.Group
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		all, err := tx.Groups("", "", 0)
		for _, g := range all {
			if g.State == millpond.StateDeleting {
				doomed = append(doomed, g)
			}
		}
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	var failures []error
	now, seen := s.clock.Now(), map[string]time.Time{}
	for _, g := range doomed {
		since, ok := s.doomed[g.Scope()]
		if !ok {
			since = now
		}
		seen[g.Scope()] = since
		if at := since.Add(s.grace); at.After(now) {
			next = reconcile.Sooner(next, at)
			continue
		}
		gone, err := s.empty(ctx, g)
		switch {
		case err != nil:
			// The group stays, usable again, and the operation tells why.
			failures = append(failures, s.endGroup(ctx, g, millpond.AsError(err)), err)
		case gone:
			failures = append(failures, s.endGroup(ctx, g, nil))
		default:
			next = reconcile.Sooner(next, now.Add(300*time.Millisecond))
		}
	}
	s.doomed = seen
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error { return tx.PruneOperations(tx.Now.Add(-operationRetention)) })
	return fmt.Sprintf("%d groups to delete", len(doomed)), next, errors.Join(append(failures, err)...)
}

func (s *Service) endGroup(ctx context.Context, g millpond.Group, failure *millpond.Error) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if failure == nil {
			if err := tx.DeleteGroup(g.Scope()); err != nil {
				return err
			}
		} else {
			g.State = millpond.StateSucceeded
			if err := tx.PutGroup(g); err != nil {
				return err
			}
		}
		return tx.EndOperations(g.Scope(), failure)
	})
}

// empty deletes the members of a group; false while some are on their way.
func (s *Service) empty(ctx context.Context, g millpond.Group) (bool, error) {
	var members []millpond.Resource
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		members, err = tx.Resources(sqlite.Query{Group: g.Scope()})
		return err
	})
	if err != nil {
		return false, err
	}
	gone := true
	for _, m := range DeletionOrder(members) {
		remove := s.remove[strings.ToLower(m.ID.Type())]
		if remove == nil {
			return false, fmt.Errorf("no way to delete %s is known", m.ID)
		}
		ok, err := remove(ctx, m.ID)
		if err != nil {
			return false, fmt.Errorf("delete %s: %w", m.ID, err)
		}
		if !ok {
			// A parent goes only after its children, so wait for the next run.
			gone = false
			break
		}
	}
	return gone, nil
}
