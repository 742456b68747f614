// Package job holds the verbs of jobs, tasks and job schedules and the loops that
// finish what they begin: disabling, terminating, deleting, time limits, releasing
// nodes, pools of jobs, the next job of a schedule. It places no task and talks to
// no node; packages sched and node do.
package job

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Wakes are the loops that the verbs wake.
type Wakes struct{ Jobs, Scheduler, Nodes *wake.Signal }

// Config are the limits that an operator may change; zero values get defaults.
type Config struct {
	// ActiveJobs is how many jobs of an account may be uncompleted; 300.
	ActiveJobs int
	// Every is the loop's timer, a safety net behind the wakes; 30 s.
	Every time.Duration
}

// Deps are the parts that a Service is made of.
type Deps struct {
	DB    *sqlite.DB
	Clock clock.Clock
	Log   *slog.Logger
	// WakeSession makes a node's session look at its rows; may be nil.
	WakeSession func(millpond.NodeID)
	// Pools makes and deletes the pools of jobs.
	Pools Pools
	// NewID gives random text that makes a pool's id, 36 letters, digits and
	// hyphens at most; nil gives random UUIDs.
	NewID  func() string
	Wakes  Wakes
	Config Config
}

// Service is the verbs of jobs and tasks. It is safe for concurrent use.
type Service struct {
	Deps
	// schedules wakes the loop of job schedules.
	schedules *wake.Signal
	// pools wakes the loop of the pools of jobs.
	pools *wake.Signal
}

// New makes a Service.
func New(d Deps) *Service {
	if d.WakeSession == nil {
		d.WakeSession = func(millpond.NodeID) {}
	}
	if d.NewID == nil {
		d.NewID = func() string { return strings.ToUpper(uuid.NewString()) }
	}
	if d.Config.ActiveJobs == 0 {
		d.Config.ActiveJobs = 300
	}
	if d.Config.Every == 0 {
		d.Config.Every = 30 * time.Second
	}
	return &Service{Deps: d, schedules: wake.New(), pools: wake.New()}
}

// apply wakes whoever has something to do after a transaction.
func (s *Service) apply(e ledger.Effects) {
	e.Wake(s.WakeSession, s.Wakes.Scheduler, s.Wakes.Jobs, s.Wakes.Nodes)
}

// update runs fn with a ledger in a write transaction and wakes afterwards.
func (s *Service) update(ctx context.Context, fn func(*sqlite.Tx, *ledger.Book) error) error {
	var effects ledger.Effects
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		book := ledger.Open(tx)
		if err := fn(tx, book); err != nil {
			return err
		}
		err := book.Close()
		effects = book.Effects
		return err
	})
	if err == nil {
		s.apply(effects)
	}
	return err
}

func readJob(tx *sqlite.Tx, acct millpond.AccountName, id millpond.JobID) (millpond.Job, error) {
	j, err := tx.Job(acct, id)
	if errors.Is(err, sqlite.ErrNoRow) {
		return j, millpond.Errorf(millpond.NotFound, "JobNotFound", "The specified job does not exist.")
	}
	return j, err
}

func readTask(tx *sqlite.Tx, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID) (millpond.Job, millpond.Task, error) {
	j, err := readJob(tx, acct, job)
	if err != nil {
		return j, millpond.Task{}, err
	}
	t, err := tx.Task(acct, job, id)
	if errors.Is(err, sqlite.ErrNoRow) {
		return j, t, millpond.Errorf(millpond.NotFound, "TaskNotFound", "The specified task does not exist.")
	}
	return j, t, err
}
