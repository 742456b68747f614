package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"millpond.dev/millpond/internal/image"
)

// A map is there at once, and is followed by one with what was fetched meanwhile; both
// have it at the same places, and keep it for those that read by either.
func TestMapGrows(t *testing.T) {
	dir, s, now := t.TempDir(), newStore("a"), &later{}
	data := content(1, 12)
	id, m := ingest(data, s)
	let := make(chan struct{})
	open := func() *Cache {
		return openCache(t, dir, 40, func(cfg *Config) {
			cfg.Clock = now
			cfg.Foresee = func(ctx context.Context, src io.ReaderAt, size int64, want func(int64) error) error {
				<-let
				return foreseeAll(ctx, src, size, want)
			}
		})
	}
	c := open()
	o := openContent(t, c, id, s)
	mustRead(t, o, data, 0, 512)
	eventually(t, "the first chunk is kept", func() bool { st, _ := c.ContentStats(id); return st.Kept == 1 })
	first, err := c.Map(context.Background(), id, asStores([]*memStore{s}))
	if err != nil || first.Chunks != 1 || !first.Grows {
		t.Fatalf("%+v, %v", first, err)
	}
	held := lock(t, first.Lease)
	if _, err := c.Grow(context.Background(), "another", first.Area, time.Second); err == nil {
		t.Error("the map of another content grows")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Grow(ctx, id, first.Area, time.Minute); err != context.Canceled {
		t.Errorf("who has gone waits: %v", err)
	}
	close(let)
	larger, err := c.Grow(context.Background(), id, first.Area, time.Minute)
	if err != nil || larger.Chunks != len(m.Chunks) || larger.Grows || larger.Offset == first.Offset || larger.File != first.File || larger.Lease != first.Lease {
		t.Fatalf("%+v, %v", larger, err)
	}
	if _, err := c.Grow(context.Background(), id, first.Area, time.Second); err == nil {
		t.Error("a map grows twice")
	}
	o.Close()

	// Whoever crashed while it made another part of the lease has promised nothing by it.
	f, err := os.OpenFile(first.Lease, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(formatLease([]int{1, 2, 3})[:len(leaseMagic)+6]); err != nil {
		t.Fatal(err)
	}
	f.Close()
	c.Close()
	c = open()
	other, _ := content(2, 60), 0
	otherID, _ := ingest(other, s)
	o = openContent(t, c, otherID, s)
	for n := range 60 {
		mustRead(t, o, other, n*image.ChunkSize, 512)
	}
	now.by.Add(int64(2 * mapGrace))
	c.SweepMaps()
	if !bytes.Equal(readMap(t, larger, len(data)), data) {
		t.Error("the larger map changed under another process")
	}
	if got := readMap(t, first, len(data)); !bytes.Equal(got[:image.ChunkSize], data[:image.ChunkSize]) || !bytes.Equal(got[image.ChunkSize:], make([]byte, len(data)-image.ChunkSize)) {
		t.Error("the first map changed")
	}
	if _, err := c.Grow(context.Background(), id, first.Area, time.Second); err == nil {
		t.Error("a map of another process grows")
	}
	held.Close()
}

// With nothing to add there is no larger map, and with nothing to come none that grows.
func TestMapStays(t *testing.T) {
	s := newStore("a")
	data := content(1, 12)
	id, m := ingest(data, s)
	c := openCache(t, t.TempDir(), 40, func(cfg *Config) { cfg.Foresee = foreseeAll })
	o := openContent(t, c, id, s)
	mustRead(t, o, data, 0, len(data))
	eventually(t, "all is kept", func() bool { st, _ := c.ContentStats(id); return st.Kept == len(m.Chunks) })
	first, err := c.Map(context.Background(), id, asStores([]*memStore{s}))
	if err != nil || first.Chunks != len(m.Chunks) {
		t.Fatalf("%+v, %v", first, err)
	}
	same, err := c.Grow(context.Background(), id, first.Area, time.Minute)
	if first.Grows = false; err != nil || same != first {
		t.Errorf("%+v, %v", same, err)
	}
	large := &core{id: "large", m: &image.Manifest{Size: halfTables*mapSpan + 512, Chunks: o.core.m.Chunks}}
	if got, err := c.slab.mapped(t.TempDir(), large, &aheadRun{}); err == nil || got.Grows {
		// Its folder has no place for leases.
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := c.slab.mapped(c.cfg.Dir, large, &aheadRun{}); err != nil || got.Grows {
		t.Errorf("a disk whose tables fill an area: %+v, %v", got, err)
	}
}

// Of a lease's parts the last whole one counts.
func TestLeaseParts(t *testing.T) {
	a, b := formatLease([]int{1, 2}), formatLease([]int{1, 2, 3})
	for _, c := range []struct {
		lease []byte
		want  string
	}{
		{a, "[1 2] <nil>"},
		{append(bytes.Clone(a), b...), "[1 2 3] <nil>"},
		{append(bytes.Clone(a), b[:len(b)-1]...), "[1 2] <nil>"},
		{append(bytes.Clone(a), b[:5]...), "[1 2] <nil>"},
		{append(bytes.Clone(a[:len(a)-1]), b...), "[] it is not a lease of a map"},
		{b[1:], "[] it is not a lease of a map"},
		{nil, "[] it is not a lease of a map"},
	} {
		if got, err := parseLease(c.lease); fmt.Sprint(got, err) != c.want {
			t.Errorf("%q: %v %v, want %s", c.lease, got, err, c.want)
		}
	}
}
