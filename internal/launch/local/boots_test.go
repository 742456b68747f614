package local

import (
	"fmt"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

// TestBootsAtATime: nodes wait for others that boot, in the order in which they came,
// until these are heard, have failed or are gone. Copies and machines that are no nodes
// do not wait.
func TestBootsAtATime(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.ConcurrentBoots = 1 })
	node := func(i int) millpond.NodeID { return millpond.NodeID(fmt.Sprint("node-", i)) }
	for i, script := range []qemutest.Script{qemutest.Agent, qemutest.NoBoot, qemutest.Boots, qemutest.Boots} {
		if err := f.l.Launch(t.Context(), f.spec(t, script)(node(i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	machine := f.spec(t, qemutest.Boots)("machine", 1)
	machine.FirstBoot = &launch.FirstBoot{InstanceID: "m"}
	if err := f.l.Launch(t.Context(), machine); err != nil {
		t.Fatal(err)
	}
	is := func(id millpond.NodeID, phase launch.Phase) func() bool {
		return func() bool { st, _ := f.l.Tell(t.Context(), id); return st.Phase == phase }
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				st, err := f.l.List(t.Context())
				t.Fatalf("%s: not in time: %+v %v", what, st, err)
			}
		}
	}
	wait("what is no node", is("machine", launch.Running))
	wait("the first", is(node(0), launch.Running))
	wait("the second, when the first is heard", is(node(1), launch.Failed))
	wait("the third, when the second has failed", is(node(2), launch.Running))
	if st, ok := f.l.Tell(t.Context(), node(3)); !ok || st.Phase != launch.Preparing || st.Step != stepQueued {
		t.Errorf("the fourth, while the third boots: %+v", st)
	}
	if err := f.l.Destroy(t.Context(), node(2)); err != nil {
		t.Fatal(err)
	}
	wait("the fourth, when the third is gone", is(node(3), launch.Running))
	// Nobody waits for one that was destroyed while it waited itself.
	for i := 4; i < 6; i++ {
		if err := f.l.Launch(t.Context(), f.spec(t, qemutest.Boots)(node(i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{4, 3} {
		if err := f.l.Destroy(t.Context(), node(i)); err != nil {
			t.Fatal(err)
		}
	}
	wait("the last", is(node(5), launch.Running))
}
