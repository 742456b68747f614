package layer

import (
	"fmt"
	"sync/atomic"

	"millpond.dev/millpond/internal/image"
)

// Disk is an open disk: an image.Source that can be written. It is safe for
// concurrent use.
type Disk struct {
	disks  *Disks
	id     string
	v      *shared
	closed atomic.Bool
}

// ID is the disk's name in its folder.
func (k *Disk) ID() string { return k.id }

// Size is the virtual size in bytes, now.
func (k *Disk) Size() int64 {
	k.v.mu.RLock()
	defer k.v.mu.RUnlock()
	return k.v.now.size
}

func (k *Disk) ReadAt(p []byte, off int64) (int, error) { return k.v.readAt(p, off) }

// WriteAt writes inside the disk; beyond its end is a Range error and writes
// nothing. It is durable after Sync, and survives the end of this process alone
// without.
func (k *Disk) WriteAt(p []byte, off int64) (int, error) { return k.v.writeAt(p, off) }

// Clear turns a range to zeros and gives its space back.
func (k *Disk) Clear(off, length int64) error { return k.v.clear(off, length) }

// Sync makes durable what was written before.
func (k *Disk) Sync() error { return k.v.sync() }

// Resize grows the disk.
func (k *Disk) Resize(size int64) error {
	if !validSize(size) {
		return checkNew(k.id, size)
	}
	return k.v.grow(size)
}

// NextData implements image.Sparse; holes of the base are holes here.
func (k *Disk) NextData(off int64) (start, end int64, err error) {
	k.v.mu.RLock()
	defer k.v.mu.RUnlock()
	return k.v.now.nextData(off)
}

// KnownChunk implements image.Chunked.
func (k *Disk) KnownChunk(n int64) (image.Digest, bool) {
	k.v.mu.RLock()
	defer k.v.mu.RUnlock()
	return k.v.now.knownChunk(n)
}

// Base is the content below the disk; nil without one.
func (k *Disk) Base() *Ref {
	k.v.mu.RLock()
	defer k.v.mu.RUnlock()
	if k.v.now.base == nil {
		return nil
	}
	r := k.v.now.base.ref
	return &r
}

// Freeze makes a moment of the disk readable for as long as the Frozen is open,
// while writes go on. The caller closes the Frozen.
func (k *Disk) Freeze() (Point, *Frozen, error) {
	p, f, err := k.v.freeze()
	if err != nil {
		return p, nil, fmt.Errorf("freeze disk %s: %w", k.id, err)
	}
	return p, f, nil
}

// Rebase puts the disk on a content that has the bytes of p, and drops the
// layers up to p. The caller keeps the content for as long as the disk is, and
// may let go of the old base afterwards.
func (k *Disk) Rebase(p Point, ref Ref) error {
	if err := k.v.rebase(p, ref, k.disks.bases); err != nil {
		return fmt.Errorf("put disk %s on the content %s: %w", k.id, ref.Content, err)
	}
	return nil
}

// Close closes the handle; the last one gives the disk free for other processes.
func (k *Disk) Close() error {
	if k.closed.Swap(true) {
		return nil
	}
	return k.disks.close(k.id, k.v)
}

var (
	_ image.Sparse  = (*Disk)(nil)
	_ image.Chunked = (*Disk)(nil)
	_ image.Sparse  = (*Frozen)(nil)
	_ image.Chunked = (*Frozen)(nil)
)
