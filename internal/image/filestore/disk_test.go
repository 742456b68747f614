package filestore_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/filestore"
	"millpond.dev/millpond/internal/image/imagetest"
)

func openDisks(t *testing.T) *filestore.Disks {
	t.Helper()
	d, err := filestore.OpenDisks(filepath.Join(t.TempDir(), "disks"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDiskPages(t *testing.T) {
	ctx := context.Background()
	d := openDisks(t)
	if err := d.Create(ctx, "one", 30<<30); err != nil {
		t.Fatal(err)
	}
	k, err := d.Open("one")
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	page := bytes.Repeat([]byte{7}, 1<<20)
	if _, err := k.WriteAt(page, 10<<30); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(page))
	if _, err := k.ReadAt(got, 10<<30); err != nil || !bytes.Equal(got, page) {
		t.Errorf("ReadAt: %v", err)
	}
	start, end, err := k.NextData(0)
	if err != nil || start != 10<<30 || end != 10<<30+1<<20 {
		t.Errorf("NextData = %d, %d, %v", start, end, err)
	}
	if err := k.Clear(10<<30, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, alloc, _ := d.Size("one"); alloc != 0 {
		t.Errorf("a cleared disk takes %d bytes", alloc)
	}
	for _, off := range []int64{-1, 30 << 30, 30<<30 - 1, 1 << 62} {
		if _, err := k.WriteAt([]byte("xx"), off); millpond.KindOf(err) != millpond.Range {
			t.Errorf("WriteAt(%d) = %v", off, err)
		}
	}
	if size, _, _ := d.Size("one"); size != 30<<30 {
		t.Errorf("the disk now has %d bytes", size)
	}
}

func TestDiskFromContentAndBack(t *testing.T) {
	ctx := context.Background()
	d := openDisks(t)
	s, err := chunkstore.Open(ctx, "westus2-1", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	src := imagetest.Random(5, 3*image.ChunkSize)
	c, err := s.Ingest(ctx, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := d.CreateFrom(ctx, "copy", r, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateFrom(ctx, "bigger", r, 10*image.ChunkSize, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateFrom(ctx, "smaller", r, 512, nil); millpond.KindOf(err) != millpond.Invalid {
		t.Errorf("CreateFrom to a smaller size = %v", err)
	}
	k, err := d.Open("copy")
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if back, err := s.Ingest(ctx, k, nil); err != nil || back.ID != c.ID {
		t.Errorf("the disk's content is %v, %v; want %s", back.ID, err, c.ID)
	}
	// Writing to the disk does not reach the content.
	if _, err := k.WriteAt([]byte("new"), 0); err != nil {
		t.Fatal(err)
	}
	was := make([]byte, len(src))
	if _, err := r.ReadAt(was, 0); err != nil || !bytes.Equal(was, src) {
		t.Errorf("writing to the disk reached the content (%v)", err)
	}
	big, err := d.Open("bigger")
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	all, err := io.ReadAll(io.NewSectionReader(big, 0, big.Size()))
	if err != nil || !bytes.Equal(all, append(src, make([]byte, 7*image.ChunkSize)...)) {
		t.Errorf("the grown disk has other bytes (%v)", err)
	}
}

func TestDiskLife(t *testing.T) {
	ctx := context.Background()
	d := openDisks(t)
	if err := d.Create(ctx, "a", 1<<20); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		err  error
		kind millpond.Kind
	}{
		"again":    {d.Create(ctx, "a", 1<<20), millpond.Conflict},
		"odd size": {d.Create(ctx, "b", 1000), millpond.Invalid},
		"no size":  {d.Create(ctx, "b", 0), millpond.Invalid},
		"shrink":   {d.Resize(ctx, "a", 512), millpond.Invalid},
		"no disk":  {d.Resize(ctx, "b", 1<<20), millpond.NotFound},
	} {
		if millpond.KindOf(tc.err) != tc.kind || tc.err == nil {
			t.Errorf("%s: %v", name, tc.err)
		}
	}
	if err := d.Create(ctx, "../b", 512); err == nil {
		t.Error("a name with a path was taken")
	}
	if _, err := d.Open("../a"); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("Open of a path = %v", err)
	}
	if err := d.Resize(ctx, "a", 2<<20); err != nil {
		t.Fatal(err)
	}
	if size, _, err := d.Size("a"); err != nil || size != 2<<20 {
		t.Errorf("Size = %d, %v", size, err)
	}
	if ids, err := d.List(); err != nil || len(ids) != 1 || ids[0] != "a" {
		t.Errorf("List = %v, %v", ids, err)
	}
	for range 2 {
		if err := d.Delete("a"); err != nil {
			t.Error(err)
		}
	}
	if ents, _ := os.ReadDir(filepath.Dir(d.Path("a"))); len(ents) != 0 {
		t.Errorf("left over: %v", ents)
	}
}
