package chunkstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
)

// Ingest puts the chunks of src that the store lacks into it, and then the
// manifest. Chunks of an ingest that was broken off are found again.
func (s *Store) Ingest(ctx context.Context, src image.Source, p image.Progress) (image.Content, error) {
	if src.Size() <= 0 || src.Size()%512 != 0 || src.Size() > image.MaxSize {
		return image.Content{}, millpond.Errorf(millpond.Invalid, "InvalidDiskSize",
			"A disk of %d bytes cannot be stored. The size has to be a multiple of 512 between 512 and %d bytes.", src.Size(), int64(image.MaxSize))
	}
	in := &ingest{s: s, src: src, size: src.Size(), m: &image.Manifest{Size: src.Size(), Chunks: map[int64]image.Digest{}}, put: map[image.Digest]bool{}}
	in.chunked, _ = src.(image.Chunked)
	if err := in.run(ctx, p); err != nil {
		return image.Content{}, s.failed("take in a disk", err)
	}
	return s.publish(ctx, in.m)
}

// publish makes a manifest visible after everything that it names is durable.
func (s *Store) publish(ctx context.Context, m *image.Manifest) (image.Content, error) {
	if err := s.bucket.Flush(ctx); err != nil {
		return image.Content{}, s.failed("make the chunks durable", err)
	}
	id := m.ID()
	// Replace, not IfAbsent: a manifest that is there may be damaged.
	if err := s.bucket.Put(ctx, manifestKey(id), encodeManifest(m), bucket.Replace); err != nil {
		return image.Content{}, s.failed("publish a manifest", err)
	}
	c := image.Content{ID: id, Size: m.Size, Stored: dataBytes(m)}
	s.mu.Lock()
	s.known[id] = c
	s.mu.Unlock()
	return c, nil
}

// ingest is one under way. Workers share it.
type ingest struct {
	s       *Store
	src     image.Source
	chunked image.Chunked
	size    int64

	mu sync.Mutex
	m  *image.Manifest
	// put are digests that this ingest has put or found.
	put map[image.Digest]bool
}

// buffers are what one worker needs.
type buffers struct{ plain, object []byte }

// run reads the data of src with several workers; each reads a chunk, hashes it,
// compresses it if the store lacks it, and writes it, so that disk and
// processors work at the same time and memory is bounded by their number.
func (in *ingest) run(ctx context.Context, p image.Progress) error {
	if p == nil {
		p = func(int64, int64) {}
	}
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan int64)
	done := make(chan int64, 64) // chunks' ends
	g.Go(func() error {
		defer close(jobs)
		return eachDataChunk(in.src, func(n int64) error {
			select {
			case jobs <- n:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	var workers sync.WaitGroup
	for range in.s.workers() {
		workers.Add(1)
		g.Go(func() error {
			defer workers.Done()
			b := buffers{make([]byte, image.ChunkSize), make([]byte, 0, maxObject+1024)}
			for n := range jobs {
				if err := in.chunk(ctx, n, b); err != nil {
					return err
				}
				select {
				case done <- n*image.ChunkSize + int64(in.m.ChunkLen(n)):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	}
	g.Go(func() error { workers.Wait(); close(done); return nil })
	reached := int64(0)
	for at := range done {
		// Chunks come nearly in order, so the place is the progress, holes included.
		if at > reached {
			reached = at
			p(reached, in.size)
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p(in.size, in.size)
	return nil
}

// zeros is compared with; nobody writes to it.
var zeros [image.ChunkSize]byte

// chunk handles one chunk.
func (in *ingest) chunk(ctx context.Context, n int64, b buffers) error {
	if in.chunked != nil {
		if d, ok := in.chunked.KnownChunk(n); ok {
			if d == (image.Digest{}) {
				return nil
			}
			there, err := in.s.has(ctx, d)
			if err != nil {
				return err
			}
			if there {
				in.set(n, d)
				return nil
			}
		}
	}
	plain := b.plain[:in.m.ChunkLen(n)]
	if got, err := in.src.ReadAt(plain, n*image.ChunkSize); got < len(plain) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if bytes.Equal(plain, zeros[:len(plain)]) {
		return nil
	}
	d := image.Digest(sha256.Sum256(plain))
	if !in.set(n, d) {
		return nil // this content has it twice
	}
	there, err := in.s.has(ctx, d)
	if err != nil || there {
		return err
	}
	return in.s.putChunk(ctx, d, in.s.codec.encode(b.object[:0], plain))
}

// set notes the digest of chunk n; false if another chunk has the same and its
// worker sees to it.
func (in *ingest) set(n int64, d image.Digest) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.m.Chunks[n] = d
	if in.put[d] {
		return false
	}
	in.put[d] = true
	return true
}

// has says whether the store has a chunk.
func (s *Store) has(ctx context.Context, d image.Digest) (bool, error) {
	_, err := s.bucket.Stat(ctx, chunkKey(d))
	if errors.Is(err, bucket.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// putChunk writes a chunk's object.
func (s *Store) putChunk(ctx context.Context, d image.Digest, object []byte) error {
	err := s.bucket.Put(ctx, chunkKey(d), object, bucket.IfAbsent|bucket.Lazy)
	if errors.Is(err, bucket.ErrExists) {
		return nil
	}
	return err
}

// eachDataChunk calls do for each chunk that may hold data, in order.
func eachDataChunk(src image.Source, do func(n int64) error) error {
	size := src.Size()
	sparse, _ := src.(image.Sparse)
	next := int64(0) // first chunk not yet handed out
	for off := int64(0); off < size; {
		start, end := off, size
		if sparse != nil {
			var err error
			if start, end, err = sparse.NextData(off); err != nil {
				return err
			}
			if start >= size || end <= start {
				return nil
			}
		}
		for n := max(next, start/image.ChunkSize); n*image.ChunkSize < end; n++ {
			if err := do(n); err != nil {
				return err
			}
			next = n + 1
		}
		off = end
	}
	return nil
}
