// Package deployment holds the verbs of template deployments and the loop that
// runs them. A PUT is answered when the template is valid and its rows are
// written; the loop then puts each resource in place, in the order in which they
// hang on each other, and a server that was killed in the middle goes on where
// it was.
//
// Resources are put through the Resource Manager itself, as the caller: Manager
// is that, in process. So rights, validation and long-running operations are
// those of the real routes, and this package depends on no kind of resource.
// It knows no HTTP. The edge armapi calls it and lends it its Manager.
package deployment

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// Answer is what the Resource Manager says to a PUT.
type Answer struct {
	Status int
	// Tracking is where to Poll for the outcome; empty when it is known.
	Tracking string
}

// Manager is the Resource Manager in process. Every call is made as a caller and
// refused like a request of that caller; errors are *millpond.Error.
type Manager interface {
	// Check is a dry run of a PUT. A nil body asks about the type and the right
	// only.
	Check(ctx context.Context, caller millpond.Caller, id, apiVersion string, body []byte) error
	Put(ctx context.Context, caller millpond.Caller, id, apiVersion string, body []byte) (Answer, error)
	// Poll asks for the outcome of a PUT. A failed outcome is a body.
	Poll(ctx context.Context, caller millpond.Caller, tracking string) (done bool, failure *millpond.ErrorBody, err error)
	Get(ctx context.Context, caller millpond.Caller, id, apiVersion string) ([]byte, error)
	Post(ctx context.Context, caller millpond.Caller, id, action, apiVersion string, body []byte) ([]byte, error)
}

// Resources is what deployments need of the resource verbs.
type Resources interface {
	Group(ctx context.Context, scope string) (millpond.Group, error)
	Subscription(ctx context.Context, id string) (millpond.Subscription, error)
	Region(name string) (millpond.Region, error)
}

// Options are what a Service needs.
type Options struct {
	DB        *sqlite.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Resources Resources
	// Pause is the time between two questions for an outcome; 0 is 300 ms.
	Pause time.Duration
}

// Service is safe for concurrent use.
type Service struct {
	Options
	manager Manager
	wake    *wake.Signal

	mu      sync.Mutex
	working map[string]context.CancelFunc // by key
	wg      sync.WaitGroup
}

// New makes a Service. Through must be called before the loop starts.
func New(o Options) *Service {
	if o.Pause == 0 {
		o.Pause = 300 * time.Millisecond
	}
	return &Service{Options: o, wake: wake.New(), working: map[string]context.CancelFunc{}}
}

// Through tells through what resources are put in place. It is called while the
// server is put together: the edge is made after the verbs that it calls.
func (s *Service) Through(m Manager) { s.manager = m }

// Loop runs deployments. Work that it started goes on between activations; Wait
// joins it.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "deployments", Every: 10 * time.Second, Wake: s.wake, Run: s.run}
}

// Wait joins work in progress, after the loop's context has ended.
func (s *Service) Wait() { s.wg.Wait() }

// history is how many ended deployments a scope keeps, as in Azure.
const history = 800

// notFound is Azure's word for a deployment that is not there.
func notFound(name string) error {
	return millpond.Errorf(millpond.NotFound, "DeploymentNotFound", "Deployment '%s' could not be found.", name)
}

// Get returns a deployment with its steps.
func (s *Service) Get(ctx context.Context, key, name string) (d *millpond.Deployment, steps []*millpond.DeploymentStep, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if d, err = tx.Deployment(key); errors.Is(err, sqlite.ErrNoRow) {
			return notFound(name)
		}
		if err != nil {
			return err
		}
		steps, err = tx.Steps(key)
		return err
	})
	return d, steps, err
}

// List lists the deployments of a group, or those at a subscription.
func (s *Service) List(ctx context.Context, subscription, group, after string, limit int) (out []*millpond.Deployment, err error) {
	if group != "" {
		if _, err := s.Resources.Group(ctx, group); err != nil {
			return nil, err
		}
	}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = tx.Deployments(subscription, group, after, limit)
		return err
	})
	return out, err
}

// Delete forgets a deployment; the resources stay. It returns false if there was
// none.
func (s *Service) Delete(ctx context.Context, key string) (found bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		d, err := tx.Deployment(key)
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		if _, outcome, why := millpond.DeploymentTransition(d.State, millpond.DeploymentDelete); outcome == millpond.Refused {
			return millpond.Errorf(millpond.Conflict, "DeploymentActive", "The deployment '%s' cannot be deleted: %s.", d.Name, why)
		}
		return tx.DeleteDeployment(key)
	})
	return found, err
}

// Cancel ends a deployment: what has been put in place stays, what waits is not
// begun.
func (s *Service) Cancel(ctx context.Context, key, name string) error {
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		d, err := tx.Deployment(key)
		if errors.Is(err, sqlite.ErrNoRow) {
			return notFound(name)
		}
		if err != nil {
			return err
		}
		next, outcome, why := millpond.DeploymentTransition(d.State, millpond.DeploymentCancel)
		if outcome == millpond.Refused {
			return millpond.Errorf(millpond.Conflict, "DeploymentCannotBeCancelled", "The deployment '%s' cannot be cancelled: %s.", d.Name, why)
		}
		return s.end(tx, d, next, nil, &millpond.ErrorBody{Code: "DeploymentCanceled", Message: "The deployment was cancelled. What it had put in place stays."})
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if stop := s.working[key]; stop != nil {
		stop()
	}
	return nil
}

// end writes the last state of a deployment, gives up what waits and wipes the
// secrets.
func (s *Service) end(tx *sqlite.Tx, d *millpond.Deployment, state millpond.DeploymentState, outputs json.RawMessage, failure *millpond.ErrorBody) error {
	d.State, d.Ended, d.Outputs, d.Failure = state, tx.Now, outputs, failure
	d.Values = public(d)
	steps, err := tx.Steps(d.Key())
	if err != nil {
		return err
	}
	for _, st := range steps {
		if st.State.Over() {
			continue
		}
		st.State, st.Ended = millpond.StepCanceled, tx.Now
		if err := tx.PutStep(st); err != nil {
			return err
		}
	}
	return tx.PutDeployment(d)
}

func newID() string { return uuid.NewString() }
