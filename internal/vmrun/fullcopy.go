package vmrun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/launch"
)

// rawName is the file of a disk that is copied whole, from that of its overlay.
func rawName(name string) string { return strings.TrimSuffix(name, ".qcow2") + ".raw" }

const (
	// copyWorkers unpack chunks beside each other.
	copyWorkers = 4
	// copyMemory is the heap's limit meanwhile: under memoryLimit the chunks that are
	// under way keep the collector at work.
	copyMemory = 64 << 20
)

// fullCopy writes all of a content into the VM's folder, from the first store
// that has it whole. A copy that was broken off is made anew.
func (d *disks) fullCopy(ctx context.Context, step, name string, disk launch.Disk) error {
	return d.make(step, rawName(name), func(p string) error {
		former := debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(max(former, copyMemory))
		defer debug.SetMemoryLimit(former)
		part := p + ".part"
		defer os.Remove(part)
		var errs []error
		for _, place := range disk.Stores {
			err := copyContent(ctx, place, image.ContentID(disk.Content), part, disk.SizeBytes)
			if err == nil {
				return os.Rename(part, p)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			errs = append(errs, fmt.Errorf("copy from the store %s: %w", place.Name, err))
		}
		if len(errs) == 0 {
			return errors.New("no store is named that has the disk's content")
		}
		return errors.Join(errs...)
	})
}

func copyContent(ctx context.Context, place launch.Store, id image.ContentID, to string, size int64) error {
	st, err := chunkstore.Open(ctx, place.Name, place.URL)
	if err != nil {
		return err
	}
	r, err := st.Open(ctx, id)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Size() > size {
		return fmt.Errorf("the disk of %d bytes is smaller than its content of %d", size, r.Size())
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := copyData(ctx, f, r); err != nil {
		return err
	}
	return f.Close()
}

// copyData writes what is not zeros; the file is new, so the rest reads as zeros.
func copyData(ctx context.Context, f *os.File, r image.Source) error {
	const block = image.ChunkSize
	zero := make([]byte, block)
	buffers := make(chan []byte, copyWorkers)
	for range copyWorkers {
		buffers <- make([]byte, block)
	}
	sparse, _ := r.(image.Sparse)
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(copyWorkers)
	for off := int64(0); off < r.Size() && group.Err() == nil; {
		if sparse != nil {
			start, _, err := sparse.NextData(off)
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			if start >= r.Size() {
				break
			}
			off = max(off, start/block*block)
		}
		at, n := off, min(block, r.Size()-off)
		off += n
		g.Go(func() error {
			whole := <-buffers
			defer func() { buffers <- whole }()
			b := whole[:n]
			if got, err := r.ReadAt(b, at); got < len(b) {
				return fmt.Errorf("read at %d: %w", at, err)
			}
			if bytes.Equal(b, zero[:n]) {
				return nil
			}
			_, err := f.WriteAt(b, at)
			return err
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}
