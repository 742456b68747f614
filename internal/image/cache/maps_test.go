package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/image"
)

// later is a clock that is ahead of the system's by as much as a test wants.
type later struct {
	clock.System
	by atomic.Int64
}

func (l *later) Now() time.Time { return l.System.Now().Add(time.Duration(l.by.Load())) }

// foreseeAll wants every chunk.
func foreseeAll(ctx context.Context, src io.ReaderAt, size int64, want func(int64) error) error {
	if _, err := src.ReadAt(make([]byte, 512), 0); err != nil {
		return err
	}
	for off := int64(0); off < size; off += image.ChunkSize {
		if err := want(off); err != nil {
			return err
		}
	}
	return nil
}

func mustMap(t *testing.T, c *Cache, id image.ContentID, s *memStore) Mapping {
	t.Helper()
	m, err := c.Map(context.Background(), id, asStores([]*memStore{s}))
	if err != nil {
		t.Fatal(err)
	}
	if !m.Grows {
		return m
	}
	larger, err := c.Grow(context.Background(), id, m.Area, 10*time.Second)
	if err != nil || larger.Lease != m.Lease || larger.Grows || larger.Chunks < m.Chunks {
		t.Fatalf("%+v grows to %+v, %v", m, larger, err)
	}
	return larger
}

// readMap copies the map with QEMU's own tool, over a disk of zeros.
func readMap(t *testing.T, m Mapping, size int) []byte {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian: apt install qemu-utils)")
	}
	out := filepath.Join(t.TempDir(), "out")
	node := fmt.Sprintf(`json:{"driver":"qcow2","read-only":true,"file":{"driver":"raw","offset":%d,"file":{"driver":"file","filename":%q,"locking":"off"}}}`, m.Offset, m.File)
	if msg, err := exec.Command("qemu-img", "convert", "-O", "raw", node, out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != size {
		t.Fatalf("the map is of %d bytes; the disk has %d", len(b), size)
	}
	return b
}

func lock(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return f
}

// A map is the content for QEMU, stays as it is while its lease is locked, whatever
// comes into the cache and whichever process serves it, and is let go after that.
func TestMaps(t *testing.T) {
	dir, s, now := t.TempDir(), newStore("a"), &later{}
	data, other := content(1, 12), content(2, 60)
	id, m := ingest(data, s)
	otherID, _ := ingest(other, s)
	open := func() *Cache {
		return openCache(t, dir, 40, func(cfg *Config) { cfg.Foresee, cfg.Clock = foreseeAll, now })
	}
	c := open()
	first := mustMap(t, c, id, s)
	if first.Chunks != len(m.Chunks) {
		t.Fatalf("%d of %d chunks are mapped", first.Chunks, len(m.Chunks))
	}
	held := lock(t, first.Lease)
	second := mustMap(t, c, id, s)
	if second.Offset == first.Offset || second.Lease == first.Lease {
		t.Fatal("two machines have one map")
	}
	if st, _ := c.ContentStats(id); st.Mapped != len(m.Chunks) || st.Touched != 0 {
		t.Errorf("%+v", st)
	}
	churn := func(c *Cache) {
		t.Helper()
		o := openContent(t, c, otherID, s)
		for range 2 {
			for n := range 60 {
				mustRead(t, o, other, n*image.ChunkSize, 4096)
			}
		}
		o.Close()
	}
	churn(c)
	if !bytes.Equal(readMap(t, first, len(data)), data) {
		t.Fatal("the map changed")
	}
	// The next process knows the leases, and ends the one that nobody has locked.
	c.Close()
	c = open()
	now.by.Add(int64(2 * mapGrace))
	c.SweepMaps()
	if _, err := os.Stat(second.Lease); !os.IsNotExist(err) {
		t.Errorf("the second lease: %v", err)
	}
	churn(c)
	if !bytes.Equal(readMap(t, first, len(data)), data) {
		t.Fatal("the map changed under another process")
	}
	held.Close()
	now.by.Add(int64(2 * mapGrace))
	c.SweepMaps()
	if _, err := os.Stat(first.Lease); !os.IsNotExist(err) {
		t.Errorf("the first lease: %v", err)
	}
	churn(c)
	eventually(t, "no slot is held", func() bool {
		c.slab.mu.Lock()
		defer c.slab.mu.Unlock()
		return !slices.ContainsFunc(c.slab.slots, func(x slot) bool { return x.held != 0 })
	})
	if !bytes.Equal(readMap(t, mustMap(t, c, id, s), len(data)), data) {
		t.Fatal("a new map is wrong")
	}
}

// Maps hold half of the cache at most, and their number is bounded; a content that
// cannot be mapped is read all the same.
func TestMapsAreBounded(t *testing.T) {
	s := newStore("a")
	data := content(1, 38)
	id, _ := ingest(data, s)
	c := openCache(t, t.TempDir(), 40)
	o := openContent(t, c, id, s)
	if _, err := c.Map(context.Background(), id, asStores([]*memStore{s})); err == nil {
		t.Fatal("a content of which nothing is kept has a map")
	}
	mustRead(t, o, data, 0, len(data))
	eventually(t, "all is kept", func() bool { st, _ := c.ContentStats(id); return st.Kept == 37 })
	for range maxMaps {
		if m := mustMap(t, c, id, s); m.Chunks != 20 {
			t.Fatalf("%d chunks are mapped", m.Chunks)
		}
	}
	if _, err := c.Map(context.Background(), id, asStores([]*memStore{s})); err == nil {
		t.Fatal("there is a map more than there are areas")
	}
	mustRead(t, o, data, 0, len(data))
	if _, err := c.slab.mapped(t.TempDir(), &core{m: &image.Manifest{Size: mapTables*mapSpan + 512}}, nil); err == nil {
		t.Fatal("a disk that the tables do not cover has a map")
	}
}

// What was mapped for a boot is part of the order that it teaches.
func TestMapTeachesTheOrder(t *testing.T) {
	s := newStore("a")
	data := content(1, 12)
	id, _ := ingest(data, s)
	c := openCache(t, t.TempDir(), 40, func(cfg *Config) {
		cfg.Foresee = func(ctx context.Context, src io.ReaderAt, size int64, want func(int64) error) error {
			if _, err := src.ReadAt(make([]byte, 512), 0); err != nil {
				return err
			}
			return want(5 * image.ChunkSize)
		}
	})
	if got := mustMap(t, c, id, s); got.Chunks != 2 {
		t.Fatalf("%d chunks are mapped", got.Chunks)
	}
	o := openContent(t, c, id, s)
	mustRead(t, o, data, 9*image.ChunkSize, 512)
	o.Close()
	order, err := c.loadOrder(id)
	if err != nil || fmt.Sprint(order.chunks) != "[0 5 9]" {
		t.Fatalf("%v, %v", order, err)
	}
}

// A map that grows before the reading ahead is over teaches what had come by then, in
// its order. (With the race detector: nobody reads the order unguarded.)
func TestMapTeachesBeforeTheReadingAheadIsOver(t *testing.T) {
	s := newStore("a")
	data := content(1, 12)
	id, _ := ingest(data, s)
	looked, wait := make(chan struct{}), make(chan struct{})
	c := openCache(t, t.TempDir(), 40, func(cfg *Config) {
		cfg.Foresee = func(ctx context.Context, src io.ReaderAt, size int64, want func(int64) error) error {
			if _, err := src.ReadAt(make([]byte, 512), 0); err != nil {
				return err
			}
			close(looked)
			<-wait
			return want(5 * image.ChunkSize)
		}
	})
	m, err := c.Map(context.Background(), id, asStores([]*memStore{s}))
	if err != nil {
		t.Fatal(err)
	}
	<-looked
	eventually(t, "the first chunk is kept", func() bool { st, _ := c.ContentStats(id); return st.Kept == 1 })
	if m, err = c.Grow(context.Background(), id, m.Area, time.Millisecond); err != nil || m.Chunks != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	close(wait)
	o := openContent(t, c, id, s)
	mustRead(t, o, data, 9*image.ChunkSize, 512)
	o.Close()
	order, err := c.loadOrder(id)
	if err != nil || fmt.Sprint(order.chunks) != "[0 9]" {
		t.Fatalf("%v, %v", order, err)
	}
}

func FuzzLease(f *testing.F) {
	f.Add(formatLease([]int{1, 2, 70000}))
	f.Add([]byte(leaseMagic))
	f.Add(append(formatLease([]int{1}), formatLease([]int{1, 2})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		slots, err := parseLease(b)
		if err == nil && !bytes.Contains(b, formatLease(slots)) {
			t.Fatalf("%v is not what %x says", slots, b)
		}
	})
}
