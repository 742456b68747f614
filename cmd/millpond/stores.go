package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millpond.dev/millpond/internal/config"
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

// openRegionStores opens every configured store. The caller closes them.
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
			s, err := chunkstore.Open(ctx, fmt.Sprintf("%s-%d", r.Name, i), place)
			if err != nil {
				return append(all, here), fmt.Errorf("region %s: %w", r.Name, err)
			}
			here.stores = append(here.stores, s)
		}
		all = append(all, here)
	}
	return all, nil
}

func closeStores(all []regionStores) error {
	var err error
	for _, r := range all {
		for _, s := range r.stores {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// grace keeps what a broken-off upload or copy has written, for its next try.
const grace = time.Hour

// chunkLoop gives the space of deleted contents back, store by store. A store
// that fails does not keep the others from it.
func (s *server) chunkLoop() reconcile.Loop {
	return reconcile.Loop{Name: "image chunks", Every: 10 * time.Minute, Wake: wake.New(), Run: func(ctx context.Context) (string, time.Time, error) {
		var errs []error
		chunks, bytes := 0, int64(0)
		for _, r := range s.chunks {
			for _, st := range r.stores {
				done, err := st.Collect(ctx, chunkstore.CollectOptions{Grace: grace})
				errs = append(errs, err)
				chunks, bytes = chunks+done.Chunks, bytes+done.Bytes
				if done.Chunks > 0 {
					s.log.Info("chunks collected", "store", st.Name(), "chunks", done.Chunks, "bytes", done.Bytes)
				}
			}
		}
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
