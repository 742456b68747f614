// Package revert runs work that has several steps, each with its undo, so that
// a failure in the middle leaves nothing behind. It knows nothing of what the
// steps do. vmrun's launch is its first caller.
package revert

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Step is one named piece of work.
//
// Undo is called for every step that was begun, the failed one included, so it
// must do no harm when Do did only half or nothing. It may be nil.
type Step struct {
	Name string
	Do   func(ctx context.Context) error
	Undo func() error
}

// Observer sees each step. Begin runs before Do; its error counts as the
// step's, which is how tests fail each step once. End runs after Do.
type Observer interface {
	Begin(name string) error
	End(name string, took time.Duration, err error)
}

// StepError says which step failed. Undone holds what went wrong while undoing,
// nil if nothing did.
type StepError struct {
	Step   string
	Err    error
	Undone error
}

func (e *StepError) Error() string {
	if e.Undone != nil {
		return fmt.Sprintf("%s: %v (and undoing it: %v)", e.Step, e.Err, e.Undone)
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

// Stack holds the undos of what was done so far.
type Stack struct{ undos []named }

type named struct {
	name string
	undo func() error
}

// Push adds an undo; nil is ignored.
func (s *Stack) Push(name string, undo func() error) {
	if undo != nil {
		s.undos = append(s.undos, named{name, undo})
	}
}

// Undo calls the undos, last first, all of them whatever fails, and empties the
// stack.
func (s *Stack) Undo() error {
	var errs []error
	for i := len(s.undos) - 1; i >= 0; i-- {
		if err := s.undos[i].undo(); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.undos[i].name, err))
		}
	}
	s.undos = nil
	return errors.Join(errs...)
}

// Keep empties the stack without undoing: the work has succeeded.
func (s *Stack) Keep() { s.undos = nil }

// Run does the steps in order. On the first failure it undoes what was begun and
// returns a *StepError. On success it returns the stack of undos, for work that
// is to be undone later. A context that ends counts as a failure of the step
// that would come next.
func Run(ctx context.Context, steps []Step, o Observer, now func() time.Time) (*Stack, error) {
	stack := &Stack{}
	for _, s := range steps {
		err := ctx.Err()
		if err == nil {
			stack.Push(s.Name, s.Undo)
			started := now()
			if err = o.Begin(s.Name); err == nil {
				err = s.Do(ctx)
			}
			o.End(s.Name, now().Sub(started), err)
		}
		if err != nil {
			return nil, &StepError{Step: s.Name, Err: err, Undone: stack.Undo()}
		}
	}
	return stack, nil
}
