package chunkstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
)

// ObjectReader is a store whose chunks can be had as they are stored: compressed
// and not verified.
type ObjectReader interface {
	ReadObject(ctx context.Context, d image.Digest) ([]byte, error)
}

var _ ObjectReader = (*Store)(nil)

// ReadObject reads a chunk as it is stored. Whoever takes it verifies it.
func (s *Store) ReadObject(ctx context.Context, d image.Digest) ([]byte, error) {
	b, err := s.bucket.Get(ctx, chunkKey(d), maxObject)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, s.noChunk(d)
	}
	if errors.Is(err, bucket.ErrTooLarge) {
		return nil, s.damaged(fmt.Sprintf("chunk %x", d[:]), err)
	}
	return b, s.failed(fmt.Sprintf("read the chunk %x", d[:]), err)
}

// Fetch replicates a content.
func (s *Store) Fetch(ctx context.Context, id image.ContentID, p func(image.Moved), from ...image.Store) (image.Content, error) {
	if p == nil {
		p = func(image.Moved) {}
	}
	if c, err := s.Stat(ctx, id); err == nil {
		p(image.Moved{Total: c.Stored, Done: c.Stored})
		return c, nil
	}
	m, from, done, err := openSources(ctx, id, from)
	if err != nil {
		return image.Content{}, err
	}
	defer done()
	return s.write(ctx, func(c *claims) (*image.Manifest, error) {
		return m, s.fetchChunks(ctx, c, m, from, p)
	})
}

// openSources finds the manifest and keeps each source from giving up the
// content's chunks until done is called.
func openSources(ctx context.Context, id image.ContentID, from []image.Store) (m *image.Manifest, usable []image.Store, done func(), err error) {
	var open []image.ReadCloser
	done = func() {
		for _, r := range open {
			r.Close()
		}
	}
	var errs []error
	for _, src := range from {
		r, err := src.Open(ctx, id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		open = append(open, r)
		if m == nil {
			if m, err = src.Manifest(ctx, id); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		usable = append(usable, src)
	}
	if m == nil {
		done()
		if len(errs) == 0 {
			errs = append(errs, millpond.Errorf(millpond.NotFound, "ContentNotFound", "There is no store to copy the content %s from.", id))
		}
		return nil, nil, nil, all(errs)
	}
	return m, usable, done, nil
}

// fetchChunks moves what the store lacks, several chunks at a time.
func (s *Store) fetchChunks(ctx context.Context, c *claims, m *image.Manifest, from []image.Store, p func(image.Moved)) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.workers())
	var mu sync.Mutex
	now := image.Moved{Total: dataBytes(m)}
	p(now)
	begun := map[image.Digest]bool{}
	for _, n := range chunkNumbers(m) {
		if gctx.Err() != nil {
			break
		}
		d, length := m.Chunks[n], m.ChunkLen(n)
		again := begun[d]
		begun[d] = true
		g.Go(func() error {
			object := []byte(nil)
			if !again {
				if err := c.claim(gctx, d); err != nil {
					return err
				}
				there, err := s.has(gctx, d)
				if err != nil {
					return err
				}
				if !there {
					if object, err = s.fetchObject(gctx, d, length, from); err != nil {
						return err
					}
					if err := s.putChunk(gctx, d, object); err != nil {
						return err
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			now.Done += int64(length)
			if object != nil {
				now.Moved += int64(length)
				now.Bytes += int64(len(object))
			}
			p(now)
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// fetchObject takes a chunk from the first source that has it sound.
func (s *Store) fetchObject(ctx context.Context, d image.Digest, length int, from []image.Store) ([]byte, error) {
	errs := make([]error, 0, len(from))
	for _, src := range from {
		object, err := s.objectFrom(ctx, src, d, length)
		if err == nil {
			return object, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, err)
	}
	return nil, all(errs)
}

// all is one error that tells what every source said.
func all(errs []error) error {
	first := millpond.AsError(errs[0])
	if len(errs) == 1 || ctxEnded(errs) {
		return errs[0]
	}
	var texts []string
	for _, err := range errs {
		texts = append(texts, millpond.AsError(err).Message)
	}
	return millpond.Errorf(first.Kind, first.Code, "%s", strings.Join(texts, " ")).Because(errors.Join(errs...))
}

func ctxEnded(errs []error) bool { return errors.Is(errors.Join(errs...), context.Canceled) }

// objectFrom takes a chunk from one source and verifies it, here and once.
func (s *Store) objectFrom(ctx context.Context, src image.Store, d image.Digest, length int) ([]byte, error) {
	if raw, ok := src.(ObjectReader); ok {
		object, err := raw.ReadObject(ctx, d)
		if err != nil {
			return nil, err
		}
		if err := s.codec.verify(object, d, length); err != nil {
			return nil, millpond.Errorf(millpond.Internal, "ContentDamaged",
				"The chunk %x in the store %s is damaged. `millpond image verify --repair` mends it from another replica; without one, delete the version and publish it again.", d[:], src.Name()).Because(err)
		}
		return object, nil
	}
	plain, err := src.ReadChunk(ctx, d, length)
	if err != nil {
		return nil, err
	}
	return s.codec.encode(make([]byte, 0, maxObject), plain), nil
}

// RepairChunk writes a chunk anew, with bytes from elsewhere, over a damaged or
// missing one. They are compared with d first.
func (s *Store) RepairChunk(ctx context.Context, d image.Digest, plain []byte) error {
	if len(plain) > image.ChunkSize || image.Digest(sha256.Sum256(plain)) != d {
		return fmt.Errorf("store %s: the bytes to mend the chunk %x with are not that chunk", s.name, d[:])
	}
	object := s.codec.encode(make([]byte, 0, maxObject), plain)
	return s.failed("mend a chunk", s.bucket.Put(ctx, chunkKey(d), object, bucket.Durable))
}
