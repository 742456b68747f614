package batchcore

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// TestPreemption: a low-priority node is told, loses its machine, keeps its id,
// and comes back when there is room; its task runs again and counts nothing.
func TestPreemption(t *testing.T) {
	c, h, restart := setup(t, node.Config{})
	h.mu.Lock()
	h.limit = 2
	h.mu.Unlock()
	spec := millpond.PoolSpec{ID: "p", VMSize: "standard_d2s_v3", NodeAgentSKU: "batch.node.debian 12", Image: millpond.ImageReference{ResourceID: "/x"}}
	_, err := c.pools.Add(ctx, millpond.Caller{}, acct, spec, pool.Targets{LowPriority: ptr(2)})
	c.must(err)
	c.idle("p", 2)
	c.steady("p")
	c.addJob("j", "p", nil)
	c.addTask("j", "t", "hang-once", nil)
	c.wait("it runs", h.began("j/t", 1))
	v, err := c.jobs.GetTask(ctx, acct.Name, "j", "t")
	c.must(err)
	busy := v.Node
	c.must(c.nodes.Preempt(ctx, acct.Name, "p", busy, 3*time.Second))
	c.code(c.nodes.Preempt(ctx, acct.Name, "p", busy, 0), "OperationInvalidForCurrentState")
	c.code(c.nodes.Reboot(ctx, acct.Name, "p", busy, ""), "OperationInvalidForCurrentState")
	c.wait("the node is told", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.notices) > 0
	})
	c = restart()
	c.wait("the node is preempted", func() bool { return c.inState("p", millpond.NodePreempted) == 1 })
	if p := c.steady("p"); p.CurrentLowPriority != 2 {
		t.Fatalf("a preempted node does not count: %+v", p)
	}
	v = c.taskIn("j", "t", millpond.TaskCompleted)
	if v.RequeueCount != 0 || v.RetryCount != 0 || v.Result != "success" {
		t.Fatalf("%+v", v)
	}
	c.idle("p", 2)
	if n, err := c.nodes.Get(ctx, acct.Name, "p", busy); err != nil || n.Generation != 2 {
		t.Fatalf("%+v %v", n, err)
	}
	h.mu.Lock()
	if h.notices[0] != "Preempt" {
		t.Errorf("notices %v", h.notices)
	}
	h.mu.Unlock()

	// A dedicated node on a full host takes the room of a low-priority one, which
	// comes back when the dedicated one has gone.
	c.addPool("q", 1, nil)
	c.idle("q", 1)
	c.wait("one is preempted", func() bool {
		return c.inState("p", millpond.NodePreempted) == 1 && c.inState("p", millpond.NodeIdle) == 1
	})
	if p := c.steady("q"); len(p.ResizeErrors) > 0 {
		t.Fatalf("%+v", p.ResizeErrors)
	}
	c.code(c.nodes.Preempt(ctx, acct.Name, "q", c.list("q")[0].ID, 0), "OperationNotValidOnNode")
	c.must(c.pools.Resize(ctx, acct.Name, "q", millpond.Condition{}, pool.Targets{Dedicated: ptr(0)}, ""))
	c.idle("p", 2)
}
