package resource

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

var lockName = regexp.MustCompile(`^[A-Za-z0-9._()-]{1,260}$`)

// PutLock locks a scope, or changes a lock there. created tells which.
func (s *Service) PutLock(ctx context.Context, l millpond.Lock) (out millpond.Lock, created bool, err error) {
	if !lockName.MatchString(l.Name) {
		return l, false, millpond.Errorf(millpond.Invalid, "InvalidLockName", "The lock name %q is not valid: 1 to 260 letters, digits, '.', '_', '-' or brackets.", l.Name)
	}
	if l.Level != millpond.LockDelete && l.Level != millpond.LockWrite {
		return l, false, millpond.Errorf(millpond.Invalid, "InvalidLockLevel", "The lock level must be CanNotDelete or ReadOnly.")
	}
	if len(l.Notes) > 512 {
		return l, false, millpond.Errorf(millpond.Invalid, "InvalidLockNotes", "The notes of a lock have at most 512 characters.")
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if err := s.there(tx, l.Scope); err != nil {
			return err
		}
		all, err := tx.Locks()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(o millpond.Lock) bool { return sameLock(o, l.Scope, l.Name) })
		if created = i < 0; created {
			l.Created = tx.Now
		} else {
			l.Scope, l.Name, l.Created = all[i].Scope, all[i].Name, all[i].Created
		}
		out = l
		return tx.PutLock(l)
	})
	return out, created, err
}

func sameLock(l millpond.Lock, scope, name string) bool {
	return strings.EqualFold(l.Scope, scope) && strings.EqualFold(l.Name, name)
}

// there refuses a scope that does not exist.
func (s *Service) there(tx *sqlite.Tx, scope string) error {
	if id, ok := millpond.ParseResourceID(scope); ok {
		_, err := tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.NotFound(tx, id)
		}
		return err
	}
	if strings.Contains(strings.ToLower(scope), "/resourcegroups/") {
		_, err := group(tx, scope)
		return err
	}
	return nil // a subscription; whether it is there was asked with the caller's rights
}

// Lock returns one lock of a scope.
func (s *Service) Lock(ctx context.Context, scope, name string) (millpond.Lock, error) {
	all, err := s.Locks(ctx, scope, false)
	if err != nil {
		return millpond.Lock{}, err
	}
	for _, l := range all {
		if sameLock(l, scope, name) {
			return l, nil
		}
	}
	return millpond.Lock{}, millpond.Errorf(millpond.NotFound, "LockNotFound", "The lock '%s' could not be found at '%s'. List the locks with: az lock list", name, scope)
}

// Locks lists the locks at a scope and, with below, under it.
func (s *Service) Locks(ctx context.Context, scope string, below bool) (out []millpond.Lock, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		all, err := tx.Locks()
		for _, l := range all {
			if strings.EqualFold(l.Scope, scope) || below && millpond.Below(l.Scope, scope) {
				out = append(out, l)
			}
		}
		return err
	})
	return out, err
}

// DeleteLock takes a lock away; false if it was not there.
func (s *Service) DeleteLock(ctx context.Context, scope, name string) (found bool, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		found, err = tx.DeleteLock(scope, name)
		return err
	})
	return found, err
}

// Unlocked refuses a change, or a deletion, of what lies at a scope while a lock
// stands against it.
func (s *Service) Unlocked(ctx context.Context, scope string, deletion bool) error {
	var all []millpond.Lock
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		all, err = tx.Locks()
		return err
	})
	if err != nil {
		return err
	}
	var scopes, fixes []string
	for _, l := range all {
		if l.Forbids(scope, deletion) {
			scopes = append(scopes, "'"+l.Scope+"'")
			fixes = append(fixes, "az lock delete --ids "+l.Scope+"/providers/Microsoft.Authorization/locks/"+l.Name)
		}
	}
	if len(scopes) == 0 {
		return nil
	}
	verb := "write"
	if deletion {
		verb = "delete"
	}
	return millpond.Errorf(millpond.Conflict, "ScopeLocked", "The scope '%s' cannot perform %s operation because following scope(s) are locked: %s. Please remove the lock and try again: %s",
		scope, verb, strings.Join(scopes, ", "), strings.Join(fixes, "; "))
}
