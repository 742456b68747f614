package compute

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/custody"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

const testSub = "22222222-2222-2222-2222-222222222222"

// testService is a Service whose loop a test runs by hand, in westus2.
func testService(t *testing.T) *Service { return testServiceIn(t, "westus2") }

// testServiceIn is one with some regions, each with one store.
func testServiceIn(t *testing.T, regions ...string) *Service {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), clock.System{})
	ok(err)
	var stores []custody.Region
	var nouns []millpond.Region
	for i, r := range regions {
		store, err := chunkstore.Open(ctx, r+"-0", filepath.Join(dir, "store"+strconv.Itoa(i)))
		ok(err)
		stores = append(stores, custody.Region{Name: r, Stores: []image.Store{store}})
		nouns = append(nouns, millpond.Region{Name: r})
	}
	keeper, err := custody.New(db, stores, nil)
	ok(err)
	disks, err := layer.OpenDisks(filepath.Join(dir, "disks"), Bases(keeper))
	ok(err)
	res := resource.New(resource.Options{DB: db, Clock: clock.System{}, Regions: nouns})
	ok(res.EnsureSubscription(ctx, millpond.Subscription{ID: testSub, Tenant: "t", Name: "s"}, true))
	_, _, err = res.PutGroup(ctx, millpond.Group{Subscription: testSub, Name: "rg", Location: "westus2"})
	ok(err)
	s, err := New(ctx, Options{DB: db, Clock: clock.System{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Keeper: keeper, Disks: disks, Resources: res})
	ok(err)
	t.Cleanup(func() { s.Wait(); ok(db.Close()) })
	return s
}

// A loop that saw a disk being created may come to it when it is there already
// and somebody has written to it.
func TestALateStartDoesNotWipeADisk(t *testing.T) {
	s, ctx := testService(t), context.Background()
	id, _ := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.Compute/disks/d")
	d, op, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Creation: millpond.CreationData{Option: millpond.CreateUpload, UploadBytes: minUpload}}})
	if err != nil || op == nil {
		t.Fatalf("%+v, %v", op, err)
	}
	if _, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id}}, SizeGB: 2, Patch: true}); millpond.KindOf(err) != millpond.Conflict {
		t.Errorf("resize while it is being created: %v", err)
	}
	s.start(ctx, id)
	s.Wait()
	a, err := s.Grant(ctx, id, true, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.OpenBlob(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte{7}, 512)
	if _, err := b.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	b.Close()
	s.start(ctx, id)
	s.Wait()
	f, err := s.Disks.Open(d.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 512)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, page) {
		t.Errorf("the page is gone (%v)", err)
	}
}

func TestCheckNew(t *testing.T) {
	disk := func(name string, snapshot bool, c millpond.CreationData) *millpond.Disk {
		d := &millpond.Disk{Snapshot: snapshot, Creation: c}
		d.ID = millpond.ResourceID{Names: []string{name}}
		return d
	}
	empty := millpond.CreationData{Option: millpond.CreateEmpty}
	upload := func(n int64) millpond.CreationData {
		return millpond.CreationData{Option: millpond.CreateUpload, UploadBytes: n}
	}
	for _, c := range []struct {
		d    *millpond.Disk
		size int32
		ok   bool
	}{
		{disk("d", false, empty), 1, true}, {disk("d", false, empty), 0, false}, {disk("d", false, empty), maxDiskGB, true}, {disk("d", false, empty), maxDiskGB + 1, false},
		{disk("d", true, empty), 1, true}, {disk("d", true, empty), 0, false}, {disk("d", false, empty), -1, false},
		{disk("-d", false, empty), 1, false}, {disk("d-", false, empty), 1, false}, {disk("d.", false, empty), 1, false}, {disk("d_", false, empty), 1, true}, {disk("a b", false, empty), 1, false},
		{disk("d", false, upload(minUpload)), 0, true}, {disk("d", false, upload(minUpload-512)), 0, false}, {disk("d", false, upload(minUpload+1)), 0, false},
		{disk("d", false, upload(maxUpload)), 0, true}, {disk("d", false, upload(maxUpload+1<<20)), 0, false}, {disk("d", false, upload(minUpload)), 1, false}, {disk("d", true, upload(minUpload)), 0, false},
		{disk("d", false, millpond.CreationData{}), 1, false}, {disk("d", false, millpond.CreationData{Option: "Restore"}), 1, false},
		{disk("d", true, millpond.CreationData{Option: millpond.CreateCopy}), 0, false}, {disk("d", false, millpond.CreationData{Option: millpond.CreateImport}), 0, false},
		{disk("d", false, millpond.CreationData{Option: millpond.CreateFromImage}), 0, false}, {disk("d", true, millpond.CreationData{Option: millpond.CreateFromImage, ImageID: "x"}), 0, false},
	} {
		if err := CheckNew(c.d, c.size); (err == nil) != c.ok {
			t.Errorf("%s %v %+v with %d GB: %v", c.d.ID.Name(), c.d.Snapshot, c.d.Creation, c.size, err)
		}
	}
}
