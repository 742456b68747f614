// Package job holds the verbs of jobs and tasks and the loop that finishes what
// they begin: disabling, terminating, deleting, time limits. It places no task
// and talks to no node; packages sched and node do.
package job

import (
	"context"
	"time"

	millpond "millpond.dev/millpond"
)

// Service is the verbs of jobs and tasks. It is safe for concurrent use.
type Service struct{}

var errSoon = millpond.Errorf(millpond.Unavailable, "ServerBusy", "This part of the server is not ready. Try again.")

// Patch is what a PATCH of a job changes; nil leaves a member as it is.
type Patch struct {
	Priority           *int
	MaxParallelTasks   *int
	MaxWallClock       *time.Duration
	MaxTaskRetries     *int
	Pool               *millpond.PoolID
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
	Pool               millpond.PoolID
	OnAllTasksComplete string
	Metadata           []millpond.NameValue
}

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

func (s *Service) AddJob(ctx context.Context, acct millpond.AccountName, spec millpond.JobSpec) (millpond.Job, error) {
	return millpond.Job{}, errSoon
}

func (s *Service) GetJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID) (millpond.Job, error) {
	return millpond.Job{}, errSoon
}

func (s *Service) ListJobs(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error) {
	return nil, "", errSoon
}

func (s *Service) PatchJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, p Patch) error {
	return errSoon
}

func (s *Service) UpdateJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, u Update) error {
	return errSoon
}

// DeleteJob begins to delete a job; force does not wait for the nodes.
func (s *Service) DeleteJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, force bool) error {
	return errSoon
}

func (s *Service) DisableJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, what millpond.DisableTasks) error {
	return errSoon
}

func (s *Service) EnableJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition) error {
	return errSoon
}

// TerminateJob begins to end a job; an empty reason is UserTerminate.
func (s *Service) TerminateJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, reason string, force bool) error {
	return errSoon
}

func (s *Service) AddTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, spec millpond.TaskSpec) (millpond.Task, error) {
	return millpond.Task{}, errSoon
}

// AddTasks adds up to 100 tasks in one transaction; each has its own result, in
// the order of specs.
func (s *Service) AddTasks(ctx context.Context, acct millpond.AccountName, job millpond.JobID, specs []millpond.TaskSpec) ([]AddResult, error) {
	return nil, errSoon
}

func (s *Service) GetTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID) (millpond.Task, error) {
	return millpond.Task{}, errSoon
}

func (s *Service) ListTasks(ctx context.Context, acct millpond.AccountName, job millpond.JobID, q millpond.ListQuery[millpond.Task]) ([]millpond.Task, string, error) {
	return nil, "", errSoon
}

func (s *Service) UpdateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition, c Constraints) error {
	return errSoon
}

func (s *Service) TerminateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error {
	return errSoon
}

func (s *Service) DeleteTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error {
	return errSoon
}

func (s *Service) ReactivateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error {
	return errSoon
}

// TaskCounts counts the tasks of a job by state, and their slots.
func (s *Service) TaskCounts(ctx context.Context, acct millpond.AccountName, job millpond.JobID) (tasks, slots millpond.TaskCounts, err error) {
	return tasks, slots, errSoon
}
