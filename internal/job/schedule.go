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

// reasonSchedule is why a terminated schedule's job ends.
const reasonSchedule = "TerminateJobSchedule"

// SchedulePatch is what a PATCH or PUT of a schedule changes, for future jobs;
// nil leaves a member as it is.
type SchedulePatch struct {
	Recurrence *millpond.Recurrence
	Job        *millpond.JobSpec
	Metadata   *[]millpond.NameValue
}

func checkSchedule(s *millpond.JobScheduleSpec) error {
	if !millpond.ValidBatchID(string(s.ID)) {
		return millpond.InvalidProperty("id", string(s.ID), "An id has 1 to 64 letters, digits, hyphens and underscores.")
	}
	if err := millpond.CheckDisplayName(s.DisplayName); err != nil {
		return err
	}
	job := s.Job
	job.ID = "job-1"
	if err := check(&job); err != nil {
		return err
	}
	if err := checkPoolInfo(&job, true); err != nil {
		return err
	}
	job.ID = ""
	s.Job = job
	return nil
}

// checkRecurrence is for times that are given now: those of a schedule whose last job
// still runs may have passed.
func checkRecurrence(r millpond.Recurrence, now time.Time) error {
	if r.Interval != 0 && r.Interval < millpond.MinRecurrence {
		return millpond.InvalidProperty("recurrenceInterval", "", "The interval must be at least 1 minute (PT1M).")
	}
	if r.StartWindow != 0 && r.StartWindow < millpond.MinRecurrence {
		return millpond.InvalidProperty("startWindow", "", "The window must be at least 1 minute (PT1M).")
	}
	if !r.DoNotRunAfter.IsZero() && (!r.DoNotRunAfter.After(now) || !r.DoNotRunUntil.IsZero() && !r.DoNotRunAfter.After(r.DoNotRunUntil)) {
		return millpond.InvalidProperty("doNotRunAfter", "", "The time must be in the future and after doNotRunUntil.")
	}
	return nil
}

// AddSchedule adds an active schedule; its first job is made when it is due.
func (s *Service) AddSchedule(ctx context.Context, acct millpond.AccountName, spec millpond.JobScheduleSpec) (millpond.JobSchedule, error) {
	now := s.Clock.Now()
	if err := checkSchedule(&spec); err != nil {
		return millpond.JobSchedule{}, err
	}
	if err := checkRecurrence(spec.Recurrence, now); err != nil {
		return millpond.JobSchedule{}, err
	}
	if err := s.checkAutoPool(ctx, acct, spec.Job.Auto); err != nil {
		return millpond.JobSchedule{}, err
	}
	v := millpond.JobSchedule{Account: acct, Spec: spec, State: millpond.ScheduleActive, StateTransition: now, Created: now, LastModified: now, Version: 1, NextRun: later(now, spec.Recurrence.DoNotRunUntil)}
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if old, err := tx.Schedule(acct, spec.ID); err == nil {
			if old.State == millpond.ScheduleDeleting {
				return millpond.JobScheduleRefusal(old.State)
			}
			return millpond.Errorf(millpond.Conflict, "JobScheduleExists", "The specified job schedule already exists.")
		}
		if _, err := tx.Job(acct, millpond.JobID(spec.ID)); err == nil {
			return millpond.Errorf(millpond.Conflict, "JobWithSameIdExists", "A job with the id of the job schedule already exists. Choose another id.")
		}
		if err := s.admit(tx, acct); err != nil {
			return err
		}
		// Followers know a change of state by its time.
		v.StateTransition = tx.Now
		return tx.PutSchedule(v)
	})
	if err == nil {
		s.schedules.Wake()
	}
	return v, err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func readSchedule(tx *sqlite.Tx, acct millpond.AccountName, id millpond.JobScheduleID) (millpond.JobSchedule, error) {
	v, err := tx.Schedule(acct, id)
	if errors.Is(err, sqlite.ErrNoRow) {
		return v, millpond.Errorf(millpond.NotFound, "JobScheduleNotFound", "The specified job schedule does not exist.")
	}
	return v, err
}

// GetSchedule reads a schedule.
func (s *Service) GetSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID) (v millpond.JobSchedule, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		v, err = readSchedule(tx, acct, id)
		return err
	})
	return v, err
}

// ListSchedules lists schedules by key. next is empty at the end.
func (s *Service) ListSchedules(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.JobSchedule]) (out []millpond.JobSchedule, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, next, err = q.Page(func(v millpond.JobSchedule) string { return v.Spec.ID.Key() }, func(after string, limit int) ([]millpond.JobSchedule, error) {
			return tx.Schedules(acct, after, limit, q.States)
		})
		return err
	})
	return out, next, err
}

// ListScheduleJobs lists the jobs that a schedule made.
func (s *Service) ListScheduleJobs(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, q millpond.ListQuery[millpond.Job]) (out []millpond.Job, next string, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := readSchedule(tx, acct, id); err != nil {
			return err
		}
		out, next, err = q.Page(func(v millpond.Job) string { return v.Spec.ID.Key() }, func(after string, limit int) ([]millpond.Job, error) {
			return tx.ScheduleJobs(acct, id, after, limit)
		})
		return err
	})
	return out, next, err
}

// changeSchedule reads a schedule, checks the condition, lets fn change it and
// writes it as a new version.
func (s *Service) changeSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, fn func(*sqlite.Tx, *ledger.Book, *millpond.JobSchedule) error) error {
	err := s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		v, err := readSchedule(tx, acct, id)
		if err != nil {
			return err
		}
		if err := cond.Check(v, millpond.Write); err != nil {
			return err
		}
		if err := fn(tx, book, &v); err != nil {
			return err
		}
		v.Version++
		v.LastModified = tx.Now
		return tx.PutSchedule(v)
	})
	if err == nil {
		s.schedules.Wake()
		s.Wakes.Jobs.Wake()
	}
	return err
}

// ChangeSchedule changes what future jobs are like and when they are made.
func (s *Service) ChangeSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, p SchedulePatch) error {
	if p.Job != nil {
		if err := s.checkAutoPool(ctx, acct, p.Job.Auto); err != nil {
			return err
		}
	}
	return s.changeSchedule(ctx, acct, id, cond, func(tx *sqlite.Tx, _ *ledger.Book, v *millpond.JobSchedule) error {
		if err := millpond.JobScheduleRefusal(v.State); err != nil {
			return err
		}
		set(&v.Spec.Recurrence, p.Recurrence)
		set(&v.Spec.Job, p.Job)
		set(&v.Spec.Metadata, p.Metadata)
		if err := checkSchedule(&v.Spec); err != nil {
			return err
		}
		if p.Recurrence != nil {
			if err := checkRecurrence(*p.Recurrence, tx.Now); err != nil {
				return err
			}
			// The new times count from now; without an interval there is one job now.
			v.NextRun = later(tx.Now, p.Recurrence.DoNotRunUntil)
		}
		return nil
	})
}

// DisableSchedule stops making jobs; the one that runs goes on.
func (s *Service) DisableSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition) error {
	return s.turn(ctx, acct, id, cond, millpond.ScheduleDisabled)
}

// EnableSchedule makes jobs again.
func (s *Service) EnableSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition) error {
	return s.turn(ctx, acct, id, cond, millpond.ScheduleActive)
}

func (s *Service) turn(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, to millpond.JobScheduleState) error {
	return s.changeSchedule(ctx, acct, id, cond, func(tx *sqlite.Tx, _ *ledger.Book, v *millpond.JobSchedule) error {
		if err := millpond.JobScheduleRefusal(v.State); err != nil {
			return err
		}
		v.Enter(to, tx.Now)
		return nil
	})
}

// TerminateSchedule ends a schedule and its active job; force does not wait for
// the nodes.
func (s *Service) TerminateSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, force bool) error {
	return s.changeSchedule(ctx, acct, id, cond, func(tx *sqlite.Tx, book *ledger.Book, v *millpond.JobSchedule) error {
		if err := millpond.JobScheduleRefusal(v.State); err != nil {
			return err
		}
		v.Enter(millpond.ScheduleTerminating, tx.Now)
		v.NextRun = time.Time{}
		j, err := tx.Job(acct, v.Recent)
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := terminate(tx, book, &j, reasonSchedule, force); err != nil {
			if millpond.KindOf(err) == millpond.Conflict {
				return nil // it has ended, or is about to
			}
			return err
		}
		return tx.PutJob(j)
	})
}

// DeleteSchedule begins to delete a schedule with its jobs.
func (s *Service) DeleteSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, force bool) error {
	return s.changeSchedule(ctx, acct, id, cond, func(tx *sqlite.Tx, book *ledger.Book, v *millpond.JobSchedule) error {
		if v.State == millpond.ScheduleDeleting {
			return millpond.JobScheduleRefusal(v.State)
		}
		v.Enter(millpond.ScheduleDeleting, tx.Now)
		v.NextRun = time.Time{}
		after := ""
		for {
			jobs, err := tx.ScheduleJobs(acct, id, after, deleteBatch)
			if err != nil {
				return err
			}
			for _, j := range jobs {
				after = j.Spec.ID.Key()
				if changed, err := shift(&j, millpond.JobDelete, tx.Now); err != nil || !changed {
					continue // it is being deleted already
				}
				j.Force = force
				if err := stopTasks(tx, book, &j, "The task was ended because its job was deleted.", false, force); err != nil {
					return err
				}
				if err := tx.PutJob(j); err != nil {
					return err
				}
			}
			if len(jobs) < deleteBatch {
				return nil
			}
		}
	})
}

// step is what is to be done for a schedule now.
type step int

const (
	rest     step = iota
	makeJob       // a job is due
	skip          // the occurrence is lost: its window has passed
	complete      // there will be no more jobs, and none is active
	vanish        // it is being deleted and has no job left
)

// nextStep decides. running says whether the last job has not completed, jobs
// whether any is left; at is when to look again, zero when only a wake matters.
func nextStep(v millpond.JobSchedule, running, jobs bool, now time.Time) (what step, at time.Time) {
	r := v.Spec.Recurrence
	switch v.State {
	case millpond.ScheduleDeleting:
		if !jobs {
			return vanish, at
		}
		return rest, at
	case millpond.ScheduleTerminating:
		if !running {
			return complete, at
		}
		return rest, at
	case millpond.ScheduleActive:
	default:
		return rest, at
	}
	over := !r.DoNotRunAfter.IsZero() && !now.Before(r.DoNotRunAfter)
	if over || v.NextRun.IsZero() {
		if !running {
			return complete, at
		}
		return rest, at
	}
	if now.Before(v.NextRun) {
		return rest, reconcile.Sooner(v.NextRun, r.DoNotRunAfter)
	}
	if running {
		return rest, r.DoNotRunAfter
	}
	if r.StartWindow > 0 && (r.Interval == 0 || r.StartWindow <= r.Interval) && now.After(v.NextRun.Add(r.StartWindow)) {
		return skip, at
	}
	return makeJob, at
}

// following is the due time after one that was used or lost: the first one that
// lies ahead, zero without an interval.
func following(v millpond.JobSchedule, now time.Time) time.Time {
	interval := v.Spec.Recurrence.Interval
	if interval <= 0 {
		return time.Time{}
	}
	missed := now.Sub(v.NextRun) / interval
	return v.NextRun.Add((missed + 1) * interval)
}

// Schedules is the loop that makes the jobs of schedules.
func (s *Service) Schedules() reconcile.Loop {
	return reconcile.Loop{Name: "job schedules", Every: s.Config.Every, Wake: s.schedules, Run: s.runSchedules}
}

func (s *Service) runSchedules(ctx context.Context) (string, time.Time, error) {
	var open []millpond.JobSchedule
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		open, err = tx.OpenSchedules()
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	var failed error
	for _, v := range open {
		at, err := s.stepSchedule(ctx, v.Account, v.Spec.ID)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("job schedule %s: %w", v.Spec.ID, err))
			continue
		}
		next = reconcile.Sooner(next, at)
	}
	return fmt.Sprintf("%d open schedules", len(open)), next, failed
}

// stepSchedule takes a schedule one step further and tells when it is due again.
func (s *Service) stepSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID) (at time.Time, err error) {
	made, left := false, false
	err = s.update(ctx, func(tx *sqlite.Tx, _ *ledger.Book) error {
		made, left = false, false
		v, err := tx.Schedule(acct, id)
		if err != nil {
			return ignoreNoRow(err)
		}
		running, jobs, err := scheduleJobs(tx, v)
		if err != nil {
			return err
		}
		var what step
		switch what, at = nextStep(v, running, jobs, tx.Now); what {
		case rest:
			return nil
		case vanish:
			if err := leavePools(tx, v); err != nil {
				return err
			}
			left = true
			return tx.DeleteSchedule(acct, id)
		case complete:
			if err := leavePools(tx, v); err != nil {
				return err
			}
			left = true
			v.Enter(millpond.ScheduleCompleted, tx.Now)
		case skip:
			v.NextRun = following(v, tx.Now)
			at = tx.Now
		case makeJob:
			made = true
			v.Runs++
			v.Recent = v.Spec.ID.JobOf(v.Runs)
			v.NextRun = following(v, tx.Now)
			at = v.NextRun
			spec := v.Spec.Job
			spec.ID = v.Recent
			j := newJob(tx.Now, acct, spec)
			if err := s.ownPool(tx, &j, v.Spec.ID); err != nil {
				return err
			}
			if err := insertJob(tx, j); err != nil {
				return err
			}
		}
		return tx.PutSchedule(v)
	})
	if made {
		s.Log.Info("job of a schedule added", "account", acct, "schedule", id)
		s.Wakes.Jobs.Wake()
		s.Wakes.Scheduler.Wake()
	}
	if err == nil && (made || left) {
		s.pools.Wake()
	}
	return at, err
}

// scheduleJobs says whether a schedule's last job has not completed, and whether
// any of its jobs is left.
func scheduleJobs(tx *sqlite.Tx, v millpond.JobSchedule) (running, any bool, err error) {
	left, err := tx.ScheduleJobs(v.Account, v.Spec.ID, "", 1)
	if err != nil || len(left) == 0 {
		return false, false, err
	}
	j, err := tx.Job(v.Account, v.Recent)
	if errors.Is(err, sqlite.ErrNoRow) {
		return false, true, nil
	}
	return err == nil && j.State != millpond.JobCompleted, true, err
}
