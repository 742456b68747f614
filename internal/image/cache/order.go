package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/image"
)

// ordersFolder has one file per content whose order of first reads is known. The
// orders outlive the chunks: after an eviction they are what makes the next boot
// fast.
const ordersFolder = "orders"

const (
	// orderMagic is the first line of an order's file. Behind it come a byte that
	// is 1 if the content was watched for the whole time, the number of chunks,
	// and for each the difference to the one before; numbers are varints.
	orderMagic = "millpond order 1\n"
	// maxOrder bounds an order, maxOrders their number.
	maxOrder  = 8192
	maxOrders = 1000
)

// order is the sequence in which chunks of a content were first read.
type order struct {
	// whole: the content was watched until the time was over. Otherwise the next
	// boot is watched again.
	whole  bool
	chunks []int64
}

// lesson watches the reads of a content; its core guards it.
type lesson struct {
	seen   map[int64]bool
	chunks []int64
	// over is closed at its end.
	over chan struct{}
	// opened: somebody reads the content.
	opened bool
}

// aheadRun is a reading ahead.
type aheadRun struct {
	end  context.CancelFunc
	done chan struct{}
	// order is what it has wanted so far, also what was there already, and seen the
	// same as a set; its core guards them.
	order []int64
	seen  map[int64]bool
}

// want notes that a reading ahead wants a chunk; false if it did before.
func (k *core) want(a *aheadRun, n int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.seen[n] {
		return false
	}
	a.seen[n] = true
	a.order = append(a.order, n)
	return true
}

// wanted is the order so far.
func (k *core) wanted(a *aheadRun) []int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(a.order)
}

// touch notes a read.
func (l *lesson) touch(n int64) {
	if !l.seen[n] && len(l.chunks) < maxOrder {
		l.seen[n] = true
		l.chunks = append(l.chunks, n)
	}
}

// endLesson writes what the lesson l has seen, if it is the one under way, and
// ends it. whole says that its time is over.
func (k *core) endLesson(c *Cache, l *lesson, whole bool) {
	k.mu.Lock()
	if l == nil || k.learn != l {
		k.mu.Unlock()
		return
	}
	k.learn = nil
	close(l.over)
	k.mu.Unlock()
	// A boot begins with the first chunk, which has the partition table. What
	// does not is the rest of a boot whose beginning was not seen.
	if !l.seen[0] || !l.opened {
		return
	}
	// A boot that was broken off teaches less than an earlier one did.
	if old, err := c.loadOrder(k.id); err == nil && !whole && len(old.chunks) > len(l.chunks) {
		return
	}
	if err := c.saveOrder(k.id, order{whole: whole, chunks: l.chunks}); err != nil {
		c.log.Warn("the order of reads was not kept", "content", k.id, "err", err)
		return
	}
	c.log.Info("the order of reads was learned", "content", k.id, "chunks", len(l.chunks), "whole", whole)
}

// lookAhead begins what comes before the first read of a content: to read ahead in a
// known order, or else in one that can be guessed, and to learn it if it is not
// known well. It returns the reading ahead, one that is under way if there is one;
// nil if there is nothing to read.
func (c *Cache) lookAhead(k *core) *aheadRun {
	o, err := c.loadOrder(k.id)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("a learned order cannot be used", "content", k.id, "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !o.whole && k.learn == nil {
		l := &lesson{seen: map[int64]bool{}, over: make(chan struct{}), opened: k.open > 0}
		if c.spawn(func() {
			timer := time.NewTimer(c.cfg.Learn)
			defer timer.Stop()
			select {
			case <-timer.C:
				k.endLesson(c, l, true)
			case <-l.over:
			case <-c.ctx.Done():
			}
		}) {
			k.learn = l
		}
	}
	if len(o.chunks) == 0 && c.cfg.Foresee == nil || c.cfg.NoReadAhead {
		return nil
	}
	last := k.ahead
	if last != nil {
		select {
		case <-last.done:
		default:
			return last
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	a := &aheadRun{end: cancel, done: make(chan struct{}), seen: map[int64]bool{}}
	var known []int64
	switch {
	case len(o.chunks) > 0:
		known = o.chunks
	case last != nil:
		known = last.order
	}
	if !c.spawn(func() {
		defer close(a.done)
		c.ahead(ctx, k, a, known)
	}) {
		cancel()
		return nil
	}
	k.ahead = a
	return a
}

// ahead fetches the chunks of an order that are not kept, and compares those that
// an earlier process kept. Without an order it takes what is foreseen. It does not
// fill more than half of the cache, and a failure only means that the guest will
// ask.
func (c *Cache) ahead(ctx context.Context, k *core, a *aheadRun, order []int64) {
	begun := time.Now()
	room := int(c.cfg.Limit / image.ChunkSize / 2)
	var g errgroup.Group
	g.SetLimit(aheadWidth)
	var running atomic.Int64
	wake := make(chan struct{}, aheadWidth)
	fetched := 0
	chunks := slices.Values(order)
	if order == nil {
		chunks = c.foreseen(ctx, k, func(n int64) { k.want(a, n) })
	}
	for n := range chunks {
		d, ok := k.m.Chunks[n]
		if !ok || !k.want(a, n) {
			continue
		}
		if c.slab.verifiedHas(d) {
			continue
		}
		if fetched == room {
			break
		}
		// Beside a guest that waits, only a part of the width is used.
		for running.Load() >= aheadBusy && c.waiting.Load() > 0 && ctx.Err() == nil {
			select {
			case <-wake:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
		fetched++
		running.Add(1)
		g.Go(func() error {
			defer func() {
				running.Add(-1)
				select {
				case wake <- struct{}{}:
				default:
				}
			}()
			if _, err := c.fetch(ctx, k, d, k.m.ChunkLen(n), false); err == nil {
				c.counters.ahead.Add(1)
				c.landed(d) // a map is made of what is kept
			}
			return nil
		})
	}
	_ = g.Wait()
	for _, n := range k.wanted(a) { // also those that were looked into
		c.landed(k.m.Chunks[n])
	}
	if fetched > 0 {
		c.log.Info("read ahead", "content", k.id, "chunks", fetched, "took", time.Since(begun).Round(time.Millisecond))
	}
}

// errStop ends a guess whose chunks nobody takes any more.
var errStop = errors.New("no more is wanted")

// foreseen are the chunks that Foresee guesses. note gets those that it looks into: a
// boot reads them as well.
func (c *Cache) foreseen(ctx context.Context, k *core, note func(n int64)) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		err := c.cfg.Foresee(ctx, aheadReader{ctx, c, k, note}, k.m.Size, func(off int64) error {
			if !yield(off / image.ChunkSize) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) && ctx.Err() == nil {
			c.log.Warn("what a boot reads could not be foreseen", "content", k.id, "err", err)
		}
	}
}

// aheadReader reads a content for Foresee: nothing counts as a guest's read.
type aheadReader struct {
	ctx   context.Context
	cache *Cache
	core  *core
	note  func(n int64)
}

func (r aheadReader) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; ; {
		if done == len(p) {
			return done, nil
		}
		at := off + int64(done)
		if at < 0 || at >= r.core.m.Size {
			return done, io.EOF
		}
		n := at / image.ChunkSize
		within, length := int(at-n*image.ChunkSize), r.core.m.ChunkLen(n)
		part := p[done:min(len(p), done+length-within)]
		if err := r.chunk(part, n, within, length); err != nil {
			return done, err
		}
		done += len(part)
	}
}

func (r aheadReader) chunk(part []byte, n int64, within, length int) error {
	d, ok := r.core.m.Chunks[n]
	if !ok {
		clear(part)
		return nil
	}
	r.note(n)
	return r.cache.read(r.ctx, r.core, d, length, false, part, within)
}

// runAhead fetches the next chunks of a run, such as a boot loader reads a kernel
// in. What finds no free place is left out.
func (c *Cache) runAhead(o *Content, n int64) {
	for next := n + 1; next <= n+runWidth; next++ {
		d, ok := o.core.m.Chunks[next]
		if !ok {
			return
		}
		if c.slab.has(d) || c.underWay(d) {
			continue
		}
		if !c.runs.TryAcquire(1) {
			return
		}
		began := c.spawn(func() {
			defer c.runs.Release(1)
			if _, err := c.fetch(o.ctx, o.core, d, o.core.m.ChunkLen(next), false); err == nil {
				c.counters.ahead.Add(1)
			}
		})
		if !began {
			c.runs.Release(1)
			return
		}
	}
}

// landed waits until a chunk that was fetched is kept, or cannot be.
func (c *Cache) landed(d image.Digest) {
	c.mu.Lock()
	f := c.flights[d]
	c.mu.Unlock()
	if f != nil {
		<-f.over
	}
}

// underWay says that somebody fetches the chunk.
func (c *Cache) underWay(d image.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flights[d] != nil
}

func (c *Cache) orderFile(id image.ContentID) string {
	return filepath.Join(c.cfg.Dir, ordersFolder, string(id))
}

func (c *Cache) loadOrder(id image.ContentID) (order, error) {
	if !id.Valid() {
		return order{}, fmt.Errorf("%q is not the name of a content", id)
	}
	b, err := os.ReadFile(c.orderFile(id))
	if err != nil {
		return order{}, err
	}
	return parseOrder(b)
}

// saveOrder writes an order's file, not durably: it is only a hint. Of too many
// the oldest goes.
func (c *Cache) saveOrder(id image.ContentID, o order) error {
	name := c.orderFile(id)
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, formatOrder(o), 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(entries) <= maxOrders {
		return err
	}
	oldest := slices.MinFunc(entries, func(a, b os.DirEntry) int { return modified(a).Compare(modified(b)) })
	return os.Remove(filepath.Join(filepath.Dir(name), oldest.Name()))
}

func modified(e os.DirEntry) time.Time {
	i, err := e.Info()
	if err != nil {
		return time.Time{}
	}
	return i.ModTime()
}

func formatOrder(o order) []byte {
	b := append([]byte(orderMagic), byte(boolInt(o.whole)))
	b = binary.AppendUvarint(b, uint64(len(o.chunks)))
	last := int64(0)
	for _, n := range o.chunks {
		b = binary.AppendVarint(b, n-last)
		last = n
	}
	return b
}

var errOrder = errors.New("it is not an order of chunks")

func parseOrder(b []byte) (order, error) {
	var o order
	if len(b) < len(orderMagic)+2 || string(b[:len(orderMagic)]) != orderMagic || b[len(orderMagic)] > 1 {
		return o, errOrder
	}
	o.whole = b[len(orderMagic)] == 1
	b = b[len(orderMagic)+1:]
	count, n := binary.Uvarint(b)
	if n <= 0 || count > maxOrder || count > uint64(len(b)) {
		return order{}, errOrder
	}
	b = b[n:]
	last := int64(0)
	for range count {
		v, n := binary.Varint(b)
		if n <= 0 {
			return order{}, errOrder
		}
		b = b[n:]
		if last += v; last < 0 {
			return order{}, errOrder
		}
		o.chunks = append(o.chunks, last)
	}
	if len(b) != 0 {
		return order{}, errOrder
	}
	return o, nil
}
