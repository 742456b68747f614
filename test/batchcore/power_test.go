package batchcore

import (
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// TestEphemeralNodesAreNotDeallocated: their OS disk would be lost.
func TestEphemeralNodesAreNotDeallocated(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.VMSize = "STANDARD_D2S_V3"
		s.OSDisk.Placement = "cachedisk"
	})
	c.idle("p", 1)
	id := c.list("p")[0].ID
	c.code(c.nodes.Deallocate(ctx, acct.Name, "p", id, ""), "OperationNotAllowed")
	if n := c.list("p")[0]; n.State != millpond.NodeIdle || n.Pending != "" {
		t.Errorf("%+v", n)
	}
	c.must(c.nodes.Reimage(ctx, acct.Name, "p", id, ""))
	c.idle("p", 1)
}

// TestPoolThatNoMachineCanBe: it is made, as in Azure, and its resize says why it
// has no nodes.
func TestPoolThatNoMachineCanBe(t *testing.T) {
	c, _, _ := setup(t, node.Config{})
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.VMSize = "STANDARD_D2S_V3"
		s.OSDisk.Placement, s.OSDisk.SizeGB = "cachedisk", 51
	})
	p := c.steady("p")
	if len(p.ResizeErrors) != 1 || p.ResizeErrors[0].Code != "AllocationFailed" || !strings.Contains(p.ResizeErrors[0].Values[0].Value, "greater than 50 GB is not allowed for VM size Standard_D2s_v3") {
		t.Errorf("%+v", p.ResizeErrors)
	}
	if p.CurrentDedicated != 0 || p.TargetDedicated != 1 {
		t.Errorf("%+v", p)
	}
}

// TestDeallocateAndStart stops a node under each option, over restarts of the
// server, and starts it again with its disks.
func TestDeallocateAndStart(t *testing.T) {
	c, h, restart := setup(t, node.Config{})
	c.addPool("p", 1, func(s *millpond.PoolSpec) {
		s.StartTask = &millpond.StartTask{CommandLine: "sleep 1ms", WaitForSuccess: true}
	})
	c.idle("p", 1)
	c.addJob("j", "p", nil)
	id := c.list("p")[0].ID
	c.code(c.nodes.Start(ctx, acct.Name, "p", id), "OperationInvalidForCurrentState")
	phase := func() launch.Phase {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.machines[id.Key()].status.Phase
	}
	off := func() {
		t.Helper()
		c.wait("the node is deallocated", func() bool { return c.inState("p", millpond.NodeDeallocated) == 1 })
		if p := phase(); p != launch.Stopped {
			t.Fatalf("its machine is %s", p)
		}
	}
	for i, o := range []millpond.DeallocationOption{millpond.DeallocateRequeue, millpond.DeallocateTerminate, millpond.DeallocateTaskCompletion} {
		task := millpond.TaskID("t-" + string(o))
		c.addTask("j", string(task), "hang-once", nil)
		c.wait("it runs", h.began("j/"+string(task), 1))
		before := c.list("p")[0]
		c.must(c.nodes.Deallocate(ctx, acct.Name, "p", id, o))
		if s := c.list("p")[0].State; s != millpond.NodeDeallocating && s != millpond.NodeDeallocated {
			t.Fatal(s)
		}
		c = restart()
		if o == millpond.DeallocateTaskCompletion {
			c.code(c.nodes.Deallocate(ctx, acct.Name, "p", id, ""), "OperationInvalidForCurrentState")
			c.must(c.jobs.TerminateTask(ctx, acct.Name, "j", task, millpond.Condition{}))
		}
		off()
		c = restart()
		off()
		switch v, err := c.jobs.GetTask(ctx, acct.Name, "j", task); {
		case err != nil:
			t.Fatal(err)
		case o == millpond.DeallocateRequeue && (v.State != millpond.TaskActive || v.RequeueCount != 1):
			t.Fatalf("requeue: %+v", v)
		case o != millpond.DeallocateRequeue && (v.State != millpond.TaskCompleted || v.Failure == nil || v.Failure.Code != millpond.CodeTaskEnded):
			t.Fatalf("%s: %+v", o, v)
		}
		counts, _, err := c.pools.NodeCounts(ctx, acct.Name, millpond.ListQuery[millpond.PoolNodeCounts]{})
		if err != nil || counts[0].Dedicated[millpond.NodeDeallocated] != 1 {
			t.Fatalf("%v %v", counts, err)
		}
		c.code(c.nodes.Reboot(ctx, acct.Name, "p", id, ""), "OperationInvalidForCurrentState")
		if p := c.steady("p"); p.CurrentDedicated != 1 {
			t.Fatalf("the node does not count any more: %+v", p)
		}
		c.must(c.nodes.Start(ctx, acct.Name, "p", id))
		c.taskIn("j", string(task), millpond.TaskCompleted)
		c.idle("p", 1)
		n := c.list("p")[0]
		if n.BootID == before.BootID || n.Generation != before.Generation || n.StartTaskInfo.Attempt != i+2 {
			t.Fatalf("round %d: %+v", i, n)
		}
	}
	// A deallocated node goes first when the pool shrinks.
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: ptr(2)}, ""))
	c.idle("p", 2)
	c.steady("p")
	c.must(c.nodes.Deallocate(ctx, acct.Name, "p", id, ""))
	off()
	c.must(c.pools.Resize(ctx, acct.Name, "p", millpond.Condition{}, pool.Targets{Dedicated: ptr(1)}, ""))
	c.wait("the pool has one node", func() bool { return len(c.list("p")) == 1 })
	if n := c.list("p")[0]; n.ID == id || n.State != millpond.NodeIdle {
		t.Fatalf("%s is left, %s", n.ID, n.State)
	}
}
