package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// small is a pool with an image that takes long to read for its size, so that what
// a large pool meets is met by 120 nodes.
func small() Scenario {
	return Scenario{Nodes: 120, Replicas: 1, BootsPerReplica: 40, ImageMiB: DebianMiB, ReplicaMiBps: 50, Timeout: time.Hour}
}

// TestWaves: no more nodes boot at a time than the replicas take, and half of a
// pool is there much sooner than when all boot at once.
func TestWaves(t *testing.T) {
	waves := Simulate(t, small())
	if waves.Idle != 120 || waves.Booting > 40 || len(waves.Errors) > 0 {
		t.Errorf("in waves: %d idle, %d booted at once, %v", waves.Idle, waves.Booting, waves.Errors)
	}
	c := small()
	c.BootsPerReplica = 1000
	flood := Simulate(t, c)
	if flood.Idle != 120 || flood.Booting < 100 {
		t.Errorf("all at once: %d idle, %d booted at once", flood.Idle, flood.Booting)
	}
	if waves.Half > 0.8*flood.Half {
		t.Errorf("half of the nodes were there after %.0f s in waves and after %.0f s without", waves.Half, flood.Half)
	}
	c = small()
	c.Replicas = 5
	if o := Simulate(t, c); o.All > 0.7*waves.All {
		t.Errorf("with five replicas all were there after %.0f s, with one after %.0f s", o.All, waves.All)
	}
}

// TestFloodIsAvoided: what fails as a whole at once, because no node has read its
// image when its time is up, works in waves.
func TestFloodIsAvoided(t *testing.T) {
	c := small()
	c.ReplicaMiBps = 10 // 480 s for all, and a boot may take 300
	c.BootsPerReplica = 1000
	if o := Simulate(t, c); o.Idle > 0 || o.Unusable != 120 {
		t.Errorf("all at once: %d idle, %d unusable", o.Idle, o.Unusable)
	}
	c.BootsPerReplica = 40
	if o := Simulate(t, c); o.Idle != 120 || o.Unusable != 0 {
		t.Errorf("in waves: %d idle, %d unusable", o.Idle, o.Unusable)
	}
}

// TestPartialSuccess: a resize that cannot be done brings what can be, says what
// stood in the way, and ends.
func TestPartialSuccess(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*Scenario)
		code   string
		idle   func(Outcome) bool
	}{
		{"a full host", func(c *Scenario) { c.Room = 70 }, "AllocationFailed", func(o Outcome) bool { return o.Idle == 70 && o.Kept == 70 }},
		{"a timeout", func(c *Scenario) { c.ReplicaMiBps, c.Timeout = 5, 5*time.Minute }, "AllocationTimedout", func(o Outcome) bool { return o.Idle > 10 && o.Idle < 100 && o.Kept == o.Idle && o.Settled <= 303 }},
		{"stopped", func(c *Scenario) { c.StopAt = 60 * time.Second }, "ResizeStopped", func(o Outcome) bool { return o.Idle > 10 && o.Idle < 110 && o.Kept == o.Idle && o.Settled <= 63 }},
		{"hosts that fail now and then", func(c *Scenario) { c.FailHost = 0.2 }, "", func(o Outcome) bool { return o.Idle >= 115 }},
		{"hosts that fail", func(c *Scenario) { c.FailHost = 1 }, "AllocationFailed", func(o Outcome) bool { return o.Kept == 0 && o.Settled < 60 }},
		{"guests that do not boot", func(c *Scenario) { c.FailBoot = 0.2 }, "", func(o Outcome) bool { return o.Unusable > 5 && o.Idle+o.Unusable == 120 }},
		{"agents that never speak", func(c *Scenario) { c.Hang = 0.1 }, "", func(o Outcome) bool { return o.Unusable > 2 && o.Idle+o.Unusable == 120 }},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := small()
			x.change(&c)
			o := Simulate(t, c)
			if !x.idle(o) || x.code != "" && !slices.Contains(o.Errors, x.code) {
				o.Curve = nil
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestResizeEnds: whatever hosts, replicas and guests do, a resize is over at its
// timeout, every node that is left has come or is unusable, and what is missing is
// told.
func TestResizeEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates pools")
	}
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 0))
		part := func() float64 { return float64(r.IntN(4)) / 4 }
		c := Scenario{Nodes: 1 + r.IntN(30), Replicas: 1 + r.IntN(3), BootsPerReplica: 1 + r.IntN(20), ImageMiB: DebianMiB, ReplicaMiBps: float64(1 + r.IntN(50)), AtOnce: r.IntN(6),
			Timeout: 10 * time.Minute, FailHost: part(), FailBoot: part(), Hang: part(), Room: 1 + r.IntN(40), StopAt: time.Duration(r.IntN(300)) * time.Second}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := Simulate(t, c)
			if o.Settled == 0 || o.Settled > c.Timeout.Seconds()+5 || o.Idle+o.Unusable > c.Nodes {
				o.Curve = nil
				t.Errorf("%+v", o)
			}
		})
	}
}
