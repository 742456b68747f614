package job

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
)

// Constraints are a task's limits. MaxRetries nil means the job's.
type Constraints struct {
	MaxWallClock time.Duration
	Retention    time.Duration // 0: the default of 7 days
	MaxRetries   *int
}

// AddResult is what became of one task of a collection: Task, or Err.
type AddResult struct {
	ID   millpond.TaskID
	Task millpond.Task
	Err  *millpond.Error
}

// maxCollection is how many tasks one call adds; maxTaskBytes bounds one task.
const (
	maxCollection = 100
	maxTaskBytes  = 1 << 20
)

// checkTask refuses what Azure refuses and fills in defaults.
func checkTask(t *millpond.TaskSpec) *millpond.Error {
	if !millpond.ValidBatchID(string(t.ID)) {
		return millpond.InvalidProperty("id", string(t.ID), "An id has 1 to 64 letters, digits, hyphens and underscores.")
	}
	if err := millpond.CheckDisplayName(t.DisplayName); err != nil {
		return err
	}
	if t.CommandLine == "" {
		return millpond.MissingProperty("commandLine")
	}
	if t.RequiredSlots == 0 {
		t.RequiredSlots = 1
	}
	if t.RequiredSlots < 0 {
		return millpond.InvalidProperty("requiredSlots", strconv.Itoa(t.RequiredSlots), "The value must be at least 1.")
	}
	if m := t.MultiInstance; m != nil {
		if t.RequiredSlots != 1 {
			return millpond.InvalidProperty("requiredSlots", strconv.Itoa(t.RequiredSlots), "A multi-instance task takes one slot of each of its nodes; the value must be 1.")
		}
		if m.Instances == 0 {
			m.Instances = 1
		}
		if m.Coordination == "" {
			return millpond.MissingProperty("multiInstanceSettings.coordinationCommandLine")
		}
		if m.Instances < 1 {
			return millpond.InvalidProperty("numberOfInstances", strconv.Itoa(m.Instances), "The value must be at least 1.")
		}
	}
	if err := checkConstraints(t.MaxWallClock, t.Retention, t.MaxRetries); err != nil {
		return err
	}
	if t.Retention == 0 {
		t.Retention = millpond.DefaultRetention
	}
	if err := checkDependencies(t.DependsOn); err != nil {
		return err
	}
	if b, err := json.Marshal(t); err == nil && len(b) > maxTaskBytes {
		return millpond.Errorf(millpond.TooLarge, "RequestBodyTooLarge", "The task has %d bytes; at most %d are allowed. Put long content into a resource file.", len(b), maxTaskBytes)
	}
	return nil
}

// maxDependencies bounds the text of a task's list of dependencies, in characters.
const maxDependencies = 64000

func checkDependencies(d *millpond.Dependencies) *millpond.Error {
	if d == nil {
		return nil
	}
	length := 0
	for _, id := range d.Tasks {
		length += len(id)
		if !millpond.ValidBatchID(string(id)) {
			return millpond.InvalidProperty("taskIds", string(id), "An id has 1 to 64 letters, digits, hyphens and underscores.")
		}
	}
	if length > maxDependencies {
		return millpond.Errorf(millpond.Invalid, "TaskDependencyListTooLong", "The ids of the tasks that a task depends on have %d characters; at most %d are allowed. Use taskIdRanges.", length, maxDependencies)
	}
	for _, r := range d.Ranges {
		if r.Start > r.End {
			return millpond.InvalidProperty("taskIdRanges", "", "The start of a range must not be greater than its end.")
		}
	}
	return nil
}

// checkAgainstJob refuses what a task's job does not allow.
func checkAgainstJob(t millpond.TaskSpec, j millpond.JobSpec) *millpond.Error {
	if t.DependsOn != nil && !j.UsesTaskDependencies {
		return millpond.Errorf(millpond.Invalid, "TaskDependenciesNotSpecifiedOnJob", "The task has dependencies, but its job was not added with usesTaskDependencies. Add the job with usesTaskDependencies true.")
	}
	switch {
	case j.Preparation != nil && j.Preparation.ID.Key() == t.ID.Key():
		return millpond.Errorf(millpond.Conflict, "TaskIdSameAsJobPreparationTask", "The id of the task is that of its job's preparation task. Choose another id.")
	case j.Release != nil && j.Release.ID.Key() == t.ID.Key():
		return millpond.Errorf(millpond.Conflict, "TaskIdSameAsJobReleaseTask", "The id of the task is that of its job's release task. Choose another id.")
	}
	if j.OnTaskFailure != millpond.OnTaskFailurePerform && t.Exit.HasJobAction() {
		return millpond.InvalidProperty("jobAction", "", "A job action can be given only in a job whose onTaskFailure is performexitoptionsjobaction.")
	}
	return nil
}

// newTask is a task of a job in its first state.
func newTask(tx *sqlite.Tx, j millpond.Job, spec millpond.TaskSpec, order int64) millpond.Task {
	return millpond.Task{
		Account: j.Account, Job: j.Spec.ID, Spec: spec, State: millpond.TaskActive, StateTransition: tx.Now,
		Order: order, Created: tx.Now, LastModified: tx.Now, Version: 1,
		// Agents number attempts with 31 bits.
		Incarnation: int(tx.Now.UnixMicro() & (1<<30 - 1)),
	}
}

func checkConstraints(wall, retention time.Duration, retries *int) *millpond.Error {
	bad := func(name, why string) *millpond.Error {
		return millpond.Errorf(millpond.Invalid, "InvalidConstraintValue", "A constraint value is invalid. %s", why).With("PropertyName", name)
	}
	switch {
	case wall < 0:
		return bad("maxWallClockTime", "maxWallClockTime must be greater than 0.")
	case retention < 0:
		return bad("retentionTime", "retentionTime must not be negative.")
	case retries != nil && *retries < -1:
		return bad("maxTaskRetryCount", "maxTaskRetryCount must be -1 for no limit, or not negative.")
	}
	return nil
}

// AddTask adds one task to a job that is not ending.
func (s *Service) AddTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, spec millpond.TaskSpec) (millpond.Task, error) {
	out, err := s.AddTasks(ctx, acct, job, []millpond.TaskSpec{spec})
	if err != nil {
		return millpond.Task{}, err
	}
	if out[0].Err != nil {
		return millpond.Task{}, out[0].Err
	}
	return out[0].Task, nil
}

// AddTasks adds up to 100 tasks in one transaction; each has its own result, in
// the order of specs. The error is of the whole call: no such job, a job that
// takes no tasks, too many tasks.
func (s *Service) AddTasks(ctx context.Context, acct millpond.AccountName, job millpond.JobID, specs []millpond.TaskSpec) ([]AddResult, error) {
	if len(specs) < 1 || len(specs) > maxCollection {
		return nil, millpond.InvalidProperty("value", strconv.Itoa(len(specs)), fmt.Sprintf("A collection has 1 to %d tasks. Split it.", maxCollection))
	}
	out := make([]AddResult, len(specs))
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		clear(out)
		j, err := readJob(tx, acct, job)
		if err != nil {
			return err
		}
		switch j.State {
		case millpond.JobCompleted, millpond.JobTerminating, millpond.JobDeleting:
			return millpond.JobRefusal(j.State)
		}
		for i, spec := range specs {
			out[i].ID = spec.ID
			if out[i].Err = checkTask(&spec); out[i].Err != nil {
				continue
			}
			if out[i].Err = checkAgainstJob(spec, j.Spec); out[i].Err != nil {
				continue
			}
			// Tasks of one call are queued in their order.
			t := newTask(tx, j, spec, tx.Now.UnixMicro()<<8+int64(i))
			if added, err := tx.AddTask(t); err != nil {
				return err
			} else if !added {
				out[i].Err = millpond.Errorf(millpond.Conflict, "TaskExists", "The specified task already exists.")
				continue
			}
			out[i].Task = t
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.Wakes.Scheduler.Wake()
	return out, nil
}

// GetTask reads a task.
func (s *Service) GetTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID) (t millpond.Task, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		_, t, err = readTask(tx, acct, job, id)
		return err
	})
	return t, err
}

// ListTasks lists the tasks of a job by key. next is empty at the end.
func (s *Service) ListTasks(ctx context.Context, acct millpond.AccountName, job millpond.JobID, q millpond.ListQuery[millpond.Task]) (out []millpond.Task, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := readJob(tx, acct, job); err != nil {
			return err
		}
		out, next, err = q.Page(func(t millpond.Task) string { return t.Spec.ID.Key() }, func(after string, limit int) ([]millpond.Task, error) {
			return tx.Tasks(acct, job, after, limit, q.States)
		})
		return err
	})
	return out, next, err
}

// changeTask reads a task of a job, checks the condition and lets fn change it.
func (s *Service) changeTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition, fn func(*sqlite.Tx, *ledger.Book, millpond.Job, millpond.Task) error) error {
	return s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		j, t, err := readTask(tx, acct, job, id)
		if err != nil {
			return err
		}
		if err := cond.Check(t, millpond.Write); err != nil {
			return err
		}
		return fn(tx, book, j, t)
	})
}

func errCompleted() error {
	return millpond.Errorf(millpond.Conflict, "TaskCompleted", "The specified task is already in a completed state.")
}

// UpdateTask replaces a task's constraints.
func (s *Service) UpdateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition, c Constraints) error {
	if err := checkConstraints(c.MaxWallClock, c.Retention, c.MaxRetries); err != nil {
		return err
	}
	return s.changeTask(ctx, acct, job, id, cond, func(tx *sqlite.Tx, _ *ledger.Book, j millpond.Job, t millpond.Task) error {
		if t.State == millpond.TaskCompleted {
			return errCompleted()
		}
		switch j.State {
		case millpond.JobCompleted, millpond.JobTerminating, millpond.JobDeleting:
			return millpond.JobRefusal(j.State)
		}
		if c.Retention == 0 {
			c.Retention = millpond.DefaultRetention
		}
		t.Spec.MaxWallClock, t.Spec.Retention, t.Spec.MaxRetries = c.MaxWallClock, c.Retention, c.MaxRetries
		t.Version++
		t.LastModified = tx.Now
		return tx.PutTaskSpec(t)
	})
}

// TerminateTask ends a task: at once when it waits, else by its agent.
func (s *Service) TerminateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error {
	return s.changeTask(ctx, acct, job, id, cond, func(_ *sqlite.Tx, book *ledger.Book, j millpond.Job, t millpond.Task) error {
		if t.State == millpond.TaskCompleted {
			return errCompleted()
		}
		if j.State == millpond.JobDeleting {
			return millpond.JobRefusal(j.State)
		}
		return book.Stop(t, millpond.CodeTaskEnded, "The task was ended by a user request.", false)
	})
}

// DeleteTask removes a task and its files.
func (s *Service) DeleteTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error {
	return s.changeTask(ctx, acct, job, id, cond, func(_ *sqlite.Tx, book *ledger.Book, j millpond.Job, t millpond.Task) error {
		return book.Remove(t)
	})
}

// ReactivateTask puts a task that failed back into the queue.
func (s *Service) ReactivateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error {
	return s.changeTask(ctx, acct, job, id, cond, func(_ *sqlite.Tx, book *ledger.Book, j millpond.Job, t millpond.Task) error {
		switch j.State {
		case millpond.JobCompleted, millpond.JobTerminating, millpond.JobDeleting:
			return millpond.JobRefusal(j.State)
		}
		if t.State != millpond.TaskCompleted && t.Stopping != millpond.CodeTaskEnded {
			return millpond.Errorf(millpond.Conflict, "TaskNotCompleted", "The specified task has not completed. Only a task that completed and failed can be reactivated.")
		}
		if t.Result == "success" {
			return millpond.Errorf(millpond.Conflict, "TaskSucceeded", "The specified task has succeeded. Only a task that completed and failed can be reactivated.")
		}
		return book.Reactivate(t)
	})
}

// TaskCounts counts the tasks of a job by state, and their slots.
func (s *Service) TaskCounts(ctx context.Context, acct millpond.AccountName, job millpond.JobID) (tasks, slots millpond.TaskCounts, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if _, err = readJob(tx, acct, job); err != nil {
			return err
		}
		tasks, slots, err = tx.TaskCounts(acct, job)
		return err
	})
	return tasks, slots, err
}
