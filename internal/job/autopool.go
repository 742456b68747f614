package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// Pools is what jobs need of pools: those that are made for them.
type Pools interface {
	// Check refuses a pool as adding it would, but for quotas.
	Check(ctx context.Context, caller millpond.Caller, acct millpond.AccountName, q millpond.PoolRequest) error
	// Make adds a pool and Drop deletes it; again for the same id does nothing.
	Make(ctx context.Context, caller millpond.Caller, acct millpond.AccountName, id millpond.PoolID, q millpond.PoolRequest) error
	Drop(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) error
}

const maxPrefix = 20

// checkPoolInfo refuses a job without a pool, or with one in two ways.
func checkPoolInfo(j *millpond.JobSpec, scheduled bool) error {
	a := j.Auto
	if a == nil {
		if j.Pool == "" {
			return millpond.MissingProperty("poolInfo.poolId")
		}
		return nil
	}
	switch a.Lifetime {
	case millpond.LifetimeJob:
	case millpond.LifetimeSchedule:
		if !scheduled {
			return millpond.InvalidProperty("poolLifetimeOption", string(a.Lifetime), "Only the jobs of a schedule can share a pool that is made for them. Give job, or add a job schedule.")
		}
	default:
		return millpond.InvalidProperty("poolLifetimeOption", string(a.Lifetime), "The value must be job or jobschedule.")
	}
	if len(a.Prefix) > maxPrefix || a.Prefix != "" && !millpond.ValidBatchID(a.Prefix) {
		return millpond.InvalidProperty("autoPoolIdPrefix", a.Prefix, "A prefix has at most 20 letters, digits, hyphens and underscores.")
	}
	return nil
}

// checkAutoPool refuses the pool of a job as adding it would.
func (s *Service) checkAutoPool(ctx context.Context, acct millpond.AccountName, a *millpond.AutoPool) error {
	if a == nil {
		return nil
	}
	return s.Pools.Check(ctx, a.Creator, acct, a.Pool)
}

// ownPool gives a job that is to have a pool of its own one, or its schedule's.
func (s *Service) ownPool(tx *sqlite.Tx, j *millpond.Job, schedule millpond.JobScheduleID) error {
	a := j.Spec.Auto
	if a == nil {
		return nil
	}
	v := millpond.OwnedPool{Account: j.Account, Stage: millpond.AutoPoolWanted, Auto: *a, Job: j.Spec.ID}
	if a.Lifetime == millpond.LifetimeSchedule {
		v.Job, v.Schedule = "", schedule
		have, err := tx.ScheduleOwnedPools(j.Account, schedule)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			j.Spec.Pool = have[0].ID
			return nil
		}
	}
	v.ID = millpond.PoolID(a.Prefix + s.NewID())
	j.Spec.Pool = v.ID
	return tx.PutOwnedPool(v)
}

// disown ends what the service has to do with a pool: it is deleted, or kept.
func disown(tx *sqlite.Tx, v millpond.OwnedPool, keep bool) error {
	if keep && v.Stage == millpond.AutoPoolWanted {
		// Its job has told the pool's id, so it is made all the same, for nobody.
		v.Job, v.Schedule = "", ""
		return tx.PutOwnedPool(v)
	}
	if keep {
		return tx.DeleteOwnedPool(v.Account, v.ID)
	}
	v.Stage = millpond.AutoPoolDoomed
	return tx.PutOwnedPool(v)
}

// leavePool is for a job that has completed or is being deleted.
func leavePool(tx *sqlite.Tx, j millpond.Job) error {
	if j.Spec.Auto == nil || j.Spec.Auto.Lifetime != millpond.LifetimeJob {
		return nil
	}
	v, err := tx.OwnedPool(j.Account, j.Spec.Pool)
	if err != nil || v.Stage == millpond.AutoPoolDoomed {
		return ignoreNoRow(err)
	}
	return disown(tx, v, j.Spec.Auto.KeepAlive)
}

// leavePools is for a schedule that has completed or is gone.
func leavePools(tx *sqlite.Tx, v millpond.JobSchedule) error {
	list, err := tx.ScheduleOwnedPools(v.Account, v.Spec.ID)
	if err != nil {
		return err
	}
	for _, p := range list {
		keep := p.Auto.KeepAlive
		if v.Spec.Job.Auto != nil {
			keep = v.Spec.Job.Auto.KeepAlive
		}
		if err := disown(tx, p, keep); err != nil {
			return err
		}
	}
	return nil
}

// changeAuto is what a user may change of the pool that was made for a job.
func changeAuto(j millpond.Job, want millpond.AutoPool) (*millpond.AutoPool, error) {
	have := j.Spec.Auto
	if have == nil {
		return nil, millpond.InvalidProperty("autoPoolSpecification", "", "A pool can be made for a new job only. Give the id of a pool.")
	}
	want.Creator = have.Creator
	keep := want.KeepAlive
	want.KeepAlive = have.KeepAlive
	if normal(want) != normal(*have) {
		return nil, millpond.InvalidProperty("autoPoolSpecification", "", "Of the pool that was made for a job only keepAlive can be changed. Send the other members as the job has them.")
	}
	want.KeepAlive = keep
	return &want, nil
}

// normal is a without what requests leave out or write in several ways.
func normal(a millpond.AutoPool) string {
	if len(a.Pool.Spec.Metadata) == 0 {
		a.Pool.Spec.Metadata = nil
	}
	// A client cannot send back what it is never shown.
	users := append([]millpond.UserAccount(nil), a.Pool.Spec.UserAccounts...)
	for i := range users {
		users[i].Password, users[i].SSHPrivateKey = "", ""
	}
	a.Pool.Spec.UserAccounts = users
	// Defaults are shown as if they had been given.
	if a.Pool.ResizeTimeout == nil {
		d := millpond.DefaultResizeTimeout
		a.Pool.ResizeTimeout = &d
	}
	if a.Pool.Interval == nil {
		d := millpond.DefaultAutoScaleInterval
		a.Pool.Interval = &d
	}
	if t := a.Pool.Spec.StartTask; t != nil {
		copied := *t
		copied.User.Given = false
		a.Pool.Spec.StartTask = &copied
	}
	b, _ := json.Marshal(a) // nothing in it cannot be written
	return string(b)
}

// AutoPools is the loop that makes and deletes the pools of jobs and schedules.
func (s *Service) AutoPools() reconcile.Loop {
	return reconcile.Loop{Name: "auto pools", Every: s.Config.Every, Wake: s.pools, Run: s.runAutoPools}
}

func (s *Service) runAutoPools(ctx context.Context) (string, time.Time, error) {
	var list []millpond.OwnedPool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		list, err = tx.UnsettledOwnedPools()
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var failed error
	var next time.Time
	for _, v := range list {
		if err := s.stepOwnedPool(ctx, v); err != nil {
			// One pool's trouble must not hold up the others.
			failed = errors.Join(failed, fmt.Errorf("pool %s: %w", v.ID, err))
			next = s.Clock.Now().Add(5 * time.Second)
		}
	}
	return fmt.Sprintf("%d pools of jobs to make or delete", len(list)), next, failed
}

// stepOwnedPool makes or deletes a pool and notes it. Both do nothing when they
// are repeated, so that a crash between the two costs nothing.
func (s *Service) stepOwnedPool(ctx context.Context, v millpond.OwnedPool) error {
	if v.Stage == millpond.AutoPoolDoomed {
		if err := s.Pools.Drop(ctx, v.Account, v.ID); err != nil {
			return err
		}
		s.Log.Info("pool of a job deleted", "account", v.Account, "pool", v.ID)
		return s.DB.Update(ctx, func(tx *sqlite.Tx) error { return tx.DeleteOwnedPool(v.Account, v.ID) })
	}
	made := s.Pools.Make(ctx, v.Auto.Creator, v.Account, v.ID, v.Auto.Pool)
	var e *millpond.Error
	if made != nil {
		if e = millpond.AsError(made); e.Kind == millpond.Internal || e.Kind == millpond.Unavailable || ctx.Err() != nil {
			return made
		}
		s.Log.Warn("the pool of a job cannot be made", "account", v.Account, "pool", v.ID, "err", made)
	}
	err := s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		now, err := tx.OwnedPool(v.Account, v.ID)
		if err != nil || now.Stage != millpond.AutoPoolWanted {
			return ignoreNoRow(err)
		}
		if e == nil && now.Job == "" && now.Schedule == "" {
			return tx.DeleteOwnedPool(v.Account, v.ID)
		}
		if e == nil {
			now.Stage = millpond.AutoPoolMade
			return tx.PutOwnedPool(now)
		}
		jobs, err := tx.OpenJobsOfPool(v.Account, v.ID)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			j.SchedulingError = schedulingError(e)
			if err := terminate(tx, book, &j, j.SchedulingError.Code, false); err != nil && millpond.KindOf(err) != millpond.Conflict {
				return err
			}
			if err := tx.PutJob(j); err != nil {
				return err
			}
		}
		book.Jobs = true
		return tx.DeleteOwnedPool(v.Account, v.ID)
	})
	if err == nil && e == nil {
		s.Wakes.Scheduler.Wake()
	}
	return err
}

// schedulingError is why a pool could not be made, in the words that jobs have
// for it (batch-data-plane.md §4.7).
func schedulingError(e *millpond.Error) *millpond.SchedulingError {
	out := &millpond.SchedulingError{Category: "usererror", Code: "InvalidAutoPoolSettings", Message: "The pool of the job could not be made: " + e.Message,
		Details: []millpond.NameValue{{Name: "Code", Value: e.Code}}}
	switch e.Code {
	case "PoolQuotaReached":
		out.Code = "AutoPoolCreationFailedWithQuotaReached"
	case "InvalidApplicationPackageReferences":
		out.Code = "InvalidApplicationPackageReferencesInAutoPool"
	case "InvalidCertificateReferences":
		out.Code = "InvalidCertificatesInAutoPool"
	case "InvalidAutoScalingSettings", "InvalidAutoScaleFormula", "AutoScalingFormulaSyntaxError":
		out.Code = "InvalidAutoScaleFormulaInAutoPool"
	}
	return out
}
