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
	"time"

	"millpond.dev/millpond/test/fleet"
)

// simulateApart runs a scenario in a process of its own, whose memory it is.
func simulateApart(t *testing.T, c fleet.Scenario) (o fleet.Outcome) {
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
	var c fleet.Scenario
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(fleet.Simulate(t, c))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("outcome %s\n", out)
}

// TestSimulation compares pools of 600, 3,000 and 10,000 nodes whose image has 1, 5
// and 10 replicas: in waves, as the product launches them, beside all at once; and
// a large image beside Debian's. It prints outcomes, which the report is made from. Run
// it with scripts/bench simulation.
func TestSimulation(t *testing.T) {
	if os.Getenv("MILLPOND_SIMULATE") == "" {
		t.Skip("takes minutes; run scripts/bench simulation")
	}
	var all []fleet.Outcome
	run := func(c fleet.Scenario) {
		c.ReplicaMiBps = fleet.ReplicaSpeed
		c.Timeout = cmp.Or(c.Timeout, 24*time.Hour)
		all = append(all, simulateApart(t, c))
	}
	sizes := []int{600, 3000, 10000}
	if os.Getenv("MILLPOND_QUICK") != "" {
		sizes = sizes[:2]
	}
	for _, n := range sizes {
		for _, r := range []int{1, 5, 10} {
			for _, boots := range []int{0, 1_000_000} {
				run(fleet.Scenario{Nodes: n, Replicas: r, ImageMiB: fleet.DebianMiB, BootsPerReplica: boots})
			}
		}
	}
	for _, r := range []int{1, 5, 10} {
		for _, boots := range []int{0, 1_000_000} {
			run(fleet.Scenario{Nodes: 3000, Replicas: r, ImageMiB: fleet.LargeMiB, BootsPerReplica: boots})
		}
	}
	// What a timeout, a full host and failures make of a resize.
	run(fleet.Scenario{Nodes: 3000, Replicas: 1, ImageMiB: fleet.LargeMiB, Timeout: 15 * time.Minute})
	run(fleet.Scenario{Nodes: 3000, Replicas: 5, ImageMiB: fleet.DebianMiB, Room: 2500})
	run(fleet.Scenario{Nodes: 3000, Replicas: 5, ImageMiB: fleet.DebianMiB, FailHost: 0.05, FailBoot: 0.02})
	for _, o := range all {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("outcome %s\n", text)
	}
}
