package job

import (
	"context"
	"strconv"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
)

// Patch is what a PATCH of a job changes; nil leaves a member as it is.
type Patch struct {
	Priority           *int
	MaxParallelTasks   *int
	MaxWallClock       *time.Duration
	MaxTaskRetries     *int
	AllowPreemption    *bool
	Pool               *millpond.PoolID
	Auto               *millpond.AutoPool
	OnAllTasksComplete *string
	Metadata           *[]millpond.NameValue
}

// Update is what a PUT of a job sets; every member is written, so the caller
// fills in the defaults for what the request leaves out.
type Update struct {
	Priority           int
	MaxParallelTasks   int
	MaxWallClock       time.Duration
	MaxTaskRetries     int
	AllowPreemption    bool
	Pool               millpond.PoolID
	Auto               *millpond.AutoPool
	OnAllTasksComplete string
	Metadata           []millpond.NameValue
}

// Reasons for which the service itself terminates jobs.
const (
	reasonUser     = "UserTerminate"
	reasonAllTasks = "AllTasksComplete"
	reasonTime     = "MaxWallClockTimeExpiry"
)

const (
	noAction     = "noaction"
	terminateJob = "terminatejob"
)

// check refuses what Azure refuses and fills in defaults.
func check(j *millpond.JobSpec) error {
	if !millpond.ValidBatchID(string(j.ID)) {
		return millpond.InvalidProperty("id", string(j.ID), "An id has 1 to 64 letters, digits, hyphens and underscores.")
	}
	if err := millpond.CheckDisplayName(j.DisplayName); err != nil {
		return err
	}
	if j.Priority < -1000 || j.Priority > 1000 {
		return millpond.Errorf(millpond.Invalid, "OutOfRangePriority", "The specified job priority is out of range. Give a value from -1000 to 1000.").With("PropertyValue", strconv.Itoa(j.Priority))
	}
	if j.MaxParallelTasks == 0 {
		j.MaxParallelTasks = -1
	}
	if j.MaxParallelTasks < -1 {
		return millpond.InvalidProperty("maxParallelTasks", strconv.Itoa(j.MaxParallelTasks), "The value must be -1 for no limit, or greater than 0.")
	}
	if j.MaxWallClock < 0 {
		return millpond.Errorf(millpond.Invalid, "InvalidConstraintValue", "A constraint value is invalid. maxWallClockTime must be greater than 0.").With("PropertyName", "maxWallClockTime")
	}
	if j.MaxTaskRetries < -1 {
		return millpond.Errorf(millpond.Invalid, "InvalidConstraintValue", "A constraint value is invalid. maxTaskRetryCount must be -1 for no limit, or not negative.").With("PropertyName", "maxTaskRetryCount")
	}
	switch j.OnAllTasksComplete {
	case "":
		j.OnAllTasksComplete = noAction
	case noAction, terminateJob:
	default:
		return millpond.InvalidProperty("onAllTasksComplete", j.OnAllTasksComplete, "The value must be noaction or terminatejob.")
	}
	switch j.OnTaskFailure {
	case "":
		j.OnTaskFailure = millpond.OnTaskFailureNothing
	case millpond.OnTaskFailureNothing, millpond.OnTaskFailurePerform:
	default:
		return millpond.InvalidProperty("onTaskFailure", j.OnTaskFailure, "The value must be noaction or performexitoptionsjobaction.")
	}
	if j.Manager != nil {
		if err := checkTask(j.Manager); err != nil {
			return err
		}
	}
	if err := checkJobTasks(j); err != nil {
		return err
	}
	for _, m := range j.Metadata {
		if m.Name == "" {
			return millpond.Errorf(millpond.Invalid, "EmptyMetadataKey", "A metadata item has no name. Give each item a name.")
		}
	}
	return nil
}

// AddJob adds an active job. Its pool need not exist yet.
func (s *Service) AddJob(ctx context.Context, acct millpond.AccountName, spec millpond.JobSpec) (millpond.Job, error) {
	if err := check(&spec); err != nil {
		return millpond.Job{}, err
	}
	if err := checkPoolInfo(&spec, false); err != nil {
		return millpond.Job{}, err
	}
	if err := s.checkAutoPool(ctx, acct, spec.Auto); err != nil {
		return millpond.Job{}, err
	}
	now := s.Clock.Now()
	var j millpond.Job
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if old, err := tx.Job(acct, spec.ID); err == nil {
			if old.State == millpond.JobDeleting {
				return millpond.JobRefusal(old.State)
			}
			return millpond.Errorf(millpond.Conflict, "JobExists", "The specified job already exists.")
		}
		if _, err := tx.Schedule(acct, millpond.JobScheduleID(spec.ID)); err == nil {
			return millpond.Errorf(millpond.Conflict, "JobScheduleWithSameIdExists", "A job schedule with the id of the job already exists. Choose another id.")
		}
		if err := s.admit(tx, acct); err != nil {
			return err
		}
		j = newJob(now, acct, spec)
		if err := s.ownPool(tx, &j, ""); err != nil {
			return err
		}
		return insertJob(tx, j)
	})
	if err != nil {
		return millpond.Job{}, err
	}
	if spec.Manager != nil {
		s.Wakes.Scheduler.Wake()
	}
	s.Log.Info("job added", "account", acct, "job", spec.ID, "pool", j.Spec.Pool)
	s.pools.Wake()
	s.Wakes.Jobs.Wake()
	return j, nil
}

func newJob(now time.Time, acct millpond.AccountName, spec millpond.JobSpec) millpond.Job {
	return millpond.Job{Account: acct, Spec: spec, State: millpond.JobActive, StateTransition: now, Started: now, Created: now, LastModified: now, Version: 1}
}

// admit holds the quota of jobs and schedules that have not completed.
func (s *Service) admit(tx *sqlite.Tx, acct millpond.AccountName) error {
	n, err := tx.CountOpenJobs(acct)
	if err != nil {
		return err
	}
	schedules, err := tx.CountOpenSchedules(acct)
	if err != nil {
		return err
	}
	if n += schedules; n >= s.Config.ActiveJobs {
		return millpond.Errorf(millpond.Conflict, "ActiveJobAndScheduleQuotaReached", "The account has %d active jobs and job schedules, which is its quota. Terminate or delete some, or raise the quota in the server's configuration.", n)
	}
	return nil
}

// insertJob adds a job with its manager task.
func insertJob(tx *sqlite.Tx, j millpond.Job) error {
	if err := tx.InsertJob(j); err != nil || j.Spec.Manager == nil {
		return err
	}
	// Order 0 is ahead of every other task of the job.
	return tx.InsertTask(newTask(tx, j, *j.Spec.Manager, 0))
}

// GetJob reads a job.
func (s *Service) GetJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID) (j millpond.Job, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		j, err = readJob(tx, acct, id)
		return err
	})
	return j, err
}

// ListJobs lists jobs by key. next is empty at the end.
func (s *Service) ListJobs(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Job]) (out []millpond.Job, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, next, err = q.Page(func(j millpond.Job) string { return j.Spec.ID.Key() }, func(after string, limit int) ([]millpond.Job, error) {
			return tx.Jobs(acct, after, limit, q.States)
		})
		return err
	})
	return out, next, err
}

// changeJob reads a job, checks the condition, lets fn change it and writes it
// as a new version.
func (s *Service) changeJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, fn func(*sqlite.Tx, *ledger.Book, *millpond.Job) error) error {
	err := s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		j, err := readJob(tx, acct, id)
		if err != nil {
			return err
		}
		if err := cond.Check(j, millpond.Write); err != nil {
			return err
		}
		if err := fn(tx, book, &j); err != nil {
			return err
		}
		j.Version++
		j.LastModified = tx.Now
		return tx.PutJob(j)
	})
	if err == nil {
		s.Wakes.Jobs.Wake()
		s.Wakes.Scheduler.Wake()
		s.pools.Wake()
	}
	return err
}

// PatchJob changes what users may change of a job. The pool changes only while
// the job is disabled.
func (s *Service) PatchJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, p Patch) error {
	return s.changeJob(ctx, acct, id, cond, func(tx *sqlite.Tx, _ *ledger.Book, j *millpond.Job) error {
		spec := j.Spec
		set(&spec.Priority, p.Priority)
		set(&spec.MaxParallelTasks, p.MaxParallelTasks)
		set(&spec.MaxWallClock, p.MaxWallClock)
		set(&spec.MaxTaskRetries, p.MaxTaskRetries)
		set(&spec.AllowPreemption, p.AllowPreemption)
		set(&spec.Pool, p.Pool)
		set(&spec.OnAllTasksComplete, p.OnAllTasksComplete)
		set(&spec.Metadata, p.Metadata)
		return respec(tx, j, spec, p.Auto)
	})
}

func set[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}

// UpdateJob replaces what users may change of a job.
func (s *Service) UpdateJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, u Update) error {
	return s.changeJob(ctx, acct, id, cond, func(tx *sqlite.Tx, _ *ledger.Book, j *millpond.Job) error {
		spec := j.Spec
		spec.Priority, spec.MaxParallelTasks, spec.MaxWallClock, spec.MaxTaskRetries = u.Priority, u.MaxParallelTasks, u.MaxWallClock, u.MaxTaskRetries
		spec.AllowPreemption = u.AllowPreemption
		spec.OnAllTasksComplete, spec.Metadata = u.OnAllTasksComplete, u.Metadata
		if u.Pool != "" {
			spec.Pool = u.Pool
		}
		return respec(tx, j, spec, u.Auto)
	})
}

func respec(tx *sqlite.Tx, j *millpond.Job, spec millpond.JobSpec, auto *millpond.AutoPool) error {
	switch j.State {
	case millpond.JobCompleted, millpond.JobTerminating, millpond.JobDeleting:
		return millpond.JobRefusal(j.State)
	}
	if err := check(&spec); err != nil {
		return err
	}
	if auto != nil {
		a, err := changeAuto(*j, *auto)
		if err != nil {
			return err
		}
		spec.Auto = a
	}
	if spec.Pool.Key() != j.Spec.Pool.Key() && j.State != millpond.JobDisabled {
		return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The pool of a job can be changed only while the job is disabled. Disable the job, change its pool, then enable it.")
	}
	if j.Spec.OnAllTasksComplete == terminateJob && spec.OnAllTasksComplete == noAction {
		return millpond.InvalidProperty("onAllTasksComplete", noAction, "Once it is terminatejob it cannot be set back to noaction.")
	}
	if j.Spec.OnAllTasksComplete == noAction && spec.OnAllTasksComplete == terminateJob {
		j.EndEmpty = true
	}
	if spec.Pool.Key() != j.Spec.Pool.Key() && j.Spec.Auto != nil {
		// It has another pool now; the one that was made for it has no job left.
		if err := leavePool(tx, *j); err != nil {
			return err
		}
		spec.Auto = nil
	}
	j.Spec = spec
	return nil
}

// shift applies an event to a job; false means that nothing changes.
func shift(j *millpond.Job, ev millpond.JobEvent, now time.Time) (bool, error) {
	next, outcome, _ := millpond.JobTransition(j.State, ev)
	switch outcome {
	case millpond.Refused:
		return false, millpond.JobRefusal(j.State)
	case millpond.Duplicate:
		return false, nil
	}
	if next != j.State {
		j.Previous, j.PreviousTransition = j.State, j.StateTransition
		j.State, j.StateTransition = next, now
	}
	return true, nil
}

// stopTasks ends or requeues the running tasks of a job.
func stopTasks(tx *sqlite.Tx, book *ledger.Book, j *millpond.Job, message string, requeue, force bool) error {
	tasks, err := tx.JobPlaced(j.Account, j.Spec.ID)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if force {
			err = book.Abandon(t, millpond.CodeTaskEnded, message)
		} else {
			err = book.Stop(t, millpond.CodeTaskEnded, message, requeue)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DisableJob begins to disable a job; what says what becomes of running tasks.
func (s *Service) DisableJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, what millpond.DisableTasks) error {
	switch what {
	case millpond.DisableRequeue, millpond.DisableTerminate, millpond.DisableWait:
	case "":
		return millpond.MissingProperty("disableTasks")
	default:
		return millpond.InvalidProperty("disableTasks", string(what), "The value must be requeue, terminate or wait.")
	}
	return s.changeJob(ctx, acct, id, cond, func(tx *sqlite.Tx, book *ledger.Book, j *millpond.Job) error {
		if _, err := shift(j, millpond.JobDisable, tx.Now); err != nil {
			return err
		}
		j.DisableTasks = what
		if what == millpond.DisableWait {
			return nil
		}
		return stopTasks(tx, book, j, "The task was stopped because its job was disabled.", what == millpond.DisableRequeue, false)
	})
}

// EnableJob lets a job's tasks be scheduled again.
func (s *Service) EnableJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition) error {
	return s.changeJob(ctx, acct, id, cond, func(tx *sqlite.Tx, _ *ledger.Book, j *millpond.Job) error {
		_, err := shift(j, millpond.JobEnable, tx.Now)
		return err
	})
}

// TerminateJob begins to end a job; an empty reason is UserTerminate. With force
// it does not wait for the nodes to confirm.
func (s *Service) TerminateJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, reason string, force bool) error {
	if reason == "" {
		reason = reasonUser
	}
	return s.changeJob(ctx, acct, id, cond, func(tx *sqlite.Tx, book *ledger.Book, j *millpond.Job) error {
		return terminate(tx, book, j, reason, force)
	})
}

func terminate(tx *sqlite.Tx, book *ledger.Book, j *millpond.Job, reason string, force bool) error {
	changed, err := shift(j, millpond.JobTerminate, tx.Now)
	if err != nil || !changed {
		return err
	}
	j.TerminateReason, j.Force = reason, force
	return stopTasks(tx, book, j, "The task was ended because its job was terminated.", false, force)
}

// DeleteJob begins to delete a job with its tasks and their files; force does
// not wait for the nodes.
func (s *Service) DeleteJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, force bool) error {
	return s.changeJob(ctx, acct, id, cond, func(tx *sqlite.Tx, book *ledger.Book, j *millpond.Job) error {
		if _, err := shift(j, millpond.JobDelete, tx.Now); err != nil {
			return err
		}
		j.Force = force
		return stopTasks(tx, book, j, "The task was ended because its job was deleted.", false, force)
	})
}
