// Package reconcile drives the loops that make the world match the rows: one
// activation at a time, on a wake or on a timer, with the last run kept for the
// status page. It knows no nouns. An activation takes no input: it reads its
// whole state, and running it twice does no harm.
package reconcile

import (
	"context"
	"log/slog"
	"sort"
	"sync"
	"time"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/wake"
)

// Loop is one reconciler. Run returns a short status for operators, and
// optionally the time at which it wants to run again, if sooner than Every.
type Loop struct {
	Name  string
	Every time.Duration
	Wake  *wake.Signal
	Run   func(ctx context.Context) (status string, next time.Time, err error)
}

// Sooner is the earlier of two times at which a loop wants to run again; zero is
// never.
func Sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// LastRun is what the status page shows of a loop.
type LastRun struct {
	Name     string
	Runs     int64
	Started  time.Time
	Duration time.Duration
	Status   string
	Err      string
	Running  bool
}

// Driver runs loops until its context ends.
type Driver struct {
	clock clock.Clock
	log   *slog.Logger
	mu    sync.Mutex
	last  map[string]*LastRun
	wg    sync.WaitGroup
}

func NewDriver(c clock.Clock, log *slog.Logger) *Driver {
	return &Driver{clock: c, log: log, last: map[string]*LastRun{}}
}

// Start begins a loop; its first activation is immediate.
func (d *Driver) Start(ctx context.Context, l Loop) {
	d.mu.Lock()
	d.last[l.Name] = &LastRun{Name: l.Name}
	d.mu.Unlock()
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			case <-l.Wake.C():
			}
			wait := d.activate(ctx, l)
			timer.Reset(wait)
		}
	}()
}

func (d *Driver) activate(ctx context.Context, l Loop) time.Duration {
	started := d.clock.Now()
	d.mu.Lock()
	r := d.last[l.Name]
	r.Running, r.Started = true, started
	d.mu.Unlock()
	status, next, err := l.Run(ctx)
	now := d.clock.Now()
	d.mu.Lock()
	r.Running, r.Runs, r.Duration, r.Status, r.Err = false, r.Runs+1, now.Sub(started), status, ""
	if err != nil {
		r.Err = err.Error()
	}
	d.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		d.log.Error("loop failed", "loop", l.Name, "err", err)
	}
	wait := l.Every
	if !next.IsZero() {
		wait = min(wait, max(next.Sub(now), time.Millisecond))
	}
	return wait
}

// Wait joins the loops after their context has ended.
func (d *Driver) Wait() { d.wg.Wait() }

// LastRuns lists the loops by name.
func (d *Driver) LastRuns() []LastRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]LastRun, 0, len(d.last))
	for _, r := range d.last {
		out = append(out, *r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
