// Package cache keeps chunks of images on this host: bounded, uncompressed, each
// once however many contents have it, and filled from the replicas on demand. It
// spreads reads over replicas, asks another one when a replica is slow, wrong or
// away, mends what it finds lost or damaged, and reads ahead in the order in which
// an earlier boot touched the same content, or else what Config.Foresee guesses.
//
// It also makes maps, by which another process reads from the cache's own file the
// chunks that are there, for as long as it has the map's lease locked (maps.go).
//
// It never writes to a content, and never hands out or maps bytes that were not
// compared with their digest. internal/imagehost is its one user, and vmrun knows what
// a Mapping is; the stores come from outside, through Store.
package cache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
)

// Config of a Cache. Dir, Limit, Clock and Log are required.
type Config struct {
	// Dir is the cache's folder; one process at a time uses it.
	Dir string
	// Limit bounds the bytes of the chunks on disk; at least 16 MiB.
	Limit int64
	Clock clock.Clock
	Log   *slog.Logger
	// Patience is how long a read waits for stores that do not answer before it
	// fails; 0 means one minute. A guest stands still meanwhile, which it
	// survives better than an I/O error.
	Patience time.Duration
	// NoReadAhead leaves out all fetching before somebody asks; benchmarks compare.
	NoReadAhead bool
	// Foresee, if not nil, guesses what a machine will read of a content that nobody
	// has booted here: it calls want with places, one at least in each chunk, in the
	// order of the boot. What it reads of src is fetched like what it wants.
	Foresee func(ctx context.Context, src io.ReaderAt, size int64, want func(off int64) error) error
	// Learn is how long the first boot of a content is watched for its order; 0
	// means three minutes.
	Learn time.Duration
}

const (
	// maxFetches bounds the demand fetches under way, each of which holds a chunk
	// in memory.
	maxFetches = 32
	// aheadWidth is how many chunks are read ahead at a time, and aheadBusy how
	// many while a guest waits for a fetch.
	aheadWidth = 4
	aheadBusy  = 2
	// runWidth is how far ahead of a run of chunks is fetched while no order is
	// known, and runLimit how many of such fetches are under way.
	runWidth = 2
	runLimit = 4
)

// Cache is safe for concurrent use.
type Cache struct {
	cfg   Config
	clock clock.Clock
	log   *slog.Logger
	slab  *slab

	ctx    context.Context
	cancel context.CancelFunc
	// fetches are goroutines that Close waits for.
	fetches sync.WaitGroup
	demand  *semaphore.Weighted
	runs    *semaphore.Weighted
	// waiting is the number of demand fetches that guests wait for.
	waiting atomic.Int64

	// ending guards closed; no other lock is taken while it is held.
	ending sync.Mutex
	closed bool

	// mu is taken before the lock of a content, never after it.
	mu       sync.Mutex
	flights  map[image.Digest]*flight
	contents map[image.ContentID]*core
	replicas map[string]*replica
	mendings map[mending]bool

	counters counters
}

type counters struct {
	hits, misses, joined, ahead, wrong, unkept, unreadable atomic.Int64
}

// Stats are the cache's counters since it was opened.
type Stats struct {
	// Hits are chunk reads from the host's disk; Misses had to fetch; Joined
	// waited for a fetch that was under way already; Ahead are chunks that were
	// fetched before anybody asked.
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
	Joined int64 `json:"joined"`
	Ahead  int64 `json:"ahead"`
	// Wrong are chunks on the host's own disk that were not what they should be;
	// Unkept could not be written to it; Unreadable are reads that failed.
	Wrong      int64 `json:"wrong"`
	Unkept     int64 `json:"unkept"`
	Unreadable int64 `json:"unreadable"`
	Evicted    int64 `json:"evicted"`
	// Chunks and Bytes are what is kept now, Limit is what may be.
	Chunks int          `json:"chunks"`
	Bytes  int64        `json:"bytes"`
	Limit  int64        `json:"limit"`
	Stores []StoreStats `json:"stores"`
}

// Open opens or makes the cache in cfg.Dir.
func Open(cfg Config) (*Cache, error) {
	if cfg.Patience <= 0 {
		cfg.Patience = time.Minute
	}
	if cfg.Learn <= 0 {
		cfg.Learn = 3 * time.Minute
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, ordersFolder), 0o700); err != nil {
		return nil, err
	}
	s, err := openSlab(cfg.Dir, cfg.Limit, cfg.Clock)
	if err != nil {
		return nil, err
	}
	c := &Cache{cfg: cfg, clock: cfg.Clock, log: cfg.Log, slab: s, demand: semaphore.NewWeighted(maxFetches), runs: semaphore.NewWeighted(runLimit),
		flights: map[image.Digest]*flight{}, contents: map[image.ContentID]*core{}, replicas: map[string]*replica{}, mendings: map[mending]bool{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends everything under way. Contents that are open fail from now on.
func (c *Cache) Close() error {
	c.ending.Lock()
	c.closed = true
	c.ending.Unlock()
	c.mu.Lock()
	var open []*core
	for _, k := range c.contents {
		open = append(open, k)
	}
	c.mu.Unlock()
	c.cancel()
	c.fetches.Wait()
	for _, k := range open {
		k.mu.Lock()
		l := k.learn
		k.mu.Unlock()
		k.endLesson(c, l, false)
	}
	return c.slab.close()
}

var errClosed = errors.New("the cache is closed")

// spawn runs f unless the cache is closed.
func (c *Cache) spawn(f func()) bool {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.closed {
		return false
	}
	c.fetches.Go(f)
	return true
}

// Stats tells what was done so far.
func (c *Cache) Stats() Stats {
	s := Stats{Hits: c.counters.hits.Load(), Misses: c.counters.misses.Load(), Joined: c.counters.joined.Load(), Ahead: c.counters.ahead.Load(),
		Wrong: c.counters.wrong.Load(), Unkept: c.counters.unkept.Load(), Unreadable: c.counters.unreadable.Load()}
	s.Chunks, s.Bytes, s.Limit, s.Evicted = c.slab.usage()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.replicas {
		r.mu.Lock()
		st := r.stats
		r.mu.Unlock()
		st.Name = r.store.Name()
		s.Stores = append(s.Stores, st)
	}
	sortStores(s.Stores)
	return s
}

// replicasOf finds what is known of the stores; a store is known by its name.
func (c *Cache) replicasOf(stores []Store) []*replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*replica, len(stores))
	for i, s := range stores {
		r := c.replicas[s.Name()]
		if r == nil || r.store != s {
			r = &replica{store: s}
			c.replicas[s.Name()] = r
		}
		out[i] = r
	}
	return out
}
