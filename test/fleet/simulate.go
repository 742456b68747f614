package fleet

import (
	"cmp"
	"testing"
	"testing/synctest"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch/fake"
	"millpond.dev/millpond/internal/node"
)

// Scenario is one simulated pool. Its JSON is also how a child process is told.
type Scenario struct {
	Nodes    int `json:"nodes"`
	Replicas int `json:"replicas"`
	// BootsPerReplica bounds the boots at a time; a number beyond the nodes is no
	// bound, 0 is the product's default.
	BootsPerReplica int           `json:"bootsPerReplica,omitempty"`
	ImageMiB        float64       `json:"imageMiB"`
	ReplicaMiBps    float64       `json:"replicaMiBps"`
	AtOnce          int           `json:"atOnce,omitempty"`
	Timeout         time.Duration `json:"timeout"`
	FailHost        float64       `json:"failHost,omitempty"`
	FailBoot        float64       `json:"failBoot,omitempty"`
	// Hang is the share whose agent never speaks, StopAt when the resize is stopped.
	Hang   float64       `json:"hang,omitempty"`
	StopAt time.Duration `json:"stopAt,omitempty"`
	// Room is how many machines the hosts hold; 0 is all.
	Room int `json:"room,omitempty"`
}

// Outcome is what became of it. Times are of the model; processor time and memory
// are the process's own.
type Outcome struct {
	Scenario
	// Settled is when the resize ended, Half and All when half of the nodes and all
	// that ever were had become idle; seconds, 0 for never.
	Settled float64 `json:"settled"`
	Half    float64 `json:"half"`
	All     float64 `json:"all"`
	Idle    int     `json:"idle"`
	// Kept is how many nodes the pool has in the end, Booting the most that booted
	// at the same time.
	Kept    int `json:"kept"`
	Booting int `json:"booting"`
	// Unusable is how many never became nodes; Errors are the resize's.
	Unusable int      `json:"unusable"`
	Errors   []string `json:"errors,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	CPU      float64  `json:"cpuSeconds"`
	MiB      float64  `json:"mib"`
	// Curve is how many were idle at a time.
	Curve [][2]float64 `json:"curve"`
}

// What a boot needs: what Debian's first boot reads of its image was measured
// (BenchmarkFirstBoot), as was what it takes beside that with acceleration on hosts
// of others; a replica is a file server with a card of 4 Gbit/s.
const (
	BootMedian   = 20 * time.Second
	BootSpread   = 0.25
	DebianMiB    = 40
	LargeMiB     = 1024
	ReplicaSpeed = 500
	NodeSpeed    = 100
)

// Simulate runs a scenario in time that nobody waits for.
func Simulate(t *testing.T, c Scenario) (o Outcome) {
	o.Scenario = c
	dir := t.TempDir()
	began := Used()
	synctest.Test(t, func(t *testing.T) {
		f := Start(t, Options{Dir: dir, Replicas: c.Replicas, Node: node.Config{BootsPerReplica: c.BootsPerReplica}, Fake: fake.Config{VMs: cmp.Or(c.Room, 2*c.Nodes), Heartbeat: 30 * time.Second, Behaviour: fake.Behaviour{BootDelay: 200 * time.Millisecond, FailHost: c.FailHost, FailBoot: c.FailBoot, Hang: c.Hang},
			Model: fake.Model{Boot: BootMedian, Spread: BootSpread, ImageMiB: c.ImageMiB, ReplicaMiBps: c.ReplicaMiBps, NodeMiBps: NodeSpeed, AtOnce: c.AtOnce}}})
		defer f.End()
		start := time.Now()
		f.Add(c.Nodes, c.Timeout)
		step, quiet, stopped := time.Second, 0, false
		for {
			time.Sleep(step)
			counts, p := f.Counts()
			at := time.Since(start).Seconds()
			idle, all := counts["idle"], 0
			for _, n := range counts {
				all += n
			}
			o.Kept, o.Booting = all, max(o.Booting, counts["starting"])
			if n := len(o.Curve); n == 0 || int(o.Curve[n-1][1]) != idle {
				o.Curve = append(o.Curve, [2]float64{at, float64(idle)})
			}
			if o.Half == 0 && idle >= (c.Nodes+1)/2 {
				o.Half = at
			}
			if idle > o.Idle {
				o.Idle, o.All = idle, at
			}
			o.Unusable = counts["unusable"]
			if c.StopAt > 0 && !stopped && at >= c.StopAt.Seconds() && p.Allocation == millpond.AllocationResizing {
				stopped = true
				if err := f.Pools.StopResize(t.Context(), "bench", "p", millpond.Condition{}); err != nil {
					t.Error(err)
				}
			}
			if p.Allocation != "steady" {
				continue
			}
			if o.Settled == 0 {
				o.Settled = at
				for _, e := range p.ResizeErrors {
					o.Errors = append(o.Errors, e.Code)
				}
				for _, w := range p.Warnings {
					o.Warnings = append(o.Warnings, w.Code)
				}
			}
			if idle+o.Unusable == all {
				if quiet++; quiet > 5 {
					break
				}
			}
			if at > 12*3600 {
				t.Errorf("after 12 hours: %v", counts)
				break
			}
		}
		if o.Idle < c.Nodes-o.Unusable && len(o.Errors) == 0 {
			t.Errorf("%d nodes of %d, and the resize tells no error", o.Idle, c.Nodes)
		}
	})
	o.CPU = (Used() - began).Seconds()
	_, o.MiB = Resident(t)
	return o
}
