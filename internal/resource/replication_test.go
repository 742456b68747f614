package resource_test

import (
	"context"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/image"
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
