// Package filestore keeps writable disks as sparse raw files of a local folder,
// and reads raw files with their holes. It knows no resources and no SQL; compute
// uses it, cmd/millpond makes it.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// Disks keeps writable disks as sparse raw files {id}.raw of a folder. All
// methods are safe for concurrent use; writes to the same bytes are the
// caller's to order.
type Disks struct{ dir string }

// OpenDisks makes the folder if need be and removes half-made disks.
func OpenDisks(dir string) (*Disks, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(abs, ".new-*"))
	if err != nil {
		return nil, err
	}
	for _, l := range left {
		if err := os.Remove(l); err != nil {
			return nil, err
		}
	}
	return &Disks{dir: abs}, nil
}

var diskID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Path is the raw file of a disk, there or not.
func (d *Disks) Path(id string) string { return filepath.Join(d.dir, id+".raw") }

func (d *Disks) valid(id string, size int64) error {
	if !diskID.MatchString(id) {
		return fmt.Errorf("%q cannot name a disk file", id)
	}
	if size <= 0 || size%512 != 0 || size > image.MaxSize {
		return millpond.Errorf(millpond.Invalid, "InvalidDiskSize",
			"A disk cannot have %d bytes. The size has to be a multiple of 512 between 512 and %d bytes.", size, int64(image.MaxSize))
	}
	return nil
}

func missingDisk(id string) error {
	return millpond.Errorf(millpond.NotFound, "DiskContentNotFound",
		"The bytes of the disk %s are not on this server. Delete the disk and create it again.", id)
}

// Create makes an empty disk. A disk that exists already is a Conflict.
func (d *Disks) Create(ctx context.Context, id string, size int64) error {
	return d.create(ctx, id, size, nil, nil)
}

// CreateFrom makes a disk with the bytes of src, grown with zeros to size if
// that is larger (0 for the size of src). After a crash there is no disk.
func (d *Disks) CreateFrom(ctx context.Context, id string, src image.Source, size int64, p image.Progress) error {
	if size == 0 {
		size = src.Size()
	}
	if size < src.Size() {
		return millpond.Errorf(millpond.Invalid, "InvalidDiskSize",
			"A disk of %d bytes is too small for its source of %d bytes. Leave the size out, or ask for at least that much.", size, src.Size())
	}
	return d.create(ctx, id, size, src, p)
}

func (d *Disks) create(ctx context.Context, id string, size int64, src image.Source, p image.Progress) error {
	if err := d.valid(id, size); err != nil {
		return err
	}
	f, err := os.CreateTemp(d.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if src != nil {
		if _, err := copyInto(ctx, f, src, false, p); err != nil {
			return fmt.Errorf("create disk %s: %w", id, err)
		}
	}
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("create disk %s: %w", id, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("create disk %s: %w", id, err)
	}
	if err := os.Link(f.Name(), d.Path(id)); errors.Is(err, fs.ErrExist) {
		return millpond.Errorf(millpond.Conflict, "DiskExists", "The disk %s exists already.", id)
	} else if err != nil {
		return err
	}
	return syncDir(d.dir)
}

// Open opens a disk for reading and writing. The caller closes it.
func (d *Disks) Open(id string) (*Disk, error) {
	if !diskID.MatchString(id) {
		return nil, missingDisk(id)
	}
	f, err := os.OpenFile(d.Path(id), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missingDisk(id)
	}
	if err != nil {
		return nil, err
	}
	r, err := newFile(f)
	if err != nil {
		return nil, err
	}
	return &Disk{File: r}, nil
}

// Size is a disk's virtual size and how many bytes of it are not holes.
func (d *Disks) Size(id string) (size, allocated int64, err error) {
	if !diskID.MatchString(id) {
		return 0, 0, missingDisk(id)
	}
	st, err := os.Stat(d.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, missingDisk(id)
	}
	if err != nil {
		return 0, 0, err
	}
	return st.Size(), stored(st), nil
}

// Resize grows a disk. To shrink one is refused, as Azure does; the same size is
// no error.
func (d *Disks) Resize(_ context.Context, id string, size int64) error {
	if err := d.valid(id, size); err != nil {
		return err
	}
	now, _, err := d.Size(id)
	if err != nil {
		return err
	}
	if size < now {
		return millpond.Errorf(millpond.Invalid, "ResizeDiskError",
			"The disk %s has %d bytes and cannot shrink to %d. Create a smaller disk and copy what you need.", id, now, size)
	}
	f, err := os.OpenFile(d.Path(id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// Delete removes a disk; one that is not there is no error.
func (d *Disks) Delete(id string) error {
	if !diskID.MatchString(id) {
		return nil
	}
	if err := os.Remove(d.Path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(d.dir)
}

// List names all disks.
func (d *Disks) List() ([]string, error) {
	ents, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range ents {
		id, ok := strings.CutSuffix(e.Name(), ".raw")
		if ok && diskID.MatchString(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Disk is an open disk: an image.Source that can be written, page by page. Its
// size is that at the time of opening.
type Disk struct{ *File }

// WriteAt writes inside the disk; beyond its end is a Range error and writes
// nothing.
func (k *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := k.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	return k.f.WriteAt(p, off)
}

// Clear turns a range to zeros and gives its space back.
func (k *Disk) Clear(off, length int64) error {
	if err := k.inside(off, length); err != nil {
		return err
	}
	if length == 0 {
		return nil
	}
	err := unix.Fallocate(int(k.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if !errors.Is(err, unix.ENOTSUP) {
		return os.NewSyscallError("fallocate", err)
	}
	zeros := make([]byte, min(length, image.ChunkSize))
	for length > 0 {
		n, err := k.f.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// Sync makes what was written durable.
func (k *Disk) Sync() error { return k.f.Sync() }

func (k *Disk) inside(off, length int64) error {
	if off < 0 || length < 0 || off > k.size || length > k.size-off {
		return millpond.Errorf(millpond.Range, "InvalidPageRange",
			"The range of %d bytes at %d lies outside of the disk of %d bytes.", length, off, k.size)
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
