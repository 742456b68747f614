package node

import (
	"testing"
	"time"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func TestUsageIsTheDifferenceOfHeartbeats(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var b beats
	at := func(n int) time.Time { return t0.Add(time.Duration(n) * 5 * time.Second) }
	for i := range 20 {
		n := uint64(i)
		b = b.add(beat{at(i), &nodev1.Heartbeat{CpuTotal: 1000 * n, CpuBusy: 250 * n, MemoryTotal: 100, MemoryAvailable: 30, DiskTotal: 50, DiskAvailable: 10, NetworkInBytes: 5000 * n}})
		if _, ok := b.usage(at(i)); ok != (i > 0) {
			t.Errorf("after %d beats: %v", i+1, ok)
		}
	}
	u, ok := b.usage(at(20))
	if !ok || u.CPU != 0.25 || u.MemoryUsed != 70 || u.DiskUsed != 40 || u.NetworkInBytes != 1000 || u.Over > usageWindow+5*time.Second || len(b) > 8 {
		t.Errorf("%+v %v, %d beats are kept", u, ok, len(b))
	}
	if _, ok := b.usage(at(30)); ok {
		t.Error("a node that is silent tells nothing")
	}
	if b = b.add(beat{at(21), &nodev1.Heartbeat{CpuTotal: 10, CpuBusy: 1, MemoryTotal: 100}}); len(b) != 1 {
		t.Errorf("%d beats of another boot are kept", len(b)-1)
	}
	// Heartbeats of a machine that measures nothing.
	b = beats{}.add(beat{at(0), &nodev1.Heartbeat{}}).add(beat{at(1), &nodev1.Heartbeat{}})
	if _, ok := b.usage(at(1)); ok {
		t.Error("nothing was measured")
	}
}
