package deployment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/template"
)

// parallel bounds the PUTs of one deployment that go on at the same time.
const parallel = 8

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var keys []string
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		keys, err = tx.RunningDeployments()
		return err
	})
	for _, key := range keys {
		s.start(ctx, key)
	}
	return fmt.Sprintf("%d running", len(keys)), time.Time{}, err
}

// start works on a deployment unless that goes on already.
func (s *Service) start(ctx context.Context, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working[key] != nil || ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	s.working[key] = stop
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := s.work(ctx, key)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("deployment failed", "deployment", key, "err", err)
			e := millpond.AsError(err)
			err = s.finish(ctx, key, millpond.DeploymentFail, nil, millpond.BodyOf(e))
			if err != nil {
				s.Log.Error("failure of a deployment not recorded", "deployment", key, "err", err)
			}
		}
		stop()
		s.mu.Lock()
		delete(s.working, key)
		s.mu.Unlock()
		// A deployment of the same name may have begun meanwhile.
		s.wake.Wake()
	}()
}

// load reads a deployment that is still to be worked on; nil if it is not.
func (s *Service) load(ctx context.Context, key string) (d *millpond.Deployment, steps []*millpond.DeploymentStep, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if d, err = tx.Deployment(key); err != nil {
			return err
		}
		steps, err = tx.Steps(key)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && d.State != millpond.DeploymentRunning {
		return nil, nil, nil // its group is gone, or it was cancelled
	}
	return d, steps, err
}

// work brings a deployment to its end.
func (s *Service) work(ctx context.Context, key string) error {
	d, _, err := s.load(ctx, key)
	if d == nil || err != nil {
		return err
	}
	plan, err := s.expand(ctx, d)
	if err != nil {
		return err
	}
	operation := d.Operation
	busy := map[int]bool{}
	ended := make(chan int, len(plan.Resources))
	for {
		d, all, err := s.load(ctx, key)
		if err != nil || d == nil || d.Operation != operation {
			s.drain(busy, ended)
			return err
		}
		for _, i := range next(all) {
			if len(busy) < parallel && !busy[i] && ctx.Err() == nil {
				busy[i] = true
				go func() {
					s.step(ctx, d, plan, *all[i])
					ended <- i
				}()
			}
		}
		if len(busy) == 0 {
			if ctx.Err() != nil {
				return nil // the next start goes on
			}
			return s.conclude(ctx, d, plan, all)
		}
		delete(busy, <-ended)
	}
}

func (s *Service) drain(busy map[int]bool, ended chan int) {
	for range busy {
		<-ended
	}
}

// next is pure: the steps that are or may be worked on. Those that were under
// way when a server ended come first; after a failure nothing more is begun.
func next(all []*millpond.DeploymentStep) []int {
	var ready, waiting []int
	failed := false
	for i, st := range all {
		switch st.State {
		case millpond.StepRunning:
			ready = append(ready, i)
		case millpond.StepFailed:
			failed = true
		case millpond.StepWaiting:
			free := true
			for _, d := range st.DependsOn {
				// A resource that is skipped is waited for by nobody.
				free = free && (all[d].State == millpond.StepSucceeded || all[d].State == millpond.StepSkipped)
			}
			if free {
				waiting = append(waiting, i)
			}
		}
	}
	if failed {
		return ready
	}
	return append(ready, waiting...)
}

// step puts one resource in place and waits for its outcome. Its own failure is
// written into its row. When ctx ends, the row stays as it is.
func (s *Service) step(ctx context.Context, d *millpond.Deployment, plan *template.Plan, st millpond.DeploymentStep) {
	r := &plan.Resources[st.Ordinal]
	record := func() bool {
		err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
			now, err := tx.Deployment(d.Key())
			if err != nil {
				return err
			}
			if now.State != millpond.DeploymentRunning || now.Operation != d.Operation {
				return sqlite.ErrNoRow
			}
			if st.Started.IsZero() {
				st.Started = tx.Now
			}
			if st.State.Over() {
				st.Ended = tx.Now
			}
			return tx.PutStep(&st)
		})
		if err != nil && ctx.Err() == nil && !errors.Is(err, sqlite.ErrNoRow) {
			s.Log.Error("step of a deployment not recorded", "deployment", d.ID, "resource", st.Target, "err", err)
		}
		return err == nil
	}
	fail := func(body *millpond.ErrorBody) {
		st.State, st.Failure = millpond.StepFailed, body
		record()
	}
	if st.Tracking == "" {
		// A server that ends after this row and before the answer puts the
		// resource once more, which changes nothing.
		st.State = millpond.StepRunning
		if !record() {
			return
		}
		body, err := plan.Body(st.Ordinal, live{ctx, s.manager, d.Caller})
		var a Answer
		if err == nil {
			a, err = s.manager.Put(ctx, d.Caller, r.ID, r.APIVersion, body)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e := millpond.AsError(err)
			if e.Kind == millpond.Internal {
				s.Log.Error("a deployment met an error", "deployment", d.ID, "resource", st.Target, "err", err)
			}
			fail(millpond.BodyOf(e))
			return
		}
		st.Status, st.Tracking = a.Status, a.Tracking
		if a.Tracking == "" {
			st.State = millpond.StepSucceeded
			record()
			return
		}
		if !record() {
			return
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		done, failure, err := s.manager.Poll(ctx, d.Caller, st.Tracking)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			fail(millpond.BodyOf(millpond.AsError(err)))
			return
		case failure != nil:
			fail(failure)
			return
		case done:
			st.State = millpond.StepSucceeded
			record()
			return
		}
		timer.Reset(s.Pause)
	}
}

// conclude evaluates the outputs and writes the end.
func (s *Service) conclude(ctx context.Context, d *millpond.Deployment, plan *template.Plan, all []*millpond.DeploymentStep) error {
	var causes []millpond.ErrorBody
	for _, st := range all {
		if st.State == millpond.StepFailed && st.Failure != nil {
			cause := *st.Failure
			if cause.Target == "" {
				cause.Target = st.Target
			}
			causes = append(causes, cause)
		}
	}
	if len(causes) > 0 {
		return s.finish(ctx, d.Key(), millpond.DeploymentFail, nil, &millpond.ErrorBody{Code: "DeploymentFailed", Target: d.ID, Details: causes,
			Message: "At least one resource deployment operation failed. Please list deployment operations for details. Please see https://aka.ms/arm-deployment-operations for usage details."})
	}
	outputs, err := plan.Outputs(live{ctx, s.manager, d.Caller})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		e := millpond.AsError(err)
		return s.finish(ctx, d.Key(), millpond.DeploymentFail, nil, &millpond.ErrorBody{Code: "DeploymentOutputEvaluationFailed", Target: d.ID,
			Message: "Unable to evaluate template outputs. Please see error details and deployment operations.", Details: []millpond.ErrorBody{*millpond.BodyOf(e)}})
	}
	text, err := json.Marshal(outputs)
	if err != nil {
		return err
	}
	return s.finish(ctx, d.Key(), millpond.DeploymentDone, text, nil)
}

func (s *Service) finish(ctx context.Context, key string, event millpond.DeploymentEvent, outputs json.RawMessage, failure *millpond.ErrorBody) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		d, err := tx.Deployment(key)
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		next, outcome, _ := millpond.DeploymentTransition(d.State, event)
		if outcome != millpond.Accepted {
			return nil
		}
		return s.end(tx, d, next, outputs, failure)
	})
}

// live answers a template's questions about resources, as the caller.
type live struct {
	ctx     context.Context
	manager Manager
	caller  millpond.Caller
}

// Get is a resource's body.
func (l live) Get(id, apiVersion string) (any, error) {
	b, err := l.manager.Get(l.ctx, l.caller, id, apiVersion)
	if err != nil {
		return nil, err
	}
	return template.DecodeJSON(b)
}

// List calls an action of a resource.
func (l live) List(id, action, apiVersion string, body any) (any, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	b, err := l.manager.Post(l.ctx, l.caller, id, action, apiVersion, text)
	if err != nil {
		return nil, err
	}
	return template.DecodeJSON(b)
}
