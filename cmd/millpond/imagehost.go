package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/imagehost"
)

// ImageHostCmd serves images to the machines of this host. The local launcher
// starts it; it outlives the server.
type ImageHostCmd struct {
	Dir         string `help:"The image host's folder." required:"" type:"path"`
	CacheMiB    int64  `help:"How much of images is kept, in MiB." name:"cache-mib" default:"20480"`
	NoReadAhead bool   `help:"Do not read ahead in the order of an earlier boot."`
	Ready       bool   `help:"Write a line to descriptor 3 when it is ready." hidden:""`
}

// readyFD is the descriptor of the ready line.
const readyFD = 3

func (c *ImageHostCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cfg := imagehost.Config{Dir: c.Dir, CacheBytes: c.CacheMiB << 20, Version: version, OpenStore: openChunkStore, NoReadAhead: c.NoReadAhead,
		Clock: clock.System{}, Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	if c.Ready {
		var ready io.WriteCloser = os.NewFile(readyFD, "ready")
		cfg.Ready = ready
	}
	return imagehost.Run(ctx, cfg)
}

// openChunkStore opens a store for the image host.
func openChunkStore(ctx context.Context, p imagehost.Place) (cache.Store, error) {
	s, err := chunkstore.Open(ctx, p.Name, p.URL)
	if err != nil {
		return nil, err
	}
	return s, nil
}

var _ cache.Store = image.Store(nil)

// openImages makes what sees that this host has an image host.
func openImages(dir, self string, cacheMiB int64, log *slog.Logger) (*imagehost.Runner, error) {
	if cacheMiB == 0 {
		var err error
		if cacheMiB, err = defaultImageCache(dir); err != nil {
			return nil, err
		}
	}
	return imagehost.NewRunner(imagehost.RunnerConfig{Dir: dir, Version: version, CacheBytes: cacheMiB << 20, Log: log,
		Command: []string{self, "image-host", "--dir", dir, "--cache-mib", strconv.FormatInt(cacheMiB, 10), "--ready"}})
}

// defaultImageCache is a tenth of the disk's size, not of what is free on it now:
// a bound that is another one at every start would replace the process each time.
func defaultImageCache(dir string) (mib int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("size of the disk of %s: %w", dir, err)
	}
	tenth := int64(st.Blocks) / 10 * int64(st.Bsize) >> 20
	return max(min(tenth, 20<<10), 1<<10), nil
}

// liveDisks reaches the disks of running VMs, which the image host has open.
type liveDisks struct{ s *server }

func (l liveDisks) client() (*imagehost.Client, error) {
	if l.s.images == nil {
		return nil, millpond.Errorf(millpond.Conflict, "DiskInUse", "Another process has the disk open, and this launcher has no image host. End that process and try again.")
	}
	return l.s.images.Client(), nil
}

func (l liveDisks) Freeze(ctx context.Context, disk string) (layer.Point, error) {
	c, err := l.client()
	if err != nil {
		return layer.Point{}, err
	}
	return c.Freeze(ctx, disk)
}

func (l liveDisks) Rebase(ctx context.Context, disk string, p layer.Point, ref layer.Ref) error {
	c, err := l.client()
	if err != nil {
		return err
	}
	return c.Rebase(ctx, disk, p, ref)
}

func (l liveDisks) Release(ctx context.Context, disk string) error {
	c, err := l.client()
	if err != nil {
		return err
	}
	return c.Release(ctx, disk)
}
