package local

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/launch"
)

// Images has contents of image stores served to the VMs of this host;
// imagehost.Runner does.
type Images interface {
	// Provide returns when the contents are served. Code ImageUnreadable if no
	// store gives one.
	Provide(ctx context.Context, exports []imagehost.Export) error
	// Keep ends the exports that used does not name.
	Keep(ctx context.Context, used map[string]bool) error
	// Socket is where QEMU finds them.
	Socket() string
}

// contents names what the VMs of this launcher read.
type contents struct {
	images Images
	// mu orders Provide and Keep: a VM that is about to start is counted before
	// the exports that nobody uses are ended, or asks for its own after that.
	mu sync.Mutex
}

// keepLimit bounds the ending of exports; what was missed is ended the next time.
const keepLimit = 10 * time.Second

// exports are the contents that a VM reads on demand, and its managed disks.
func (l *Launcher) exports(spec launch.Spec) []imagehost.Export {
	var out []imagehost.Export
	for _, d := range append([]launch.Disk{spec.OSDisk}, spec.DataDisks...) {
		e, stores := imagehost.Export{Name: d.Content, Kind: imagehost.Content}, d.Stores
		if d.Managed != "" {
			e, stores = imagehost.Export{Name: d.Managed, Kind: imagehost.Disk, Folder: l.cfg.Managed}, l.cfg.ManagedStores
		}
		if e.Name == "" || d.FullCopy {
			continue
		}
		for _, s := range stores {
			e.Stores = append(e.Stores, imagehost.Place{Name: s.Name, URL: s.URL})
		}
		out = append(out, e)
	}
	return out
}

// provide has what a VM reads served.
func (l *Launcher) provide(ctx context.Context, spec launch.Spec) error {
	list := l.exports(spec)
	if len(list) == 0 {
		return nil
	}
	if l.contents.images == nil {
		return errors.New("this launcher has no image host, and the disk's base is in an image store")
	}
	l.contents.mu.Lock()
	defer l.contents.mu.Unlock()
	return l.contents.images.Provide(ctx, list)
}

// provideAll has everything served again that the VMs of an earlier server read,
// and starts an image host that has died meanwhile.
func (l *Launcher) provideAll(ctx context.Context) {
	for _, v := range l.all() {
		if !v.alive() {
			continue
		}
		if err := l.provide(ctx, v.cfg.Spec); err != nil && ctx.Err() == nil {
			l.cfg.Log.Error("the image of a running VM is not served", "node", string(v.cfg.Spec.Node), "err", err)
		}
	}
}

// keepImages ends the exports that no VM needs any more.
func (l *Launcher) keepImages(ctx context.Context) {
	if l.contents.images == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepLimit)
	defer cancel()
	l.contents.mu.Lock()
	defer l.contents.mu.Unlock()
	used := map[string]bool{}
	for _, spec := range l.templates.specs() {
		for _, e := range l.exports(spec) {
			used[e.Name] = true
		}
	}
	l.mu.Lock()
	for _, v := range l.vms {
		v.mu.Lock()
		spec := v.cfg.Spec
		spec.DataDisks = slices.Concat(spec.DataDisks, v.coming)
		v.mu.Unlock()
		for _, e := range l.exports(spec) {
			used[e.Name] = true
		}
	}
	l.mu.Unlock()
	if err := l.contents.images.Keep(ctx, used); err != nil && ctx.Err() == nil {
		l.cfg.Log.Warn("exports that no VM needs were not ended", "err", err)
	}
}
