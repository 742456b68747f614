package layer

import (
	"errors"
	"fmt"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// maxLayers bounds the chain. It grows only when snapshots are begun and fail,
// each after new writes.
const maxLayers = 64

// Point is a moment in a disk's life: everything up to its layer N.
type Point struct {
	Layer int   `json:"layer"`
	Size  int64 `json:"size"`
}

// freeze makes the top layer immutable and begins a new one. It costs a sync of
// what was written since the last one, and then, with all writers waiting, the
// creation of three files. If nothing was written since the last freeze it
// returns that one's point.
func (v *volume) freeze() (Point, *Frozen, error) {
	// Most of what there is to sync is synced while writers go on.
	if err := v.sync(); err != nil {
		return Point{}, nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone.Load() {
		return Point{}, nil, errDeleted
	}
	if err := v.syncTop(); err != nil {
		return Point{}, nil, err
	}
	frozen := stack{size: v.now.size, base: v.now.base, layers: v.now.layers}
	top := v.top()
	last := top.n
	if top.own != nil && top.own.empty() {
		frozen.layers = v.now.layers[:len(v.now.layers)-1]
		last = 0 // the base itself
		if n := len(frozen.layers); n > 0 {
			last = frozen.layers[n-1].n
			// The disk may have grown since.
			if frozen.layers[n-1].size != v.now.size {
				frozen.layers, last = v.now.layers, top.n
			}
		}
	}
	if len(frozen.layers) == len(v.now.layers) {
		if err := v.push(); err != nil {
			return Point{}, nil, err
		}
	}
	f := &Frozen{s: frozen}
	f.s.layers = append([]*layer(nil), frozen.layers...)
	f.s.retain()
	return Point{last, frozen.size}, f, nil
}

// push begins a new top layer. The state that names it is written after its
// files are there; files that no state names are removed at the next opening.
func (v *volume) push() error {
	if len(v.st.Layers) >= maxLayers {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed",
			"The disk has %d unfinished snapshots. Delete the failed snapshots, see why they failed in the server's log, and let one succeed.", maxLayers-1)
	}
	ls := layerState{N: v.top().n + 1, Size: v.now.size}
	l, err := createLayer(v.dir, ls, v.boot)
	if err != nil {
		return err
	}
	next := v.st
	next.Layers = append(append([]layerState(nil), v.st.Layers...), ls)
	if err := v.describe(next); err != nil {
		return errors.Join(err, l.release())
	}
	old := v.top()
	v.now.layers = append(append([]*layer(nil), v.now.layers...), l)
	if old.own != nil && old.own.live != nil {
		// A frozen layer's bits are all in its map.
		_ = old.own.live.Close()
		old.own.live = nil
		return v.dir.Remove(liveName(old.n))
	}
	return nil
}

// createLayer makes the durable, empty files of a layer.
func createLayer(dir folder, ls layerState, boot string) (_ *layer, err error) {
	l := &layer{n: ls.N, size: ls.Size}
	l.refs.Store(1)
	if l.raw, err = dir.Create(rawName(ls.N)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.release())
		}
	}()
	if err = errors.Join(l.raw.Truncate(ls.Size), l.raw.Sync()); err != nil {
		return nil, err
	}
	if !ls.Whole {
		l.own = newBitmap(ls.Size)
		if l.mapf, err = dir.Create(mapName(ls.N)); err != nil {
			return nil, err
		}
		if err = l.mapf.Sync(); err != nil {
			return nil, err
		}
		if l.own.live, err = newLive(dir, ls.N, boot); err != nil {
			return nil, err
		}
	}
	return l, dir.Sync()
}

// rebase puts a content that has the bytes of the disk at a point in the place
// of everything up to that point. A point that is no more, because a later one
// was used, is no error and changes nothing.
func (v *volume) rebase(p Point, ref Ref, bases Bases) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone.Load() {
		return errDeleted
	}
	if ref.Size != p.Size || p.Size > v.now.size {
		return fmt.Errorf("the content %s has %d bytes and the disk had %d", ref.Content, ref.Size, p.Size)
	}
	drop := 0
	for i, l := range v.now.layers[:len(v.now.layers)-1] {
		if l.n == p.Layer {
			drop = i + 1
		}
	}
	if drop == 0 {
		// Point 0 is the base itself: the same bytes, and perhaps another store.
		if p.Layer != 0 || v.now.base == nil || v.now.base.ref.Content != ref.Content || v.now.base.ref == ref {
			return nil
		}
	}
	next := v.st
	next.Base = &ref
	next.Layers = append([]layerState(nil), v.st.Layers[drop:]...)
	if err := v.describe(next); err != nil {
		return err
	}
	dropped := stack{base: v.now.base, layers: v.now.layers[:drop]}
	v.now.layers = append([]*layer(nil), v.now.layers[drop:]...)
	v.now.base = &base{ref: ref, open: bases, refs: 1}
	errs := []error{dropped.release()}
	for _, l := range dropped.layers {
		errs = append(errs, v.dir.Remove(rawName(l.n)))
		if l.own != nil {
			errs = append(errs, v.dir.Remove(mapName(l.n)))
		}
	}
	return errors.Join(errs...)
}

// Frozen is a disk at a Point: an image.Source that knows its holes and the
// chunks that it has from its base. It is safe for concurrent use and stays
// readable while the disk goes on, is rebased or deleted.
type Frozen struct{ s stack }

func (f *Frozen) Size() int64                                          { return f.s.size }
func (f *Frozen) ReadAt(p []byte, off int64) (int, error)              { return f.s.readClipped(p, off) }
func (f *Frozen) NextData(off int64) (start, end int64, err error)     { return f.s.nextData(off) }
func (f *Frozen) KnownChunk(n int64) (digest image.Digest, known bool) { return f.s.knownChunk(n) }
func (f *Frozen) Close() error                                         { return f.s.release() }

// Base is the content below; nil if there is none. If Same is true the frozen
// disk is that content and nothing else.
func (f *Frozen) Base() (ref *Ref, same bool) {
	if f.s.base == nil {
		return nil, false
	}
	r := f.s.base.ref
	return &r, r.Size == f.s.size && len(f.s.layers) == 0
}
