package machine_test

import (
	"testing"

	millpond "millpond.dev/millpond"
)

func TestStill(t *testing.T) {
	b := newBench(t)
	v := b.create(want("vm1"))
	if b.launcher.Frozen(v.Node()) {
		t.Fatal("frozen by nobody")
	}
	thaw, err := b.svc.Still(b.ctx, v.ID)
	b.ok(err)
	if !b.launcher.Frozen(v.Node()) {
		t.Error("the guest is not held still")
	}
	// A second capture waits for the first.
	second := make(chan error, 1)
	go func() {
		thaw, err := b.svc.Still(b.ctx, v.ID)
		if err == nil {
			err = thaw()
		}
		second <- err
	}()
	b.ok(thaw())
	b.ok(<-second)
	if b.launcher.Frozen(v.Node()) {
		t.Error("the guest was not thawed")
	}
	b.power("vm1", millpond.VMDeallocate, millpond.VMDeallocated)
	thaw, err = b.svc.Still(b.ctx, v.ID)
	b.ok(err)
	b.ok(thaw())
	if _, err := b.svc.Still(b.ctx, vmID("none")); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("a machine that is not there: %v", err)
	}
}
