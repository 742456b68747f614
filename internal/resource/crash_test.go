package resource_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/sqlite"
)

func (w *world) bytesOf(path string) []byte {
	w.Helper()
	a, err := w.comp.Grant(w.ctx, id(mc+path), false, time.Hour)
	w.ok(err)
	b, err := w.comp.OpenBlob(w.ctx, a)
	w.ok(err)
	defer b.Close()
	out := make([]byte, diskSize)
	if n, err := b.ReadAt(out, 0); n != len(out) {
		w.Fatal(err)
	}
	w.ok(w.comp.Revoke(w.ctx, id(mc+path)))
	return out
}

func TestCrashWhileASnapshotIsTaken(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	entered, _ := w.stores["westus2-0"].block()
	_, op, err := w.newDisk("os", millpond.Disk{Snapshot: true, Creation: millpond.CreationData{Option: millpond.CreateCopy, SourceID: mc + "/disks/os"}}, 0)
	w.ok(err)
	if op == nil {
		t.Fatal("the snapshot was made although its store stands still")
	}
	w.waitFor("the ingest", entered)
	_, err = w.comp.DeleteDisk(w.ctx, id(mc+"/disks/os"))
	w.refused("delete the source", err, millpond.Conflict, "OperationNotAllowed", "is being copied to")
	if _, err := w.comp.Grant(w.ctx, id(mc+"/snapshots/os"), false, time.Hour); err == nil {
		t.Error("a snapshot that is being made can be read")
	}
	// What a killed process leaves half written.
	half := filepath.Join(w.dir, "westus2-0", ".tmp", "put-1")
	long := time.Now().Add(-2 * time.Hour)
	w.ok(os.WriteFile(half, []byte("half"), 0o600))
	w.ok(os.Chtimes(half, long, long))
	w.crash()
	if n := len(glob(t, w.dir, "westus2-0", "manifests", "*")); n != 0 {
		t.Errorf("%d contents are visible after the crash", n)
	}
	w.open()
	if o := w.ended(op); o.Status != millpond.OperationSucceeded {
		t.Errorf("operation %+v", o)
	}
	if d := w.disk("/snapshots/os"); d.Base().State != millpond.StateSucceeded || d.SizeBytes != diskSize {
		t.Errorf("snapshot %+v", d)
	}
	if !bytes.Equal(w.bytesOf("/snapshots/os"), random(1)) {
		t.Error("the snapshot has other bytes than its disk")
	}
	if n := len(glob(t, w.dir, "westus2-0", ".tmp", "*")); n != 0 {
		t.Errorf("%d half-written files are left", n)
	}
}

func glob(t *testing.T, parts ...string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCrashWhileADiskIsCopied(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.crash()
	// The row is there and the copy has not begun; and what other crashes left.
	w.ok(os.WriteFile(filepath.Join(w.dir, "disks", ".new-1"), []byte("half"), 0o600))
	w.ok(os.WriteFile(filepath.Join(w.dir, "disks", "scratch-version-1.raw"), make([]byte, 512), 0o600))
	w.ok(os.WriteFile(filepath.Join(w.dir, "disks", "of-a-deleted-row.raw"), make([]byte, 512), 0o600))
	w.open()
	if files, err := w.disks.List(); err != nil || len(files) != 1 {
		t.Errorf("disk files %v, %v; want that of /disks/os alone", files, err)
	}
	// A copy whose row was written and whose file was half made.
	var copied millpond.Disk
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
		src, err := sqlite.Load[millpond.Disk](tx, id(mc+"/disks/os").Key())
		if err != nil {
			return err
		}
		copied = *src
		copied.ID, copied.UniqueID, copied.File = id(mc+"/disks/Copy"), "copy", "copy"
		copied.Creation = millpond.CreationData{Option: millpond.CreateCopy, SourceID: src.ID.String()}
		copied.Base().State = millpond.StateCreating
		w.ok(w.disks.Create("copy", 4096))
		return tx.Put(&copied)
	}))
	w.restart()
	w.until("the copy", func() bool { return w.disk("/disks/copy").Base().State == millpond.StateSucceeded })
	if !bytes.Equal(w.bytesOf("/disks/copy"), random(1)) {
		t.Error("the copy has other bytes")
	}
	// A growth that was cut short between the row and the file.
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
		d, err := sqlite.Load[millpond.Disk](tx, id(mc+"/disks/copy").Key())
		if err != nil {
			return err
		}
		d.SizeBytes = 1 << 30
		return tx.Put(d)
	}))
	w.restart()
	if info, err := w.disks.Stat("copy"); err != nil || info.Size != 1<<30 {
		t.Errorf("the file has %d bytes, %v", info.Size, err)
	}
}

func TestCrashWhileAVersionIsReplicated(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	entered, _ := w.stores["eastus-0"].block()
	p, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/1.0.0"), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"},
		Targets: []millpond.TargetRegion{{Name: "West US 2", Replicas: 2}, {Name: "eastus"}}})
	w.ok(err)
	if all, _ := gallery.Status(p.ImageVersion, p.Replicas); all != "InProgress" {
		t.Errorf("aggregated state %s right after the PUT", all)
	}
	w.waitFor("the copy to eastus", entered)
	w.until("westus2", func() bool { _, rs := w.status("1.0.0"); return rs["westus2"].State == "Completed" })
	if all, rs := w.status("1.0.0"); all != "InProgress" || rs["eastus"].State != "Replicating" || rs["eastus"].Progress > 99 || rs["westus2"].Progress != 100 {
		t.Errorf("in the middle: %s %+v", all, rs)
	}
	w.restart()
	if o := w.ended(op); o.Status != millpond.OperationSucceeded {
		t.Errorf("operation %+v", o)
	}
	if all, rs := w.status("1.0.0"); all != "Completed" || rs["eastus"].Progress != 100 {
		t.Errorf("at the end: %s %+v", all, rs)
	}
	for name, want := range map[string]int{"westus2-0": 1, "westus2-1": 1, "eastus-0": 1, "eastus-1": 0} {
		if n := w.holds(name); n != want {
			t.Errorf("%s holds %d contents, want %d", name, n, want)
		}
	}
	// A deletion that was cut short goes on.
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.ImageVersion](tx, id(def+"/versions/1.0.0").Key())
		if err != nil {
			return err
		}
		v.State = millpond.StateDeleting
		return tx.Put(v)
	}))
	w.restart()
	w.until("the deletion", func() bool {
		_, err := w.gal.Version(w.ctx, id(def+"/versions/1.0.0"))
		return millpond.KindOf(err) == millpond.NotFound && err != nil
	})
	w.until("only what the disk lies on", func() bool {
		return w.holds("westus2-0") == 1 && w.holds("westus2-1")+w.holds("eastus-0") == 0
	})
	_, err = w.comp.DeleteDisk(w.ctx, id(mc+"/disks/os"))
	w.ok(err)
	w.until("empty stores", func() bool { return w.holds("westus2-0") == 0 })
}

func TestAFailedReplicaIsTriedAgainByAnUpdate(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.stores["eastus-0"].failing(millpond.Errorf(millpond.Unavailable, "StoreFull", "The store eastus-0 has no space left."))
	targets := []millpond.TargetRegion{{Name: "westus2"}, {Name: "eastus"}, {Name: "northeurope"}}
	if o := w.publish("1.0.0", targets...); o.Status != millpond.OperationFailed || o.Code != "StoreFull" || !strings.Contains(o.Message, "update the version") {
		t.Errorf("operation %+v", o)
	}
	v := w.version("1.0.0")
	all, rs := w.status("1.0.0")
	if v.State != millpond.StateFailed || all != "Failed" || rs["eastus"].State != "Failed" || !strings.Contains(rs["eastus"].Details, "no space left") || rs["westus2"].State != "Completed" || rs["northeurope"].State != "Completed" {
		t.Errorf("%s: %s %+v", v.State, all, rs)
	}
	w.stores["eastus-0"].failing(nil)
	entered, resume := w.stores["eastus-0"].block()
	_, op, err := w.putVersion(gallery.VersionSpec{ID: v.ID, Targets: targets})
	w.ok(err)
	w.waitFor("the second try", entered)
	if all, rs := w.status("1.0.0"); all != "InProgress" || rs["eastus"].State != "Replicating" {
		t.Errorf("while it is tried again: %s %+v", all, rs)
	}
	// A change in the meantime is not lost.
	_, op2, err := w.putVersion(gallery.VersionSpec{ID: v.ID, Targets: []millpond.TargetRegion{{Name: "westus2", Replicas: 2}, {Name: "eastus"}}})
	w.ok(err)
	resume()
	for _, o := range []*millpond.Operation{op, op2} {
		if got := w.ended(o); got.Status != millpond.OperationSucceeded {
			t.Errorf("operation %+v", got)
		}
	}
	if all, rs := w.status("1.0.0"); all != "Completed" || len(rs) != 2 {
		t.Errorf("%s %+v", all, rs)
	}
	w.until("the dropped region's content goes", func() bool { return w.holds("northeurope-0") == 0 && w.holds("westus2-1") == 1 })
}

func TestAVersionWithoutBytesSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.stores["westus2-0"].failing(errors.New("the disk is on fire"))
	if o := w.publish("1.0.0"); o.Status != millpond.OperationFailed || strings.Contains(o.Message, "fire") {
		t.Errorf("operation %+v", o)
	}
	if all, rs := w.status("1.0.0"); all != "Failed" || rs["westus2"].State != "Failed" || rs["westus2"].Details == "" {
		t.Errorf("%s %+v", all, rs)
	}
	w.stores["westus2-0"].failing(nil)
	_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/1.0.0")})
	w.ok(err)
	if o := w.ended(op); o.Status != millpond.OperationSucceeded {
		t.Errorf("operation %+v", o)
	}
}

func TestContentsLiveAsLongAsSomethingNeedsThem(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	_, _, err := w.newDisk("os", millpond.Disk{Snapshot: true, Creation: millpond.CreationData{Option: millpond.CreateCopy, SourceID: mc + "/disks/os"}}, 0)
	w.ok(err)
	w.publish("1.0.0")
	w.publish("2.0.0") // the same bytes
	c := image.ContentID(w.disk("/snapshots/os").Content)
	there := func(what string, want bool) {
		t.Helper()
		if _, err := w.stores["westus2-0"].Stat(w.ctx, c); (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, v := range []string{"1.0.0", "2.0.0"} {
		there("before "+v, true)
		_, err := w.gal.DeleteVersion(w.ctx, id(def+"/versions/"+v))
		w.ok(err)
	}
	there("a snapshot uses it", true)
	// A node that boots from it outlives the resource.
	node := millpond.Node{ID: "n1", Account: "acct", Pool: "p", State: millpond.NodeIdle}
	node.Boot.OSDisk.Content = string(c)
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error { return tx.InsertNode(node) }))
	_, err = w.comp.DeleteDisk(w.ctx, id(mc+"/snapshots/os"))
	w.ok(err)
	there("a node uses it", true)
	w.restart()
	there("a node uses it, after a start", true)
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error { return tx.DeleteNode("n1") }))
	w.ok(w.keeper.Collect(w.ctx))
	there("the disk that was captured lies on it", true)
	w.restart()
	there("the disk lies on it, after a start", true)
	_, err = w.comp.DeleteDisk(w.ctx, id(mc+"/disks/os"))
	w.ok(err)
	there("nothing uses it", false)
	// What no row names is swept at the start.
	_, err = w.stores["eastus-0"].Ingest(w.ctx, source(random(9)), nil)
	w.ok(err)
	w.restart()
	if n := w.holds("eastus-0"); n != 0 {
		t.Errorf("%d contents survive the sweep", n)
	}
}

type source []byte

func (s source) Size() int64 { return int64(len(s)) }
func (s source) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s).ReadAt(p, off)
}

func TestADeletionDoesNotWaitForACopy(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	_, _, err := w.newDisk("old", millpond.Disk{Snapshot: true, Creation: millpond.CreationData{Option: millpond.CreateCopy, SourceID: mc + "/disks/os"}}, 0)
	w.ok(err)
	w.upload("two", 2)
	entered, resume := w.stores["westus2-0"].block()
	_, op, err := w.newDisk("new", millpond.Disk{Snapshot: true, Creation: millpond.CreationData{Option: millpond.CreateCopy, SourceID: mc + "/disks/two"}}, 0)
	w.ok(err)
	w.waitFor("the ingest", entered)
	done := make(chan error, 1)
	go func() { _, err := w.comp.DeleteDisk(w.ctx, id(mc+"/snapshots/old")); done <- err }()
	select {
	case err := <-done:
		w.ok(err)
	case <-time.After(10 * time.Second):
		t.Error("the deletion waits for the copy")
	}
	resume()
	// One that the disk of the deleted snapshot lies on, and the new one.
	if o := w.ended(op); o.Status != millpond.OperationSucceeded || w.holds("westus2-0") != 2 {
		t.Errorf("operation %+v, %d contents", o, w.holds("westus2-0"))
	}
}
