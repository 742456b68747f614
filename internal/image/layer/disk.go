package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"

	millpond "millpond.dev/millpond"
)

// volume is one disk that is open for writing. Handles share it.
//
// What is durable when. A block becomes a layer's own by three steps: its data
// goes to the raw file in full; its bit is set in memory and in the live file;
// and Sync (1) copies the changed pages of the bitmap, (2) syncs the raw file,
// (3) writes the copied pages to the map file, (4) syncs that. The copy comes
// first: a bit that is set between (2) and (3) would otherwise become durable
// before its data, and after a power failure the block would read as something
// that neither the base nor any writer had there. A block whose bit was lost has
// stale bytes in the raw file; nothing reads them, and whatever makes the block
// the layer's own again writes or punches all of it.
type volume struct {
	dir  folder
	boot string

	// mu is held for reading by every operation, and for writing by what changes
	// the stack: so a freeze falls between operations and never into one.
	mu  sync.RWMutex
	st  state
	now stack

	// stripes order the first writes to a block: such a write brings along what
	// the caller did not write, and must not undo a neighbour's.
	stripes [64]sync.Mutex

	syncing sync.Mutex
	unsaved atomic.Bool // written since the last Sync began
	broken  error       // the first failed sync: later ones would lie

	gone atomic.Bool // deleted; the folder's name may be another disk's by now
}

func (v *volume) top() *layer { return v.now.layers[len(v.now.layers)-1] }

// openVolume opens the disk in a folder. boot names the run of the host's
// kernel, which decides whether live files hold.
func openVolume(dir folder, bases Bases, boot string) (*volume, error) {
	b, err := dir.Read(stateFile)
	if err != nil {
		return nil, err
	}
	st, err := parseState(b)
	if err != nil {
		return nil, err
	}
	v := &volume{dir: dir, boot: boot, st: st, now: stack{size: st.Size}}
	if st.Base != nil {
		v.now.base = &base{ref: *st.Base, open: bases, refs: 1}
	}
	for i, ls := range st.Layers {
		l, err := openLayer(dir, ls, i == len(st.Layers)-1, boot)
		if err != nil {
			return nil, errors.Join(err, v.now.release())
		}
		v.now.layers = append(v.now.layers, l)
	}
	// What a process before this one wrote and did not sync is in the files.
	v.unsaved.Store(true)
	return v, nil
}

// openLayer opens a layer; the top one to be written.
func openLayer(dir folder, ls layerState, top bool, boot string) (_ *layer, err error) {
	l := &layer{n: ls.N, size: ls.Size}
	l.refs.Store(1)
	if l.raw, err = dir.Open(rawName(ls.N), top); err != nil {
		return nil, fmt.Errorf("layer %d of the disk: %w", ls.N, err)
	}
	if ls.Whole {
		return l, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.release())
		}
	}()
	l.own = newBitmap(ls.Size)
	if l.mapf, err = dir.Open(mapName(ls.N), top); err != nil {
		return nil, fmt.Errorf("layer %d of the disk: %w", ls.N, err)
	}
	if err = l.own.load(l.mapf, 0, false); err != nil || !top {
		return l, err
	}
	live, err := dir.Open(liveName(ls.N), true)
	if err == nil {
		var head []byte
		if head, err = liveBoot(live); err == nil && string(head) == boot && boot != "" {
			l.own.live = live
			return l, l.own.load(live, liveBits, true)
		}
		err = errors.Join(err, live.Close())
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	l.own.live, err = newLive(dir, ls.N, boot)
	return l, err
}

// newLive makes an empty live file. Its header comes last: a live file without
// one does not count.
func newLive(dir folder, n int, boot string) (file, error) {
	f, err := dir.Create(liveName(n))
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt([]byte(boot), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func liveBoot(f file) ([]byte, error) {
	b := make([]byte, 64)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return bytes.TrimRight(b[:n], "\x00"), nil
}

func (v *volume) inside(off, length int64) error {
	if off < 0 || length < 0 || off > v.now.size || length > v.now.size-off {
		return millpond.Errorf(millpond.Range, "InvalidPageRange",
			"The range of %d bytes at %d lies outside of the disk of %d bytes.", length, off, v.now.size)
	}
	return nil
}

func (v *volume) readAt(p []byte, off int64) (int, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.now.readClipped(p, off)
}

// readClipped is io.ReaderAt over a stack.
func (s *stack) readClipped(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := int(max(0, min(int64(len(p)), s.size-off)))
	if err := s.readAt(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (v *volume) writeAt(p []byte, off int64) (int, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if err := v.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	// Set at the end: a Sync in between need not, and does not, cover this write.
	defer v.unsaved.Store(true)
	top, done := v.top(), 0
	if top.own == nil {
		return top.raw.WriteAt(p, off)
	}
	for done < len(p) {
		at := off + int64(done)
		b := at / BlockSize
		end := blocks(off + int64(len(p)))
		if free := top.own.nextFree(b, end); free > b {
			n, err := top.raw.WriteAt(p[done:min(int64(len(p)), free*BlockSize-off)], at)
			if done += n; err != nil {
				return done, err
			}
			continue
		}
		part := p[done:min(int64(len(p)), (b+1)*BlockSize-off)]
		if err := v.first(top, b, part, at); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// first writes to a block that was not the layer's own when the caller looked.
func (v *volume) first(top *layer, b int64, part []byte, at int64) error {
	stripe := &v.stripes[b%int64(len(v.stripes))]
	stripe.Lock()
	defer stripe.Unlock()
	if top.own.has(b) {
		_, err := top.raw.WriteAt(part, at)
		return err
	}
	start := b * BlockSize
	whole := min(BlockSize, v.now.size-start)
	if int64(len(part)) < whole {
		block := make([]byte, whole)
		if err := v.now.readAt(block, start); err != nil {
			return err
		}
		copy(block[at-start:], part)
		part, at = block, start
	}
	if _, err := top.raw.WriteAt(part, at); err != nil {
		return err
	}
	return top.own.set(b)
}

// clear turns a range to zeros. Where the disk has no data it does nothing: a
// guest that trims all its free space makes no block the layer's own for it.
func (v *volume) clear(off, length int64) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if err := v.inside(off, length); err != nil {
		return err
	}
	defer v.unsaved.Store(true)
	top, end := v.top(), off+length
	if top.own == nil {
		return top.raw.Punch(off, length)
	}
	below := stack{size: v.now.size, base: v.now.base, layers: v.now.layers[:len(v.now.layers)-1]}
	for off < end {
		b := off / BlockSize
		if free := min(top.own.nextFree(b, blocks(end))*BlockSize, end); free > off {
			if err := top.raw.Punch(off, free-off); err != nil {
				return err
			}
			off = free
			continue
		}
		mine := min(top.own.next(b, blocks(end))*BlockSize, end)
		data, _, err := below.nextData(off)
		if err != nil {
			return err
		}
		if data >= mine {
			off = mine
			continue
		}
		b = data / BlockSize
		off = max(off, b*BlockSize)
		n := min(end, (b+1)*BlockSize) - off
		if err := v.clearBlock(top, b, off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (v *volume) clearBlock(top *layer, b, off, n int64) error {
	start := b * BlockSize
	whole := min(BlockSize, v.now.size-start)
	if n < whole {
		return v.first(top, b, make([]byte, n), off)
	}
	stripe := &v.stripes[b%int64(len(v.stripes))]
	stripe.Lock()
	defer stripe.Unlock()
	// Stale bytes of a lost bit may be there: punch also what is not owned.
	if err := top.raw.Punch(start, whole); err != nil {
		return err
	}
	if top.own.has(b) {
		return nil
	}
	return top.own.set(b)
}

// sync makes everything durable whose write returned before.
func (v *volume) sync() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.syncTop()
}

func (v *volume) syncTop() error {
	v.syncing.Lock()
	defer v.syncing.Unlock()
	if v.broken != nil {
		return v.broken
	}
	if !v.unsaved.Swap(false) {
		return nil
	}
	if err := v.top().save(); err != nil {
		if errors.As(err, new(noRoom)) {
			// Nothing is lost: the next sync writes what this one could not.
			v.unsaved.Store(true)
			return err
		}
		// The kernel may have dropped the pages that it could not write, so a
		// later sync that succeeds would prove nothing.
		v.broken = fmt.Errorf("an earlier write of the disk failed: %w", err)
		return err
	}
	return nil
}

// noRoom says that a file could not be written because the host's disk is full, and
// that what was to be written is still here. A sync that fails for that is another thing.
type noRoom struct{ error }

func (e noRoom) Unwrap() error { return e.error }

func (l *layer) save() error {
	if l.own == nil {
		return l.raw.Sync()
	}
	pages := l.own.take()
	err := l.raw.Sync()
	if err == nil && len(pages) > 0 {
		for i, b := range pages {
			if _, err = l.mapf.WriteAt(b, int64(i)*pageBytes); errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				err = noRoom{err}
			}
			if err != nil {
				break
			}
		}
		if err == nil {
			err = l.mapf.Sync()
		}
	}
	if err != nil {
		l.own.giveBack(pages)
	}
	return err
}

// grow makes the disk larger. The files grow first, so that a description of
// the new size never stands over files of the old one.
func (v *volume) grow(size int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone.Load() {
		return errDeleted
	}
	if size == v.now.size {
		return nil
	}
	if size < v.now.size {
		return millpond.Errorf(millpond.Invalid, "ResizeDiskError",
			"The disk has %d bytes and cannot shrink to %d. Create a smaller disk and copy what you need.", v.now.size, size)
	}
	top := v.top()
	// The last block may have been shorter than a block: what lies behind the old
	// end in the raw file is nothing that anybody wrote.
	if err := top.raw.Punch(v.now.size, BlockSize); err != nil {
		return err
	}
	if err := errors.Join(top.raw.Truncate(size), top.raw.Sync()); err != nil {
		return err
	}
	next := v.st
	next.Layers = append([]layerState(nil), v.st.Layers...)
	next.Size, next.Layers[len(next.Layers)-1].Size = size, size
	if err := v.describe(next); err != nil {
		return err
	}
	if top.own != nil {
		top.own.grow(size)
	}
	top.size, v.now.size = size, size
	return nil
}

// describe writes the state. After an error nobody knows which of the two a
// crash would leave, so nothing more is promised to be durable.
func (v *volume) describe(next state) error {
	if err := next.write(v.dir); err != nil {
		v.syncing.Lock()
		defer v.syncing.Unlock()
		v.broken = fmt.Errorf("the disk's description could not be written: %w", err)
		return err
	}
	v.st = next
	return nil
}

func (v *volume) close() error { return v.now.release() }

var errDeleted = errors.New("the disk has been deleted")
