package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/singleflight"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/vmrun"
)

// contents brings the contents that VMs boot from onto this host, each once, as
// a sparse raw file that overlays lie on. It stands in for reading them on demand.
type contents struct {
	cacheDir string
	flight   singleflight.Group
}

// bring makes the bases of all disks of a VM that have a content.
func (c *contents) bring(ctx context.Context, spec launch.Spec) error {
	for _, d := range append([]launch.Disk{spec.OSDisk}, spec.DataDisks...) {
		if d.Content == "" {
			continue
		}
		_, err, _ := c.flight.Do(d.Content, func() (any, error) { return nil, c.content(ctx, d) })
		if err != nil {
			return fmt.Errorf("bring the content %s to this host: %w", d.Content, err)
		}
	}
	return nil
}

// content tries the stores in turn.
func (c *contents) content(ctx context.Context, d launch.Disk) error {
	base := vmrun.ContentBase(c.cacheDir, d.Content)
	if _, err := os.Stat(base); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
		return err
	}
	errs := []error{errors.New("no store has it")}
	for _, place := range d.Stores {
		err := writeContent(ctx, base, place, image.ContentID(d.Content))
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// writeContent writes the file whole or not at all. The store compares every
// chunk with its digest.
func writeContent(ctx context.Context, base string, place launch.Store, id image.ContentID) error {
	s, err := chunkstore.Open(ctx, place.Name, place.URL)
	if err != nil {
		return err
	}
	r, err := s.Open(ctx, id)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.CreateTemp(filepath.Dir(base), ".tmp-content-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(r.Size()); err != nil {
		return err
	}
	buf := make([]byte, image.ChunkSize)
	for off := int64(0); off < r.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, end, err := r.(image.Sparse).NextData(off)
		if err != nil {
			return err
		}
		for at := start; at < end; at += image.ChunkSize {
			b := buf[:min(image.ChunkSize, end-at)]
			if _, err := r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := f.WriteAt(b, at); err != nil {
				return err
			}
		}
		off = max(end, off+1)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), base); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
