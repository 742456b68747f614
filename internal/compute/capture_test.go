package compute

import (
	"bytes"
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

func diskID(kind, name string) millpond.ResourceID {
	id, _ := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.Compute/" + kind + "/" + name)
	return id
}

// made creates a disk or snapshot and waits for it.
func made(t *testing.T, s *Service, kind, name string, d millpond.Disk, sizeGB int32) *millpond.Disk {
	t.Helper()
	ctx := context.Background()
	d.ID, d.Location, d.Snapshot = diskID(kind, name), "westus2", kind == "snapshots"
	_, op, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: d, SizeGB: sizeGB})
	if err != nil {
		t.Fatal(err)
	}
	if op != nil {
		s.start(ctx, d.ID)
		s.Wait()
	}
	out, err := s.Disk(ctx, d.ID)
	if err != nil || out.Base().State != millpond.StateSucceeded {
		t.Fatalf("%s: %s %q, %v", name, out.Base().State, out.Failure, err)
	}
	return out
}

func write(t *testing.T, s *Service, d *millpond.Disk, off int64, b []byte) {
	t.Helper()
	k, err := s.Disks.Open(d.File)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func copyOf(kind, name string) millpond.CreationData {
	return millpond.CreationData{Option: millpond.CreateCopy, SourceID: diskID(kind, name).String()}
}

// storeBytes is the size of all files of the test's store.
func storeBytes(t *testing.T, s *Service) (n int64) {
	t.Helper()
	home, err := s.Keeper.Home("westus2")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(strings.TrimPrefix(home.URL(), "file://"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if fi, err := e.Info(); err == nil {
				n += fi.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSnapshotsAndCopiesCostWhatChanged(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	data := make([]byte, 16<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	write(t, s, d, 100<<20, data)
	one := made(t, s, "snapshots", "one", millpond.Disk{Creation: copyOf("disks", "d"), Incremental: true}, 0)
	if info, err := s.Disks.Stat(d.File); err != nil || info.Base == nil || string(info.Base.Content) != one.Content || info.Allocated > 256<<10 {
		t.Errorf("the disk after its snapshot: %+v, %v", info, err)
	}
	before := storeBytes(t, s)
	write(t, s, d, 101<<20, []byte("changed"))
	two := made(t, s, "snapshots", "two", millpond.Disk{Creation: copyOf("disks", "d"), Incremental: true}, 0)
	if grown := storeBytes(t, s) - before; grown > 1<<20 {
		t.Errorf("a snapshot of one changed block takes %d bytes", grown)
	}
	store, err := s.Keeper.Store(two.Store)
	if err != nil {
		t.Fatal(err)
	}
	a, err := store.Manifest(ctx, image.ContentID(one.Content))
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Manifest(ctx, image.ContentID(two.Content))
	if err != nil {
		t.Fatal(err)
	}
	var differ []int64
	for n, d := range b.Chunks {
		if a.Chunks[n] != d {
			differ = append(differ, n)
		}
	}
	if len(differ) != 1 || differ[0] != 101<<20/image.ChunkSize {
		t.Errorf("chunks %v differ", differ)
	}
	// A disk of the first snapshot, larger, copies nothing and has its bytes.
	e := made(t, s, "disks", "e", millpond.Disk{Creation: copyOf("snapshots", "one")}, 2)
	if info, err := s.Disks.Stat(e.File); err != nil || info.Allocated > 256<<10 || info.Size != 2<<30 {
		t.Errorf("a disk of a snapshot: %+v, %v", info, err)
	}
	k, err := s.Disks.Open(e.File)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	got := make([]byte, len(data))
	if _, err := k.ReadAt(got, 100<<20); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes (%v)", err)
	}
	// The disk keeps its base when the snapshot goes.
	if _, err := s.DeleteDisk(ctx, one.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Stat(ctx, image.ContentID(one.Content)); err != nil {
		t.Errorf("the disk's base is gone: %v", err)
	}
	k.Close()
	if _, err := s.DeleteDisk(ctx, e.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Stat(ctx, image.ContentID(one.Content)); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("nothing uses it: %v", err)
	}
	if _, err := store.Stat(ctx, image.ContentID(two.Content)); err != nil {
		t.Errorf("%v", err)
	}
}

// TestSnapshotsGrow: at creation and later a snapshot may be larger than what it was
// made of, and has zeros there.
func TestSnapshotsGrow(t *testing.T) {
	s, ctx := testService(t), context.Background()
	d := made(t, s, "disks", "d", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	write(t, s, d, gib-4096, []byte("the end"))
	snap := made(t, s, "snapshots", "larger", millpond.Disk{Creation: copyOf("disks", "d")}, 2)
	first := snap.Content
	holds := func(d *millpond.Disk, size int64) {
		t.Helper()
		of := made(t, s, "disks", "of", millpond.Disk{Creation: copyOf("snapshots", "larger")}, 0)
		b, err := s.openDisk(ctx, of, false)
		if err != nil {
			t.Fatal(err)
		}
		got, end := make([]byte, 8192), make([]byte, 4096)
		_, err = b.ReadAt(got, gib-4096)
		_, last := b.ReadAt(end, size-4096)
		if err != nil || last != nil || string(got[:7]) != "the end" || !bytes.Equal(got[7:], make([]byte, 8185)) || !bytes.Equal(end, make([]byte, 4096)) || d.SizeBytes != size || of.SizeBytes != size {
			t.Errorf("%v %v, %d and %d bytes, %q", err, last, d.SizeBytes, of.SizeBytes, got[:7])
		}
		b.Close()
		if _, err := s.DeleteDisk(ctx, of.ID); err != nil {
			t.Fatal(err)
		}
	}
	holds(snap, 2*gib)
	snap, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: snap.ID}}, SizeGB: 5, Patch: true})
	if err != nil {
		t.Fatal(err)
	}
	holds(snap, 5*gib)
	store, err := s.Keeper.Store(snap.Store)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Stat(ctx, image.ContentID(first)); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("the smaller content is left: %v", err)
	}
	refusedAs(t, "a smaller size", resizeTo(s, snap, 4), "OperationNotAllowed", "not shrink")
}
