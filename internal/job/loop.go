package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Loop finishes what the verbs begin and what time limits demand.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "jobs", Every: s.Config.Every, Wake: s.Wakes.Jobs, Run: s.run}
}

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var jobs, finished []millpond.Job
	var next time.Time
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if jobs, err = tx.UnsettledJobs(tx.Now); err != nil {
			return err
		}
		done, err := tx.FinishedJobs()
		if err != nil {
			return err
		}
		if next, err = tx.NextDeadline(); err != nil {
			return err
		}
		for _, j := range done {
			n, err := tx.CountTasks(j.Account, j.Spec.ID)
			if err != nil {
				return err
			}
			if at := mayEnd(j, n); tx.Now.Before(at) {
				next = reconcile.Sooner(next, at)
			} else {
				finished = append(finished, j)
			}
		}
		return nil
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var failed error
	for _, j := range append(jobs, finished...) {
		at, err := s.settle(ctx, j.Account, j.Spec.ID)
		if err != nil {
			// One job's trouble must not hold up the others.
			failed = errors.Join(failed, fmt.Errorf("job %s: %w", j.Spec.ID, err))
			continue
		}
		next = reconcile.Sooner(next, at)
	}
	return fmt.Sprintf("%d jobs on their way, %d finished", len(jobs), len(finished)), next, failed
}

// action is what Decide finds to do for a job.
type action int

const (
	nothing action = iota
	quiet          // no task runs any more: apply JobQuiet
	expire         // its time limit has passed
	obey           // a task's end asks something of it
	finish         // all tasks are complete and the job is to end with them
)

// emptyGrace is how long a new job that is to end with its tasks waits for the
// first of them. A job without tasks counts as complete, but programs (the
// SDK's own tests among them) add such a job and then its tasks.
const emptyGrace = 30 * time.Second

// mayEnd is from when on a job of so many tasks ends with the last of them; zero
// for at once.
func mayEnd(j millpond.Job, tasks int) time.Time {
	if tasks > 0 || j.EndEmpty {
		return time.Time{}
	}
	return j.Created.Add(emptyGrace)
}

// decide says what is to be done for a job, given whether something is asked of it,
// how many of its tasks are on nodes, or nodes are being released from it, how
// many of its tasks have not completed and how many there are.
func decide(j millpond.Job, asked bool, placed, open, tasks int, now time.Time) action {
	if asked {
		return obey
	}
	switch j.State {
	case millpond.JobDisabling, millpond.JobTerminating, millpond.JobDeleting:
		if placed == 0 {
			return quiet
		}
	case millpond.JobEnabling:
		return quiet
	case millpond.JobActive, millpond.JobDisabled:
		if j.Spec.MaxWallClock > 0 && !now.Before(j.Created.Add(j.Spec.MaxWallClock)) {
			return expire
		}
		if j.State == millpond.JobActive && j.Spec.OnAllTasksComplete == terminateJob && open == 0 && !now.Before(mayEnd(j, tasks)) {
			return finish
		}
	}
	return nothing
}

// deleteBatch bounds the tasks that one transaction deletes.
const deleteBatch = 500

// settle takes one job a step further, on its row as it is now. at is when a
// time limit of it passes; zero without one.
func (s *Service) settle(ctx context.Context, acct millpond.AccountName, id millpond.JobID) (at time.Time, err error) {
	for {
		more, quieted := false, false
		err := s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
			more, quieted, at = false, false, time.Time{}
			j, err := tx.Job(acct, id)
			if err != nil {
				return ignoreNoRow(err)
			}
			placed, err := tx.CountPlaced(acct, id)
			if err != nil {
				return err
			}
			if placed == 0 && (j.State == millpond.JobTerminating || j.State == millpond.JobDeleting) {
				if placed, at, err = release(tx, book, j); err != nil {
					return err
				}
			}
			open, err := tx.CountOpenTasks(acct, id)
			if err != nil {
				return err
			}
			tasks, err := tx.CountTasks(acct, id)
			if err != nil {
				return err
			}
			asked, why, err := tx.JobAsked(acct, id)
			if err != nil {
				return err
			}
			switch decide(j, asked != "", placed, open, tasks, tx.Now) {
			case nothing:
				return nil
			case obey:
				err = carryOut(tx, book, &j, asked, why)
				more = true
			case expire:
				err = terminate(tx, book, &j, reasonTime, false)
				more = true
			case finish:
				err = terminate(tx, book, &j, reasonAllTasks, false)
				more = true
			case quiet:
				quieted = true
				if j.State == millpond.JobDeleting {
					if err := leavePool(tx, j); err != nil {
						return err
					}
					more, err = remove(tx, book, j)
					return err
				}
				_, err = shift(&j, millpond.JobQuiet, tx.Now)
				if j.State == millpond.JobCompleted {
					j.Ended = tx.Now
					if err := leavePool(tx, j); err != nil {
						return err
					}
				}
				book.Scheduler = true
			}
			if err != nil {
				return err
			}
			return tx.PutJob(j)
		})
		if quieted {
			s.schedules.Wake()
			s.pools.Wake()
		}
		if err != nil || !more {
			return at, err
		}
	}
}

// carryOut does what the end of a task asks of its job, as far as the job's
// state still allows it.
func carryOut(tx *sqlite.Tx, book *ledger.Book, j *millpond.Job, what millpond.JobAction, why string) error {
	if err := tx.AnswerJob(j.Account, j.Spec.ID); err != nil {
		return err
	}
	var err error
	if what == millpond.JobActionTerminate {
		err = terminate(tx, book, j, why, false)
	} else if _, err = shift(j, millpond.JobDisable, tx.Now); err == nil {
		j.DisableTasks = millpond.DisableRequeue
		err = stopTasks(tx, book, j, "The task was stopped because its job was disabled.", true, false)
	}
	if err != nil && millpond.KindOf(err) == millpond.Conflict {
		return nil
	}
	return err
}

// remove deletes a batch of a job's tasks, and the job when none is left.
func remove(tx *sqlite.Tx, book *ledger.Book, j millpond.Job) (more bool, err error) {
	tasks, err := tx.Tasks(j.Account, j.Spec.ID, "", deleteBatch, nil)
	if err != nil {
		return false, err
	}
	for _, t := range tasks {
		if err := book.Remove(t); err != nil {
			return false, err
		}
	}
	if len(tasks) == deleteBatch {
		return true, nil
	}
	if err := book.RemoveJobNodes(j); err != nil {
		return false, err
	}
	return false, tx.DeleteJob(j.Account, j.Spec.ID)
}

func ignoreNoRow(err error) error {
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil
	}
	return err
}
