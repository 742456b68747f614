// Package chunkstore is the one implementation of image.Store: contents as
// manifests over compressed chunks that are named by their SHA-256, in a bucket
// (docs/adr/0011). What two contents share is kept once; every byte that leaves
// the store is compared with its name first.
//
// It knows no resources, no SQL and no QEMU. cmd/millpond opens stores, and so do
// the processes that feed machines; verbs see them through image.Store.
package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/bucket"
)

// Store is an image.Store over a bucket. It is safe for concurrent use, also by
// many processes on the same bucket.
type Store struct {
	name    string
	url     string
	bucket  bucket.Bucket
	codec   codec
	session *session
	// workerCount is 0 for a local store's own.
	workerCount int
	// place is how people find the store: its folder or its URL.
	place string

	mu sync.Mutex
	// known are contents whose manifests have been read and checked; a content
	// never changes, so an entry is true as long as its manifest is there.
	known map[image.ContentID]image.Content
}

var _ image.Store = (*Store)(nil)

// Options are what tests set; the zero value is for real stores.
type Options struct {
	Timing Timing
	// Workers is how many chunks are on their way at a time.
	Workers int
	// Near says that the store's bytes are written at a disk's speed, which a processor
	// has to keep up with.
	Near bool
}

// Open opens the store at a place that bucket.ParsePlace understands: a folder or
// a URL. A folder that is not there yet is made; a service is asked by Check and by
// the first use, not here. Close ends it.
func Open(ctx context.Context, name, at string) (*Store, error) {
	place, err := bucket.ParsePlace(at)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", name, err)
	}
	b, err := place.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open store %s (%s): %w", name, place, err)
	}
	o := Options{Near: place.Dir != ""}
	if place.Dir == "" {
		o.Workers = remoteWorkers
	}
	s, err := New(name, place.URL(), b, o)
	if f, ok := b.(*bucket.Folder); ok && err == nil {
		s.place = place.String()
		err = s.recover(ctx, f)
	}
	if err != nil {
		err = fmt.Errorf("open store %s (%s): %w", name, place, err)
		if c, ok := b.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
		return nil, err
	}
	return s, nil
}

// Check asks whether what the store lies on answers and may be used. A local folder
// has been looked at when it was opened.
func (s *Store) Check(ctx context.Context) error {
	c, ok := s.bucket.(interface{ Check(context.Context) error })
	if !ok {
		return nil
	}
	if err := c.Check(ctx); err != nil {
		return fmt.Errorf("store %s (%s): %w", s.name, s.place, err)
	}
	return nil
}

// remoteWorkers is how many chunks are on their way to or from a service at a
// time: each waits for an answer most of its time.
const remoteWorkers = 16

// New makes a store over a bucket that at names.
func New(name, at string, b bucket.Bucket, o Options) (*Store, error) {
	c, err := newCodec(o.Near)
	if err != nil {
		return nil, err
	}
	s := &Store{name: name, url: at, place: at, bucket: b, codec: c, workerCount: o.Workers, known: map[image.ContentID]image.Content{}}
	s.session = newSession(s, o.Timing)
	return s, nil
}

// Name is the configured name.
func (s *Store) Name() string { return s.name }

// URL is what Open opens.
func (s *Store) URL() string { return s.url }

// workers is how many chunks are on their way at a time. On a local disk two for
// a core, so that a core computes while the disk works; far away more, because
// each waits.
func (s *Store) workers() int {
	if s.workerCount > 0 {
		return s.workerCount
	}
	return 2 * runtime.GOMAXPROCS(0)
}

func (s *Store) missing(id image.ContentID) error {
	return millpond.Errorf(millpond.NotFound, "ContentNotFound",
		"The store %s does not hold the content %s. Replicate the version to this region again, or capture the disk again.", s.name, id)
}

func (s *Store) damaged(what string, err error) error {
	return millpond.Errorf(millpond.Internal, "ContentDamaged",
		"The %s in the store %s is damaged. `millpond image verify --repair` mends it from another replica; without one, delete the version and publish it again.", what, s.name).Because(err)
}

// failed gives a full disk and a silent bucket their own words; a Millpond error
// and a cancelled context stay as they are.
func (s *Store) failed(what string, err error) error {
	var e *millpond.Error
	switch {
	case err == nil || errors.As(err, &e) || errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return millpond.Errorf(millpond.Unavailable, "StoreFull",
			"The store %s has no space left. Delete image versions or snapshots that are not needed and run `millpond image gc`, or give %s more space.", s.name, s.place).Because(err)
	}
	return fmt.Errorf("store %s (%s): %s: %w", s.name, s.place, what, err)
}

func (s *Store) noChunk(d image.Digest) error {
	return millpond.Errorf(millpond.NotFound, "ContentNotFound",
		"The store %s does not hold the chunk %x. `millpond image verify --repair` brings it back from another replica.", s.name, d[:])
}

// Manifest reads a content's manifest and checks it against its name.
func (s *Store) Manifest(ctx context.Context, id image.ContentID) (*image.Manifest, error) {
	if !id.Valid() {
		return nil, s.missing(id)
	}
	m, err := s.readManifest(ctx, manifestKey(id), id)
	if err != nil {
		s.forget(id)
		return nil, err
	}
	s.mu.Lock()
	s.known[id] = image.Content{ID: id, Size: m.Size, Stored: dataBytes(m)}
	s.mu.Unlock()
	return m, nil
}

// readManifest reads the manifest of id from a key.
func (s *Store) readManifest(ctx context.Context, key string, id image.ContentID) (*image.Manifest, error) {
	b, err := s.bucket.Get(ctx, key, maxManifest)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, s.missing(id)
	}
	if err != nil && !errors.Is(err, bucket.ErrTooLarge) {
		return nil, s.failed("read a manifest", err)
	}
	m, derr := decodeManifest(b)
	if derr == nil && m.ID() != id {
		derr = errors.New("it is the manifest of another content")
	}
	if err = errors.Join(err, derr); err != nil {
		return nil, s.damaged("manifest "+string(id), err)
	}
	return m, nil
}

func (s *Store) forget(id image.ContentID) {
	s.mu.Lock()
	delete(s.known, id)
	s.mu.Unlock()
}

// Stat tells about a content.
func (s *Store) Stat(ctx context.Context, id image.ContentID) (image.Content, error) {
	if !id.Valid() {
		return image.Content{}, s.missing(id)
	}
	s.mu.Lock()
	c, ok := s.known[id]
	s.mu.Unlock()
	if !ok {
		m, err := s.Manifest(ctx, id)
		if err != nil {
			return image.Content{}, err
		}
		return image.Content{ID: id, Size: m.Size, Stored: dataBytes(m)}, nil
	}
	// It may have been deleted since, by another process too.
	if _, err := s.bucket.Stat(ctx, manifestKey(id)); errors.Is(err, bucket.ErrNotFound) {
		s.forget(id)
		return image.Content{}, s.missing(id)
	} else if err != nil {
		return image.Content{}, s.failed("look for a manifest", err)
	}
	return c, nil
}

// List walks all contents. One whose manifest is damaged has size 0: it is there,
// and whoever tidies up has to know of it.
func (s *Store) List(ctx context.Context) ([]image.Content, error) {
	ids, err := s.IDs(ctx)
	if err != nil {
		return nil, err
	}
	var all []image.Content
	for _, id := range ids {
		c, err := s.Stat(ctx, id)
		if millpond.KindOf(err) == millpond.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			if !isDamage(err) {
				return nil, err
			}
			c = image.Content{ID: id}
		}
		all = append(all, c)
	}
	return all, nil
}

// IDs are the names of all contents, in order, also of those whose manifest is
// damaged.
func (s *Store) IDs(ctx context.Context) ([]image.ContentID, error) {
	var ids []image.ContentID
	for i, err := range s.bucket.List(ctx, manifestPrefix) {
		if err != nil {
			return nil, s.failed("list the manifests", err)
		}
		if id := image.ContentID(strings.TrimPrefix(i.Key, manifestPrefix)); id.Valid() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Delete removes a content's manifest; its chunks go with the next Collect that
// finds nobody reading it.
func (s *Store) Delete(ctx context.Context, id image.ContentID) error {
	if !id.Valid() {
		return nil
	}
	s.forget(id)
	b, err := s.bucket.Get(ctx, manifestKey(id), maxManifest)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil
	}
	if err == nil {
		// First what readers keep the chunks by, then the name.
		err = s.bucket.Put(ctx, tombPrefix+string(id)+"."+randomName(), b, bucket.Durable)
	}
	if err == nil || errors.Is(err, bucket.ErrTooLarge) {
		err = s.bucket.Delete(ctx, manifestKey(id))
	}
	return s.failed("delete a content", err)
}

// ReadChunk reads one chunk and compares it with its digest.
func (s *Store) ReadChunk(ctx context.Context, d image.Digest, length int) ([]byte, error) {
	return s.readChunk(ctx, make([]byte, 0, max(0, min(length, image.ChunkSize))), d, length)
}

// readChunk appends the chunk to dst.
func (s *Store) readChunk(ctx context.Context, dst []byte, d image.Digest, length int) ([]byte, error) {
	object, err := s.bucket.Get(ctx, chunkKey(d), maxObject)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, s.noChunk(d)
	}
	if err != nil && !errors.Is(err, bucket.ErrTooLarge) {
		return nil, s.failed(fmt.Sprintf("read the chunk %x", d[:]), err)
	}
	if err == nil {
		dst, err = s.codec.check(dst, object, d, length)
	}
	if err != nil {
		return nil, s.damaged(fmt.Sprintf("chunk %x", d[:]), err)
	}
	return dst, nil
}

// Dir is the folder of a local store, empty for another.
func (s *Store) Dir() string {
	if f, ok := s.bucket.(*bucket.Folder); ok {
		return filepath.Clean(f.Dir())
	}
	return ""
}
