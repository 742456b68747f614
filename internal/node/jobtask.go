package node

import (
	"context"
	"errors"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// jobOnNode is a job whose preparation or release the node is to run.
type jobOnNode struct {
	row millpond.JobNode
	job millpond.Job
}

// jobsOnNode lists what a node is to run for jobs themselves.
func jobsOnNode(tx *sqlite.Tx, node millpond.NodeID) ([]jobOnNode, error) {
	rows, err := tx.NodeJobs(node)
	if err != nil {
		return nil, err
	}
	var out []jobOnNode
	for _, x := range rows {
		if x.Phase != millpond.JobNodePreparing && x.Phase != millpond.JobNodeReleasing {
			continue
		}
		j, err := tx.Job(x.Account, x.Job)
		if errors.Is(err, sqlite.ErrNoRow) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v := jobOnNode{row: x, job: j}
		if v.spec() != nil {
			out = append(out, v)
		}
	}
	return out, nil
}

// spec is the one of the job's own tasks that is to run now.
func (j jobOnNode) spec() *millpond.JobTask {
	if j.row.Phase == millpond.JobNodeReleasing {
		return j.job.Spec.Release
	}
	return j.job.Spec.Preparation
}

// task is that one in the shape of a task: agents know no other.
func (j jobOnNode) task() millpond.Task {
	s := j.spec()
	return millpond.Task{Account: j.row.Account, Job: j.job.Spec.ID, Spec: s.TaskSpec, State: millpond.TaskRunning, Attempt: j.row.Attempt,
		Pool: j.row.Pool, Node: j.row.Node, Directory: ledger.Directory(j.job.Spec.ID, s.ID)}
}

// tellJobs makes the agent run the jobs' own tasks, or end them.
func (x *session) tellJobs(ctx context.Context, w wanted, stopped map[attempt]bool) error {
	for _, j := range w.jobs {
		t := j.task()
		k := attemptKey(t)
		running, ended := x.state(k)
		known := true
		var err error
		switch {
		case ended || stopped[k]:
		case j.row.Stopping && running:
			stopped[k] = true
			known, err = x.stop(ctx, taskKey(t), millpond.CodeTaskEnded, "The task was ended because its job ends.")
		case j.row.Stopping:
			known = false
		case !running:
			var q *nodev1.RunTaskRequest
			if q, err = x.taskRequest(ctx, w, t, settingsOf(j.job)); err != nil {
				err = x.impossible(ctx, q.GetKey(), err)
				break
			}
			q.SharedDirectory = j.row.Phase == millpond.JobNodePreparing
			err = x.run(ctx, []*nodev1.RunTaskRequest{q})
		}
		if err == nil && !known {
			// It does not run, and now it never will.
			err = x.svc.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
				return x.jobTaskEnded(tx, book, &nodev1.TaskCompleted{Key: taskKey(t), Failure: &nodev1.Failure{Code: millpond.CodeTaskEnded, Message: "The task was ended because its job ends."}})
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// jobTaskEnded applies the end of a preparation or release task's attempt. A
// report of an earlier one, or of a task that is gone, changes nothing.
func (x *session) jobTaskEnded(tx *sqlite.Tx, book *ledger.Book, c *nodev1.TaskCompleted) error {
	k := c.GetKey()
	row, err := tx.JobNode(x.acct, millpond.JobID(k.GetJobId()), x.node)
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && row.Attempt != int(k.GetAttempt()) {
		return nil
	}
	if err != nil {
		return err
	}
	j, err := tx.Job(row.Account, row.Job)
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil
	}
	if err != nil {
		return err
	}
	if s := (jobOnNode{row, j}).spec(); s == nil || s.ID.Key() != millpond.TaskID(k.GetTaskId()).Key() {
		return nil
	}
	r := reportOf(c)
	switch {
	case r.Failure != nil && r.Failure.Code == millpond.CodeAgentRestarted:
		return book.JobTaskLost(row)
	case row.Phase == millpond.JobNodePreparing:
		return book.PreparationEnded(j, row, r)
	}
	return book.ReleaseEnded(j, row, r)
}
