// Package ledger applies task events to rows: it is the only place in which a
// task that was added changes state, and it keeps the node's load state, the
// counters and the directories to clean up in step, in the same transaction.
// It decides nothing about when; packages sched, node and job call it.
package ledger

import (
	"errors"
	"slices"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Effects says who has something to do once the transaction has landed.
type Effects struct {
	// Scheduler: slots or tasks became free. Jobs: a task left its node or
	// completed. NodeLoop: a node that waits for its tasks may be empty now.
	Scheduler, Jobs, NodeLoop bool
	// Sessions are the nodes whose agents must be told something.
	Sessions map[millpond.NodeID]struct{}
}

// Wake tells whoever has something to do after the transaction.
func (e Effects) Wake(session func(millpond.NodeID), scheduler, jobs, nodes *wake.Signal) {
	for n := range e.Sessions {
		session(n)
	}
	if e.Scheduler {
		scheduler.Wake()
	}
	if e.Jobs {
		jobs.Wake()
	}
	if e.NodeLoop {
		nodes.Wake()
	}
}

// Book is the ledger within one transaction. Close must be called before the
// transaction ends, and it is not safe for concurrent use.
type Book struct {
	tx    *sqlite.Tx
	heads map[string]*entry
	jobs  map[jobKey]*millpond.Job // nil for one that is gone
	// touched are the jobs of which a task left its node or completed.
	touched map[jobKey]struct{}
	Effects
}

type jobKey struct{ account, job string }

type entry struct {
	head  sqlite.NodeHead
	was   sqlite.NodeHead // as the row has it
	dirty bool
	gone  bool
}

// same says whether a row that holds a need not be written to hold b: how many
// tasks are on a node is counted, not written.
func same(a, b *sqlite.NodeHead) bool {
	return a.State == b.State && a.Changed.Equal(b.Changed) && a.Sequence == b.Sequence && a.TasksRun == b.TasksRun &&
		a.TasksSucceeded == b.TasksSucceeded && slices.Equal(a.Recent, b.Recent)
}

// Open begins a ledger.
func Open(tx *sqlite.Tx) *Book {
	return &Book{tx: tx, heads: map[string]*entry{}, jobs: map[jobKey]*millpond.Job{}, touched: map[jobKey]struct{}{}, Effects: Effects{Sessions: map[millpond.NodeID]struct{}{}}}
}

// RecentTasks is how many of its last tasks a node remembers.
const RecentTasks = 10

// Report is what an agent says about an attempt that ended.
type Report struct {
	Start, End time.Time
	ExitCode   *int
	// Container is nil for a process.
	Container *millpond.ContainerInfo
	// Failure is nil when the command ran and gave an exit code of 0.
	Failure *millpond.TaskFailure
	// Usage is what the attempt used; its WallClock is not set.
	Usage millpond.Usage
}

// Head is a node's head as this transaction has it; nil when there is no such
// node. Changes of Sequence land with Close when Touch is called.
func (b *Book) Head(id millpond.NodeID) (*sqlite.NodeHead, error) {
	e, err := b.entry(id)
	if err != nil || e.gone {
		return nil, err
	}
	return &e.head, nil
}

// Touch makes Close write a node's head.
func (b *Book) Touch(id millpond.NodeID) {
	if e := b.heads[id.Key()]; e != nil {
		e.dirty = true
	}
}

// Refresh reads a node's head again after its row was written in this
// transaction, and makes Close settle it. The counters and the sequence that
// this ledger has are kept.
func (b *Book) Refresh(id millpond.NodeID) error {
	h, err := b.tx.NodeHead(id)
	if err != nil {
		return err
	}
	was := h
	if e := b.heads[id.Key()]; e != nil && !e.gone {
		h.TasksRun, h.TasksSucceeded, h.Recent = e.head.TasksRun, e.head.TasksSucceeded, e.head.Recent
	}
	b.heads[id.Key()] = &entry{head: h, was: was, dirty: true}
	return nil
}

// Drop makes the ledger forget a node whose row is being deleted.
func (b *Book) Drop(id millpond.NodeID) { b.heads[id.Key()] = &entry{gone: true} }

func (b *Book) entry(id millpond.NodeID) (*entry, error) {
	if e := b.heads[id.Key()]; e != nil {
		return e, nil
	}
	h, err := b.tx.NodeHead(id)
	e := &entry{head: h, was: h}
	if errors.Is(err, sqlite.ErrNoRow) {
		e.gone = true
	} else if err != nil {
		return nil, err
	}
	b.heads[id.Key()] = e
	return e, nil
}

// job reads a task's job, once; nil when it is gone.
func (b *Book) job(v millpond.Task) (*millpond.Job, error) {
	k := jobKey{v.Account.Key(), v.Job.Key()}
	if j, have := b.jobs[k]; have {
		return j, nil
	}
	j, err := b.tx.Job(v.Account, v.Job)
	if errors.Is(err, sqlite.ErrNoRow) {
		b.jobs[k] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b.jobs[k] = &j
	return &j, nil
}

// touch notes that a task left its node or completed.
func (b *Book) touch(v millpond.Task) error {
	j, err := b.job(v)
	if err == nil && j != nil {
		b.touched[jobKey{v.Account.Key(), v.Job.Key()}] = struct{}{}
	}
	return err
}

// settleJobs wakes the jobs' loop when it has something to do: the last task
// has left a job that is on its way to another state, or the last task of a job
// that ends with its tasks has completed.
func (b *Book) settleJobs() error {
	for k := range b.touched {
		if b.Jobs {
			return nil
		}
		j := b.jobs[k]
		var n int
		var err error
		switch {
		case j.State != millpond.JobActive:
			n, err = b.tx.CountPlaced(j.Account, j.Spec.ID)
		case j.Spec.OnAllTasksComplete == "terminatejob":
			n, err = b.tx.CountOpenTasks(j.Account, j.Spec.ID)
		default:
			continue
		}
		if err != nil {
			return err
		}
		b.Jobs = n == 0
	}
	return nil
}

// Close writes the heads of the nodes that were touched, and completes Effects: idle and running
// follow the number of tasks, and a disabled node that is empty goes offline.
func (b *Book) Close() error {
	if err := b.settleJobs(); err != nil {
		return err
	}
	for _, e := range b.heads {
		if e.gone || !e.dirty {
			continue
		}
		h := &e.head
		ev := millpond.NodeDrained
		if h.RunningTasks > 0 {
			ev = millpond.NodeTaskBegan
		}
		b.shift(h, ev)
		if h.RunningTasks == 0 && h.Scheduling == millpond.SchedulingDisabled && h.State == millpond.NodeIdle {
			b.shift(h, millpond.NodeDisabled)
		}
		if h.RunningTasks == 0 && h.Pending != "" {
			b.NodeLoop = true
		}
		if same(&e.was, h) {
			continue
		}
		if err := b.tx.PutNodeHead(*h); err != nil {
			return err
		}
	}
	return nil
}

func (b *Book) shift(h *sqlite.NodeHead, ev millpond.NodeEvent) {
	if next, outcome, _ := millpond.NodeTransition(h.State, ev); outcome == millpond.Accepted && next != h.State {
		h.State, h.Changed = next, b.tx.Now
	}
}

// move applies an event to a task. It says whether the event was accepted.
func (b *Book) move(v *millpond.Task, ev millpond.TaskEvent) bool {
	next, outcome, _ := millpond.TaskTransition(v.State, ev)
	if outcome != millpond.Accepted {
		return false
	}
	v.Previous, v.PreviousTransition = v.State, v.StateTransition
	v.State, v.StateTransition = next, b.tx.Now
	return true
}

// Directory is a task's directory below a node's root.
func Directory(job millpond.JobID, task millpond.TaskID) string {
	return "workitems/" + string(job) + "/job-1/" + string(task)
}

// Assign gives an active task to a node, as a new attempt; the node's session
// learns of it from the commit. False means that the task is not active any more.
func (b *Book) Assign(v millpond.Task, pool millpond.PoolID, node millpond.NodeID) (bool, error) {
	return b.assign(v, pool, node, millpond.TaskAssigned)
}

func (b *Book) assign(v millpond.Task, pool millpond.PoolID, node millpond.NodeID, ev millpond.TaskEvent) (bool, error) {
	if !b.move(&v, ev) {
		return false, nil
	}
	v.Attempt++
	v.Pool, v.Node, v.Directory = pool, node, Directory(v.Job, v.Spec.ID)
	v.Container = nil
	v.Started, v.Ended, v.ExitCode, v.Failure, v.Result, v.FilesRemoved = b.tx.Now, time.Time{}, nil, nil, "", false
	v.Stopping, v.StopMessage, v.StopRequeue = "", "", false
	e, err := b.entry(node)
	if err != nil {
		return false, err
	}
	e.head.RunningTasks++
	e.head.RunningSlots += v.Spec.RequiredSlots
	e.dirty = true
	if err := b.tx.DropTaskDirectory(node, v.Directory); err != nil {
		return false, err
	}
	return true, b.tx.PutTask(v)
}

// Ended applies the report of an attempt to a task that is on its node. jobRetries
// is the job's limit, which counts when the task has none of its own.
func (b *Book) Ended(v millpond.Task, jobRetries int, r Report) error {
	if r.Failure == nil && r.ExitCode != nil && *r.ExitCode != 0 {
		r.Failure = &millpond.TaskFailure{Category: "usererror", Code: "FailureExitCode", Message: "The task exited with an exit code representing a failure"}
	}
	v.ExitCode, v.Container = r.ExitCode, r.Container
	if !r.Start.IsZero() {
		v.Started = r.Start
	}
	used := r.Usage
	if !r.Start.IsZero() && r.End.After(r.Start) {
		used.WallClock = r.End.Sub(r.Start)
	}
	v.Usage = v.Usage.Plus(used)
	b.tx.AddStatistics(v.Account, v.Job, millpond.JobStatistics{Usage: used})
	switch {
	case r.Failure == nil:
		return b.complete(v, millpond.TaskSucceeded, nil, r.End)
	case v.Stopping != "":
		return b.stopped(v, r.End)
	case r.Failure.Code == "FailureExitCode" && retriesLeft(v, jobRetries):
		node := v.Node
		v.RetryCount++
		v.LastRetry = b.tx.Now
		b.tx.AddStatistics(v.Account, v.Job, millpond.JobStatistics{Retries: 1})
		return b.release(v, millpond.TaskRetry, node, true)
	}
	return b.complete(v, millpond.TaskFailedForGood, r.Failure, r.End)
}

func retriesLeft(v millpond.Task, jobRetries int) bool {
	limit := jobRetries
	if v.Spec.MaxRetries != nil {
		limit = *v.Spec.MaxRetries
	}
	return limit < 0 || v.RetryCount < limit
}

// Lost takes a task from a node on which it can no longer run. What a user had
// asked for meanwhile still happens; else it goes back to the queue, and neither
// retries nor requeues count it.
func (b *Book) Lost(v millpond.Task) error {
	if !v.OnNode() {
		return nil
	}
	if v.Gang != nil {
		return b.InstanceLost(v, v.Node)
	}
	if v.Stopping != "" {
		return b.stopped(v, time.Time{})
	}
	return b.release(v, millpond.TaskNodeLost, v.Node, false)
}

// LoseAll applies Lost to every task on a node.
func (b *Book) LoseAll(node millpond.NodeID) (int, error) {
	tasks, err := b.tx.PlacedTasks(node)
	if err != nil {
		return 0, err
	}
	for _, v := range tasks {
		if err := b.Lost(v); err != nil {
			return 0, err
		}
	}
	more, err := b.loseInstances(node)
	if err != nil {
		return 0, err
	}
	return len(tasks) + more, b.loseJobs(node)
}

// Stop ends a task on behalf of a user: at once when it is not on a node, else
// by its agent. With requeue it goes back to the queue, else it completes with
// code. A task that is stopped for good already stays so.
func (b *Book) Stop(v millpond.Task, code, message string, requeue bool) error {
	if !v.OnNode() {
		if requeue {
			return nil
		}
		v.Stopping, v.StopMessage = code, message
		return b.stopped(v, time.Time{})
	}
	if v.Stopping != "" && (!v.StopRequeue || requeue) {
		return nil
	}
	v.Stopping, v.StopMessage, v.StopRequeue = code, message, requeue
	b.Sessions[v.Node] = struct{}{}
	b.tell(v.Gang)
	return b.tx.PutTask(v)
}

// StopAll applies Stop to every task on a node that is to be interrupted, as its
// option says: tasks are put back, ended, or left to end by themselves. why is
// half a sentence for their users.
func (b *Book) StopAll(node millpond.NodeID, o millpond.DeallocationOption, why string) error {
	message := "The task was put back because " + why + "."
	switch o {
	case millpond.DeallocateRequeue:
	case millpond.DeallocateTerminate:
		message = "The task was ended because " + why + "."
	default:
		return nil
	}
	tasks, err := b.tx.PlacedTasks(node)
	if err != nil {
		return err
	}
	more, err := b.tx.InstancesOn(node)
	if err != nil {
		return err
	}
	for _, v := range append(tasks, more...) {
		if err := b.Stop(v, millpond.CodeTaskEnded, message, o == millpond.DeallocateRequeue); err != nil {
			return err
		}
	}
	return nil
}

// Abandon completes a task at once without waiting for its agent, which is told
// to kill what it still runs.
func (b *Book) Abandon(v millpond.Task, code, message string) error {
	v.Stopping, v.StopMessage, v.StopRequeue = code, message, false
	if v.OnNode() {
		b.Sessions[v.Node] = struct{}{}
	}
	return b.stopped(v, time.Time{})
}

// Remove deletes a task and has its directories removed from its nodes.
func (b *Book) Remove(v millpond.Task) error {
	if v.OnNode() {
		if err := b.leave(v, v.Node, false); err != nil {
			return err
		}
		if err := b.discard(v, v.Node, b.tx.Now); err != nil {
			return err
		}
		if err := b.disband(v, b.tx.Now); err != nil {
			return err
		}
	}
	b.tell(v.Gang) // also of one that is over: its directories are to go
	if v.Node != "" {
		b.Sessions[v.Node] = struct{}{}
	}
	if err := b.tx.ExpireTaskDirectories(v.Account, v.Job, v.Spec.ID); err != nil {
		return err
	}
	b.Jobs = true
	return b.tx.DeleteTask(v)
}

// Reactivate puts a completed task back into the queue. One that is being ended by
// its agent goes there when it has ended: for whoever asked for the end, it has.
func (b *Book) Reactivate(v millpond.Task) error {
	if v.OnNode() && v.Stopping != "" {
		v.StopRequeue, v.RetryCount, v.LastRetry = true, 0, time.Time{}
		return b.tx.PutTask(v)
	}
	if !b.move(&v, millpond.TaskReactivate) {
		return nil
	}
	v.RetryCount, v.LastRetry = 0, time.Time{}
	v.ExitCode, v.Failure, v.Result, v.Ended, v.Node, v.Directory, v.FilesRemoved, v.Satisfies = nil, nil, "", time.Time{}, "", "", false, false
	v.Gang = nil
	v.Stopping, v.StopMessage, v.StopRequeue = "", "", false
	v.Version++
	v.LastModified = b.tx.Now
	b.Scheduler = true
	return b.tx.PutTask(v)
}

func (b *Book) stopped(v millpond.Task, end time.Time) error {
	if v.StopRequeue {
		v.RequeueCount++
		v.LastRequeue = b.tx.Now
		return b.release(v, millpond.TaskRequeue, v.Node, false)
	}
	f := &millpond.TaskFailure{Category: "usererror", Code: v.Stopping, Message: v.StopMessage}
	return b.complete(v, millpond.TaskTerminate, f, end)
}

// complete ends a task. Its files stay on the node for its retention time.
func (b *Book) complete(v millpond.Task, ev millpond.TaskEvent, f *millpond.TaskFailure, end time.Time) error {
	onNode, node := v.OnNode(), v.Node
	if !b.move(&v, ev) {
		return nil
	}
	if end.IsZero() {
		end = b.tx.Now
	}
	v.Ended, v.Failure, v.Result = end, f, "success"
	come := millpond.JobStatistics{Succeeded: 1, Wait: max(0, v.Started.Sub(v.Created))}
	if f != nil {
		v.Result = "failure"
		come.Succeeded, come.Failed = 0, 1
	}
	if v.Started.IsZero() {
		come.Wait = 0
	}
	b.tx.AddStatistics(v.Account, v.Job, come)
	v.Stopping, v.StopMessage, v.StopRequeue = "", "", false
	if onNode {
		if err := b.leave(v, node, true); err != nil {
			return err
		}
		if err := b.discard(v, node, b.tx.Now.Add(v.Spec.Retention)); err != nil {
			return err
		}
		if err := b.disband(v, b.tx.Now.Add(v.Spec.Retention)); err != nil {
			return err
		}
	}
	if err := b.follow(&v); err != nil {
		return err
	}
	return b.tx.PutTask(v)
}

// release puts a task that was on a node back into the queue.
func (b *Book) release(v millpond.Task, ev millpond.TaskEvent, node millpond.NodeID, ran bool) error {
	old := v
	if !b.move(&v, ev) {
		return nil
	}
	if err := b.leave(v, node, ran); err != nil {
		return err
	}
	if err := b.discard(old, node, b.tx.Now); err != nil {
		return err
	}
	if err := b.disband(old, b.tx.Now); err != nil {
		return err
	}
	v.Node, v.Directory, v.Gang = "", "", nil
	v.Stopping, v.StopMessage, v.StopRequeue = "", "", false
	if err := b.touch(v); err != nil {
		return err
	}
	return b.tx.PutTask(v)
}

// follow applies what follows from a task's end: those that depend on it may
// start or not, and its job is asked to end or to be disabled.
func (b *Book) follow(v *millpond.Task) error {
	j, err := b.job(*v)
	if err != nil {
		return err
	}
	onFailure := ""
	if j != nil {
		onFailure = j.Spec.OnTaskFailure
	}
	o := v.ExitOptionsOf(onFailure)
	v.Satisfies = o.Dependency == millpond.DependencySatisfy
	if v.Satisfies && j != nil && j.Spec.UsesTaskDependencies {
		b.Scheduler = true
	}
	if err := b.touch(*v); err != nil || j == nil {
		return err
	}
	action, why := o.Job, "TaskFailed"
	if v.Spec.Manager != nil && v.Spec.Manager.KillJob {
		action, why = millpond.JobActionTerminate, "JMComplete"
	}
	if action == millpond.JobActionNone || j.State != millpond.JobActive && j.State != millpond.JobDisabling && j.State != millpond.JobDisabled && j.State != millpond.JobEnabling {
		return nil
	}
	b.Jobs = true
	return b.tx.AskJob(v.Account, v.Job, action, why)
}

// leave frees a task's slots on its node. ran tells an attempt that ended by
// itself, which counts.
func (b *Book) leave(v millpond.Task, node millpond.NodeID, ran bool) error {
	e, err := b.entry(node)
	if err != nil {
		return err
	}
	b.Scheduler = true
	if e.gone {
		return nil
	}
	h := &e.head
	h.RunningTasks--
	h.RunningSlots -= v.Spec.RequiredSlots
	if ran {
		h.TasksRun++
		if v.Result == "success" {
			h.TasksSucceeded++
		}
	}
	recent := append([]millpond.RecentTask(nil), h.Recent...)
	for i, r := range recent {
		if strings.EqualFold(string(r.Job), string(v.Job)) && strings.EqualFold(string(r.Task), string(v.Spec.ID)) {
			recent = append(recent[:i], recent[i+1:]...)
			break
		}
	}
	recent = append(recent, millpond.RecentTask{Job: v.Job, Task: v.Spec.ID, State: v.State})
	h.Recent = recent[max(0, len(recent)-RecentTasks):]
	e.dirty = true
	return nil
}

// soon is how short a retention is that is not worth a timer: a node's session
// removes such a directory when it next looks. Longer ones are seen by a loop.
const soon = time.Millisecond

func (b *Book) discard(v millpond.Task, node millpond.NodeID, due time.Time) error {
	e, err := b.entry(node)
	if err != nil || e.gone || v.Directory == "" {
		return err
	}
	if !due.After(b.tx.Now.Add(soon)) {
		b.Sessions[node] = struct{}{}
	}
	return b.tx.PutTaskDirectory(sqlite.TaskDirectory{Node: node, Directory: v.Directory, Account: v.Account, Job: v.Job, Task: v.Spec.ID, Attempt: v.Attempt, Due: due})
}
