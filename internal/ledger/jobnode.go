package ledger

import (
	"errors"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// AssignPrepared is Assign for a task of a job with a preparation task: the
// first one on a node has the node prepared, and tasks wait for that if the job
// says so. False also means that the job may not run on the node.
func (b *Book) AssignPrepared(v millpond.Task, pool millpond.PoolID, node millpond.NodeID) (bool, error) {
	j, err := b.job(v)
	if err != nil {
		return false, err
	}
	if j == nil || j.Spec.Preparation == nil {
		return b.Assign(v, pool, node)
	}
	waits, may, err := b.prepare(*j, pool, node)
	if err != nil || !may {
		return false, err
	}
	ev := millpond.TaskAssigned
	if waits {
		ev = millpond.TaskWaits
	}
	return b.assign(v, pool, node, ev)
}

// prepare has a node prepared for a job that has a preparation task, if it is
// not. waits says that tasks wait for that, may that the job may run there.
func (b *Book) prepare(j millpond.Job, pool millpond.PoolID, node millpond.NodeID) (waits, may bool, err error) {
	e, err := b.entry(node)
	if err != nil {
		return false, false, err
	}
	x, err := b.tx.JobNode(j.Account, j.Spec.ID, node)
	if errors.Is(err, sqlite.ErrNoRow) {
		// A job of the same id that came before must not be taken for this one: its
		// attempts had other numbers.
		x = millpond.JobNode{Account: j.Account, Job: j.Spec.ID, Pool: pool, Node: node, Phase: millpond.JobNodeDue, Attempt: int(j.Created.UnixMilli() & 0x3fffffff)}
	} else if err != nil {
		return false, false, err
	}
	if x.Phase != millpond.JobNodeDue && x.Generation != e.head.Generation {
		b.enter(&x, millpond.JobNodeStale)
	}
	was := x.Phase
	if !b.enter(&x, millpond.JobNodeTask) && x.Phase != millpond.JobNodePreparing && x.Phase != millpond.JobNodeReady {
		return false, false, nil
	}
	if was == millpond.JobNodeDue {
		x.Attempt++
		x.Generation, x.Pool, x.Stopping = e.head.Generation, pool, false
		x.Prepared = &millpond.JobTaskRun{State: "running", Started: b.tx.Now, Directory: Directory(j.Spec.ID, j.Spec.Preparation.ID)}
		if err := b.tx.DropTaskDirectory(node, x.Prepared.Directory); err != nil {
			return false, false, err
		}
		if err := b.tx.PutJobNode(x); err != nil {
			return false, false, err
		}
		b.Sessions[node] = struct{}{}
	}
	return x.Phase == millpond.JobNodePreparing && j.Spec.Preparation.WaitForSuccess, true, nil
}

// enter applies an event to a job on a node. It says whether the phase changed.
func (b *Book) enter(x *millpond.JobNode, ev millpond.JobNodeEvent) bool {
	next, outcome, _ := millpond.JobNodeTransition(x.Phase, ev)
	if outcome != millpond.Accepted {
		return false
	}
	x.Phase, x.Changed = next, b.tx.Now
	return true
}

// run writes what an agent reported into a run.
func (b *Book) run(x *millpond.JobTaskRun, r Report) {
	x.State, x.Result, x.ExitCode, x.Failure, x.Ended = "completed", "success", r.ExitCode, r.Failure, r.End
	if !r.Start.IsZero() {
		x.Started = r.Start
	}
	if x.Ended.IsZero() {
		x.Ended = b.tx.Now
	}
	if r.Failure != nil {
		x.Result = "failure"
	}
}

// PreparationEnded applies the report of a preparation's attempt: another try,
// or the end. Then the tasks that waited for it run, or go back to the queue.
func (b *Book) PreparationEnded(j millpond.Job, x millpond.JobNode, r Report) error {
	t := j.Spec.Preparation
	if x.Phase != millpond.JobNodePreparing || t == nil || x.Prepared == nil {
		return nil
	}
	if !x.Stopping && r.Failure != nil && r.Failure.Code == "FailureExitCode" && t.MaxRetries != nil && (*t.MaxRetries < 0 || x.Prepared.RetryCount < *t.MaxRetries) {
		x.Prepared.RetryCount++
		x.Prepared.LastRetry = b.tx.Now
		return b.again(x)
	}
	b.run(x.Prepared, r)
	ev := millpond.JobNodePrepared
	if r.Failure != nil && t.WaitForSuccess {
		ev = millpond.JobNodeGaveUp
	}
	b.enter(&x, ev)
	// Whoever ends the job waits for this.
	b.Jobs = b.Jobs || x.Stopping || j.State != millpond.JobActive
	x.Stopping = false
	if err := b.tx.PutJobNode(x); err != nil {
		return err
	}
	if err := b.instancesPrepared(x, ev == millpond.JobNodeGaveUp); err != nil {
		return err
	}
	tasks, err := b.tx.PlacedTasks(x.Node)
	if err != nil {
		return err
	}
	for _, v := range tasks {
		if v.State != millpond.TaskPreparing || v.Account.Key() != x.Account.Key() || v.Job.Key() != x.Job.Key() {
			continue
		}
		switch {
		case v.Stopping != "":
			err = b.stopped(v, time.Time{})
		case ev == millpond.JobNodeGaveUp:
			err = b.release(v, millpond.TaskNodeLost, v.Node, false)
		case b.move(&v, millpond.TaskPrepared):
			v.Started = b.tx.Now
			err = b.tx.PutTask(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// again has an attempt's task run once more on its node.
func (b *Book) again(x millpond.JobNode) error {
	x.Attempt++
	b.Sessions[x.Node] = struct{}{}
	return b.tx.PutJobNode(x)
}

// JobTaskLost is for an attempt that ended with its agent: it counts for
// nothing and runs again.
func (b *Book) JobTaskLost(x millpond.JobNode) error {
	if x.Phase != millpond.JobNodePreparing && x.Phase != millpond.JobNodeReleasing {
		return nil
	}
	return b.again(x)
}

// ReleaseEnded applies the report of a release task, which has one try.
func (b *Book) ReleaseEnded(j millpond.Job, x millpond.JobNode, r Report) error {
	if x.Phase != millpond.JobNodeReleasing || x.Released == nil {
		return nil
	}
	b.run(x.Released, r)
	return b.LeaveNode(j, x)
}

// Release begins a job's release on a node: its release task if it has one.
// A preparation that runs is ended first, unless at once says not to wait.
func (b *Book) Release(j millpond.Job, x millpond.JobNode, atOnce bool) error {
	if x.Phase == millpond.JobNodePreparing && !atOnce {
		if !x.Stopping {
			x.Stopping, x.Changed = true, b.tx.Now
			b.Sessions[x.Node] = struct{}{}
			return b.tx.PutJobNode(x)
		}
		return nil
	}
	if x.Phase == millpond.JobNodeReleasing {
		return nil
	}
	if x.Phase == millpond.JobNodePreparing {
		b.Sessions[x.Node] = struct{}{} // it is not wanted any more
	}
	if j.Spec.Release == nil {
		return b.LeaveNode(j, x)
	}
	if !b.enter(&x, millpond.JobNodeRelease) {
		return nil
	}
	x.Stopping = false
	x.Released = &millpond.JobTaskRun{State: "running", Started: b.tx.Now, Directory: Directory(j.Spec.ID, j.Spec.Release.ID)}
	return b.again(x)
}

// LeaveNode ends a job on a node. What its own tasks left there is kept for
// their retention time.
func (b *Book) LeaveNode(j millpond.Job, x millpond.JobNode) error {
	if !b.enter(&x, millpond.JobNodeEnd) {
		return nil
	}
	b.Jobs = true
	for _, r := range []*millpond.JobTaskRun{x.Prepared, x.Released} {
		if r != nil && r.State == "running" {
			b.run(r, Report{Failure: &millpond.TaskFailure{Category: "servererror", Code: millpond.CodeTaskEnded, Message: "The task was ended because its job has left the node: the node cannot be reached any more, the job did not wait, or its time was over."}})
		}
	}
	if err := b.discardJobNode(j, x, false); err != nil {
		return err
	}
	x.Stopping = false
	return b.tx.PutJobNode(x)
}

// discardJobNode has the directories of a job's own tasks removed from a node:
// now, or after their retention.
func (b *Book) discardJobNode(j millpond.Job, x millpond.JobNode, now bool) error {
	for _, d := range []struct {
		run  *millpond.JobTaskRun
		task *millpond.JobTask
	}{{x.Prepared, j.Spec.Preparation}, {x.Released, j.Spec.Release}} {
		if d.run == nil || d.task == nil {
			continue
		}
		due := b.tx.Now
		if !now {
			due = due.Add(d.task.Retention)
		}
		e, err := b.entry(x.Node)
		if err != nil {
			return err
		}
		if e.gone {
			return nil
		}
		b.Sessions[x.Node] = struct{}{}
		err = b.tx.PutTaskDirectory(sqlite.TaskDirectory{Node: x.Node, Directory: d.run.Directory, Account: x.Account, Job: x.Job, Task: d.task.ID, Attempt: x.Attempt, Due: due})
		if err != nil {
			return err
		}
	}
	return nil
}

// RemoveJobNodes deletes what is noted of a job's nodes and has its own tasks'
// directories removed.
func (b *Book) RemoveJobNodes(j millpond.Job) error {
	const batch = 500
	after := ""
	for {
		rows, err := b.tx.JobNodes(j.Account, j.Spec.ID, after, batch)
		if err != nil {
			return err
		}
		for _, x := range rows {
			after = x.Node.Key()
			if err := b.discardJobNode(j, x, true); err != nil {
				return err
			}
		}
		if len(rows) < batch {
			return b.tx.DeleteJobNodes(j.Account, j.Spec.ID)
		}
	}
}

// loseJobs is for a node on which everything that ran is gone: what was being
// prepared is prepared again before the next task, and so is what was prepared
// where the job asks for it; a release runs again.
func (b *Book) loseJobs(node millpond.NodeID) error {
	rows, err := b.tx.NodeJobs(node)
	if err != nil {
		return err
	}
	for _, x := range rows {
		switch x.Phase {
		case millpond.JobNodeReleasing:
			b.Jobs = true
			if err := b.again(x); err != nil {
				return err
			}
			continue
		case millpond.JobNodeReady:
			j, err := b.tx.Job(x.Account, x.Job)
			if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
				return err
			}
			if err == nil && (j.Spec.Preparation == nil || !j.Spec.Preparation.RerunOnReboot) {
				continue
			}
		}
		stopping := x.Stopping
		if b.enter(&x, millpond.JobNodeStale) {
			b.Jobs = b.Jobs || stopping
			b.Scheduler = true
			x.Stopping = false
			if err := b.tx.PutJobNode(x); err != nil {
				return err
			}
		}
	}
	return nil
}

// LeaveAll ends every job on a node whose row is being deleted.
func (b *Book) LeaveAll(node millpond.NodeID) error {
	rows, err := b.tx.NodeJobs(node)
	if err != nil {
		return err
	}
	for _, x := range rows {
		j, err := b.tx.Job(x.Account, x.Job)
		if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
			return err
		}
		if err := b.LeaveNode(j, x); err != nil {
			return err
		}
	}
	return nil
}
