package vmrun

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
)

// TestACloneThatIsNeverWhole: a clone that cannot become a machine of its own is ended,
// also when its cable has been plugged in meanwhile.
func TestACloneThatIsNeverWhole(t *testing.T) {
	for _, late := range []bool{false, true} {
		whole, tooLong := make(chan error), make(chan time.Time)
		s := &supervisor{log: slog.New(slog.DiscardHandler), whole: whole, broken: make(chan *launch.Failure, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		ended := make(chan struct{})
		go func() { defer close(ended); s.plugIn(ctx, tooLong) }()
		if late {
			tooLong <- time.Time{}
		}
		select {
		case whole <- nodeproto.ErrRestarted:
		case <-ctx.Done():
			t.Fatalf("late %t: nobody waits for the machine to be whole", late)
		}
		<-ended
		cancel()
		select {
		case f := <-s.broken:
			if f.Code != CodeCloneIncomplete {
				t.Errorf("late %t: the machine ended with %+v", late, f)
			}
		default:
			t.Errorf("late %t: the machine goes on half made", late)
		}
	}
	whole := make(chan error, 1)
	s := &supervisor{log: slog.New(slog.DiscardHandler), whole: whole, broken: make(chan *launch.Failure, 1)}
	whole <- nil
	s.plugIn(t.Context(), nil)
	if len(s.broken) > 0 {
		t.Error("a machine that is whole was ended")
	}
}
