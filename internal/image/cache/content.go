package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/image"
)

// core is one content, shared by all that have it open.
type core struct {
	id image.ContentID
	m  *image.Manifest

	mu       sync.Mutex
	replicas []*replica
	open     int
	// touched are the chunks that guests have read since the content was first
	// opened here, and touchedBytes their bytes.
	touched      map[int64]bool
	touchedBytes int64
	fault        *UnreadableError
	faultAt      time.Time
	learn        *lesson
	// ahead is the last reading ahead since nobody had the content open, nil
	// without one.
	ahead *aheadRun
	// mapped is how many chunks the largest map of it had.
	mapped int
}

// Content is a content that is open for reading; it implements image.ReadCloser.
type Content struct {
	cache *Cache
	core  *core
	ctx   context.Context
	end   context.CancelFunc
	once  sync.Once
}

// ContentStats are what was read of a content.
type ContentStats struct {
	// Size is the virtual size; Chunks and Bytes are what of it is not zeros.
	Size   int64 `json:"size"`
	Chunks int   `json:"chunks"`
	Bytes  int64 `json:"bytes"`
	// Touched are the chunks that guests have read through the cache, and
	// TouchedBytes theirs. Mapped are those that the largest map had: nobody sees
	// which of them a guest reads.
	Touched      int   `json:"touched"`
	TouchedBytes int64 `json:"touchedBytes"`
	Mapped       int   `json:"mapped"`
	// Kept are the chunks that are in the cache now.
	Kept int `json:"kept"`
	// Open is how many readers have it.
	Open int `json:"open"`
	// Learned is how many chunks the learned order has, 0 without one.
	Learned int `json:"learned"`
	// Fault is the last read that failed, if none has succeeded since.
	Fault string    `json:"fault,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Open opens a content that stores have. Its manifest is read from the first
// store that gives a right one. The caller closes it.
func (c *Cache) Open(ctx context.Context, id image.ContentID, stores []Store) (*Content, error) {
	k, err := c.known(ctx, id, stores)
	if err != nil {
		return nil, err
	}
	o := &Content{cache: c, core: k}
	o.ctx, o.end = context.WithCancel(c.ctx)
	k.mu.Lock()
	k.open++
	begins := k.open == 1 && k.ahead == nil
	if k.learn != nil {
		k.learn.opened = true
	}
	k.mu.Unlock()
	if begins {
		c.lookAhead(k)
	}
	return o, nil
}

// Prepare reads a content's manifest, so that an Open does not have to and a
// content that nobody has is noticed.
func (c *Cache) Prepare(ctx context.Context, id image.ContentID, stores []Store) error {
	_, err := c.known(ctx, id, stores)
	return err
}

// known finds the content or makes it known. The stores named last are those that
// are asked.
func (c *Cache) known(ctx context.Context, id image.ContentID, stores []Store) (*core, error) {
	replicas := c.replicasOf(stores)
	c.mu.Lock()
	k := c.contents[id]
	c.mu.Unlock()
	if k == nil {
		m, err := c.manifest(ctx, id, replicas)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		if k = c.contents[id]; k == nil {
			k = &core{id: id, m: m, touched: map[int64]bool{}}
			c.contents[id] = k
		}
		c.mu.Unlock()
	}
	if len(replicas) > 0 {
		k.mu.Lock()
		k.replicas = replicas
		k.mu.Unlock()
	}
	return k, nil
}

// manifest reads and checks a manifest.
func (c *Cache) manifest(ctx context.Context, id image.ContentID, replicas []*replica) (*image.Manifest, error) {
	failed := &UnreadableError{Content: id, Stores: map[string]error{}, Lasting: len(replicas) > 0}
	// Each content begins at another store.
	var d image.Digest
	copy(d[:], id)
	for _, r := range inOrder(replicas, d, c.clock.Now()) {
		tryCtx, cancel := context.WithTimeout(ctx, readLimit)
		m, err := r.store.Manifest(tryCtx, id)
		cancel()
		if err == nil && m.ID() != id {
			err = errors.New("its manifest is that of another content")
		}
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.failed(c.clock.Now(), err)
		c.log.Warn("a store did not give a manifest", "store", r.store.Name(), "content", id, "err", err)
		failed.Stores[r.store.Name()] = err
		failed.Lasting = failed.Lasting && lasting(err)
	}
	return nil, failed
}

// Forget drops what is known of a content that nobody has open; its chunks stay
// as long as there is room. It returns false if somebody has it open.
func (c *Cache) Forget(id image.ContentID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.contents[id]
	if k == nil {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open > 0 {
		return false
	}
	delete(c.contents, id)
	return true
}

// Size of the content in bytes.
func (o *Content) Size() int64 { return o.core.m.Size }

// Close lets go of the content; reads under way fail.
func (o *Content) Close() error {
	o.once.Do(func() {
		o.end()
		k := o.core
		k.mu.Lock()
		k.open--
		last := k.open == 0
		if last && k.ahead != nil {
			k.ahead.end()
			k.ahead = nil
		}
		l := k.learn
		k.mu.Unlock()
		if last {
			k.endLesson(o.cache, l, false)
		}
	})
	return nil
}

// ReadAt implements io.ReaderAt. Chunks that are missing are fetched at the same
// time.
func (o *Content) ReadAt(p []byte, off int64) (int, error) {
	size := o.core.m.Size
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	if off >= size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	first, last := off/image.ChunkSize, (off+int64(len(p))-1)/image.ChunkSize
	if len(p) == 0 {
		return 0, nil
	}
	if first == last {
		if err := o.chunk(p, first, int(off-first*image.ChunkSize)); err != nil {
			return 0, err
		}
		return len(p), end
	}
	var g errgroup.Group
	g.SetLimit(8)
	for n, rest := first, p; n <= last; n++ {
		within := int(max(off-n*image.ChunkSize, 0))
		part := rest[:min(len(rest), image.ChunkSize-within)]
		rest = rest[len(part):]
		g.Go(func() error { return o.chunk(part, n, within) })
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return len(p), end
}

// Prompt says that a read of n bytes at off needs no store.
func (o *Content) Prompt(off, n int64) bool {
	if off < 0 || n <= 0 || n > 2*image.ChunkSize || off+n > o.core.m.Size {
		return false
	}
	for c := off / image.ChunkSize; c <= (off+n-1)/image.ChunkSize; c++ {
		if d, data := o.core.m.Chunks[c]; data && !o.cache.slab.verifiedHas(d) {
			return false
		}
	}
	return true
}

// chunk fills p from one chunk.
func (o *Content) chunk(p []byte, n int64, within int) error {
	d, data := o.core.m.Chunks[n]
	if !data {
		clear(p)
		return nil
	}
	length := o.core.m.ChunkLen(n)
	if o.core.touch(n, length) && !o.cache.cfg.NoReadAhead {
		o.cache.runAhead(o, n)
	}
	return o.cache.read(o.ctx, o.core, d, length, true, p, within)
}

// touch notes a read. It is true if a run of chunks has just become longer: the
// chunk is read for the first time and the two before it have been.
func (k *core) touch(n int64, length int) (run bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.touched[n] {
		k.touched[n] = true
		k.touchedBytes += int64(length)
		run = k.touched[n-1] && k.touched[n-2]
	}
	if k.learn != nil {
		k.learn.touch(n)
	}
	return run
}

func (k *core) stores() []*replica {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.replicas
}

func (k *core) setFault(e *UnreadableError) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault == nil {
		k.faultAt = time.Now().UTC()
	}
	k.fault = e
}

// clearFault ends a fault when a chunk came after all. One that will last stays:
// other chunks say nothing about it.
func (k *core) clearFault() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault != nil && !k.fault.Lasting {
		k.fault = nil
	}
}

// ContentStats tells about a content that has been opened; false if it was not.
func (c *Cache) ContentStats(id image.ContentID) (ContentStats, bool) {
	c.mu.Lock()
	k := c.contents[id]
	c.mu.Unlock()
	if k == nil {
		return ContentStats{}, false
	}
	s := ContentStats{Size: k.m.Size, Chunks: len(k.m.Chunks)}
	for n, d := range k.m.Chunks {
		s.Bytes += int64(k.m.ChunkLen(n))
		if c.slab.has(d) {
			s.Kept++
		}
	}
	if order, err := c.loadOrder(id); err == nil {
		s.Learned = len(order.chunks)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Touched, s.TouchedBytes, s.Mapped, s.Open = len(k.touched), k.touchedBytes, k.mapped, k.open
	if k.fault != nil {
		s.Fault, s.Since = k.fault.Error(), k.faultAt
	}
	return s, true
}

// Touched lists the numbers of the chunks that guests have read of a content.
func (c *Cache) Touched(id image.ContentID) []int64 {
	c.mu.Lock()
	k := c.contents[id]
	c.mu.Unlock()
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]int64, 0, len(k.touched))
	for n := range k.touched {
		out = append(out, n)
	}
	return out
}
