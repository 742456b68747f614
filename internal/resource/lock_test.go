package resource_test

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
)

func TestLocks(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	disk := mc + "/disks/os"
	put := func(scope, name string, level millpond.LockLevel) error {
		_, _, err := w.res.PutLock(w.ctx, millpond.Lock{Scope: scope, Name: name, Level: level})
		return err
	}
	w.refused("no resource", put(mc+"/disks/none", "l", millpond.LockDelete), millpond.NotFound, "ResourceNotFound", "")
	w.refused("no level", put(disk, "l", ""), millpond.Invalid, "InvalidLockLevel", "ReadOnly")
	w.refused("a bad name", put(disk, "a/b", millpond.LockDelete), millpond.Invalid, "InvalidLockName", "")
	w.ok(put(disk, "keep", millpond.LockDelete))
	w.ok(w.res.Unlocked(w.ctx, disk, false))
	w.refused("the disk", w.res.Unlocked(w.ctx, disk, true), millpond.Conflict, "ScopeLocked", "az lock delete --ids "+disk+"/providers/Microsoft.Authorization/locks/keep")
	w.refused("its group", w.res.Unlocked(w.ctx, group, true), millpond.Conflict, "ScopeLocked", "remove the lock")
	w.ok(put(disk, "KEEP", millpond.LockWrite))
	w.restart()
	w.refused("a change", w.res.Unlocked(w.ctx, disk, false), millpond.Conflict, "ScopeLocked", "write")
	for scope, want := range map[string]int{disk: 1, group: 1, mc + "/disks/other": 0} {
		if all, err := w.res.Locks(w.ctx, scope, true); err != nil || len(all) != want {
			t.Errorf("%s: %v, %v", scope, all, err)
		}
	}
	if found, err := w.res.DeleteLock(w.ctx, disk, "keep"); !found || err != nil {
		t.Errorf("%v %v", found, err)
	}
	w.ok(w.res.Unlocked(w.ctx, group, true))
	if _, err := w.res.Lock(w.ctx, disk, "keep"); millpond.AsError(err).Code != "LockNotFound" {
		t.Error(err)
	}
}

func TestTheSafetyProfileKeepsRegions(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	both := []millpond.TargetRegion{{Name: "westus2"}, {Name: "eastus"}}
	put := func(allow *bool, targets []millpond.TargetRegion) error {
		_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/1.0.0"), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, Targets: targets, AllowDeletion: allow})
		if err == nil && op != nil {
			w.ended(op)
		}
		return err
	}
	yes, no := true, false
	w.ok(put(&no, both))
	w.refused("taking a region out", put(nil, both[:1]), millpond.Conflict, "OperationNotAllowed", "--allow-replicated-location-deletion true")
	w.ok(put(&yes, both[:1]))
}

func TestTheSafetyProfileKeepsAVersionUntilItsEndOfLife(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	yes, no := true, false
	version := func(number string, block *bool, end time.Time) {
		_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/" + number), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, EndOfLife: &end, BlockDeletion: block})
		w.ok(err)
		w.ended(op)
	}
	delete := func(number string) error {
		found, err := w.gal.DeleteVersion(w.ctx, id(def+"/versions/"+number))
		if err == nil && !found {
			t.Errorf("%s was not found", number)
		}
		return err
	}
	end := w.clock.Now().Add(time.Hour)
	version("1.0.0", &yes, end)
	version("2.0.0", &yes, end)
	version("3.0.0", &no, end)
	version("4.0.0", nil, end)
	w.ok(delete("3.0.0"))
	w.ok(delete("4.0.0"))
	w.refused("before its end of life", delete("1.0.0"), millpond.Conflict, "OperationNotAllowed", "blockDeletionBeforeEndOfLife")
	w.restart()
	w.refused("after a restart", delete("1.0.0"), millpond.Conflict, "OperationNotAllowed", end.Format(time.DateOnly))
	if v := w.version("1.0.0"); v.State != millpond.StateSucceeded {
		t.Errorf("the refused deletion left the version %s", v.State)
	}
	// The way out that the refusal names.
	_, _, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/2.0.0"), Patch: true, BlockDeletion: &no})
	w.ok(err)
	w.ok(delete("2.0.0"))
	w.clock.advance(2 * time.Hour)
	w.ok(delete("1.0.0"))
}

func TestAShallowVersionDependsOnItsSource(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	put := func(targets ...millpond.TargetRegion) (*millpond.Operation, error) {
		_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/1.0.0"), ReplicationMode: "Shallow", OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, Targets: targets})
		return op, err
	}
	for _, targets := range [][]millpond.TargetRegion{{{Name: "westus2", Replicas: 2}}, {{Name: "westus2"}, {Name: "eastus"}}} {
		_, err := put(targets...)
		w.refused("more than one replica", err, millpond.Invalid, "InvalidParameter", "replicationMode Full")
	}
	op, err := put()
	w.ok(err)
	w.ended(op)
	w.refused("its source", w.gal.NotASource(w.ctx, id(mc+"/disks/OS")), millpond.Conflict, "OperationNotAllowed", "az sig image-version delete")
	w.ok(w.gal.NotASource(w.ctx, id(mc+"/disks/other")))
	if _, err := w.gal.DeleteVersion(w.ctx, id(def+"/versions/1.0.0")); err != nil {
		t.Fatal(err)
	}
	w.ok(w.gal.NotASource(w.ctx, id(mc+"/disks/os")))
}
