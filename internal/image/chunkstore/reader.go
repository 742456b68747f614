package chunkstore

import (
	"context"
	"io"
	"slices"
	"sync"

	"millpond.dev/millpond/internal/image"
)

// Open reads a content chunk by chunk. It knows the content's holes, and its
// chunks without reading them.
func (s *Store) Open(ctx context.Context, id image.ContentID) (image.ReadCloser, error) {
	if !id.Valid() {
		return nil, s.missing(id)
	}
	if err := s.session.read(ctx, id); err != nil {
		return nil, s.failed("take a lease", err)
	}
	m, err := s.Manifest(ctx, id)
	if err != nil {
		s.session.unread(id)
		return nil, err
	}
	// The reader's life is its own, not that of the call that opened it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &reader{s: s, id: id, m: m, order: chunkNumbers(m), ctx: ctx, cancel: cancel, last: -1}, nil
}

// reader is an open content.
type reader struct {
	s      *Store
	id     image.ContentID
	closed sync.Once
	m      *image.Manifest
	order  []int64
	ctx    context.Context
	cancel context.CancelFunc

	// mu guards the chunk that was read last: whoever reads in small pieces pays
	// for it once.
	mu   sync.Mutex
	last int64
	buf  []byte
}

var (
	_ image.Sparse  = (*reader)(nil)
	_ image.Chunked = (*reader)(nil)
)

func (r *reader) Size() int64 { return r.m.Size }

func (r *reader) Close() error {
	r.closed.Do(func() {
		r.cancel()
		r.s.session.unread(r.id)
	})
	return nil
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at >= r.m.Size {
			return done, io.EOF
		}
		n := at / image.ChunkSize
		length := r.m.ChunkLen(n)
		within := int(at - n*image.ChunkSize)
		part := p[done:min(len(p), done+length-within)]
		if err := r.chunk(part, n, within, length); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// chunk fills part with the bytes of chunk n from within on.
func (r *reader) chunk(part []byte, n int64, within, length int) error {
	d, ok := r.m.Chunks[n]
	if !ok {
		clear(part)
		return nil
	}
	if len(part) == length {
		// A whole chunk goes straight to the reader, many at a time.
		_, err := r.s.readChunk(r.ctx, part[:0:length], d, length)
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != n {
		r.last = -1
		b, err := r.s.readChunk(r.ctx, r.buf[:0], d, length)
		if err != nil {
			return err
		}
		r.buf, r.last = b, n
	}
	copy(part, r.buf[within:])
	return nil
}

// NextData implements image.Sparse.
func (r *reader) NextData(off int64) (start, end int64, err error) {
	i, _ := slices.BinarySearch(r.order, off/image.ChunkSize)
	if off >= r.m.Size || i == len(r.order) {
		return r.m.Size, r.m.Size, nil
	}
	first := r.order[i]
	for i++; i < len(r.order) && r.order[i] == r.order[i-1]+1; {
		i++
	}
	return max(off, first*image.ChunkSize), min((r.order[i-1]+1)*image.ChunkSize, r.m.Size), nil
}

// KnownChunk implements image.Chunked: every chunk is known.
func (r *reader) KnownChunk(n int64) (image.Digest, bool) { return r.m.Chunks[n], true }
