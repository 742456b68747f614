package resource_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/vhd"
)

// state waits until a region of a version is in a state.
func (w *world) region(number, region, state string) gallery.RegionStatus {
	w.Helper()
	var s gallery.RegionStatus
	w.until(number+" is "+state+" in "+region, func() bool {
		_, all := w.status(number)
		s = all[region]
		return s.State == state
	})
	return s
}

func TestAFailedRegionIsTriedAgainAndHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	w.retries = []time.Duration{time.Millisecond, time.Millisecond, 300 * time.Millisecond}
	w.restart()
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.stores["eastus-0"].failing(millpond.Errorf(millpond.Unavailable, "StoreFull", "The store eastus-0 has no space left."))
	op := w.publish("1.0.0", millpond.TargetRegion{Name: "westus2"}, millpond.TargetRegion{Name: "eastus"}, millpond.TargetRegion{Name: "northeurope", Replicas: 2})
	if op.Status != millpond.OperationFailed || op.Code != "StoreFull" || !strings.Contains(op.Message, "eastus: from westus2-0") || !strings.Contains(op.Message, " to eastus-0: The store eastus-0 has no space left.") {
		t.Errorf("%+v", op)
	}
	w.region("1.0.0", "westus2", "Completed")
	w.region("1.0.0", "northeurope", "Completed")
	if s := w.region("1.0.0", "eastus", "Failed"); !strings.Contains(s.Details, "to the store eastus-0 failed") || !strings.Contains(s.Details, "no space") {
		t.Errorf("details %q", s.Details)
	}
	// Nobody touches it: as soon as there is room, it gets there by itself.
	w.stores["eastus-0"].failing(nil)
	w.region("1.0.0", "eastus", "Completed")
	w.until("the version is well", func() bool { return w.version("1.0.0").State == millpond.StateSucceeded })
}

func TestAFailedRegionIsTriedAgainAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.stores["eastus-0"].failing(millpond.Errorf(millpond.Unavailable, "StoreFull", "No space."))
	w.publish("1.0.0", millpond.TargetRegion{Name: "westus2"}, millpond.TargetRegion{Name: "eastus"})
	w.restart()
	w.region("1.0.0", "eastus", "Completed")
}

func TestRegionsComeAndGoWhileOthersAreCopied(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	slow, resume := w.stores["eastus-0"].block()
	v := id(def + "/versions/1.0.0")
	put := func(targets ...millpond.TargetRegion) *millpond.Operation {
		t.Helper()
		_, op, err := w.putVersion(gallery.VersionSpec{ID: v, OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, Targets: targets})
		w.ok(err)
		return op
	}
	put(millpond.TargetRegion{Name: "westus2"}, millpond.TargetRegion{Name: "eastus"})
	w.waitFor("the slow region", slow)
	if s := w.region("1.0.0", "eastus", "Replicating"); !strings.Contains(s.Details, "0 of 1 replicas are there") {
		t.Errorf("details %q", s.Details)
	}
	// Another region does not wait for the slow one.
	put(millpond.TargetRegion{Name: "westus2", Replicas: 2}, millpond.TargetRegion{Name: "eastus"}, millpond.TargetRegion{Name: "northeurope"})
	w.region("1.0.0", "northeurope", "Completed")
	w.region("1.0.0", "westus2", "Completed")
	w.region("1.0.0", "eastus", "Replicating")
	// The slow one is taken out: its copy ends, and the version is complete.
	op := put(millpond.TargetRegion{Name: "westus2"}, millpond.TargetRegion{Name: "northeurope"})
	if o := w.ended(op); o.Status != millpond.OperationSucceeded {
		t.Errorf("%+v", o)
	}
	if n := w.holds("eastus-0"); n != 0 {
		t.Errorf("the abandoned store has %d contents", n)
	}
	resume()
}

func TestACopyTakesAnotherSource(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.publish("1.0.0", millpond.TargetRegion{Name: "westus2", Replicas: 2}, millpond.TargetRegion{Name: "eastus"})
	content := image.ContentID(w.version("1.0.0").OSDisk.Content)
	// The first store loses the content; the look at the stores finds out, and the
	// replica comes back from another.
	w.ok(w.stores["westus2-0"].Store.Delete(context.Background(), content))
	w.clock.advance(time.Hour)
	w.restart()
	w.until("the replica is back", func() bool {
		_, err := w.stores["westus2-0"].Stat(w.ctx, content)
		return err == nil
	})
	w.region("1.0.0", "westus2", "Completed")
	if s, all := w.status("1.0.0"); s != "Completed" {
		t.Errorf("%s %+v", s, all)
	}
}

// TestOnlyMissingChunksAreMoved replicates a second version that differs in one
// chunk, and a region that is added when another version has its data there.
func TestOnlyMissingChunksAreMoved(t *testing.T) {
	w := newWorld(t)
	w.define("def", "Linux", "Generalized")
	const size = diskSize // with data in its first eight chunks
	versionOf := func(number string, last uint64) map[string]gallery.RegionStatus {
		name := "os" + number[:1]
		_, _, err := w.newDisk(name, millpond.Disk{OSType: "Linux", Creation: millpond.CreationData{Option: millpond.CreateUpload, UploadBytes: size + 512}}, 0)
		w.ok(err)
		a, err := w.comp.Grant(w.ctx, id(mc+"/disks/"+name), true, time.Hour)
		w.ok(err)
		chunk := func(seed uint64) []byte {
			b := make([]byte, image.ChunkSize)
			r := rand.New(rand.NewPCG(seed, 9))
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			return b
		}
		for i := range int64(7) {
			w.ok(w.put(a, i*image.ChunkSize, chunk(uint64(i))))
		}
		w.ok(w.put(a, 7*image.ChunkSize, chunk(last)))
		w.ok(w.put(a, size, vhd.NewFooter(size, name, time.Now())))
		w.ok(w.comp.Revoke(w.ctx, id(mc+"/disks/"+name)))
		_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/" + number), OSDisk: &gallery.DiskSource{ID: mc + "/disks/" + name},
			Targets: []millpond.TargetRegion{{Name: "westus2"}, {Name: "eastus"}}})
		w.ok(err)
		if o := w.ended(op); o.Status != millpond.OperationSucceeded {
			t.Fatalf("%s: %+v", number, o)
		}
		_, all := w.status(number)
		return all
	}
	first := versionOf("1.0.0", 100)
	if d := first["westus2"].Details; d != "replica 1: all 4.0 MiB of data were there" {
		t.Errorf("at home: %q", d)
	}
	if d := first["eastus"].Details; !strings.Contains(d, "4.0 MiB of data moved") || !strings.Contains(d, "; 0.0 MiB were there") {
		t.Errorf("the first version: %q", d)
	}
	if d := versionOf("2.0.0", 200)["eastus"].Details; !strings.Contains(d, "0.5 MiB of data moved") || !strings.Contains(d, "; 3.5 MiB were there") {
		t.Errorf("the second version: %q", d)
	}
}
