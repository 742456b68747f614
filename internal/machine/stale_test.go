package machine_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/fake"
)

// stale is a launcher whose list does not show a machine the first time that it
// is asked after the launch, as when it was asked just before.
type stale struct {
	*fake.Launcher
	mu       sync.Mutex
	hidden   map[string]bool
	launches map[string]int
}

func (l *stale) Launch(ctx context.Context, spec launch.Spec) error {
	err := l.Launcher.Launch(ctx, spec)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.launches[spec.Node.Key()]++; l.launches[spec.Node.Key()] == 1 {
		l.hidden[spec.Node.Key()] = true
	}
	return err
}

func (l *stale) List(ctx context.Context) ([]launch.Status, error) {
	list, err := l.Launcher.List(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	list = slices.DeleteFunc(list, func(m launch.Status) bool {
		hidden := l.hidden[m.Node.Key()]
		delete(l.hidden, m.Node.Key())
		return hidden
	})
	return list, err
}

// A second launch would give the row a credential that the machine does not have.
func TestAMachineIsLaunchedOnce(t *testing.T) {
	var l *stale
	b := newBench(t, func(f *fake.Launcher) launch.Launcher {
		l = &stale{Launcher: f, hidden: map[string]bool{}, launches: map[string]int{}}
		return l
	})
	v := b.create(want("one"))
	l.mu.Lock()
	n := l.launches[v.Node().Key()]
	l.mu.Unlock()
	if v.Power != millpond.VMRunning || n != 1 {
		t.Errorf("%s after %d launches", v.Power, n)
	}
}
