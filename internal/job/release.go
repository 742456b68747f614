package job

import (
	"context"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// checkJobTasks refuses preparation and release tasks that could not run, and
// fills in their defaults.
func checkJobTasks(j *millpond.JobSpec) error {
	if j.Release != nil && j.Preparation == nil {
		return millpond.MissingProperty("jobPreparationTask")
	}
	for _, t := range []struct {
		task *millpond.JobTask
		id   millpond.TaskID
		path string
	}{{j.Preparation, millpond.DefaultPreparationID, "jobPreparationTask.id"}, {j.Release, millpond.DefaultReleaseID, "jobReleaseTask.id"}} {
		if t.task == nil {
			continue
		}
		if t.task.ID == "" {
			t.task.ID = t.id
		}
		if err := checkTask(&t.task.TaskSpec); err != nil {
			return err
		}
		if j.Manager != nil && j.Manager.ID.Key() == t.task.ID.Key() {
			return millpond.InvalidProperty(t.path, string(t.task.ID), "The job's manager, preparation and release tasks have ids of their own.")
		}
	}
	if j.Release == nil {
		return nil
	}
	if j.Release.ID.Key() == j.Preparation.ID.Key() {
		return millpond.InvalidProperty("jobReleaseTask.id", string(j.Release.ID), "The job's manager, preparation and release tasks have ids of their own.")
	}
	if j.Release.MaxWallClock == 0 {
		j.Release.MaxWallClock = millpond.MaxReleaseTime
	}
	if j.Release.MaxWallClock > millpond.MaxReleaseTime {
		return millpond.InvalidProperty("jobReleaseTask.maxWallClockTime", j.Release.MaxWallClock.String(), "A release task may run for 15 minutes (PT15M) at most.")
	}
	return nil
}

// grace is how much longer than a release task may run its job waits for word
// of it: the agent ends the task itself, unless it cannot be reached.
const grace = time.Minute

// release makes a job that ends leave its nodes: what still prepares is ended,
// release tasks run, and a node that can run none is not waited for. busy is how
// many nodes it waits for, at when its patience with one of them is over.
func release(tx *sqlite.Tx, book *ledger.Book, j millpond.Job) (busy int, at time.Time, err error) {
	if j.Spec.Preparation == nil {
		return 0, at, nil
	}
	rows, err := tx.OpenJobNodes(j.Account, j.Spec.ID)
	if err != nil {
		return 0, at, err
	}
	limit := millpond.MaxReleaseTime
	if j.Spec.Release != nil {
		limit = j.Spec.Release.MaxWallClock
	}
	for _, x := range rows {
		h, err := book.Head(x.Node)
		if err != nil {
			return 0, at, err
		}
		over := x.Changed.Add(limit + grace)
		ends := x.Phase == millpond.JobNodeReleasing || x.Stopping
		if h == nil || !canRelease(h.State) || ends && !tx.Now.Before(over) {
			if err := book.LeaveNode(j, x); err != nil {
				return 0, at, err
			}
			continue
		}
		if err := book.Release(j, x, j.Force); err != nil {
			return 0, at, err
		}
		if !ends {
			over = tx.Now.Add(limit + grace)
		}
		if x, err = tx.JobNode(j.Account, j.Spec.ID, x.Node); err != nil {
			return 0, at, err
		}
		if x.Phase != millpond.JobNodeDone && !j.Force {
			busy++
			at = reconcile.Sooner(at, over)
		}
	}
	return busy, at, nil
}

// canRelease says whether a node in a state has, or may soon have, an agent that
// runs a release task.
func canRelease(s millpond.NodeState) bool {
	switch s {
	case millpond.NodeUnusable, millpond.NodeLeavingPool, millpond.NodePreempted:
		return false
	}
	return true
}

// ListJobNodes lists how preparation and release of a job went, by node. next is
// empty at the end.
func (s *Service) ListJobNodes(ctx context.Context, acct millpond.AccountName, job millpond.JobID, q millpond.ListQuery[millpond.JobNode]) (out []millpond.JobNode, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		j, err := readJob(tx, acct, job)
		if err != nil {
			return err
		}
		if j.Spec.Preparation == nil {
			return millpond.Errorf(millpond.Conflict, "JobPreparationTaskNotSpecified", "The job has no preparation task. Add the job with jobPreparationTask.")
		}
		out, next, err = q.Page(func(x millpond.JobNode) string { return x.Node.Key() }, func(after string, limit int) ([]millpond.JobNode, error) {
			return tx.JobNodes(acct, job, after, limit)
		})
		return err
	})
	return out, next, err
}
