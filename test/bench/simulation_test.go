//go:build bench

package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millpond.dev/millpond/internal/launch/fake"
)

// scenario is one simulated pool. Its JSON is also how a child process is told.
type scenario struct {
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
	// Room is how many machines the hosts hold; 0 is all.
	Room int `json:"room,omitempty"`
}

// outcome is what became of it. Times are of the model; processor time and memory
// are the process's own.
type outcome struct {
	scenario
	// Settled is when the resize ended, Half and All when half of the nodes and all
	// that ever were had become idle; seconds, 0 for never.
	Settled float64 `json:"settled"`
	Half    float64 `json:"half"`
	All     float64 `json:"all"`
	Idle    int     `json:"idle"`
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
	bootMedian   = 20 * time.Second
	bootSpread   = 0.25
	debianMiB    = 40
	largeMiB     = 1024
	replicaSpeed = 500
	nodeSpeed    = 100
)

// simulate runs a scenario in time that nobody waits for.
func simulate(t *testing.T, c scenario) (o outcome) {
	o.scenario = c
	dir := t.TempDir()
	began := used()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, dir, c.Replicas, fake.Config{VMs: cmp.Or(c.Room, 2*c.Nodes), Heartbeat: 30 * time.Second, Behaviour: fake.Behaviour{BootDelay: 200 * time.Millisecond, FailHost: c.FailHost, FailBoot: c.FailBoot},
			Model: fake.Model{Boot: bootMedian, Spread: bootSpread, ImageMiB: c.ImageMiB, ReplicaMiBps: c.ReplicaMiBps, NodeMiBps: nodeSpeed, AtOnce: c.AtOnce}}, c.BootsPerReplica)
		defer f.end()
		start := time.Now()
		f.add(c.Nodes, c.Timeout)
		step, quiet := time.Second, 0
		for {
			time.Sleep(step)
			counts, p := f.counts()
			at := time.Since(start).Seconds()
			idle, all := counts["idle"], 0
			for _, n := range counts {
				all += n
			}
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
	o.CPU = (used() - began).Seconds()
	_, o.MiB = resident(t)
	return o
}

// simulateApart runs a scenario in a process of its own, whose memory it is.
func simulateApart(t *testing.T, c scenario) (o outcome) {
	t.Helper()
	text, _ := json.Marshal(c)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSimulationChild$", "-test.timeout", "30m")
	cmd.Env = append(os.Environ(), "MILLPOND_SCENARIO="+string(text))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if rest, ok := strings.CutPrefix(line, "outcome "); ok {
			if err := json.Unmarshal([]byte(rest), &o); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d nodes, %d replicas of %.0f MiB, boots per replica %d: half %.0f s, all %.0f s, resize over %.0f s, %d idle, %d unusable, %v; %.1f s of processor time, %.0f MiB",
		c.Nodes, c.Replicas, c.ImageMiB, c.BootsPerReplica, o.Half, o.All, o.Settled, o.Idle, o.Unusable, o.Errors, o.CPU, o.MiB)
	return o
}

// TestSimulationChild is the child's part.
func TestSimulationChild(t *testing.T) {
	text := os.Getenv("MILLPOND_SCENARIO")
	if text == "" {
		t.Skip("only as the child of TestSimulation")
	}
	var c scenario
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(simulate(t, c))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("outcome %s\n", out)
}
