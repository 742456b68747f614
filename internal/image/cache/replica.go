package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// Store is what the cache needs of a replica's store. ReadChunk compares what it
// returns with d: kind NotFound if it is not there, code ContentDamaged if it is
// not what it should be.
type Store interface {
	Name() string
	Manifest(ctx context.Context, id image.ContentID) (*image.Manifest, error)
	ReadChunk(ctx context.Context, d image.Digest, length int) ([]byte, error)
}

// Repairer is an optional ability of a Store: RepairChunk puts a chunk whose bytes
// are known to be right in the place of a lost or damaged one.
type Repairer interface {
	RepairChunk(ctx context.Context, d image.Digest, data []byte) error
}

// codeDamaged is the code of a chunk that is not what its name says.
const codeDamaged = "ContentDamaged"

const (
	// readLimit bounds one read of one replica.
	readLimit = 30 * time.Second
	// A second replica is asked when the first has taken hedgeFactor times what it
	// usually takes, between hedgeMin and hedgeMax; hedgeFirst when that is not
	// known yet.
	hedgeFactor = 4
	hedgeMin    = 50 * time.Millisecond
	hedgeMax    = time.Second
	hedgeFirst  = 200 * time.Millisecond
	// A replica that was slow or failed is asked last for a time.
	avoidSlow    = 10 * time.Second
	avoidFailed  = 2 * time.Second
	avoidLongest = time.Minute
)

// replica is a store with what is known of its health, shared by all contents.
type replica struct {
	store Store

	mu sync.Mutex
	// usual is a moving average of the time that a chunk takes, 0 if unknown.
	usual    time.Duration
	failures int // in a row
	avoid    time.Time
	stats    StoreStats
}

// StoreStats counts what one store has done for this cache.
type StoreStats struct {
	Name string `json:"name"`
	// Chunks and Bytes are what it gave; Bytes are plain, not compressed.
	Chunks int64 `json:"chunks"`
	Bytes  int64 `json:"bytes"`
	// Failures are reads that failed, Damaged and Missing among them.
	Failures int64 `json:"failures"`
	Damaged  int64 `json:"damaged"`
	Missing  int64 `json:"missing"`
	// Slow are reads after which another replica was asked too.
	Slow int64 `json:"slow"`
	// Repaired and RepairFailed are chunks that were put back.
	Repaired     int64         `json:"repaired"`
	RepairFailed int64         `json:"repairFailed"`
	Usual        time.Duration `json:"usual"`
}

// hedge is how long to wait for this replica before another is asked.
func (r *replica) hedge() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usual == 0 {
		return hedgeFirst
	}
	return min(max(hedgeFactor*r.usual, hedgeMin), hedgeMax)
}

func (r *replica) avoided(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.avoid)
}

func (r *replica) gave(bytes int, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = 0
	r.stats.Chunks++
	r.stats.Bytes += int64(bytes)
	if r.usual == 0 {
		r.usual = took
	} else {
		r.usual += (took - r.usual) / 8
	}
	r.stats.Usual = r.usual
}

func (r *replica) failed(now time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Failures++
	switch {
	case damaged(err):
		// One bad chunk says nothing about the next.
		r.stats.Damaged++
		return
	case millpond.KindOf(err) == millpond.NotFound:
		r.stats.Missing++
		return
	}
	r.avoid = now.Add(min(avoidFailed<<min(r.failures, 5), avoidLongest))
	r.failures++
}

func (r *replica) slow(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Slow++
	r.avoid = now.Add(avoidSlow)
}

func damaged(err error) bool {
	var e *millpond.Error
	return errors.As(err, &e) && e.Code == codeDamaged
}

// lasting says that asking again will not help: the replica has answered, and
// does not have the chunk.
func lasting(err error) bool { return damaged(err) || millpond.KindOf(err) == millpond.NotFound }

// inOrder are the replicas in the order in which they are asked for a chunk: by
// the chunk's digest, so that chunks spread evenly and every host asks the same
// store for the same chunk; those to be avoided at the end.
func inOrder(replicas []*replica, d image.Digest, now time.Time) []*replica {
	n := len(replicas)
	if n == 0 {
		return nil
	}
	first := int(binary.BigEndian.Uint32(d[:4]) % uint32(n))
	order := make([]*replica, 0, n)
	order = append(append(order, replicas[first:]...), replicas[:first]...)
	slices.SortStableFunc(order, func(a, b *replica) int {
		return boolInt(a.avoided(now)) - boolInt(b.avoided(now))
	})
	return order
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// UnreadableError says that no replica gave a chunk, and why.
type UnreadableError struct {
	Content image.ContentID
	Chunk   image.Digest
	// Stores says of each replica what was wrong, by name.
	Stores map[string]error
	// Lasting: every replica has answered; waiting does not help.
	Lasting bool
}

func (e *UnreadableError) Error() string {
	names := make([]string, 0, len(e.Stores))
	for name := range e.Stores {
		names = append(names, name)
	}
	slices.Sort(names)
	text := fmt.Sprintf("chunk %x of content %s cannot be read", e.Chunk[:8], e.Content)
	if e.Chunk == (image.Digest{}) {
		text = fmt.Sprintf("the manifest of content %s cannot be read", e.Content)
	}
	for _, name := range names {
		text += fmt.Sprintf("; store %s: %v", name, e.Stores[name])
	}
	if len(names) == 0 {
		text += "; no store is known that has it"
	}
	return text
}

// outcome is one replica's answer.
type outcome struct {
	from *replica
	data []byte
	took time.Duration
	err  error
}

// fromReplicas reads a chunk from the first replica that gives it: the next one
// is asked when one fails, or takes long. Replicas whose chunk is lost or damaged
// are mended with what another gave.
func (c *Cache) fromReplicas(ctx context.Context, id image.ContentID, replicas []*replica, d image.Digest, length int) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	order := inOrder(replicas, d, c.clock.Now())
	failed := &UnreadableError{Content: id, Chunk: d, Stores: map[string]error{}, Lasting: len(order) > 0}
	if len(order) == 0 {
		return nil, failed
	}
	outcomes := make(chan outcome, len(order))
	asked, waiting := 0, 0
	ask := func() *replica {
		r := order[asked]
		asked++
		waiting++
		c.fetches.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, readLimit)
			defer cancel()
			begun := time.Now()
			data, err := r.store.ReadChunk(ctx, d, length)
			if err == nil && len(data) != length {
				err = fmt.Errorf("%d bytes came instead of %d", len(data), length)
			}
			outcomes <- outcome{r, data, time.Since(begun), err}
		})
		return r
	}
	last := ask()
	timer := time.NewTimer(last.hedge())
	defer timer.Stop()
	var mend []*replica
	for waiting > 0 {
		select {
		case <-timer.C:
			if asked < len(order) {
				last.slow(c.clock.Now())
				c.log.Warn("a store is slow; another replica is asked", "store", last.store.Name(), "chunk", short(d))
				last = ask()
				timer.Reset(last.hedge())
			}
		case o := <-outcomes:
			waiting--
			if o.err == nil {
				o.from.gave(length, o.took)
				for _, r := range mend {
					c.mend(r, id, d, o.data)
				}
				return o.data, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			o.from.failed(c.clock.Now(), o.err)
			c.log.Warn("a store did not give a chunk", "store", o.from.store.Name(), "content", id, "chunk", short(d), "err", o.err)
			failed.Stores[o.from.store.Name()] = o.err
			if lasting(o.err) {
				mend = append(mend, o.from)
			} else {
				failed.Lasting = false
			}
			if asked < len(order) {
				last = ask()
				timer.Reset(last.hedge())
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, failed
}

// mend puts a good chunk back into a replica that has lost or damaged it, in the
// background. A store that does not have the content any more is left alone: its
// replica was removed, and this is not the place to bring it back.
func (c *Cache) mend(r *replica, id image.ContentID, d image.Digest, data []byte) {
	repairer, ok := r.store.(Repairer)
	if !ok {
		return
	}
	what := mending{r, d}
	c.mu.Lock()
	if c.mendings[what] || len(c.mendings) >= maxMendings {
		c.mu.Unlock()
		return // the next read that meets it tries again
	}
	c.mendings[what] = true
	c.mu.Unlock()
	c.fetches.Go(func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.mendings, what)
		}()
		ctx, cancel := context.WithTimeout(c.ctx, readLimit)
		defer cancel()
		if _, err := r.store.Manifest(ctx, id); err != nil && millpond.KindOf(err) == millpond.NotFound {
			c.log.Info("a store does not have a content any more", "store", r.store.Name(), "content", id)
			return
		}
		err := repairer.RepairChunk(ctx, d, data)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.stats.RepairFailed++
			c.log.Error("a chunk could not be repaired", "store", r.store.Name(), "content", id, "chunk", short(d), "err", err)
			return
		}
		r.stats.Repaired++
		c.log.Info("a chunk was repaired", "store", r.store.Name(), "content", id, "chunk", short(d))
	})
}

// maxMendings bounds the repairs under way; each holds a chunk in memory.
const maxMendings = 8

type mending struct {
	r *replica
	d image.Digest
}

func short(d image.Digest) string { return fmt.Sprintf("%x", d[:8]) }
