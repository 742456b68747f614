package imagehost

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/image/layer"
)

// Disk is a managed disk, read and written, for one machine. The export's name is
// the disk's in its folder. The image host has the disk open from its
// registration to its end, so nobody else writes to it while the machine's
// connection is being made anew.
const Disk Kind = "disk"

// inUseLimit is how long a registration waits for the server to close a disk: it
// has one open for moments only.
const inUseLimit = 5 * time.Second

// checkDisk is check for a managed disk.
func (e Export) checkDisk() error {
	if !filepath.IsAbs(e.Folder) {
		return errors.New("a managed disk needs the absolute path of its folder")
	}
	return nil
}

// folder opens a folder of disks once.
func (h *host) folder(path string) (*layer.Disks, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.folders[path]; d != nil {
		return d, nil
	}
	d, err := layer.OpenDisks(path, h.bases)
	if err == nil {
		h.folders[path] = d
	}
	return d, err
}

// bases reads the contents that disks lie on through the cache: first from the
// store that the disk names, then from the other stores that exports named.
func (h *host) bases(ref layer.Ref) (layer.Contents, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var places []Place
	for _, e := range h.exports {
		if e.Kind != Disk {
			continue
		}
		for _, p := range e.Stores {
			if !slices.Contains(places, p) {
				places = append(places, p)
			}
		}
	}
	slices.SortStableFunc(places, func(a, b Place) int {
		switch {
		case a.Name == ref.Store && b.Name != ref.Store:
			return -1
		case a.Name != ref.Store && b.Name == ref.Store:
			return 1
		}
		return 0
	})
	return baseContents{h, places}, nil
}

// baseContents reads contents from stores through the cache.
type baseContents struct {
	h      *host
	places []Place
}

func (b baseContents) Manifest(ctx context.Context, id image.ContentID) (*image.Manifest, error) {
	stores, err := b.h.openStores(ctx, id, b.places)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, s := range stores {
		m, err := s.Manifest(ctx, id)
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (b baseContents) Open(ctx context.Context, id image.ContentID) (image.ReadCloser, error) {
	m, err := b.Manifest(ctx, id)
	if err != nil {
		return nil, err
	}
	// The stores that do not have it would only be asked in vain.
	stores, err := b.h.openStores(ctx, id, b.places)
	if err != nil {
		return nil, err
	}
	stores = slices.DeleteFunc(stores, func(s cache.Store) bool { _, err := s.Manifest(ctx, id); return err != nil })
	o, err := b.h.cache.Open(context.WithoutCancel(ctx), id, stores)
	if err != nil {
		return nil, err
	}
	return &baseContent{o, m.Numbers()}, nil
}

// baseContent is a content that knows its holes.
type baseContent struct {
	*cache.Content
	chunks []int64
}

func (b *baseContent) NextData(off int64) (start, end int64, err error) {
	start, end = image.NextChunks(b.chunks, b.Size(), off)
	return start, end, nil
}

// diskDevice is a managed disk as a disk of a machine.
type diskDevice struct{ *layer.Disk }

func (diskDevice) ReadOnly() bool                         { return false }
func (d diskDevice) Trim(off, n int64) error              { return d.Disk.Clear(off, n) }
func (d diskDevice) Clear(off, n int64, punch bool) error { return d.Disk.Clear(off, n) }
func (d diskDevice) Flush() error                         { return d.Disk.Sync() }

// openDisk opens the disk of an export if it is not open.
func (h *host) openDisk(ctx context.Context, e *export) error {
	e.opening.Lock()
	defer e.opening.Unlock()
	h.mu.Lock()
	open, name, folder := e.disk != nil, e.Name, e.Folder
	h.mu.Unlock()
	if open {
		return nil
	}
	disks, err := h.folder(folder)
	if err != nil {
		return err
	}
	limit := time.NewTimer(inUseLimit)
	defer limit.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		k, err := disks.Open(name)
		if err == nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			// An export that ended meanwhile would keep the disk from everybody.
			if h.exports[name] != e {
				return errors.Join(noDisk(name), k.Close())
			}
			e.disk = k
			return nil
		}
		if millpond.KindOf(err) != millpond.Conflict {
			return err
		}
		select {
		case <-again.C:
		case <-limit.C:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func noDisk(name string) error {
	return millpond.Errorf(millpond.NotFound, "ExportNotFound", "The image host serves no disk %q.", name)
}

// withDisk calls f with the disk of an export. f has a handle of its own: the
// export may end meanwhile, and whoever opens the disk next would take the files
// of a freeze under way for rubbish.
func (h *host) withDisk(ctx context.Context, name string, f func(*layer.Disk) error) error {
	h.mu.Lock()
	e := h.exports[name]
	h.mu.Unlock()
	if e == nil || e.Kind != Disk {
		return noDisk(name)
	}
	if err := h.openDisk(ctx, e); err != nil {
		return err
	}
	disks, err := h.folder(e.Folder)
	if err != nil {
		return err
	}
	k, err := disks.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f(k), k.Close())
}

// Rebasing is the body of a rebase.
type Rebasing struct {
	Point layer.Point `json:"point"`
	Ref   layer.Ref   `json:"ref"`
}

// diskRoutes are the verbs of managed disks.
func (h *host) diskRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/exports/{name}/freeze", func(w http.ResponseWriter, r *http.Request) {
		var p layer.Point
		err := h.withDisk(r.Context(), r.PathValue("name"), func(k *layer.Disk) error {
			at, f, err := k.Freeze()
			if err != nil {
				return err
			}
			p = at
			// Its files stay until the disk is rebased.
			return f.Close()
		})
		answer(w, p, err)
	})
	mux.HandleFunc("POST /v1/exports/{name}/rebase", func(w http.ResponseWriter, r *http.Request) {
		var b Rebasing
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&b)
		if err != nil {
			err = millpond.Errorf(millpond.Invalid, "InvalidRebase", "The rebase cannot be read: %v.", err)
		} else {
			err = h.withDisk(r.Context(), r.PathValue("name"), func(k *layer.Disk) error { return k.Rebase(b.Point, b.Ref) })
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/exports/{name}/release", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, h.release(r.PathValue("name")))
	})
}

// release ends the export of a disk that no machine has open.
func (h *host) release(name string) error {
	h.mu.Lock()
	e := h.exports[name]
	if e == nil || e.Kind != Disk {
		h.mu.Unlock()
		return nil
	}
	if e.clients > 0 {
		h.mu.Unlock()
		return millpond.Errorf(millpond.Conflict, "DiskInUse", "A machine has the disk %s open. Stop the machine first.", name)
	}
	k := h.remove(e)
	h.mu.Unlock()
	// The server opens it next, so the answer waits.
	h.closeDisk(k)
	return nil
}
