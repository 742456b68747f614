package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/launchtest"
	"millpond.dev/millpond/internal/qemu/qemutest"
	"millpond.dev/millpond/internal/vmrun"
)

// TestSparesConformance: a template of the kind is made without a node, and spares of it.
func TestSparesConformance(t *testing.T) {
	launchtest.Spares(t, func(t *testing.T) launchtest.Subject {
		f := newFixture(t, withTemplates)
		return launchtest.Subject{Launcher: f.l, Healthy: f.spec(t, qemutest.Clones), Ready: func(*testing.T) {},
			Reopen: func(t *testing.T) launch.Launcher {
				if err := f.l.Close(); err != nil {
					t.Fatal(err)
				}
				f.open(t)
				return f.l
			}}
	})
}

// park wants n spares of a kind and waits for them.
func (f *fixture) park(t *testing.T, script qemutest.Script, n int) {
	t.Helper()
	if err := f.l.Park(t.Context(), []launch.Spares{{Owner: "pool", Spec: f.spec(t, script)("", 0), Count: n}}); err != nil {
		t.Fatal(err)
	}
	f.ready(t, n)
}

func (f *fixture) ready(t *testing.T, n int) launch.Parked {
	t.Helper()
	deadline := time.Now().Add(launchtest.Bound)
	for {
		list, err := f.l.Parked(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if list[0].Ready == n {
			return list[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("want %d ready: %+v", n, list)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (f *fixture) folders(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(f.cfg.Dir, sparePrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSparesGiveWay: a node that finds no room takes that of spares of another kind.
func TestSparesGiveWay(t *testing.T) {
	f := newFixture(t, func(c *Config) { withTemplates(c); c.MaxVMs, c.ConcurrentStarts = 3, 4 })
	f.park(t, qemutest.Clones, 2)
	spec := func(node millpond.NodeID, generation int) launch.Spec {
		s := f.spec(t, qemutest.Clones)(node, generation)
		s.Cold = true
		return s
	}
	for _, n := range []millpond.NodeID{"node-a", "node-b"} {
		if err := f.l.Launch(t.Context(), spec(n, 1)); err != nil {
			t.Fatal(err)
		}
	}
	f.until(t, "node-b", launch.Running)
	if st := f.ready(t, 1); st.MemoryMiB < 1 || st.MemoryMiB > 250 {
		t.Errorf("%+v", st)
	}
	// A spare that is full room for a node of its kind is that node.
	if st := f.run(t, qemutest.Clones, "node-c")[0]; !st.Clone.Spare {
		t.Errorf("%+v", st)
	}
	if err := f.l.Launch(t.Context(), spec("node-d", 1)); !full(err) {
		t.Errorf("a node too many: %v", err)
	}
	if err := f.l.Destroy(t.Context(), "node-a"); err != nil {
		t.Fatal(err)
	}
	f.ready(t, 1)
}

// TestSparesAreOfTheNodesKind: they lie on the template that nodes have, and it is
// one for both, whoever made it.
func TestSparesAreOfTheNodesKind(t *testing.T) {
	f := newFixture(t, withTemplates)
	f.run(t, qemutest.Clones, "node-a", "node-b")
	f.templateThere(t)
	f.park(t, qemutest.Clones, 1)
	if found, _ := filepath.Glob(filepath.Join(f.cfg.Dir, templatePrefix+"*")); len(found) != 1 {
		t.Errorf("templates: %v", found)
	}
	cfg, err := vmrun.LoadConfig(f.folders(t)[0])
	if err != nil || !cfg.Network.IsValid() {
		t.Errorf("the spare has the network %v, %v", cfg.Network, err)
	}
}

// TestDeadSpares: one that dies while it waits is replaced, one that does before is
// not made again at once, and a node whose spare is dead starts by itself.
func TestDeadSpares(t *testing.T) {
	f := newFixture(t, withTemplates)
	f.park(t, qemutest.Clones, 1)
	f.kill(t, millpond.NodeID(filepath.Base(f.folders(t)[0])), qemuOf)
	deadline := time.Now().Add(launchtest.Bound)
	for len(f.folders(t)) == 0 || filepath.Base(f.folders(t)[0]) == sparePrefix+"1" && f.l.find(sparePrefix+"1") == nil {
		if time.Now().After(deadline) {
			t.Fatal("the dead spare is still there")
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.ready(t, 1)

	if err := f.l.Park(t.Context(), []launch.Spares{{Owner: "pool", Spec: f.spec(t, qemutest.DeadClones)("", 0), Count: 1}}); err != nil {
		t.Fatal(err)
	}
	for {
		list, err := f.l.Parked(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if list[0].Ready == 0 && len(list[0].Why) > 20 && len(f.folders(t)) == 0 && len(f.l.spares.losses) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v %v", list, f.folders(t))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestPromisedSpares: a server that ends between the promise of a spare to a node and
// its keeping leaves the node to the next one, whether the spare lives or not.
func TestPromisedSpares(t *testing.T) {
	for name, dead := range map[string]bool{"alive": false, "dead": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withTemplates)
			f.park(t, qemutest.Clones, 1)
			dir := f.folders(t)[0]
			if err := f.l.Close(); err != nil {
				t.Fatal(err)
			}
			cfg, err := vmrun.LoadConfig(dir)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Park, cfg.Spec.Node, cfg.Spec.Generation = false, "node-a", 4
			if err := cfg.Save(dir); err != nil {
				t.Fatal(err)
			}
			if dead {
				f.kill(t, millpond.NodeID(filepath.Base(dir)), supervisorOf)
			}
			f.open(t)
			st := f.until(t, "node-a", launch.Running)
			if st.Generation != 4 || st.Clone.Spare == dead {
				t.Errorf("%+v", st)
			}
			if err := f.l.Destroy(t.Context(), "node-a"); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the folder is still there: %v", err)
			}
		})
	}
}

// TestUnwrittenPromise: a spare whose folder does not take the node is ended with it,
// and the node is not there.
func TestUnwrittenPromise(t *testing.T) {
	f := newFixture(t, withTemplates)
	f.park(t, qemutest.Clones, 1)
	dir := f.folders(t)[0]
	if err := os.Remove(vmrun.ConfigFile(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(vmrun.ConfigFile(dir), "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	var host *launch.HostError
	if err := f.l.Launch(t.Context(), f.spec(t, qemutest.Clones)("node-a", 1)); !errors.As(err, &host) || host.Step == "destroy" {
		t.Fatalf("the launch ended with %v", err)
	}
	if f.l.find("node-a") != nil {
		t.Error("the node is there")
	}
	f.ready(t, 1) // another one
	if st := f.run(t, qemutest.Clones, "node-a")[0]; !st.Clone.Spare {
		t.Errorf("%+v", st)
	}
}
