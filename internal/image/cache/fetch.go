package cache

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"millpond.dev/millpond/internal/image"
)

// flight is the one fetch of a chunk that is under way, however many wait for it.
type flight struct {
	// of is the content for which it was begun, whose replicas it asks.
	of image.ContentID
	// done is closed when data and err are set, and over when the chunk is kept or
	// cannot be.
	done, over chan struct{}
	data       []byte
	err        error
}

// read fills p with the bytes of a chunk from within on. The chunk has length
// bytes. Only a read on demand counts as one, and has others give way.
func (c *Cache) read(ctx context.Context, k *core, d image.Digest, length int, demand bool, p []byte, within int) error {
	if i, ok := c.slab.hold(d); ok {
		err := c.slab.read(i, p, int64(within))
		c.slab.release(i)
		if err == nil {
			if demand {
				c.counters.hits.Add(1)
			}
			return nil
		}
		c.counters.wrong.Add(1)
		c.log.Error("the cache's own disk fails; the chunk is fetched again", "chunk", short(d), "err", err)
		c.slab.discard(d)
	}
	f, err := c.fetch(ctx, k, d, length, demand)
	if err != nil {
		return err
	}
	if !demand {
		c.counters.ahead.Add(1)
	}
	copy(p, f[within:])
	return nil
}

// fetch gets a chunk that is not kept, joining a fetch that is under way.
func (c *Cache) fetch(ctx context.Context, k *core, d image.Digest, length int, demand bool) ([]byte, error) {
	deadline := time.Now().Add(c.cfg.Patience)
	pause := 100 * time.Millisecond
	for {
		f, mine := c.join(k, d, length, demand)
		if f == nil {
			return nil, errClosed
		}
		switch {
		case !demand:
		case mine:
			c.counters.misses.Add(1)
		default:
			c.counters.joined.Add(1)
		}
		if demand {
			c.waiting.Add(1)
		}
		var err error
		select {
		case <-f.done:
			err = f.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		if demand {
			c.waiting.Add(-1)
		}
		if err == nil {
			return f.data, nil
		}
		if ctx.Err() != nil || c.ctx.Err() != nil || !demand {
			return nil, err
		}
		if !mine && f.of != k.id {
			continue // its replicas are not ours; a flight of our own comes next
		}
		var unreadable *UnreadableError
		if errors.As(err, &unreadable) {
			k.setFault(unreadable)
			if unreadable.Lasting || time.Now().After(deadline) {
				c.counters.unreadable.Add(1)
				c.log.Error("a chunk cannot be read from any replica", "content", k.id, "chunk", short(d), "err", err)
				return nil, err
			}
		} else if time.Now().After(deadline) {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-c.ctx.Done():
			timer.Stop()
			return nil, errClosed
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// join finds the flight of a chunk or begins one; nil if the cache is closed.
func (c *Cache) join(k *core, d image.Digest, length int, demand bool) (f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[d]; f != nil {
		return f, false
	}
	f = &flight{of: k.id, done: make(chan struct{}), over: make(chan struct{})}
	// Its end waits for mu, and so comes after it is noted.
	if !c.spawn(func() { c.fly(f, k, d, length, demand) }) {
		return nil, false
	}
	c.flights[d] = f
	return f, true
}

// fly carries out a flight. Whoever waits gets the bytes before they are written
// to disk; whoever comes while they are written still finds the flight.
func (c *Cache) fly(f *flight, k *core, d image.Digest, length int, demand bool) {
	fetched := false
	defer func() {
		c.mu.Lock()
		delete(c.flights, d)
		c.mu.Unlock()
		close(f.over)
	}()
	f.data, fetched, f.err = c.get(k, d, length, demand)
	close(f.done)
	if f.err != nil || !fetched {
		return
	}
	k.clearFault()
	if err := c.slab.put(d, f.data); err != nil {
		// The cache's disk is full or broken: nodes go on without it.
		if n := c.counters.unkept.Add(1); n&(n-1) == 0 { // not a line for each of thousands
			c.log.Warn("a chunk cannot be kept in the cache", "chunk", short(d), "err", err)
		}
	}
}

// get reads a chunk from the slab, if it has one not yet verified, or from the
// replicas.
func (c *Cache) get(k *core, d image.Digest, length int, demand bool) (data []byte, fetched bool, err error) {
	data, wrong := c.slab.verify(d, length)
	if data != nil {
		return data, false, nil
	}
	if wrong {
		c.counters.wrong.Add(1)
		c.log.Warn("a chunk of the cache is not what it was; it is fetched again", "chunk", short(d))
	}
	// Reading ahead has its own bound, so that it takes no place of a demand.
	if demand {
		if err := c.demand.Acquire(c.ctx, 1); err != nil {
			return nil, false, err
		}
		defer c.demand.Release(1)
	}
	data, err = c.fromReplicas(c.ctx, k.id, k.stores(), d, length)
	return data, true, err
}

func sortStores(s []StoreStats) {
	slices.SortFunc(s, func(a, b StoreStats) int { return strings.Compare(a.Name, b.Name) })
}
