package gallery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/wake"
)

// auditEvery is how often the stores are asked for the contents of the versions, and
// auditLimit how long one of them may take to answer for all of its replicas.
const (
	auditEvery = 10 * time.Minute
	auditLimit = 5 * time.Minute
)

// Audit looks whether every completed replica still has its contents, and sends
// what was lost to be copied again from another replica. It is a loop of its own,
// and each store is asked beside the others: one that is silent keeps no version from
// being published, and no other store from being looked at.
func (s *Service) Audit() reconcile.Loop {
	return reconcile.Loop{Name: "replicas", Every: auditEvery, Wake: wake.New(), Run: s.audit}
}

func (s *Service) audit(ctx context.Context) (string, time.Time, error) {
	type replica struct {
		version *millpond.ImageVersion
		row     millpond.Replica
	}
	byStore := map[string][]replica{}
	n := 0
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		vs, err := sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion, States: []millpond.ProvisioningState{millpond.StateSucceeded}})
		for _, v := range vs {
			if err != nil {
				return err
			}
			var rs []millpond.Replica
			rs, err = tx.Replicas(v.ID.Key())
			for _, r := range rs {
				byStore[r.Store] = append(byStore[r.Store], replica{v, r})
				n++
			}
		}
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var mu sync.Mutex
	var errs []error
	var asked sync.WaitGroup
	for _, all := range byStore {
		asked.Go(func() {
			limited, cancel := context.WithTimeout(ctx, auditLimit)
			defer cancel()
			for _, r := range all {
				lost, err := s.lost(limited, r.version, r.row)
				if err == nil && lost {
					err = s.repair(ctx, r.version, r.row)
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	asked.Wait()
	return fmt.Sprintf("%d replicas looked at", n), time.Time{}, errors.Join(errs...)
}

// lost says whether a store does not know a content that it should have. A store
// that does not answer has lost nothing yet.
func (s *Service) lost(ctx context.Context, v *millpond.ImageVersion, r millpond.Replica) (bool, error) {
	st, err := s.Keeper.Store(r.Store)
	if err != nil || r.State != millpond.ReplicaCompleted {
		return false, nil
	}
	for _, d := range v.Disks() {
		if _, err := st.Stat(ctx, image.ContentID(d.Content)); millpond.KindOf(err) == millpond.NotFound && err != nil {
			return true, nil
		}
	}
	return false, ctx.Err()
}

func (s *Service) repair(ctx context.Context, v *millpond.ImageVersion, r millpond.Replica) error {
	s.Log.Warn("a replica has lost its content and is copied again", "version", v.ID.String(), "region", r.Region, "store", r.Store)
	defer s.wake.Wake()
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.ImageVersion](tx, v.ID.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil || now.State != millpond.StateSucceeded {
			return err
		}
		// A region may have been taken away since the row was read, and its copy with it.
		have, err := tx.Replicas(now.ID.Key())
		if err != nil || !slices.ContainsFunc(have, func(h millpond.Replica) bool { return placeOf(h) == placeOf(r) && h.State == r.State }) {
			return err
		}
		r.State, r.Done, r.Details = millpond.ReplicaReplicating, 0, "its content was lost"
		if err := tx.PutReplica(r); err != nil {
			return err
		}
		now.State = millpond.StateUpdating
		return tx.Put(now)
	})
}
