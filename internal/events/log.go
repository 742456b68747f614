package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Config bounds what is kept; zero values get defaults.
type Config struct {
	// KeepBytes and KeepFor bound the events in the database; 64 MiB and 7 days.
	KeepBytes int64
	KeepFor   time.Duration
	// Recent is how many events are held in memory for readers that are close
	// behind; 16,384.
	Recent int
}

// Log is the sequence of events. It is safe for concurrent use. Make it with
// Open before the first transaction whose events shall be in it.
type Log struct {
	db    *sqlite.DB
	clock clock.Clock
	log   *slog.Logger
	cfg   Config

	// pending is what the running transaction recorded; it becomes recent when
	// the commit is told. next is the sequence after it. Only the writer uses both.
	pending []Event
	line    []byte

	mu     sync.Mutex
	recent []Event // the last, without gaps
	last   uint64
	first  uint64 // the oldest that is kept
	bytes  int64  // of events in the database
	// poolIDs has the spelling of pools by account and key, jobPools the pool of
	// jobs: nodes and tasks do not tell.
	poolIDs  map[[2]string]string
	jobPools map[[2]string]string
	changed  chan struct{} // closed and replaced at each commit with events
	closed   chan struct{}
	stop     sync.Once
	metrics  metrics
}

// Open reads where the sequence stands and follows the database from here on.
func Open(ctx context.Context, db *sqlite.DB, c clock.Clock, log *slog.Logger, cfg Config) (*Log, error) {
	if cfg.KeepBytes == 0 {
		cfg.KeepBytes = 64 << 20
	}
	if cfg.KeepFor == 0 {
		cfg.KeepFor = 7 * 24 * time.Hour
	}
	if cfg.Recent == 0 {
		cfg.Recent = 16384
	}
	l := &Log{db: db, clock: c, log: log, cfg: cfg, poolIDs: map[[2]string]string{}, jobPools: map[[2]string]string{}, changed: make(chan struct{}), closed: make(chan struct{}), metrics: newMetrics()}
	err := db.Follow(ctx, l.begin, l.committed)
	if err != nil {
		return nil, fmt.Errorf("open the events: %w", err)
	}
	db.Journal(l.record)
	return l, nil
}

func (l *Log) begin(tx *sqlite.Tx) error {
	first, last, _, err := tx.EventWindow()
	if err != nil {
		return err
	}
	if l.bytes, err = tx.EventBytes(); err != nil {
		return err
	}
	l.first, l.last = max(first, 1), last
	pools, err := tx.AllPools()
	if err != nil {
		return err
	}
	for _, p := range pools {
		l.poolIDs[[2]string{p.Account.Key(), p.Spec.ID.Key()}] = string(p.Spec.ID)
	}
	jobs, err := tx.OpenJobs()
	for _, j := range jobs {
		l.jobPools[[2]string{j.Account.Key(), j.Spec.ID.Key()}] = string(j.Spec.Pool)
	}
	return err
}

// record writes down what a transaction changed, within it. What is not
// committed is recorded again by the next, under the same numbers.
func (l *Log) record(tx *sqlite.Tx, c sqlite.Changes) error {
	l.pending = l.eventsOf(tx.Now, c)
	if len(l.pending) == 0 {
		return nil
	}
	l.line = l.line[:0]
	for i := range l.pending {
		l.pending[i].Sequence, l.pending[i].Time = l.last+1+uint64(i), tx.Now
		l.line = appendLine(l.line, l.pending[i])
	}
	return tx.AddEvents(sqlite.EventBatch{First: l.last + 1, Last: l.last + uint64(len(l.pending)), Time: tx.Now, Body: string(l.line)})
}

// committed makes what was recorded known. It runs under the writer's lock, as
// record did, so nothing came between.
func (l *Log) committed(c sqlite.Changes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range c.Jobs {
		if j.Gone {
			delete(l.jobPools, [2]string{j.Job.Account.Key(), j.Job.Spec.ID.Key()})
		}
	}
	for _, p := range c.Pools {
		if p.Gone {
			delete(l.poolIDs, [2]string{p.Pool.Account.Key(), p.Pool.Spec.ID.Key()})
		}
	}
	if len(l.pending) == 0 {
		return
	}
	l.metrics.count(l.pending, c)
	l.recent = append(l.recent, l.pending...)
	l.last += uint64(len(l.pending))
	l.bytes += int64(len(l.line))
	l.pending = nil
	// Half at a time, so that each event is moved once at most.
	if n := len(l.recent); n > 2*l.cfg.Recent {
		l.recent = append([]Event(nil), l.recent[n-l.cfg.Recent:]...)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// eventsOf are the changes of state among changes. What was written in another
// state before has its time of transition in this transaction.
func (l *Log) eventsOf(now time.Time, c sqlite.Changes) []Event {
	us := now.UnixMicro()
	most := len(c.Tasks) + len(c.Nodes) + len(c.Jobs) + len(c.Pools) + len(c.Schedules)
	out := make([]Event, 0, most)
	here := func(t time.Time) bool { return t.UnixMicro() == us }
	// seen keeps a thing that is written twice in one transaction from telling
	// its state twice.
	type thing struct{ kind, account, job, id string }
	seen := make(map[thing][2]string, most)
	add := func(e Event) {
		k, state := thing{string(e.Kind), e.Account, e.Job, e.ID}, [2]string{e.State, e.Allocation}
		if seen[k] == state {
			return
		}
		seen[k] = state
		out = append(out, e)
	}
	for _, p := range c.Pools {
		acct := p.Pool.Account.Key()
		e := Event{Kind: Pool, Account: acct, ID: string(p.Pool.Spec.ID), State: Deleted}
		if p.Gone {
			if id, ok := l.poolIDs[[2]string{acct, p.Pool.Spec.ID.Key()}]; ok {
				e.ID = id
			}
			add(e)
			continue
		}
		l.poolIDs[[2]string{acct, p.Pool.Spec.ID.Key()}] = string(p.Pool.Spec.ID)
		if p.Added || here(p.Pool.StateTransition) || here(p.Pool.AllocationTransition) {
			e.State, e.Allocation = string(p.Pool.State), string(p.Pool.Allocation)
			add(e)
		}
	}
	for _, n := range c.Nodes {
		e := Event{Kind: Node, Account: n.Account.Key(), Pool: n.Pool, ID: string(n.ID), State: Deleted}
		if id, ok := l.poolIDs[[2]string{e.Account, n.Pool}]; ok {
			e.Pool = id
		}
		if !n.Gone {
			if !here(n.Changed) {
				continue
			}
			e.State = string(n.State)
		}
		add(e)
	}
	for _, j := range c.Jobs {
		acct := j.Job.Account.Key()
		k := [2]string{acct, j.Job.Spec.ID.Key()}
		e := Event{Kind: Job, Account: acct, ID: string(j.Job.Spec.ID), Pool: string(j.Job.Spec.Pool), State: Deleted}
		if j.Gone {
			e.Pool = l.jobPools[k]
			add(e)
			continue
		}
		l.jobPools[k] = e.Pool
		if j.Added || here(j.Job.StateTransition) {
			e.State, e.Previous = string(j.Job.State), string(j.Job.Previous)
			if j.Job.State == millpond.JobCompleted {
				e.Code = j.Job.TerminateReason
			}
			add(e)
		}
	}
	for _, s := range c.Schedules {
		e := Event{Kind: Schedule, Account: s.Schedule.Account.Key(), ID: string(s.Schedule.Spec.ID), State: Deleted}
		if !s.Gone {
			if !here(s.Schedule.StateTransition) {
				continue
			}
			e.State, e.Previous = string(s.Schedule.State), string(s.Schedule.Previous)
		}
		add(e)
	}
	for i := range c.Tasks {
		t := &c.Tasks[i].Task
		gone := c.Tasks[i].Gone
		if !gone && !here(t.StateTransition) {
			continue
		}
		e := Event{Kind: Task, Account: t.Account.Key(), Job: string(t.Job), ID: string(t.Spec.ID), Pool: string(t.Pool), State: Deleted, Node: string(t.Node), Attempt: t.Attempt}
		if e.Pool == "" {
			e.Pool = l.jobPools[[2]string{e.Account, t.Job.Key()}]
		}
		if !gone {
			e.State, e.Previous = string(t.State), string(t.Previous)
			if t.State == millpond.TaskCompleted {
				e.Result, e.Exit = t.Result, t.ExitCode
				if t.Failure != nil {
					e.Code = t.Failure.Code
				}
			}
		} else {
			e.Previous = string(t.State)
		}
		add(e)
	}
	return out
}

// Last is the sequence of the newest event.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// First is the sequence of the oldest event that is kept; 1 without any.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// Closed is closed when the server stops: streams end.
func (l *Log) Closed() <-chan struct{} { return l.closed }

// Close ends the streams.
func (l *Log) Close() { l.stop.Do(func() { close(l.closed) }) }

// ErrGone says that events after the one that was asked for are no longer kept.
var ErrGone = errors.New("these events are no longer kept")

// commits is how many transactions' events are read, or forgotten, at once.
const commits = 256

// Read gives the next events after a sequence, oldest first, and a channel that
// is closed when there are more than these; ErrGone when some of them are no
// longer kept, or were never given out.
func (l *Log) Read(ctx context.Context, after uint64) ([]Event, <-chan struct{}, error) {
	l.mu.Lock()
	changed, recent, first, last := l.changed, l.recent, l.first, l.last
	l.mu.Unlock()
	switch {
	case after == last:
		return nil, changed, nil
	case after > last || after+1 < first:
		return nil, changed, ErrGone
	case len(recent) > 0 && after+1 >= recent[0].Sequence:
		// The slice is only ever appended to or replaced.
		return recent[after+1-recent[0].Sequence:], changed, nil
	}
	var rows []sqlite.EventBatch
	err := l.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		rows, err = tx.EventsAfter(after, commits)
		return err
	})
	if err != nil {
		return nil, changed, err
	}
	var out []Event
	for _, b := range rows {
		list, err := parseBatch(b.First, b.Time, b.Body)
		if err != nil {
			return nil, changed, err
		}
		for _, e := range list {
			if e.Sequence > after {
				out = append(out, e)
			}
		}
	}
	if len(out) == 0 || out[0].Sequence != after+1 {
		return nil, changed, ErrGone
	}
	more := make(chan struct{})
	close(more)
	return out, more, nil
}

// Forget is the loop that removes events that are kept no longer.
func (l *Log) Forget() reconcile.Loop {
	return reconcile.Loop{Name: "events", Every: 10 * time.Second, Wake: wake.New(), Run: l.forget}
}

func (l *Log) forget(ctx context.Context) (string, time.Time, error) {
	removed := 0
	for {
		l.mu.Lock()
		size := l.bytes
		l.mu.Unlock()
		var first, last uint64
		var oldest time.Time
		err := l.db.View(ctx, func(tx *sqlite.Tx) (err error) {
			first, last, oldest, err = tx.EventWindow()
			return err
		})
		if err != nil {
			return "", time.Time{}, err
		}
		l.mu.Lock()
		l.first = max(first, 1)
		l.mu.Unlock()
		before := l.clock.Now().Add(-l.cfg.KeepFor)
		n := 0
		if size > l.cfg.KeepBytes || last > 0 && oldest.Before(before) {
			var freed int64
			err := l.db.Update(ctx, func(tx *sqlite.Tx) (err error) {
				n, freed, err = tx.ForgetEvents(before, size-l.cfg.KeepBytes, commits)
				return err
			})
			if err != nil {
				return "", time.Time{}, err
			}
			l.mu.Lock()
			l.bytes -= freed
			l.mu.Unlock()
		}
		if removed += n; n == 0 {
			return fmt.Sprintf("events %d to %d, %d bytes; %d commits forgotten", first, last, size, removed), time.Time{}, nil
		}
	}
}
