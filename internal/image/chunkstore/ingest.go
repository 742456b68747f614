package chunkstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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
	return s.write(ctx, func(c *claims) (*image.Manifest, error) {
		in := &ingest{s: s, claims: c, src: src, size: src.Size(), m: &image.Manifest{Size: src.Size(), Chunks: map[int64]image.Digest{}}, put: map[image.Digest]bool{}}
		in.chunked, _ = src.(image.Chunked)
		return in.m, in.run(ctx, p)
	})
}

// leaseTries is how often work is begun anew whose lease ran out, because the
// computer slept or the store was silent. Each try finds what the others wrote.
const leaseTries = 3

// write does the work of an ingest or a copy under claims and publishes the
// manifest.
func (s *Store) write(ctx context.Context, work func(*claims) (*image.Manifest, error)) (image.Content, error) {
	var err error
	for range leaseTries {
		var done image.Content
		if done, err = s.writeOnce(ctx, work); !errors.Is(err, errLost) {
			return done, s.failed("take in a content", err)
		}
	}
	return image.Content{}, s.failed("take in a content", err)
}

func (s *Store) writeOnce(ctx context.Context, work func(*claims) (*image.Manifest, error)) (image.Content, error) {
	c, err := s.session.begin(ctx)
	if err != nil {
		return image.Content{}, err
	}
	defer c.end()
	m, err := work(c)
	if err != nil {
		return image.Content{}, err
	}
	return s.publish(ctx, c, m)
}

// publish makes a manifest visible after everything that it names is durable.
func (s *Store) publish(ctx context.Context, c *claims, m *image.Manifest) (image.Content, error) {
	if err := s.bucket.Flush(ctx); err != nil {
		return image.Content{}, fmt.Errorf("make the chunks durable: %w", err)
	}
	if !c.valid() {
		return image.Content{}, errLost
	}
	id := m.ID()
	// One that is there already is others', too, and not ours to take back.
	_, err := s.bucket.Stat(ctx, manifestKey(id))
	mine := errors.Is(err, bucket.ErrNotFound)
	if err := s.bucket.Put(ctx, manifestKey(id), encodeManifest(m), bucket.Durable); err != nil {
		return image.Content{}, fmt.Errorf("publish a manifest: %w", err)
	}
	if !c.valid() {
		// The process stood still in between, and a collection may have gone by.
		// Also when the caller has given up: others take the manifest for whole.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.session.timing.Lease)
		defer cancel()
		if err := s.complete(end, m); err != nil {
			if mine {
				err = errors.Join(err, s.bucket.Delete(end, manifestKey(id)))
			}
			return image.Content{}, err
		}
	}
	done := image.Content{ID: id, Size: m.Size, Stored: dataBytes(m)}
	s.mu.Lock()
	s.known[id] = done
	s.mu.Unlock()
	return done, nil
}

// complete is errLost if a chunk of m is not there.
func (s *Store) complete(ctx context.Context, m *image.Manifest) error {
	for _, d := range m.Chunks {
		if there, err := s.has(ctx, d); err != nil {
			return err
		} else if !there {
			return errLost
		}
	}
	return nil
}

// ingest is one under way. Workers share it.
type ingest struct {
	s       *Store
	claims  *claims
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
			there, err := in.has(ctx, d)
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
	there, err := in.has(ctx, d)
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

// has claims a chunk and says whether the store has it.
func (in *ingest) has(ctx context.Context, d image.Digest) (bool, error) {
	if err := in.claims.claim(ctx, d); err != nil {
		return false, err
	}
	return in.s.has(ctx, d)
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
	return s.bucket.Put(ctx, chunkKey(d), object, bucket.Lazy)
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
