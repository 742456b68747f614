package imagehost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/nbd"
	"millpond.dev/millpond/internal/process"
)

// Config is what an image host is made from. Dir, CacheBytes, OpenStore, Clock
// and Log are required.
type Config struct {
	// Dir is the host's folder: sockets, handle, cache.
	Dir string
	// CacheBytes bounds the chunks on disk.
	CacheBytes int64
	// Version is the build's; a launcher of another one replaces the process.
	Version string
	// OpenStore opens an image store; it is called once for each.
	OpenStore func(ctx context.Context, p Place) (cache.Store, error)
	// Ready, if not nil, gets a line when both sockets answer, and is closed.
	Ready io.WriteCloser
	// NoReadAhead leaves out reading ahead in a learned order.
	NoReadAhead bool
	Clock       clock.Clock
	Log         *slog.Logger
}

const (
	// memoryLimit is what the collector keeps the process under: buffers of
	// requests, chunks under way, manifests.
	memoryLimit = 160 << 20
	// idleLimit is how long a process stays that nobody talks to: its server is
	// gone and so are the VMs. A server that runs asks every few seconds.
	idleLimit = 10 * time.Minute
	// lookInterval is how often it looks whether it is still wanted.
	lookInterval = 2 * time.Second
)

// host is the running process.
type host struct {
	cfg   Config
	cache *cache.Cache
	self  process.ID
	begun time.Time
	stop  context.CancelFunc

	mu      sync.Mutex
	exports map[string]*export
	stores  map[Place]cache.Store
	folders map[string]*layer.Disks

	// spoken is when somebody last used a socket.
	spoken atomic.Pointer[time.Time]
	// closing are the disks that are being made durable after their export.
	closing sync.WaitGroup
}

// export is one that is served, with its clients.
type export struct {
	Export
	clients int
	// leaving: it goes with its last client.
	leaving bool
	// disk is a managed disk's, while it is open; opening is held to open it.
	disk    *layer.Disk
	opening sync.Mutex
}

// Run is the image host of a folder until the context ends or it is told to stop.
func Run(ctx context.Context, cfg Config) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(50)
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	cfg.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := process.Lock(filepath.Join(dir, lockFile))
	if errors.Is(err, process.ErrLocked) {
		return ErrRunning
	}
	if err != nil {
		return err
	}
	defer lock.Close()

	h := &host{cfg: cfg, begun: cfg.Clock.Now(), exports: map[string]*export{}, stores: map[Place]cache.Store{}, folders: map[string]*layer.Disks{}}
	h.spoke()
	if h.self, err = process.Of(os.Getpid()); err != nil {
		return err
	}
	if h.cache, err = cache.Open(cache.Config{Dir: filepath.Join(dir, cacheFolder), Limit: cfg.CacheBytes, Clock: cfg.Clock, Log: cfg.Log, NoReadAhead: cfg.NoReadAhead,
		Foresee: foresee}); err != nil {
		return fmt.Errorf("open the cache: %w", err)
	}
	defer h.cache.Close()
	saved, err := loadExports(dir)
	if err != nil {
		cfg.Log.Warn("the exports of the last process cannot be read", "err", err)
	}
	for _, e := range saved {
		h.exports[e.Name] = &export{Export: e}
	}
	defer h.closeDisks()
	ctx, h.stop = context.WithCancel(ctx)
	defer h.stop()
	return h.serve(ctx, lock)
}

// foresee guesses what the boot of a content reads. A content that is not a disk
// with a Linux has nothing.
func foresee(ctx context.Context, src io.ReaderAt, size int64, want func(off int64) error) error {
	return inspect.BootReads(ctx, src, size, image.ChunkSize, want)
}

// closeDisks makes what machines wrote durable at the end.
func (h *host) closeDisks() {
	h.mu.Lock()
	for _, e := range h.exports {
		h.closeDisk(h.takeDisk(e))
	}
	h.mu.Unlock()
	h.closing.Wait()
}

// takeDisk takes the open disk of an export, if there is one, for closeDisk; with h.mu.
func (h *host) takeDisk(e *export) *layer.Disk {
	k := e.disk
	if e.disk = nil; k != nil {
		h.closing.Add(1)
	}
	return k
}

// closeDisk makes durable what a machine wrote, and closes the disk, nil for none.
// Without h.mu: it takes as long as the host's disk does, and other machines start
// meanwhile. One that opens this disk has a handle of its own on the same files.
func (h *host) closeDisk(k *layer.Disk) {
	if k == nil {
		return
	}
	defer h.closing.Done()
	// Also without it the disk would be durable at the end of a machine that shut down;
	// one that was killed gets here what it wrote.
	if err := errors.Join(k.Sync(), k.Close()); err != nil {
		h.cfg.Log.Error("a managed disk was not closed", "disk", k.ID(), "err", err)
	}
}

// serve listens, says that it is ready, and serves until the end.
func (h *host) serve(ctx context.Context, lock *os.File) error {
	disks, err := h.listen(nbdSocket)
	if err != nil {
		return err
	}
	defer disks.Close()
	control, err := h.listen(ctlSocket)
	if err != nil {
		return err
	}
	defer control.Close()
	if err := h.saveHandle(); err != nil {
		return err
	}
	h.cfg.Log.Info("the image host is ready", "pid", h.self.PID, "version", h.cfg.Version, "exports", len(h.exports))
	if h.cfg.Ready != nil {
		if _, err := io.WriteString(h.cfg.Ready, "ready\n"); err != nil {
			return err
		}
		h.cfg.Ready.Close()
	}
	web := &http.Server{Handler: h.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelWarn)}
	server := nbd.NewServer(nbd.Config{Exports: h, Log: h.cfg.Log})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(ctx, disks) })
	g.Go(func() error {
		if err := web.Serve(control); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return web.Shutdown(limit)
	})
	g.Go(func() error { h.watch(ctx, lock); return nil })
	err = g.Wait()
	h.cfg.Log.Info("the image host ends", "err", err)
	return err
}

// listen makes a socket of the folder. The lock is ours, so one that is there is
// a dead process's.
func (h *host) listen(name string) (net.Listener, error) {
	if err := os.Remove(filepath.Join(h.cfg.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	path, release, err := shortPath(h.cfg.Dir, name)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	// The name is by way of a descriptor that is closed now; the next process
	// removes the file.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(filepath.Join(h.cfg.Dir, name), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// watch ends a process that nobody wants: its folder has gone, or nobody has
// spoken to it for long.
func (h *host) watch(ctx context.Context, lock *os.File) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		mine, err := lock.Stat()
		there, errThere := os.Stat(filepath.Join(h.cfg.Dir, lockFile))
		if err != nil || errThere != nil || !os.SameFile(mine, there) {
			h.stop()
			return
		}
		h.mu.Lock()
		for _, e := range h.exports {
			if e.clients > 0 {
				h.spoke()
			}
		}
		h.mu.Unlock()
		h.cache.SweepMaps()
		idle := time.Since(*h.spoken.Load())
		if idle > idleLimit {
			h.cfg.Log.Info("nobody uses the image host", "for", idle.Round(time.Second))
			h.stop()
			return
		}
	}
}

func (h *host) spoke() {
	now := time.Now()
	h.spoken.Store(&now)
}

// Handle names the process of a folder.
type Handle struct {
	Version int        `json:"version"`
	Process process.ID `json:"process"`
	Build   string     `json:"build"`
}

const handleVersion = 1

func (h *host) saveHandle() error {
	b, err := json.Marshal(Handle{handleVersion, h.self, h.cfg.Version})
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(h.cfg.Dir, handleFile), append(b, '\n'), 0o600)
}

// LoadHandle reads the handle of the last process; the zero Handle without one.
func LoadHandle(dir string) (Handle, error) {
	b, err := os.ReadFile(filepath.Join(dir, handleFile))
	if errors.Is(err, os.ErrNotExist) {
		return Handle{}, nil
	}
	var handle Handle
	if err == nil {
		err = json.Unmarshal(b, &handle)
	}
	return handle, err
}

// Open implements nbd.Exports.
func (h *host) Open(ctx context.Context, name string) (nbd.Device, func(), error) {
	h.mu.Lock()
	e := h.exports[name]
	if e == nil {
		h.mu.Unlock()
		return nil, nil, nbd.Unknown("the image host does not serve this; the server that started the machine names what it needs")
	}
	e.clients++
	h.spoke()
	places := e.Stores
	h.mu.Unlock()
	if e.Kind == Disk {
		if err := h.openDisk(ctx, e); err != nil {
			h.leave(e)
			h.cfg.Log.Error("a managed disk cannot be opened", "disk", name, "err", err)
			return nil, nil, nbd.Refuse(err.Error())
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		return diskDevice{e.disk}, func() { h.leave(e) }, nil
	}
	var o *cache.Content
	stores, err := h.openStores(ctx, image.ContentID(name), places)
	if err == nil {
		o, err = h.cache.Open(ctx, image.ContentID(name), stores)
	}
	if err != nil {
		h.leave(e)
		h.cfg.Log.Error("an export cannot be opened", "export", name, "err", err)
		return nil, nil, nbd.Refuse(err.Error())
	}
	return contentDevice{o}, func() { o.Close(); h.leave(e) }, nil
}

// leave counts a client out.
func (h *host) leave(e *export) {
	h.mu.Lock()
	var k *layer.Disk
	e.clients--
	h.spoke()
	if e.leaving && e.clients == 0 {
		k = h.remove(e)
	}
	h.mu.Unlock()
	h.closeDisk(k)
}

// remove takes an export away; with h.mu. Its disk is for closeDisk.
func (h *host) remove(e *export) *layer.Disk {
	if h.exports[e.Name] == e {
		delete(h.exports, e.Name)
	}
	if e.Kind == Content {
		h.cache.Forget(image.ContentID(e.Name))
	}
	if err := h.save(); err != nil {
		h.cfg.Log.Error("the exports were not saved", "err", err)
	}
	return h.takeDisk(e)
}

// save writes the exports down; with h.mu.
func (h *host) save() error {
	list := make([]Export, 0, len(h.exports))
	for _, e := range h.exports {
		list = append(list, e.Export)
	}
	slices.SortFunc(list, func(a, b Export) int { return strings.Compare(a.Name, b.Name) })
	return saveExports(h.cfg.Dir, list)
}

// Names implements nbd.Exports.
func (h *host) Names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name := range h.exports {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// openStores are those of a content's stores that can be opened.
func (h *host) openStores(ctx context.Context, id image.ContentID, places []Place) ([]cache.Store, error) {
	var stores []cache.Store
	var errs []error
	for _, p := range places {
		s, err := h.store(ctx, p)
		if err != nil {
			h.cfg.Log.Warn("a store cannot be opened", "store", p.Name, "url", p.URL, "err", err)
			errs = append(errs, fmt.Errorf("store %s: %w", p.Name, err))
			continue
		}
		stores = append(stores, s)
	}
	if len(stores) == 0 {
		return nil, errors.Join(append([]error{fmt.Errorf("content %s has no store that can be opened", id)}, errs...)...)
	}
	return stores, nil
}

// store opens a store once.
func (h *host) store(ctx context.Context, p Place) (cache.Store, error) {
	h.mu.Lock()
	s := h.stores[p]
	h.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := h.cfg.OpenStore(ctx, p)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.stores[p]; old != nil {
		return old, nil
	}
	h.stores[p] = s
	return s, nil
}

// contentDevice is a content as a disk.
type contentDevice struct{ *cache.Content }

func (contentDevice) ReadOnly() bool                       { return true }
func (contentDevice) WriteAt([]byte, int64) (int, error)   { return 0, nbd.ErrReadOnly }
func (contentDevice) Trim(off, n int64) error              { return nbd.ErrReadOnly }
func (contentDevice) Clear(off, n int64, punch bool) error { return nbd.ErrReadOnly }
func (contentDevice) Flush() error                         { return nil }

// CodeUnreadable is the code of a content that no store gives.
const CodeUnreadable = "ImageUnreadable"

// asError is an error of the control API.
func asError(err error) *millpond.Error {
	var e *millpond.Error
	if errors.As(err, &e) {
		return e
	}
	var u *cache.UnreadableError
	if errors.As(err, &u) {
		return millpond.Errorf(millpond.Unavailable, CodeUnreadable, "%s", u.Error())
	}
	return millpond.Errorf(millpond.Unavailable, CodeUnreadable, "%s", err.Error())
}
