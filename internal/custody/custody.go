// Package custody keeps disk contents in the stores of the regions for as long
// as a row or a node refers to them. Compute and gallery put contents in through
// a Hold, so that no content is taken away between its ingestion and the row
// that names it; whoever deletes a row calls Release.
//
// It knows regions, stores and rows of use; no disks and no versions.
package custody

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/sqlite"
)

// Region is a region's name and its replica stores; the first is where disks'
// snapshots and images of the region lie.
type Region struct {
	Name   string
	Stores []image.Store
}

// Keeper is safe for concurrent use.
type Keeper struct {
	db      *sqlite.DB
	regions map[string][]image.Store
	stores  map[string]image.Store
	// inUse lists contents that running nodes need although no resource does.
	inUse func(ctx context.Context) (map[string]bool, error)

	// mu orders the deletion of a content and its being held. Nothing waits for a
	// store while it is locked: one that is silent must not stop the others' work.
	mu   sync.Mutex
	held map[sqlite.ContentUse]int
	// deleting are contents whose deletion is under way; whoever wants to hold one
	// waits until its channel is closed.
	deleting map[sqlite.ContentUse]chan struct{}
	// later are contents whose deletion has to wait for a node or was failed by a
	// store; Collect tries again.
	later map[sqlite.ContentUse]bool
	// unswept are the stores that Sweep has still to look at.
	unswept map[string]bool
}

// New makes a Keeper. inUse may be nil.
func New(db *sqlite.DB, regions []Region, inUse func(ctx context.Context) (map[string]bool, error)) (*Keeper, error) {
	k := &Keeper{db: db, regions: map[string][]image.Store{}, stores: map[string]image.Store{}, inUse: inUse,
		held: map[sqlite.ContentUse]int{}, deleting: map[sqlite.ContentUse]chan struct{}{}, later: map[sqlite.ContentUse]bool{}, unswept: map[string]bool{}}
	for _, r := range regions {
		if len(r.Stores) == 0 {
			return nil, fmt.Errorf("region %s has no store", r.Name)
		}
		for _, s := range r.Stores {
			if old := k.stores[s.Name()]; old != nil && old != s {
				return nil, fmt.Errorf("two stores are called %s", s.Name())
			}
			k.stores[s.Name()], k.unswept[s.Name()] = s, true
		}
		k.regions[millpond.NormalizeRegion(r.Name)] = r.Stores
	}
	return k, nil
}

// Home is the store in which a region's snapshots and images lie.
func (k *Keeper) Home(region string) (image.Store, error) { return k.Replica(region, 0) }

// Replica is the store of a region's replica with an ordinal from 0.
func (k *Keeper) Replica(region string, ordinal int) (image.Store, error) {
	stores := k.regions[region]
	if len(stores) == 0 {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidParameter", "The region %q has no replica store. Add it under regions in the server's configuration.", region)
	}
	return stores[ordinal%len(stores)], nil
}

// Store finds a store by name.
func (k *Keeper) Store(name string) (image.Store, error) {
	s := k.stores[name]
	if s == nil {
		return nil, millpond.Errorf(millpond.Unavailable, "ServiceUnavailable", "The store %q is not in the server's configuration any more. Put it back under its region.", name)
	}
	return s, nil
}

// Release deletes those of the contents that no row uses, nobody holds and no
// node boots from. It does not end with ctx, because the rows have gone already;
// for the same reason an error is for the log only: Collect tries again.
func (k *Keeper) Release(ctx context.Context, uses []sqlite.ContentUse) error {
	if len(uses) == 0 {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	var busy map[string]bool
	if k.inUse != nil {
		var err error
		if busy, err = k.inUse(ctx); err != nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			for _, u := range uses {
				k.later[u] = true
			}
			return err
		}
	}
	var errs []error
	silent := map[string]bool{}
	for _, u := range uses {
		done := k.take(u)
		if done == nil {
			continue
		}
		again, err := true, error(nil)
		if !silent[u.Store] {
			again, err = k.delete(ctx, u, busy[u.Content])
			silent[u.Store] = errors.Is(err, context.DeadlineExceeded)
			errs = append(errs, err)
		}
		done(again)
	}
	return errors.Join(errs...)
}

// deleteLimit is how long a store may take to delete a content. One that takes
// longer is asked again by the next Collect.
const deleteLimit = 30 * time.Second

// take begins the deletion of a content, which done ends, or returns nil if
// whoever has it sees to it.
func (k *Keeper) take(u sqlite.ContentUse) (done func(again bool)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stores[u.Store] == nil || k.held[u] > 0 {
		return nil // whoever holds it releases it again
	}
	if k.deleting[u] != nil {
		k.later[u] = true
		return nil
	}
	ended := make(chan struct{})
	k.deleting[u] = ended
	delete(k.later, u)
	return func(again bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.deleting, u)
		if again {
			k.later[u] = true
		}
		close(ended)
	}
}

// delete deletes a content that no row uses, unless a node reads it; again says
// that this has to be tried later.
func (k *Keeper) delete(ctx context.Context, u sqlite.ContentUse, busy bool) (again bool, err error) {
	var used bool
	err = k.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		used, err = tx.ContentUsed(u.Store, u.Content)
		return err
	})
	if err != nil || used || busy {
		return !used, err
	}
	limited, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	err = k.stores[u.Store].Delete(limited, image.ContentID(u.Content))
	return err != nil, err
}

// Collect tries again to delete what had to wait for a node or a store. A loop
// calls it from time to time; it costs nothing when nothing waits.
func (k *Keeper) Collect(ctx context.Context) error {
	k.mu.Lock()
	var uses []sqlite.ContentUse
	for u := range k.later {
		uses = append(uses, u)
	}
	k.mu.Unlock()
	return k.Release(ctx, uses)
}

// Sweep deletes every content that no row uses: what a crash left behind. Each store
// is looked at once, all at the same time; one that fails or does not answer within
// limit is named by the error and left for the next call, as are those that answers,
// which may be nil, says no of. A store that was not empty
// when it was first seen is left alone, and named, until a row uses something of it:
// it may be another server's, whose rows are elsewhere.
//
// It may run beside others' work: what they hold or have a row for stays.
func (k *Keeper) Sweep(ctx context.Context, limit time.Duration, answers func(store string) bool) (strange []string, err error) {
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	k.mu.Lock()
	names := slices.Sorted(maps.Keys(k.unswept))
	k.mu.Unlock()
	for _, name := range names {
		if answers != nil && !answers(name) {
			continue
		}
		all.Go(func() {
			limited, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			ours, err := k.sweep(limited, k.stores[name])
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("store %s: %w", name, err))
				return
			case !ours:
				strange = append(strange, name)
			}
			k.mu.Lock()
			delete(k.unswept, name)
			k.mu.Unlock()
		})
	}
	all.Wait()
	slices.Sort(strange)
	return strange, errors.Join(errs...)
}

func (k *Keeper) sweep(ctx context.Context, s image.Store) (ours bool, err error) {
	all, err := s.List(ctx)
	if err != nil {
		return false, err
	}
	if ours, err = k.ours(ctx, s, all); err != nil || !ours {
		return ours, err
	}
	uses := make([]sqlite.ContentUse, len(all))
	for i, c := range all {
		uses[i] = sqlite.ContentUse{Store: s.Name(), Content: string(c.ID)}
	}
	return true, k.Release(ctx, uses)
}

// ours says whether what is in a store has been put there by this server, and
// remembers it by the store's place.
func (k *Keeper) ours(ctx context.Context, s image.Store, all []image.Content) (ours bool, err error) {
	key := "store-place/" + s.Name()
	err = k.db.Update(ctx, func(tx *sqlite.Tx) error {
		place, err := tx.Setting(key)
		if err != nil {
			return err
		}
		if ours = place == s.URL() || len(all) == 0; place == s.URL() {
			return nil
		}
		for i := 0; i < len(all) && !ours; i++ {
			if ours, err = tx.ContentUsed(s.Name(), string(all[i].ID)); err != nil {
				return err
			}
		}
		if !ours {
			return nil
		}
		return tx.PutSetting(key, s.URL())
	})
	return ours, err
}
