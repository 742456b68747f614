package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/autoscale"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// newAutoScale is the formula of a new pool, nil for one of a fixed size.
func newAutoScale(t Targets) (*millpond.AutoScale, error) {
	if t.AutoScale == nil {
		return nil, nil
	}
	if t.Dedicated != nil || t.LowPriority != nil {
		return nil, millpond.InvalidProperty("targetDedicatedNodes", "", "A pool that sizes itself by a formula has no targets of its own. Leave the targets out, or set enableAutoScale to false.")
	}
	if t.AutoScale.Formula == nil {
		return nil, millpond.MissingProperty("autoScaleFormula")
	}
	a := &millpond.AutoScale{Interval: millpond.DefaultAutoScaleInterval}
	return a, t.AutoScale.apply(a)
}

// apply checks what a request says and puts it over what there is.
func (a AutoScale) apply(to *millpond.AutoScale) error {
	if a.Formula != nil {
		if _, err := parse(*a.Formula); err != nil {
			return err
		}
		to.Formula = *a.Formula
	}
	if a.Interval != nil {
		if *a.Interval < millpond.MinAutoScaleInterval || *a.Interval > millpond.MaxAutoScaleInterval {
			return millpond.InvalidProperty("autoScaleEvaluationInterval", "", "The interval must be between PT5M and PT168H.")
		}
		to.Interval = *a.Interval
	}
	return nil
}

const syntaxError = "AutoScalingFormulaSyntaxError"

func parse(formula string) (*autoscale.Formula, error) {
	f, err := autoscale.Parse(formula)
	if err == nil {
		return f, nil
	}
	if len([]rune(formula)) > autoscale.MaxLength {
		return nil, millpond.Errorf(millpond.Invalid, "AutoScalingFormulaTooLong", "The formula is longer than %d characters.", autoscale.MaxLength)
	}
	return nil, millpond.Errorf(millpond.Invalid, syntaxError, "The formula has a mistake. %s", err.Error()).With("Message", err.Error())
}

// changeLimit is how often a pool's formula may be set.
const changeLimit = 30 * time.Second

// EnableAutoScale makes a pool size itself, or changes its formula or interval.
func (s *Service) EnableAutoScale(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, a AutoScale) error {
	err := s.change(ctx, acct, id, cond, func(tx *sqlite.Tx, p *millpond.Pool) error {
		if err := mayScale(p); err != nil {
			return err
		}
		next := millpond.AutoScale{Interval: millpond.DefaultAutoScaleInterval}
		if p.AutoScale != nil {
			next = *p.AutoScale
			if since := tx.Now.Sub(next.Set); since < changeLimit {
				return millpond.Errorf(millpond.Unavailable, "TooManyEnableAutoScaleRequests", "The formula of a pool can be set once in %s. Try again in %s.", changeLimit, (changeLimit - since).Round(time.Second))
			}
			if a.Formula == nil && a.Interval == nil {
				return millpond.MissingProperty("autoScaleFormula")
			}
		} else if a.Formula == nil {
			return millpond.MissingProperty("autoScaleFormula")
		} else if p.Allocation != millpond.AllocationSteady {
			return shift(p, millpond.PoolResize, tx.Now) // the table has the words
		}
		if err := a.apply(&next); err != nil {
			return err
		}
		next.Set = tx.Now
		p.AutoScale = &next
		return nil
	})
	if err == nil {
		s.Wakes.AutoScale.Wake()
	}
	return err
}

func mayScale(p *millpond.Pool) error {
	if p.State == millpond.PoolDeleting {
		return shift(p, millpond.PoolResize, time.Time{}) // the table has the words
	}
	return nil
}

// DisableAutoScale keeps a pool at the size that it has.
func (s *Service) DisableAutoScale(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) error {
	return s.change(ctx, acct, id, millpond.Condition{}, func(_ *sqlite.Tx, p *millpond.Pool) error {
		if err := mayScale(p); err != nil {
			return err
		}
		p.AutoScale = nil
		return nil
	})
}

// EvaluateAutoScale says what a formula would do; nothing is applied.
func (s *Service) EvaluateAutoScale(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, formula string) (millpond.AutoScaleRun, error) {
	p, err := s.Get(ctx, acct, id)
	if err != nil {
		return millpond.AutoScaleRun{}, err
	}
	if p.AutoScale == nil {
		return millpond.AutoScaleRun{}, millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "Automatic scaling is not enabled on the pool. Enable it with a simple formula first; samples are taken from then on.")
	}
	if formula == "" {
		return millpond.AutoScaleRun{}, millpond.MissingProperty("autoScaleFormula")
	}
	f, wrong := parse(formula)
	if e := millpond.AsError(wrong); wrong != nil && e.Code != syntaxError {
		return millpond.AutoScaleRun{}, wrong
	}
	if wrong != nil {
		// A mistake in a formula that is only tried is a result of trying it, unlike
		// one in a formula that a pool is to have.
		run, _ := s.evaluate(p, &autoscale.Formula{}, nil)
		run.Error = runError(s.Clock.Now(), millpond.AsError(wrong).Message)
		return run, nil
	}
	series, _, err := s.series(ctx, p)
	if err != nil {
		return millpond.AutoScaleRun{}, err
	}
	run, _ := s.evaluate(p, f, series)
	return run, nil
}

// evaluate computes a formula; the result is nil when it has no value.
func (s *Service) evaluate(p millpond.Pool, f *autoscale.Formula, series map[string]*autoscale.Series) (millpond.AutoScaleRun, *autoscale.Result) {
	now := s.Clock.Now()
	r, err := f.Evaluate(autoscale.Env{Now: now, Rand: s.Rand, TargetDedicated: p.TargetDedicated, TargetLowPriority: p.TargetLowPriority,
		Series: func(name string) *autoscale.Series { return series[name] }})
	run := millpond.AutoScaleRun{Time: now, Results: r.Text}
	if err == nil {
		return run, &r
	}
	run.Error = runError(now, err.Error())
	var e *autoscale.Error
	if errors.As(err, &e) && e.Insufficient {
		run.Error.Code, run.Error.Message = "InsufficientSampleData", "Autoscale evaluation failed due to insufficient sample data"
	}
	return run, nil
}

// runError is the error of a run that gave no size.
func runError(now time.Time, why string) *millpond.ResizeError {
	return &millpond.ResizeError{Code: "AutoScalingFormulaEvaluationError", Message: "Autoscale evaluation failed", Values: []millpond.NameValue{{Name: "Message", Value: why}}, Time: now}
}

type poolKey struct{ account, pool string }

// scaler is what the loop remembers of the pools that size themselves.
type scaler struct {
	mu sync.Mutex
	// any says that there is such a pool; follow wakes nobody without one.
	any   bool
	ran   time.Time
	pools map[poolKey]*scaled
}

type scaled struct {
	sampled time.Time // the last sample that was kept
	asked   time.Time // the last evaluation
	active  float64   // $ActiveTasks at the last evaluation that could be applied
}

// follow wakes the loops: this one when tasks arrive, that of rollouts when a
// node changes.
func (s *Service) follow(c sqlite.Changes) {
	if len(c.Nodes) > 0 && s.rolling.Load() {
		s.Wakes.Rollouts.Wake()
	}
	s.scaler.mu.Lock()
	any := s.scaler.any
	s.scaler.mu.Unlock()
	if !any {
		return
	}
	for _, t := range c.Tasks {
		if !t.Gone && t.Task.State == millpond.TaskActive {
			s.Wakes.AutoScale.Wake()
			return
		}
	}
}

// calm is the shortest time between two rounds, and between two evaluations of
// a pool.
const calm = time.Second

// AutoScaler is the loop that samples and evaluates.
func (s *Service) AutoScaler() reconcile.Loop {
	return reconcile.Loop{Name: "autoscale", Every: s.Config.SamplePeriod, Wake: s.Wakes.AutoScale, Run: s.scale}
}

func (s *Service) scale(ctx context.Context) (string, time.Time, error) {
	now := s.Clock.Now()
	s.scaler.mu.Lock()
	soon := s.scaler.ran.Add(calm)
	s.scaler.mu.Unlock()
	if now.Before(soon) && s.Config.SamplePeriod > calm {
		return "it has just run", soon, nil
	}
	var pools []millpond.Pool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		pools, err = tx.ScaledPools()
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	s.remember(pools, now)
	next := time.Time{}
	var failed error
	for _, p := range pools {
		at, err := s.scalePool(ctx, p)
		if err != nil {
			// One pool's trouble must not hold up the others.
			failed = errors.Join(failed, fmt.Errorf("pool %s: %w", p.Spec.ID, err))
			continue
		}
		next = reconcile.Sooner(next, at)
	}
	return fmt.Sprintf("%d pools size themselves", len(pools)), next, failed
}

// remember makes the loop's memory that of the pools that there are.
func (s *Service) remember(pools []millpond.Pool, now time.Time) {
	s.scaler.mu.Lock()
	defer s.scaler.mu.Unlock()
	s.scaler.ran, s.scaler.any = now, len(pools) > 0
	old := s.scaler.pools
	s.scaler.pools = map[poolKey]*scaled{}
	for _, p := range pools {
		k := poolKey{p.Account.Key(), p.Spec.ID.Key()}
		if old[k] == nil {
			old[k] = &scaled{}
		}
		s.scaler.pools[k] = old[k]
	}
}

// scalePool samples a pool when a sample is due, and evaluates its formula when
// its interval has passed or tasks have arrived that the formula can see. It
// tells when it wants to be called again.
func (s *Service) scalePool(ctx context.Context, p millpond.Pool) (time.Time, error) {
	s.scaler.mu.Lock()
	m := s.scaler.pools[poolKey{p.Account.Key(), p.Spec.ID.Key()}]
	s.scaler.mu.Unlock()
	series, sample, err := s.series(ctx, p)
	if err != nil {
		return time.Time{}, err
	}
	now := s.Clock.Now()
	if now.Sub(m.sampled) >= s.Config.SamplePeriod {
		err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
			return tx.AddSample(p.Account, p.Spec.ID, sample, now.Add(-sampleHistory))
		})
		if err != nil {
			return time.Time{}, err
		}
		m.sampled = now
	}
	due := p.AutoScale.Set
	if p.AutoScale.Run != nil && !p.AutoScale.Run.Time.Before(due) {
		due = p.AutoScale.Run.Time.Add(p.AutoScale.Interval)
	}
	f, err := autoscale.Parse(p.AutoScale.Formula)
	if err != nil {
		return time.Time{}, err
	}
	next := m.sampled.Add(s.Config.SamplePeriod)
	regular := !now.Before(due)
	arrived := !s.Config.IntervalOnly && sample.Values["$ActiveTasks"] > m.active && (f.Reads("$ActiveTasks") || f.Reads("$PendingTasks"))
	if !regular && arrived && (p.Allocation != millpond.AllocationSteady || now.Sub(m.asked) < calm) {
		return now.Add(calm), nil
	}
	if regular || arrived {
		m.asked, m.active = now, sample.Values["$ActiveTasks"]
		if err := s.run(ctx, p, f, series, !regular); err != nil {
			return time.Time{}, err
		}
		due = now.Add(p.AutoScale.Interval)
	} else {
		m.active = min(m.active, sample.Values["$ActiveTasks"])
	}
	if due.Before(next) {
		next = due
	}
	return next, nil
}

// run evaluates and applies. Between its intervals a pool only grows: else
// every task that ends would shake it.
func (s *Service) run(ctx context.Context, p millpond.Pool, f *autoscale.Formula, series map[string]*autoscale.Series, early bool) error {
	run, r := s.evaluate(p, f, series)
	resized := false
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := read(tx, p.Account, p.Spec.ID)
		if err != nil || now.AutoScale == nil || !now.AutoScale.Set.Equal(p.AutoScale.Set) || now.State == millpond.PoolDeleting {
			return ignoreMissing(err)
		}
		if early && r != nil {
			r.TargetDedicated, r.TargetLowPriority = max(r.TargetDedicated, now.TargetDedicated), max(r.TargetLowPriority, now.TargetLowPriority)
		}
		differs := r != nil && (r.TargetDedicated != now.TargetDedicated || r.TargetLowPriority != now.TargetLowPriority)
		if early && !differs {
			return nil
		}
		why := whyInterval
		if early {
			why = whyArrival
		}
		rec := record(run, why, f, series, now, r)
		if !early {
			now.AutoScale.Run = &run
		} else {
			// The schedule goes on from the last regular run.
			last := run
			if now.AutoScale.Run != nil {
				last.Time = now.AutoScale.Run.Time
			}
			now.AutoScale.Run = &last
		}
		if differs && now.Allocation == millpond.AllocationSteady {
			if err := shift(&now, millpond.PoolResize, tx.Now); err != nil {
				return err
			}
			now.TargetDedicated, now.TargetLowPriority = r.TargetDedicated, r.TargetLowPriority
			now.Deallocation, now.ResizeStarted, now.ResizeErrors, now.ResizeRequest = millpond.DeallocationOption(r.Option), tx.Now, nil, millpond.Request{}
			now.ResizeTimeout = millpond.DefaultResizeTimeout
			resized, rec.Applied = true, true
		} else if differs {
			rec.Note = "the pool was being resized; the formula is evaluated again at its interval"
		}
		if err := tx.AddScaleRecord(now.Account, now.Spec.ID, rec, ScaleHistory); err != nil {
			return err
		}
		return tx.PutPool(now)
	})
	if err != nil {
		return err
	}
	if resized {
		s.Log.Info("pool sizes itself", "account", p.Account, "pool", p.Spec.ID, "dedicated", r.TargetDedicated, "lowPriority", r.TargetLowPriority, "early", early)
		s.Wakes.Allocator.Wake()
	}
	return nil
}

// sampleHistory is how long samples are kept.
const sampleHistory = 24 * time.Hour

// series are the samples of a pool with one of now behind them.
func (s *Service) series(ctx context.Context, p millpond.Pool) (map[string]*autoscale.Series, sqlite.Sample, error) {
	var kept []sqlite.Sample
	now := sqlite.Sample{Time: s.Clock.Now()}
	blocked, err := s.Blocked(ctx, p.Account, p.Spec.ID)
	if err != nil {
		return nil, now, err
	}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if kept, err = tx.Samples(p.Account, p.Spec.ID); err != nil {
			return err
		}
		var ready []millpond.NodeID
		now.Values, ready, err = measure(tx, p, blocked)
		s.machineSamples(now.Values, ready)
		return err
	})
	if err != nil {
		return nil, now, err
	}
	out := map[string]*autoscale.Series{}
	for _, one := range append(kept, now) {
		for name, v := range one.Values {
			if out[name] == nil {
				out[name] = &autoscale.Series{Period: s.Config.SamplePeriod}
			}
			out[name].Samples = append(out[name].Samples, autoscale.Sample{Time: one.Time, Value: v})
		}
	}
	return out, now, nil
}

// measure is what rows tell of a pool now, and its nodes that can run tasks.
func measure(tx *sqlite.Tx, p millpond.Pool, blocked int) (v map[string]float64, ready []millpond.NodeID, err error) {
	heads, err := tx.PoolHeads(p.Account, p.Spec.ID.Key())
	if err != nil {
		return nil, nil, err
	}
	tasks, err := tx.PoolTaskCounts(p.Account, p.Spec.ID)
	if err != nil {
		return nil, nil, err
	}
	v = map[string]float64{"$SampleNodeCount": 0, "$CurrentDedicatedNodes": 0, "$CurrentLowPriorityNodes": 0, "$PreemptedNodeCount": 0, "$UsableNodeCount": 0,
		"$TaskSlotsPerNode": float64(max(1, p.Spec.TaskSlotsPerNode))}
	for _, h := range heads {
		if !h.Allocated.IsZero() {
			if h.Dedicated {
				v["$CurrentDedicatedNodes"]++
			} else {
				v["$CurrentLowPriorityNodes"]++
			}
		}
		switch h.State {
		case millpond.NodeIdle, millpond.NodeRunning:
			ready = append(ready, h.ID)
			v["$UsableNodeCount"]++
			v["$SampleNodeCount"]++
		case millpond.NodePreempted:
			v["$PreemptedNodeCount"]++
		}
	}
	v["$ActiveTasks"] = float64(max(0, tasks.Active-blocked))
	v["$RunningTasks"] = float64(tasks.Running)
	v["$PendingTasks"] = v["$ActiveTasks"] + v["$RunningTasks"]
	v["$SucceededTasks"], v["$FailedTasks"] = float64(tasks.Succeeded), float64(tasks.Failed)
	return v, ready, nil
}
