// Package filestore keeps disk contents and writable disks as sparse raw files
// of a local folder. Store is an image.Store; Disks holds the disks that users
// write to. It knows no resources and no SQL; compute and gallery use it through
// the seams, cmd/millpond makes it.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// MaxSize is the largest disk that is taken, 32 TiB, Azure's own limit for a
// managed disk.
const MaxSize = 32 << 40

// Store is an image.Store in a folder: contents/{id}.raw and, while something
// is being written, tmp/.
type Store struct {
	name string
	dir  string
}

// Open makes the folder if need be and removes what a crash left half written.
// One process at a time may have a folder open.
func Open(name, dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{name: name, dir: abs}
	// First, so that nothing half written is kept.
	if err := os.RemoveAll(s.tmp()); err != nil {
		return nil, err
	}
	for _, d := range []string{s.contents(), s.tmp()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("open store %s: %w", name, err)
		}
	}
	return s, nil
}

func (s *Store) contents() string { return filepath.Join(s.dir, "contents") }
func (s *Store) tmp() string      { return filepath.Join(s.dir, "tmp") }
func (s *Store) path(id image.ContentID) string {
	return filepath.Join(s.contents(), string(id)+".raw")
}

func (s *Store) Name() string { return s.name }

func (s *Store) missing(id image.ContentID) error {
	return millpond.Errorf(millpond.NotFound, "ContentNotFound",
		"The store %s does not hold the content %s. Replicate the version to this region again, or capture the disk again.", s.name, id)
}

// Ingest copies src. Where the file system can share blocks (XFS, btrfs) a file
// is cloned and only hashed.
func (s *Store) Ingest(ctx context.Context, src image.Source, p image.Progress) (image.Content, error) {
	if src.Size() <= 0 || src.Size()%512 != 0 || src.Size() > MaxSize {
		return image.Content{}, millpond.Errorf(millpond.Invalid, "InvalidDiskSize",
			"A disk of %d bytes cannot be stored. The size has to be a multiple of 512 between 512 and %d bytes.", src.Size(), int64(MaxSize))
	}
	f, err := os.CreateTemp(s.tmp(), "ingest-*")
	if err != nil {
		return image.Content{}, s.failed("make a file", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	id, err := copyInto(ctx, f, src, true, p)
	if err != nil {
		return image.Content{}, s.failed("copy the disk", err)
	}
	if err := f.Chmod(0o444); err != nil {
		return image.Content{}, s.failed("protect the file", err)
	}
	if err := f.Sync(); err != nil {
		return image.Content{}, s.failed("write the file to disk", err)
	}
	// A link, not a rename: the content that is there already stays the same file,
	// which a running VM may have open.
	if err := os.Link(f.Name(), s.path(id)); err != nil && !errors.Is(err, fs.ErrExist) {
		return image.Content{}, s.failed("publish the file", err)
	}
	if err := syncDir(s.contents()); err != nil {
		return image.Content{}, s.failed("write the folder to disk", err)
	}
	return s.Stat(ctx, id)
}

// failed gives a full disk its own words; everything else stays as it is.
func (s *Store) failed(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return millpond.Errorf(millpond.Unavailable, "StoreFull",
			"The store %s has no space left. Delete image versions or snapshots that are not needed, or give the folder %s more space.", s.name, s.dir).Because(err)
	}
	return fmt.Errorf("store %s: %s: %w", s.name, what, err)
}

func (s *Store) Stat(_ context.Context, id image.ContentID) (image.Content, error) {
	if !id.Valid() {
		return image.Content{}, s.missing(id)
	}
	st, err := os.Stat(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return image.Content{}, s.missing(id)
	}
	if err != nil {
		return image.Content{}, err
	}
	return image.Content{ID: id, Size: st.Size(), Stored: stored(st)}, nil
}

// Open returns a *File.
func (s *Store) Open(_ context.Context, id image.ContentID) (image.ReadCloser, error) {
	if !id.Valid() {
		return nil, s.missing(id)
	}
	f, err := OpenFile(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.missing(id)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Backing is the absolute path of the raw file.
func (s *Store) Backing(ctx context.Context, id image.ContentID) (string, error) {
	if _, err := s.Stat(ctx, id); err != nil {
		return "", err
	}
	return s.path(id), nil
}

func (s *Store) Delete(_ context.Context, id image.ContentID) error {
	if !id.Valid() {
		return nil
	}
	err := os.Remove(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(s.contents())
}

func (s *Store) List(ctx context.Context) ([]image.Content, error) {
	ents, err := os.ReadDir(s.contents())
	if err != nil {
		return nil, err
	}
	var all []image.Content
	for _, e := range ents {
		id := image.ContentID(strings.TrimSuffix(e.Name(), ".raw"))
		if !id.Valid() || e.Name() == string(id) {
			continue
		}
		c, err := s.Stat(ctx, id)
		if millpond.KindOf(err) == millpond.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all, nil
}

// Verify reads a content in full and says whether its bytes still have its name.
func (s *Store) Verify(ctx context.Context, id image.ContentID, p image.Progress) error {
	r, err := s.Open(ctx, id)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := Hash(ctx, r, p)
	if err != nil {
		return err
	}
	if got != id {
		return millpond.Errorf(millpond.Internal, "ContentDamaged",
			"The content %s in the store %s is damaged: its bytes now hash to %s. Delete this replica and replicate the version again.", id, s.name, got)
	}
	return nil
}

func stored(st os.FileInfo) int64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		// A file system may allocate more than the size (tails, preallocation).
		return min(s.Blocks*512, st.Size())
	}
	return st.Size()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
