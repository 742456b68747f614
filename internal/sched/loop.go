// Package sched places waiting tasks on nodes. Planning is pure; the commit
// reads every row anew and changes only what still holds. It starts nothing:
// the node's session sees the new row and tells the agent.
package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
}

// New makes a scheduler that runs when signal wakes it.
func New(db *sqlite.DB, log *slog.Logger, sessions Sessions, signal *wake.Signal) *Scheduler {
	return &Scheduler{db: db, log: log, sessions: sessions, wake: signal}
}

// batch bounds the assignments of one transaction.
const batch = 512

// Loop is the scheduler's loop. The timer is a safety net; every cause wakes it.
func (s *Scheduler) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "scheduler", Every: 30 * time.Second, Wake: s.wake, Run: s.run}
}

func (s *Scheduler) run(ctx context.Context) (string, time.Time, error) {
	var pools []sqlite.QueuedPool
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		pools, err = tx.QueuedPools()
		return err
	})
	placed := 0
	for _, q := range pools {
		for err == nil {
			var n int
			var more bool
			n, more, err = s.place(ctx, q)
			if placed += n; n == 0 || !more {
				break
			}
		}
	}
	return fmt.Sprintf("%d pools with waiting tasks, %d tasks placed", len(pools), placed), time.Time{}, err
}

// view is a snapshot with the rows behind it.
type view struct {
	pool  millpond.Pool
	nodes []sqlite.NodeHead
	tasks []millpond.Task
	snap  Snapshot
}

// place plans and commits one batch for a pool. It tells how many tasks it
// placed and whether slots are left that other tasks may fill.
func (s *Scheduler) place(ctx context.Context, q sqlite.QueuedPool) (placed int, more bool, err error) {
	v, err := s.look(ctx, q)
	if err != nil || len(v.tasks) == 0 {
		return 0, false, err
	}
	plan := Plan(v.snap)
	if len(plan) == 0 {
		return 0, false, nil
	}
	free := 0
	for _, n := range v.snap.Nodes {
		free += n.Free
	}
	for _, a := range plan {
		free -= v.snap.Tasks[a.Task].Slots
	}
	placed, err = s.commit(ctx, v, plan)
	return placed, free > 0 || placed < len(plan), err
}

func (s *Scheduler) look(ctx context.Context, q sqlite.QueuedPool) (view, error) {
	var v view
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		p, err := tx.Pool(q.Account, millpond.PoolID(q.Pool))
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		v.pool, v.snap.Fill = p, p.Spec.FillType
		heads, err := tx.PoolHeads(q.Account, q.Pool)
		if err != nil {
			return err
		}
		free, most := 0, 0
		for _, h := range heads {
			f := p.Spec.TaskSlotsPerNode - h.RunningSlots
			if f <= 0 || !Eligible(h) || !s.sessions.Live(h.ID) {
				continue
			}
			v.nodes = append(v.nodes, h)
			v.snap.Nodes = append(v.snap.Nodes, Node{ID: h.ID, Free: f, Running: h.RunningTasks})
			free, most = free+f, max(most, f)
		}
		if free == 0 {
			return nil
		}
		jobs, err := tx.QueuedJobs(q)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			room, limit := -1, min(free-len(v.tasks), batch)
			if j.Spec.MaxParallelTasks > 0 {
				n, err := tx.CountPlaced(j.Account, j.Spec.ID)
				if err != nil {
					return err
				}
				room = max(0, j.Spec.MaxParallelTasks-n)
				limit = min(limit, room)
			}
			if limit <= 0 {
				continue
			}
			tasks, err := tx.QueuedTasks(j.Account, j.Spec.ID, most, limit)
			if err != nil {
				return err
			}
			for _, t := range tasks {
				v.tasks = append(v.tasks, t)
				v.snap.Tasks = append(v.snap.Tasks, Task{Job: len(v.snap.Room), Slots: t.Spec.RequiredSlots, Affinity: t.Spec.Affinity})
			}
			v.snap.Room = append(v.snap.Room, room)
			if len(v.tasks) >= min(free, batch) {
				break
			}
		}
		return nil
	})
	return v, err
}

// Eligible says whether a node takes tasks, as far as its row tells.
func Eligible(h sqlite.NodeHead) bool {
	return (h.State == millpond.NodeIdle || h.State == millpond.NodeRunning) && h.Scheduling == millpond.SchedulingEnabled && h.Pending == ""
}

// commit places what still holds: the task waits, its job is active and has
// room, and the node takes tasks and has free slots.
func (s *Scheduler) commit(ctx context.Context, v view, plan []Assignment) (int, error) {
	placed := 0
	var effects ledger.Effects
	err := s.db.Update(ctx, func(tx *sqlite.Tx) error {
		placed = 0
		book := ledger.Open(tx)
		type jobRoom struct {
			active bool
			room   int
		}
		jobs := map[string]*jobRoom{}
		for _, a := range plan {
			old := v.tasks[a.Task]
			j := jobs[old.Job.Key()]
			if j == nil {
				job, err := tx.Job(old.Account, old.Job)
				if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
					return err
				}
				j = &jobRoom{active: err == nil && job.State == millpond.JobActive, room: -1}
				if j.active && job.Spec.MaxParallelTasks > 0 {
					n, err := tx.CountPlaced(old.Account, old.Job)
					if err != nil {
						return err
					}
					j.room = max(0, job.Spec.MaxParallelTasks-n)
				}
				jobs[old.Job.Key()] = j
			}
			if !j.active || j.room == 0 {
				continue
			}
			head, err := book.Head(v.nodes[a.Node].ID)
			if err != nil {
				return err
			}
			if head == nil || !Eligible(*head) || head.RunningSlots+old.Spec.RequiredSlots > v.pool.Spec.TaskSlotsPerNode {
				continue
			}
			t, err := tx.Task(old.Account, old.Job, old.Spec.ID)
			if errors.Is(err, sqlite.ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			ok, err := book.Assign(t, v.pool.Spec.ID, head.ID)
			if err != nil {
				return err
			}
			if ok {
				placed++
				if j.room > 0 {
					j.room--
				}
			}
		}
		effects = book.Effects
		return book.Close()
	})
	if err != nil {
		return 0, err
	}
	for n := range effects.Sessions {
		s.sessions.Wake(n)
	}
	return placed, nil
}
