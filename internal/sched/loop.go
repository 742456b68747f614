// Package sched places waiting tasks on nodes. It keeps in memory what placing
// needs, made from the rows and following every commit; planning on it is pure.
// A plan is made and written inside one transaction, so that nothing can change
// between the two. It starts nothing: the node's session sees the new row and
// tells the agent.
package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Sessions is what the scheduler needs of the nodes' sessions.
type Sessions interface {
	// Live says whether the node's agent can be told something now.
	Live(millpond.NodeID) bool
	// Wake makes a node's session look at its rows.
	Wake(millpond.NodeID)
}

// Scheduler places tasks. Make one with New and run its Loop.
type Scheduler struct {
	db       *sqlite.DB
	log      *slog.Logger
	sessions Sessions
	wake     *wake.Signal
	// state belongs to whoever holds the database's writer; nil until it is loaded.
	state *State
	// loading guards following.
	loading   sync.Mutex
	following bool
}

// New makes a scheduler that runs when signal wakes it.
func New(db *sqlite.DB, log *slog.Logger, sessions Sessions, signal *wake.Signal) *Scheduler {
	return &Scheduler{db: db, log: log, sessions: sessions, wake: signal}
}

// batch bounds the assignments of one transaction, so that other writers wait
// for milliseconds only.
const batch = 256

// Loop is the scheduler's loop. The timer is a safety net, and the clock of
// tasks that have waited for long; every other cause wakes it.
func (s *Scheduler) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "scheduler", Every: patience, Wake: s.wake, Run: s.run}
}

func (s *Scheduler) run(ctx context.Context) (string, time.Time, error) {
	if err := s.load(ctx); err != nil {
		return "", time.Time{}, err
	}
	placed := 0
	for {
		n, more, err := s.round(ctx)
		placed += n
		if err != nil || !more {
			return fmt.Sprintf("%d tasks placed", placed), time.Time{}, err
		}
	}
}

// load makes the state of the rows, once; every later commit is followed.
func (s *Scheduler) load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	if s.following {
		return nil
	}
	err := s.db.Follow(ctx, func(tx *sqlite.Tx) (err error) {
		s.state, err = Load(tx)
		return err
	}, func(c sqlite.Changes) {
		if s.state != nil {
			s.state.Apply(c)
		}
	})
	if err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	s.following = true
	return nil
}

// errDiverged says that the state is not what the rows say, which must not be.
var errDiverged = errors.New("the queue in memory is not what the rows say; it is read again")

// round plans and writes one batch.
func (s *Scheduler) round(ctx context.Context) (placed int, more bool, err error) {
	idle := false
	s.db.Still(func() { idle = s.state != nil && s.state.Idle() })
	if idle {
		return 0, false, nil
	}
	var effects ledger.Effects
	err = s.db.Update(ctx, func(tx *sqlite.Tx) (err error) {
		placed, more = 0, false
		if s.state == nil {
			if s.state, err = Load(tx); err != nil {
				return err
			}
		}
		plan := s.state.Plan(tx.Now, batch, s.sessions.Live)
		book := ledger.Open(tx)
		for _, a := range plan.Assign {
			t, err := s.task(tx, a.Ref)
			if err != nil {
				return err
			}
			assign := book.Assign
			if a.Prepared {
				assign = book.AssignPrepared
			}
			var ok bool
			if a.Gang {
				ok, err = book.AssignGang(t, a.Pool, append([]millpond.NodeID{a.Node}, a.Others...))
			} else {
				ok, err = assign(t, a.Pool, a.Node)
			}
			if err != nil {
				return err
			}
			if !ok {
				return errDiverged
			}
			placed++
		}
		for _, e := range plan.Evict {
			t, err := s.task(tx, e)
			if err != nil {
				return err
			}
			if err := book.Stop(t, millpond.CodeTaskEnded, "The task was put back because a job of higher priority needed its slots.", true); err != nil {
				return err
			}
		}
		more = plan.More
		err = book.Close()
		effects = book.Effects
		return err
	})
	if errors.Is(err, errDiverged) {
		s.log.Error("scheduler", "err", err)
		s.db.Still(func() { s.state = nil })
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	for n := range effects.Sessions {
		s.sessions.Wake(n)
	}
	return placed, more, nil
}

func (s *Scheduler) task(tx *sqlite.Tx, r Ref) (millpond.Task, error) {
	t, err := tx.Task(millpond.AccountName(r.Account), millpond.JobID(r.Job), millpond.TaskID(r.Task))
	if errors.Is(err, sqlite.ErrNoRow) {
		return t, errDiverged
	}
	return t, err
}

// Blocked counts the tasks for a pool that wait for other tasks.
func (s *Scheduler) Blocked(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) (n int, err error) {
	if err := s.load(ctx); err != nil {
		return 0, err
	}
	s.db.Still(func() {
		if s.state == nil {
			return
		}
		p := s.state.pools[poolKey{acct.Key(), id.Key()}]
		if p == nil {
			return
		}
		for j := range p.jobs {
			if j.active {
				n += j.blocked
			}
		}
	})
	return n, nil
}

// Free tells how many slots of each node, by its key, a plan could give now: 0
// for one that is full or takes no tasks. It is for who holds the queue against
// the rows; nil while it is to be read again.
func (s *Scheduler) Free(ctx context.Context) (free map[string]int, err error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	s.db.Still(func() {
		if s.state == nil {
			return
		}
		free = map[string]int{}
		for key, n := range s.state.nodes {
			if free[key] = 0; n.at >= 0 {
				free[key] = n.in
			}
		}
	})
	return free, nil
}
