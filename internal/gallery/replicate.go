package gallery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// worker replicates one version.
type worker struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Loop replicates versions to their regions, and lets the keeper delete what
// had to wait for a node. Each version has a goroutine of its
// own while there is work, so that a large one does not hold up the others;
// Wait joins them.
func (s *Service) Loop() reconcile.Loop {
	return reconcile.Loop{Name: "replication", Every: 10 * time.Second, Wake: s.wake, Run: s.run}
}

// Wait joins replication in progress, after the loop's context has ended.
func (s *Service) Wait() { s.wg.Wait() }

func (s *Service) run(ctx context.Context) (string, time.Time, error) {
	var vs []*millpond.ImageVersion
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		vs, err = sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion,
			States: []millpond.ProvisioningState{millpond.StateCreating, millpond.StateUpdating, millpond.StateDeleting}})
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var errs []error
	for _, v := range vs {
		if v.State == millpond.StateDeleting {
			errs = append(errs, s.remove(ctx, v.ID))
			continue
		}
		s.start(ctx, v.ID)
	}
	errs = append(errs, s.Keeper.Collect(ctx))
	return fmt.Sprintf("%d versions to replicate", len(vs)), time.Time{}, errors.Join(errs...)
}

func (s *Service) start(ctx context.Context, id millpond.ResourceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working[id.Key()] != nil || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{cancel, make(chan struct{})}
	s.working[id.Key()] = w
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		again, err := s.replicate(ctx, id)
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
}

// replicate brings one version to where its row says. It returns true when the
// row changed meanwhile, so that there is more to do.
func (s *Service) replicate(ctx context.Context, id millpond.ResourceID) (again bool, err error) {
	v, err := s.prepare(ctx, id)
	if err != nil || v == nil {
		return false, err
	}
	var work, drop []millpond.Replica
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		have, err := tx.Replicas(id.Key())
		if err != nil {
			return err
		}
		if work, drop, err = PlanReplicas(v, have, s.storeName); err != nil {
			return err
		}
		for _, r := range work {
			// The use is written before the bytes are there, so that no sweep
			// takes them away while they come.
			for _, d := range v.Disks() {
				if err := tx.UseContent(id.Key(), r.Store, d.Content); err != nil {
					return err
				}
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
		return false, err
	}
	regions := map[string][]millpond.Replica{}
	for _, r := range work {
		regions[r.Region] = append(regions[r.Region], r)
	}
	var mu sync.Mutex
	var failure error
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, rs := range regions {
		g.Go(func() error {
			for _, r := range rs {
				err := s.copyReplica(gctx, v, r)
				if gctx.Err() != nil {
					return gctx.Err()
				}
				if err != nil {
					mu.Lock()
					failure = errors.Join(failure, fmt.Errorf("%s: %w", r.Region, err))
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	var e *millpond.Error
	if failure != nil {
		cause := millpond.AsError(failure)
		e = millpond.Errorf(cause.Kind, cause.Code, "Replication of %s failed. %s Correct it and update the version to try again.", id, cause.Message).Because(failure)
		s.Log.Error("replication failed", "version", id.String(), "err", failure)
	}
	return s.finish(ctx, id, work, e)
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
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && v.State != millpond.StateCreating && v.State != millpond.StateUpdating {
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

// copyReplica copies the contents of a version into one store and records how
// far it is.
func (s *Service) copyReplica(ctx context.Context, v *millpond.ImageVersion, r millpond.Replica) error {
	// The row uses the contents already; the hold keeps one that is found there
	// from being deleted for another version at this moment.
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	dst, err := s.Keeper.Store(r.Store)
	if err == nil {
		r.Total = size(v)
		var before int64
		var last time.Time
		for _, d := range v.Disks() {
			var src image.Store
			if src, err = s.Keeper.Store(d.Store); err != nil {
				break
			}
			_, err = hold.Copy(ctx, dst, src, image.ContentID(d.Content), func(done, _ int64) {
				r.Done = before + done
				if now := s.Clock.Now(); now.Sub(last) > 250*time.Millisecond {
					last = now
					if err := s.putReplica(ctx, r); err != nil && ctx.Err() == nil {
						s.Log.Warn("progress not recorded", "version", v.ID.String(), "region", r.Region, "err", err)
					}
				}
			})
			if err != nil {
				break
			}
			before += d.SizeBytes
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.State, r.Details = millpond.ReplicaFailed, millpond.AsError(err).Message
		return errors.Join(err, s.putReplica(ctx, r))
	}
	r.State, r.Done, r.Details = millpond.ReplicaCompleted, r.Total, ""
	return s.putReplica(ctx, r)
}

func (s *Service) putReplica(ctx context.Context, r millpond.Replica) error {
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error { return tx.PutReplica(r) })
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

// finish records the outcome of the tried replicas and lets go of contents that
// only the copying needed: the source's store, and replicas that are not wanted
// any more. It returns true, and records nothing, when a PUT has asked for more
// while the copies were made: the row is read and judged in one transaction, so
// that no change falls between.
func (s *Service) finish(ctx context.Context, id millpond.ResourceID, tried []millpond.Replica, failure *millpond.Error) (again bool, err error) {
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
		if again = len(old) > 0 || !covers(tried, more); again {
			return nil
		}
		if failure != nil {
			v.State, v.Failure = millpond.StateFailed, failure.Message
		} else {
			v.State, v.Failure = millpond.StateSucceeded, ""
			if freed, err = s.keepReplicas(tx, v); err != nil {
				return err
			}
		}
		if err := tx.Put(v); err != nil {
			return err
		}
		return tx.EndOperations(id.Key(), failure)
	})
	if err != nil || again {
		return again, err
	}
	s.leftover(s.Keeper.Release(ctx, freed))
	return false, nil
}

// covers says whether all of the replicas that are left to do were tried.
func covers(tried, left []millpond.Replica) bool {
	for _, l := range left {
		if !slices.ContainsFunc(tried, func(t millpond.Replica) bool {
			return t.Region == l.Region && t.Ordinal == l.Ordinal && t.Store == l.Store
		}) {
			return false
		}
	}
	return true
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
