// Package layer keeps managed disks: each is a sparse raw file of the blocks
// that were written to it, with a bitmap of them, over an optional base content
// of the image store. So a disk that is made from a snapshot or an image version
// copies nothing, and a snapshot of it takes in only what was written since.
//
// A disk is frozen in no time: the layer becomes immutable and a new one begins.
// When the frozen bytes have become a content, the disk is put on that content
// and the frozen layer is dropped, which bounds the chain.
//
// One process at a time has a disk open for writing, which a lock of the file
// system decides: the server for a detached disk, the image host for one of a
// running VM. The package knows no resources, no SQL and no NBD; compute and the
// image host use it. Who names a base keeps it in its store.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/process"
)

// MaxSize is the largest disk.
const MaxSize = image.MaxSize

const lockFile = "lock"

func validSize(n int64) bool { return n > 0 && n%512 == 0 && n <= MaxSize }

// Contents opens base contents; every image.Store does.
type Contents interface {
	Open(ctx context.Context, id image.ContentID) (image.ReadCloser, error)
	Manifest(ctx context.Context, id image.ContentID) (*image.Manifest, error)
}

// Bases finds where a base can be read.
type Bases func(Ref) (Contents, error)

// Disks is a folder of disks. All methods are safe for concurrent use; writes to
// the same bytes are the caller's to order.
type Disks struct {
	dir   string
	bases Bases
	boot  string

	mu   sync.Mutex
	open map[string]*shared
}

// shared is a volume that handles of this process share.
type shared struct {
	*volume
	lock *os.File
	refs int
}

// OpenDisks makes the folder if need be. It changes nothing in a folder that
// another process uses too; Tidy does. bases may be nil where no disk with a
// base is read.
func OpenDisks(dir string, bases Bases) (*Disks, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Disks{dir: abs, bases: bases, boot: strings.TrimSpace(string(boot)), open: map[string]*shared{}}, nil
}

// Tidy removes half-made and half-deleted disks, and adopts raw files that an
// earlier Millpond left here. The server calls it at its start.
func (d *Disks) Tidy() error {
	ents, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			if err := os.RemoveAll(filepath.Join(d.dir, name)); err != nil {
				return err
			}
			continue
		}
		if id, raw := strings.CutSuffix(name, ".raw"); raw && e.Type().IsRegular() && diskID.MatchString(id) {
			if err := d.adopt(id, filepath.Join(d.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Disks) adopt(id, raw string) error {
	st, err := os.Stat(raw)
	if err != nil {
		return err
	}
	if !validSize(st.Size()) {
		return fmt.Errorf("%s has %d bytes, which no disk has", raw, st.Size())
	}
	return d.make(id, func(dir dirFolder) error {
		if err := os.Link(raw, dir.path(rawName(1))); err != nil {
			return err
		}
		return state{Version: 1, Size: st.Size(), Layers: []layerState{{N: 1, Size: st.Size(), Whole: true}}}.write(dir)
	}, func() error { return os.Remove(raw) })
}

var diskID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func (d *Disks) folder(id string) dirFolder { return dirFolder(filepath.Join(d.dir, id)) }

func checkNew(id string, size int64) error {
	if !diskID.MatchString(id) || strings.HasSuffix(id, ".raw") {
		return fmt.Errorf("%q cannot name a disk", id)
	}
	if !validSize(size) {
		return millpond.Errorf(millpond.Invalid, "InvalidDiskSize",
			"A disk cannot have %d bytes. The size has to be a multiple of 512 between 512 and %d bytes.", size, int64(MaxSize))
	}
	return nil
}

func missingDisk(id string) error {
	return millpond.Errorf(millpond.NotFound, "DiskContentNotFound",
		"The bytes of the disk %s are not on this server. Delete the disk and create it again.", id)
}

// Create makes an empty disk. A disk that exists already is a Conflict.
func (d *Disks) Create(id string, size int64) error { return d.create(id, size, nil) }

// CreateOn makes a disk over a base content, which it does not read; size 0 is
// the base's, a larger one adds zeros.
func (d *Disks) CreateOn(id string, ref Ref, size int64) error {
	if size == 0 {
		size = ref.Size
	}
	if size < ref.Size {
		return millpond.Errorf(millpond.Invalid, "InvalidDiskSize",
			"A disk of %d bytes is too small for its source of %d bytes. Leave the size out, or ask for at least that much.", size, ref.Size)
	}
	if !ref.Content.Valid() || !validSize(ref.Size) {
		return fmt.Errorf("%q of %d bytes cannot be a base", ref.Content, ref.Size)
	}
	return d.create(id, size, &ref)
}

func (d *Disks) create(id string, size int64, ref *Ref) error {
	if err := checkNew(id, size); err != nil {
		return err
	}
	return d.make(id, func(dir dirFolder) error {
		ls := layerState{N: 1, Size: size, Whole: ref == nil}
		l, err := createLayer(dir, ls, d.boot)
		if err != nil {
			return err
		}
		if err := l.release(); err != nil {
			return err
		}
		return state{Version: 1, Size: size, Base: ref, Layers: []layerState{ls}}.write(dir)
	}, nil)
}

// make fills a folder and gives it its name at the end, so that after a crash
// there is a whole disk or none.
func (d *Disks) make(id string, fill func(dirFolder) error, after func() error) error {
	tmp, err := os.MkdirTemp(d.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := fill(dirFolder(tmp)); err != nil {
		return fmt.Errorf("create disk %s: %w", id, err)
	}
	err = os.Rename(tmp, string(d.folder(id)))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return millpond.Errorf(millpond.Conflict, "DiskExists", "The disk %s exists already.", id)
	}
	if err == nil && after != nil {
		err = after()
	}
	return errors.Join(err, syncDir(d.dir))
}

// lock takes the disk for this process. It does not wait.
func (d *Disks) lock(id string) (*os.File, error) {
	dir := d.folder(id)
	f, err := process.Lock(dir.path(lockFile))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, missingDisk(id)
	case errors.Is(err, process.ErrLocked):
		return nil, millpond.Errorf(millpond.Conflict, "DiskInUse",
			"The disk %s is open in another process: a running VM has it. Deallocate the VM or detach the disk, and try again.", id)
	case err != nil:
		return nil, err
	}
	// Somebody may have deleted the disk between the open and the lock.
	if _, err := os.Stat(dir.path(stateFile)); errors.Is(err, fs.ErrNotExist) {
		f.Close()
		return nil, missingDisk(id)
	}
	return f, nil
}

// Open opens a disk for reading and writing; handles of one process share it.
// DiskInUse is the error when another process has it open. The caller closes.
func (d *Disks) Open(id string) (*Disk, error) {
	if !diskID.MatchString(id) {
		return nil, missingDisk(id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.open[id]
	if s == nil {
		lock, err := d.lock(id)
		if err != nil {
			return nil, err
		}
		v, err := openVolume(d.folder(id), d.bases, d.boot)
		if err == nil {
			err = d.sweep(id, v.st)
		}
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("open disk %s: %w", id, err)
		}
		s = &shared{volume: v, lock: lock}
		d.open[id] = s
	}
	s.refs++
	return &Disk{disks: d, id: id, v: s}, nil
}

// sweep removes the files of layers that were dropped or never came to be.
func (d *Disks) sweep(id string, st state) error {
	ents, err := os.ReadDir(string(d.folder(id)))
	if err != nil {
		return err
	}
	keep := st.names()
	for _, e := range ents {
		if !keep[e.Name()] {
			if err := d.folder(id).Remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Disks) close(id string, s *shared) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.refs--; s.refs > 0 {
		return nil
	}
	if d.open[id] == s {
		delete(d.open, id)
	}
	err := s.volume.close()
	// Last: from here on another process may open the disk.
	return errors.Join(err, s.lock.Close())
}

// Info is what a disk's description says. It is read without the lock, so it
// also tells of disks that another process has open.
type Info struct {
	Size int64
	// Base is the content below the disk, which its owner must keep.
	Base *Ref
	// Allocated is how many bytes the disk's own layers take on the host.
	Allocated int64
	Layers    int
}

// Stat reads a disk's description.
func (d *Disks) Stat(id string) (Info, error) {
	st, err := d.state(id)
	if err != nil {
		return Info{}, err
	}
	info := Info{Size: st.Size, Base: st.Base, Layers: len(st.Layers)}
	for _, l := range st.Layers {
		fi, err := os.Stat(d.folder(id).path(rawName(l.N)))
		if err != nil {
			continue // dropped meanwhile
		}
		if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
			info.Allocated += sys.Blocks * 512
		}
	}
	return info, nil
}

func (d *Disks) state(id string) (state, error) {
	if !diskID.MatchString(id) {
		return state{}, missingDisk(id)
	}
	b, err := d.folder(id).Read(stateFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return state{}, missingDisk(id)
	}
	if err != nil {
		return state{}, err
	}
	return parseState(b)
}

// Resize grows a disk. To shrink one is refused, as Azure does; the same size is
// no error.
func (d *Disks) Resize(id string, size int64) error {
	if err := checkNew(id, size); err != nil {
		return err
	}
	k, err := d.Open(id)
	if err != nil {
		return err
	}
	return errors.Join(k.Resize(size), k.Close())
}

// Delete removes a disk; one that is not there is no error. Readers of a Frozen
// go on.
func (d *Disks) Delete(id string) error {
	if !diskID.MatchString(id) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.open[id]; s != nil {
		s.gone.Store(true)
		delete(d.open, id)
	} else {
		lock, err := d.lock(id)
		if millpond.KindOf(err) == millpond.NotFound {
			// Perhaps a folder without a description: not a disk, and not wanted.
			return os.RemoveAll(string(d.folder(id)))
		}
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	// Away under another name first, so that half a disk is never seen.
	tmp, err := os.MkdirTemp(d.dir, ".gone-*")
	if err != nil {
		return err
	}
	if err := os.Rename(string(d.folder(id)), filepath.Join(tmp, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(syncDir(d.dir), os.RemoveAll(tmp))
}

// List names all disks.
func (d *Disks) List() ([]string, error) {
	ents, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range ents {
		if e.IsDir() && diskID.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// OpenFrozen opens a disk at a point that another process froze. The files of a
// frozen layer do not change, so it needs no lock; it fails when the disk has
// been rebased past the point.
func (d *Disks) OpenFrozen(id string, p Point) (*Frozen, error) {
	st, err := d.state(id)
	if err != nil {
		return nil, err
	}
	f := &Frozen{s: stack{size: p.Size}}
	if st.Base != nil {
		f.s.base = &base{ref: *st.Base, open: d.bases, refs: 1}
	}
	found := p.Layer == 0
	for _, ls := range st.Layers[:len(st.Layers)-1] {
		if ls.N > p.Layer {
			break
		}
		l, err := openLayer(d.folder(id), ls, false, d.boot)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.s.layers = append(f.s.layers, l)
		found = found || ls.N == p.Layer
	}
	if !found || p.Size > st.Size {
		return nil, errors.Join(fmt.Errorf("disk %s has no frozen layer %d", id, p.Layer), f.Close())
	}
	return f, nil
}
