package revert

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"
)

type recorder struct {
	failAt string
	seen   []string
}

func (r *recorder) Begin(name string) error {
	if name == r.failAt {
		return errors.New("injected")
	}
	return nil
}

func (r *recorder) End(name string, _ time.Duration, err error) {
	if err == nil {
		r.seen = append(r.seen, name)
	}
}

func TestEachStepFailsOnce(t *testing.T) {
	names := []string{"a", "b", "c"}
	for i, fail := range append([]string{""}, names...) {
		var done, undone []string
		var steps []Step
		for _, n := range names {
			steps = append(steps, Step{n,
				func(context.Context) error { done = append(done, n); return nil },
				func() error { undone = append(undone, n); return nil }})
		}
		stack, err := Run(t.Context(), steps, &recorder{failAt: fail}, time.Now)
		if fail == "" {
			if err != nil || len(undone) != 0 {
				t.Fatalf("success: err %v, undone %v", err, undone)
			}
			if err := stack.Undo(); err != nil || !reflect.DeepEqual(undone, []string{"c", "b", "a"}) {
				t.Fatalf("later undo: %v %v", err, undone)
			}
			continue
		}
		var se *StepError
		if !errors.As(err, &se) || se.Step != fail || len(done) != i-1 || len(undone) != i || undone[0] != fail {
			t.Errorf("fail at %s: err %v, done %v, undone %v", fail, err, done, undone)
		}
	}
}

func TestUndoGoesOnAfterAnError(t *testing.T) {
	var s Stack
	ran := false
	s.Push("first", func() error { ran = true; return nil })
	s.Push("second", func() error { return errors.New("stuck") })
	if err := s.Undo(); err == nil || !ran {
		t.Fatalf("err %v, ran %v", err, ran)
	}
}

func TestEndedContextStopsBeforeTheNextStep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	undone := false
	_, err := Run(ctx, []Step{
		{"a", func(context.Context) error { cancel(); return nil }, func() error { undone = true; return nil }},
		{"b", func(context.Context) error { t.Error("b ran"); return nil }, nil},
	}, &recorder{}, time.Now)
	if !errors.Is(err, context.Canceled) || !undone {
		t.Fatalf("err %v, undone %v", err, undone)
	}
}
