package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/wake"
)

// regionStores are the open stores of one region, in the configuration's order.
type regionStores struct {
	region string
	stores []*chunkstore.Store
}

// openRegionStores opens every configured store. One in a service that is away is
// opened all the same: checkStores tells. The caller closes them.
func openRegionStores(ctx context.Context, cfg config.Config, data datadir.Dir) (all []regionStores, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeStores(all))
		}
	}()
	for _, r := range cfg.Regions {
		places := r.Stores
		if len(places) == 0 {
			places = []string{data.Store(r.Name, 0), data.Store(r.Name, 1)}
		}
		here := regionStores{region: r.Name}
		for i, place := range places {
			s, err := chunkstore.Open(ctx, storeName(r.Name, i), place)
			if err != nil {
				return append(all, here), fmt.Errorf("region %s: %w", r.Name, err)
			}
			here.stores = append(here.stores, s)
		}
		all = append(all, here)
	}
	return all, nil
}

// storeName is what a region's store is called.
func storeName(region string, i int) string { return fmt.Sprintf("%s-%d", region, i) }

func closeStores(all []regionStores) error {
	var err error
	for _, r := range all {
		for _, s := range r.stores {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

const (
	// checkLimit is how long a store may take to say that it is there.
	checkLimit = 10 * time.Second
	// sweepLimit is how long it may take to list what it has.
	sweepLimit = 5 * time.Minute
)

// checkStores asks all stores at the same time whether they can be used, and returns
// what is wrong by the store's name.
func checkStores(ctx context.Context, all []regionStores) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	wrong := map[string]error{}
	for _, r := range all {
		for _, s := range r.stores {
			asked.Go(func() {
				if err := s.Check(ctx); err != nil {
					if errors.Is(err, context.DeadlineExceeded) {
						err = fmt.Errorf("store %s (%s) does not answer within %s", s.Name(), s.URL(), checkLimit)
					}
					mu.Lock()
					defer mu.Unlock()
					wrong[s.Name()] = err
				}
			})
		}
	}
	asked.Wait()
	return wrong
}

// storeLoop watches the stores: it says in the log and on the status page which of
// them do not answer, and deletes what a crash has left in one as soon as it does.
// Nothing waits for it, so that a store that is away keeps no server from starting.
func (s *server) storeLoop(keeper *custody.Keeper) reconcile.Loop {
	before := map[string]error{}
	return reconcile.Loop{Name: "image stores", Every: time.Minute, Wake: wake.New(), Run: func(ctx context.Context) (string, time.Time, error) {
		wrong := checkStores(ctx, s.chunks)
		if ctx.Err() != nil {
			return "", time.Time{}, ctx.Err()
		}
		names, n := slices.Sorted(maps.Keys(wrong)), len(s.stores)
		status := fmt.Sprintf("%d of %d stores answer", n-len(names), n)
		for _, name := range names {
			status += "; " + wrong[name].Error()
			if before[name] == nil {
				s.log.Error("a store cannot be used; contents are read from other replicas and copies to it are tried again", "store", name, "err", wrong[name])
			}
		}
		for name := range before {
			if wrong[name] == nil {
				s.log.Info("a store can be used again", "store", name)
			}
		}
		before = wrong
		strange, err := keeper.Sweep(ctx, sweepLimit, func(name string) bool { return wrong[name] == nil })
		for _, name := range strange {
			s.log.Warn("nothing that this data folder knows uses the contents of a store: they are left as they are; a store must not be used by two servers", "store", name)
		}
		return status, time.Time{}, err
	}}
}

// grace keeps what a broken-off upload or copy has written, for its next try.
const grace = time.Hour

// chunkLoop gives the space of deleted contents back, store by store. A store
// that fails does not keep the others from it.
func (s *server) chunkLoop() reconcile.Loop {
	return reconcile.Loop{Name: "image chunks", Every: 10 * time.Minute, Wake: wake.New(), Run: func(ctx context.Context) (string, time.Time, error) {
		var mu sync.Mutex
		var errs []error
		chunks, bytes := 0, int64(0)
		collect := func(st *chunkstore.Store) {
			done, err := st.Collect(ctx, chunkstore.CollectOptions{Grace: grace})
			if done.Chunks > 0 {
				s.log.Info("chunks collected", "store", st.Name(), "chunks", done.Chunks, "bytes", done.Bytes)
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			chunks, bytes = chunks+done.Chunks, bytes+done.Bytes
		}
		// One that is silent is waited for beside the others.
		var silent sync.WaitGroup
		for _, r := range s.chunks {
			for _, st := range r.stores {
				if st.Dir() == "" {
					silent.Go(func() { collect(st) })
				} else {
					collect(st)
				}
			}
		}
		silent.Wait()
		return fmt.Sprintf("%d chunks of %s deleted", chunks, mebibytes(bytes)), time.Time{}, errors.Join(errs...)
	}}
}

// others are all stores but one, those of its own region first.
func others(all []regionStores, of *chunkstore.Store) (out []image.Store) {
	for _, near := range []bool{true, false} {
		for _, r := range all {
			own := false
			for _, s := range r.stores {
				own = own || s == of
			}
			for _, s := range r.stores {
				if own == near && s != of {
					out = append(out, s)
				}
			}
		}
	}
	return out
}
