package batchcore

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
)

func together(s *millpond.PoolSpec) { s.InterNode = true }

func instances(n int, coordination string) func(*millpond.TaskSpec) {
	return func(s *millpond.TaskSpec) {
		s.MultiInstance = &millpond.MultiInstance{Instances: n, Coordination: coordination}
	}
}

// quiet waits until no node has a task.
func (c *core) quiet(pool string) {
	c.t.Helper()
	c.wait("the nodes are empty", func() bool {
		for _, n := range c.list(pool) {
			if n.RunningTasks != 0 || n.RunningSlots != 0 {
				return false
			}
		}
		return true
	})
}

func TestMultiInstanceTask(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 3, together)
	c.idle("p", 3)
	c.addJob("j", "p", nil)

	c.addTask("j", "good", "sleep 50ms", instances(3, "sleep 20ms"))
	v := c.taskIn("j", "good", millpond.TaskCompleted)
	if v.Result != "success" || len(v.Gang.Instances) != 3 {
		t.Fatalf("%+v %+v", v, v.Gang)
	}
	nodes := map[millpond.NodeID]bool{}
	for _, x := range v.Gang.Instances {
		nodes[x.Node] = true
		if x.State != millpond.TaskCompleted || x.Failure != nil || x.ExitCode == nil || *x.ExitCode != 0 || x.Address == "" {
			t.Errorf("instance %+v", x)
		}
	}
	if len(nodes) != 3 || v.Gang.Instances[0].Node != v.Node {
		t.Errorf("nodes %v, primary on %s", nodes, v.Node)
	}
	c.quiet("p")

	// A coordination command that fails anywhere fails the whole, again and again.
	c.addTask("j", "bad", "sleep 1h", func(s *millpond.TaskSpec) { instances(2, "exit 3")(s); s.MaxRetries = ptr(2) })
	v = c.taskIn("j", "bad", millpond.TaskCompleted)
	if v.Result != "failure" || v.RetryCount != 2 || v.ExitCode == nil || *v.ExitCode != 3 || v.Failure.Code != "FailureExitCode" {
		t.Errorf("%+v %+v", v, v.Failure)
	}
	c.quiet("p")

	// The exit code is the primary's.
	c.addTask("j", "code", "exit 7", instances(2, "exit 0"))
	if v = c.taskIn("j", "code", millpond.TaskCompleted); v.ExitCode == nil || *v.ExitCode != 7 || v.Result != "failure" {
		t.Errorf("%+v", v)
	}

	// A user ends it, which ends it everywhere.
	c.addTask("j", "long", "hang", instances(3, "exit 0"))
	c.wait("it runs", func() bool { v := c.task("j", "long"); return v.Gang != nil && v.Gang.Ready })
	c.must(c.jobs.TerminateTask(ctx, acct.Name, "j", "long", millpond.Condition{}))
	if v = c.taskIn("j", "long", millpond.TaskCompleted); v.Failure == nil || v.Failure.Code != millpond.CodeTaskEnded {
		t.Errorf("%+v", v)
	}
	c.quiet("p")

	// It is deleted while it runs.
	c.addTask("j", "gone", "hang", instances(3, "exit 0"))
	c.wait("it runs", func() bool { v := c.task("j", "gone"); return v.Gang != nil && v.Gang.Ready })
	c.must(c.jobs.DeleteTask(ctx, acct.Name, "j", "gone", millpond.Condition{}))
	c.quiet("p")
	c.wait("nothing runs", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.active["j/gone"] == 0
	})

	// More than the pool has, or another kind of pool: it waits, and others do not.
	c.addTask("j", "many", "exit 0", instances(4, "exit 0"))
	c.addPool("q", 2, nil)
	c.idle("q", 2)
	c.addJob("other", "q", nil)
	c.addTask("other", "apart", "exit 0", instances(2, "exit 0"))
	for i := range 20 {
		c.addTask("j", fmt.Sprint("plain", i), "sleep 1ms", nil)
	}
	for i := range 20 {
		c.taskIn("j", fmt.Sprint("plain", i), millpond.TaskCompleted)
	}
	if a, b := c.task("j", "many").State, c.task("other", "apart").State; a != millpond.TaskActive || b != millpond.TaskActive {
		t.Errorf("they are %s and %s", a, b)
	}
	_, err := c.jobs.AddTask(ctx, acct.Name, "j", millpond.TaskSpec{ID: "slots", CommandLine: "x", RequiredSlots: 2, MultiInstance: &millpond.MultiInstance{Instances: 2, Coordination: "x"}})
	c.code(err, "InvalidPropertyValue")
}

// TestGangsDoNotBlockEachOther has two that need all nodes, and tasks that never
// leave all of them empty at once.
func TestGangsDoNotBlockEachOther(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 3, together)
	c.idle("p", 3)
	c.addJob("j", "p", nil)
	for i := range 90 {
		c.addTask("j", fmt.Sprint("plain", i), fmt.Sprintf("sleep %dms", 300+10*(i%7)), nil)
	}
	c.addTask("j", "a", "sleep 10ms", instances(3, "exit 0"))
	c.addTask("j", "b", "sleep 10ms", instances(2, "exit 0"))
	c.clock.manual.Advance(10 * time.Second)
	for _, id := range []string{"a", "b"} {
		if v := c.taskIn("j", id, millpond.TaskCompleted); v.Result != "success" {
			t.Errorf("%+v", v)
		}
	}
	if k, _, err := c.jobs.TaskCounts(ctx, acct.Name, "j"); err != nil || k.Completed >= 92 {
		t.Errorf("they came after all that was added before: %+v %v", k, err)
	}
}

// TestGangWithLostNodes loses machines, connections and the server at any point
// of multi-instance tasks, which all end all the same, one attempt at a time.
func TestGangWithLostNodes(t *testing.T) {
	seeds := 3
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c, h, restart := setup(t, node.Config{StopGrace: 200 * time.Millisecond, Relaunches: 100})
			h.mu.Lock()
			h.stutter = true
			h.mu.Unlock()
			rng := rand.New(rand.NewPCG(uint64(seed), 3))
			c.addPool("p", 4, together)
			c.idle("p", 4)
			c.addJob("j", "p", nil)
			added := 0
			add := func() {
				c.addTask("j", fmt.Sprint(added), fmt.Sprintf("sleep %dms", rng.IntN(60)), func(s *millpond.TaskSpec) {
					if added%3 != 0 {
						instances(1+rng.IntN(4), fmt.Sprintf("sleep %dms", rng.IntN(40)))(s)
					}
				})
				added++
			}
			some := func() millpond.Node { all := c.list("p"); return all[rng.IntN(len(all))] }
			steps := []func(){add, add, add,
				func() {
					n := some()
					h.mu.Lock()
					there := h.machines[n.ID.Key()] != nil
					h.mu.Unlock()
					if there {
						h.crash(n.ID)
					}
				},
				func() { _ = c.nodes.Reboot(ctx, acct.Name, "p", some().ID, millpond.DeallocateRequeue) },
				func() { c.nodes.Drop(some().ID) },
				func() { c = restart() },
			}
			for range 30 {
				steps[rng.IntN(len(steps))]()
				time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
			}
			add()
			c.wait("all tasks have completed", func() bool {
				k, _, err := c.jobs.TaskCounts(ctx, acct.Name, "j")
				return err == nil && k.Completed == added
			})
			tasks, _, err := c.jobs.ListTasks(ctx, acct.Name, "j", millpond.ListQuery[millpond.Task]{})
			c.must(err)
			for _, v := range tasks {
				if v.Result != "success" {
					t.Errorf("%s: %+v %+v", v.Spec.ID, v, v.Failure)
				}
			}
			c.quiet("p")
			h.mu.Lock()
			defer h.mu.Unlock()
			for id, n := range h.active {
				if n != 0 && !strings.HasPrefix(id, "/") {
					t.Errorf("%d run %s still", n, id)
				}
			}
		})
	}
}
