package gallery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// worker replicates one version.
type worker struct {
	cancel context.CancelFunc
	done   chan struct{}
	// again tells it that the version's row has changed.
	again chan struct{}
}

// Loop replicates versions to their regions, tries failed replicas again, and lets
// the keeper delete what had to wait for a node. Each version has a goroutine of its
// own while there is work, so that a large one does not hold up the others;
// Wait joins them.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "replication", Every: 10 * time.Second, Wake: s.wake, Run: s.run}
}

// Wait joins replication in progress, after the loop's context has ended.
func (s *Service) Wait() { s.wg.Wait() }

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var errs []error
	var vs []*millpond.ImageVersion
	copies := map[string]bool{} // versions with a failed copy
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		vs, err = sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion,
			States: []millpond.ProvisioningState{millpond.StateCreating, millpond.StateUpdating, millpond.StateDeleting, millpond.StateFailed}})
		for _, v := range vs {
			if err != nil || v.State != millpond.StateFailed {
				continue
			}
			var rs []millpond.Replica
			rs, err = tx.Replicas(v.ID.Key())
			copies[v.ID.Key()] = slices.ContainsFunc(rs, func(r millpond.Replica) bool { return r.State == millpond.ReplicaFailed })
		}
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var next time.Time
	n := 0
	for _, v := range vs {
		switch {
		case v.State == millpond.StateDeleting:
			errs = append(errs, s.remove(ctx, v.ID))
			continue
		case v.State == millpond.StateFailed && !copies[v.ID.Key()]:
			continue // what failed was no copy, and would fail again
		}
		n++
		if at := s.retryAt(v.ID); at.After(s.Clock.Now()) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		s.start(ctx, v.ID)
	}
	errs = append(errs, s.Keeper.Collect(ctx))
	return fmt.Sprintf("%d versions to replicate", n), next, errors.Join(errs...)
}

func (s *Service) start(ctx context.Context, id millpond.ResourceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.working[id.Key()]; w != nil {
		select {
		case w.again <- struct{}{}:
		default: // it has been told already
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{cancel, make(chan struct{}), make(chan struct{}, 1)}
	s.working[id.Key()] = w
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		again, err := s.replicate(ctx, id, w.again)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("replication failed", "version", id.String(), "err", err)
			if err := s.fail(ctx, id, millpond.AsError(err)); err != nil {
				s.Log.Error("failure not recorded", "version", id.String(), "err", err)
			}
		}
		cancel()
		s.mu.Lock()
		delete(s.working, id.Key())
		s.mu.Unlock()
		close(w.done)
		if again || err == nil {
			// A PUT whose wake came while this goroutine ended must not be missed.
			s.wake.Wake()
		}
	}()
}

// stop ends the work on a version and waits for its end.
func (s *Service) stop(id millpond.ResourceID) {
	s.mu.Lock()
	w := s.working[id.Key()]
	s.mu.Unlock()
	if w != nil {
		w.cancel()
		<-w.done
	}
	s.forget(id)
}

// replicate brings one version to where its row says. It returns true when the
// row changed meanwhile, so that there is more to do.
func (s *Service) replicate(ctx context.Context, id millpond.ResourceID, changed <-chan struct{}) (again bool, err error) {
	v, err := s.prepare(ctx, id)
	if err != nil || v == nil {
		return false, err
	}
	c := newCopier(s, v)
	defer c.wait()
	for {
		if err := s.plan(ctx, c); err != nil {
			return false, err
		}
		if c.idle() {
			return s.finish(ctx, id, c)
		}
		select {
		case r := <-c.results:
			c.ended(r)
		case <-changed:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// plan compares rows and wishes, writes what is under way and starts as many
// copies as may run.
func (s *Service) plan(ctx context.Context, c *copier) error {
	var work, drop []millpond.Replica
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.ImageVersion](tx, c.v.ID.Key())
		if err != nil {
			return err
		}
		have, err := tx.Replicas(now.ID.Key())
		if err != nil {
			return err
		}
		if work, drop, err = PlanReplicas(now, have, s.storeName); err != nil {
			return err
		}
		c.have = have
		for _, r := range work {
			// The use is written before the bytes are there, so that no sweep
			// takes them away while they come.
			for _, d := range c.v.Disks() {
				if err := tx.UseContent(now.ID.Key(), r.Store, d.Content); err != nil {
					return err
				}
			}
			if c.busy(r) || c.tries(r).n > 0 {
				continue // its row says more
			}
			if err := tx.PutReplica(r); err != nil {
				return err
			}
		}
		for _, r := range drop {
			if err := tx.DeleteReplica(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.abandon(work)
	c.begin(ctx, work)
	return nil
}

// prepare makes the bytes of every disk immutable and has preflight look at them
// once. Each disk is recorded when it is there, so that work that was
// broken off goes on with the next. It returns nil for a version that has
// nothing to do any more.
func (s *Service) prepare(ctx context.Context, id millpond.ResourceID) (*millpond.ImageVersion, error) {
	var v *millpond.ImageVersion
	var def *millpond.ImageDefinition
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if v, err = sqlite.Load[millpond.ImageVersion](tx, id.Key()); err != nil {
			return err
		}
		parent, _ := id.Parent()
		def, err = sqlite.Load[millpond.ImageDefinition](tx, parent.Key())
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && (v.State == millpond.StateDeleting || v.State == millpond.StateSucceeded) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	for i, d := range v.Disks() {
		if d.Content != "" {
			continue
		}
		if d.SourceURI != "" {
			d.Store, d.Content, d.SizeBytes, err = s.Freezer.FreezeURL(ctx, hold, d.SourceURI, fmt.Sprintf("version-%s-%d", uuid.NewString(), i), v.Location)
		} else {
			src, _ := millpond.ParseResourceID(d.SourceID)
			d.Store, d.Content, d.SizeBytes, err = s.Freezer.Freeze(ctx, hold, src, v.Location)
		}
		if err != nil {
			return nil, err
		}
		if err := s.record(ctx, v); err != nil {
			return nil, err
		}
	}
	if err := s.preflight(ctx, v, def); err != nil {
		s.Log.Warn("image not inspected", "version", id.String(), "err", err)
	} else if err := s.record(ctx, v); err != nil {
		return nil, err
	}
	if err := s.unfit(v); err != nil {
		return nil, err
	}
	return v, nil
}

// record writes what prepare found out over the row as it is now: a PUT may
// have changed the rest.
func (s *Service) record(ctx context.Context, v *millpond.ImageVersion) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.ImageVersion](tx, v.ID.Key())
		if err != nil {
			return err
		}
		now.OSDisk, now.DataDisks, now.Release, now.Inspected, now.Preflight = v.OSDisk, v.DataDisks, v.Release, v.Inspected, v.Preflight
		for _, d := range now.Disks() {
			if d.Content == "" {
				continue
			}
			if err := tx.UseContent(v.ID.Key(), d.Store, d.Content); err != nil {
				return err
			}
		}
		return tx.Put(now)
	})
}

// fail records that a version's bytes could not be had.
func (s *Service) fail(ctx context.Context, id millpond.ResourceID, failure *millpond.Error) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.ImageVersion](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) || err == nil && v.State == millpond.StateDeleting {
			return nil
		}
		if err != nil {
			return err
		}
		v.State, v.Failure = millpond.StateFailed, failure.Message
		if err := tx.Put(v); err != nil {
			return err
		}
		return tx.EndOperations(id.Key(), failure)
	})
}

// finish records where the version is when no copy runs any more, and lets go of
// contents that
// only the copying needed: the source's store, and replicas that are not wanted
// any more. It returns true, and records nothing, when a PUT has asked for more:
// the row is read and judged in one transaction, so
// that no change falls between. Failed copies are tried again later; the
// operation fails when one has been tried often enough.
func (s *Service) finish(ctx context.Context, id millpond.ResourceID, c *copier) (again bool, err error) {
	var freed []sqlite.ContentUse
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.ImageVersion](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) || err == nil && v.State == millpond.StateDeleting {
			return nil
		}
		if err != nil {
			return err
		}
		have, err := tx.Replicas(id.Key())
		if err != nil {
			return err
		}
		more, old, err := PlanReplicas(v, have, s.storeName)
		if err != nil {
			return err
		}
		for _, r := range more {
			again = again || c.tries(r).n == 0
		}
		if again = again || len(old) > 0; again {
			return nil
		}
		if len(more) > 0 {
			failure, final := c.failure(more)
			if !final {
				return nil // tried again before anybody is told
			}
			s.Log.Error("replication failed", "version", id.String(), "err", failure)
			v.State, v.Failure = millpond.StateFailed, failure.Message
			if err := tx.Put(v); err != nil {
				return err
			}
			return tx.EndOperations(id.Key(), failure)
		}
		v.State, v.Failure = millpond.StateSucceeded, ""
		if freed, err = s.keepReplicas(tx, v); err != nil {
			return err
		}
		if err := tx.Put(v); err != nil {
			return err
		}
		return tx.EndOperations(id.Key(), nil)
	})
	if err != nil || again {
		return again, err
	}
	s.leftover(s.Keeper.Release(ctx, freed))
	return false, nil
}

// keepReplicas drops every use of a version but those of its replicas, and
// points its disks at the first of them for later copies.
func (s *Service) keepReplicas(tx *sqlite.Tx, v *millpond.ImageVersion) ([]sqlite.ContentUse, error) {
	rs, err := tx.Replicas(v.ID.Key())
	if err != nil || len(rs) == 0 {
		return nil, err
	}
	stores := map[string]bool{}
	for _, r := range rs {
		stores[r.Store] = true
	}
	for _, d := range v.Disks() {
		if !stores[d.Store] {
			d.Store = rs[0].Store
		}
	}
	uses, err := tx.ContentsOf(v.ID.Key())
	if err != nil {
		return nil, err
	}
	var freed []sqlite.ContentUse
	for _, u := range uses {
		if stores[u.Store] {
			continue
		}
		freed = append(freed, u)
		if err := tx.DropContent(v.ID.Key(), u.Store, u.Content); err != nil {
			return nil, err
		}
	}
	return freed, nil
}
