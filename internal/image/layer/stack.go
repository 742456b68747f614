package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"millpond.dev/millpond/internal/image"
)

// layer is one raw file and the bitmap of the blocks that it owns; without a
// bitmap it owns all, which only the bottom of a disk without a base does.
type layer struct {
	n    int
	size int64
	raw  file
	mapf file
	own  *bitmap
	refs atomic.Int32
}

func (l *layer) release() error {
	if l.refs.Add(-1) > 0 {
		return nil
	}
	err := l.raw.Close()
	if l.mapf != nil {
		err = errors.Join(err, l.mapf.Close())
	}
	if l.own != nil && l.own.live != nil {
		err = errors.Join(err, l.own.live.Close())
	}
	return err
}

// base is the immutable content below the layers. It is opened at the first
// read, because a new disk is often written to only.
type base struct {
	ref  Ref
	open Bases

	mu       sync.Mutex
	reader   image.ReadCloser
	manifest *image.Manifest
	refs     int
}

func (b *base) contents() (image.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader != nil {
		return b.reader, nil
	}
	if b.open == nil {
		return nil, fmt.Errorf("the base %s of the disk cannot be opened here", b.ref.Content)
	}
	c, err := b.open(b.ref)
	if err != nil {
		return nil, err
	}
	r, err := c.Open(context.Background(), b.ref.Content)
	if err != nil {
		return nil, err
	}
	if r.Size() < b.ref.Size {
		r.Close()
		return nil, fmt.Errorf("the base %s has %d bytes, not %d", b.ref.Content, r.Size(), b.ref.Size)
	}
	b.reader = r
	return r, nil
}

func (b *base) chunks() (*image.Manifest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.manifest != nil {
		return b.manifest, nil
	}
	if b.open == nil {
		return nil, fmt.Errorf("the base %s of the disk cannot be opened here", b.ref.Content)
	}
	c, err := b.open(b.ref)
	if err != nil {
		return nil, err
	}
	m, err := c.Manifest(context.Background(), b.ref.Content)
	if err != nil {
		return nil, err
	}
	b.manifest = m
	return m, nil
}

func (b *base) retain() {
	b.mu.Lock()
	b.refs++
	b.mu.Unlock()
}

func (b *base) release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refs--; b.refs > 0 || b.reader == nil {
		return nil
	}
	err := b.reader.Close()
	b.reader = nil
	return err
}

// stack is layers over a base: what a disk or a frozen disk reads.
type stack struct {
	size   int64
	base   *base
	layers []*layer // the bottom first
}

// retain takes a reference to everything in the stack; release gives it back.
func (s *stack) retain() {
	for _, l := range s.layers {
		l.refs.Add(1)
	}
	if s.base != nil {
		s.base.retain()
	}
}

func (s *stack) release() error {
	var errs []error
	for _, l := range s.layers {
		errs = append(errs, l.release())
	}
	if s.base != nil {
		errs = append(errs, s.base.release())
	}
	return errors.Join(errs...)
}

// run finds who owns the byte at off: the index of a layer, or -1 for the base;
// and how far that goes, at most to end.
func (s *stack) run(off, end int64) (owner int, until int64) {
	b := off / BlockSize
	stop := blocks(end)
	for owner = len(s.layers) - 1; owner >= 0; owner-- {
		own := s.layers[owner].own
		if own == nil {
			break
		}
		if own.has(b) {
			stop = min(stop, own.nextFree(b, stop))
			break
		}
		stop = min(stop, own.next(b, stop))
	}
	return owner, min(stop*BlockSize, end)
}

// readAt fills p; the caller has checked the range.
func (s *stack) readAt(p []byte, off int64) error {
	for len(p) > 0 {
		owner, until := s.run(off, off+int64(len(p)))
		part := p[:until-off]
		switch {
		case owner >= 0:
			if err := readZeroed(s.layers[owner].raw, part, off); err != nil {
				return err
			}
		case s.base != nil && off < s.base.ref.Size:
			r, err := s.base.contents()
			if err != nil {
				return err
			}
			n := min(int64(len(part)), s.base.ref.Size-off)
			if got, err := r.ReadAt(part[:n], off); int64(got) < n {
				return fmt.Errorf("read the base %s at %d: %w", s.base.ref.Content, off, err)
			}
			clear(part[n:])
		default:
			clear(part)
		}
		p, off = p[len(part):], until
	}
	return nil
}

// readZeroed reads a file that may be shorter than the disk.
func readZeroed(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}

// nextData is image.Sparse over the stack.
func (s *stack) nextData(off int64) (start, end int64, err error) {
	for off < s.size {
		owner, until := s.run(off, s.size)
		start, end = never, never
		switch {
		case owner >= 0:
			if start, end, err = s.layers[owner].raw.NextData(off); err != nil {
				return 0, 0, err
			}
		case s.base != nil && off < s.base.ref.Size:
			r, err := s.base.contents()
			if err != nil {
				return 0, 0, err
			}
			start, end = off, s.base.ref.Size
			if sparse, ok := r.(image.Sparse); ok {
				if start, end, err = sparse.NextData(off); err != nil {
					return 0, 0, err
				}
				if start >= s.base.ref.Size {
					start = never
				}
			}
		}
		if start < until {
			return max(start, off), min(end, until), nil
		}
		off = until
	}
	return s.size, s.size, nil
}

// knownChunk is image.Chunked over the stack: a chunk in which no layer owns a
// block is the base's.
func (s *stack) knownChunk(n int64) (image.Digest, bool) {
	start := n * image.ChunkSize
	end := min(start+image.ChunkSize, s.size)
	if s.base == nil || start >= end {
		return image.Digest{}, false
	}
	for _, l := range s.layers {
		if l.own == nil || l.own.next(start/BlockSize, blocks(end)) < blocks(end) {
			return image.Digest{}, false
		}
	}
	if start >= s.base.ref.Size {
		return image.Digest{}, true
	}
	// The base's last chunk is shorter than the same chunk of a disk that grew.
	if min(start+image.ChunkSize, s.base.ref.Size) != end {
		return image.Digest{}, false
	}
	m, err := s.base.chunks()
	if err != nil {
		return image.Digest{}, false // the caller reads, and meets the error there
	}
	return m.Chunks[n], true
}
