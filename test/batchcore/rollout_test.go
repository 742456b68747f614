package batchcore

import (
	"fmt"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

func startTaskOf(line string) **millpond.StartTask {
	t := &millpond.StartTask{CommandLine: line, WaitForSuccess: true}
	return &t
}

func (c *core) patch(p pool.Patch) {
	c.t.Helper()
	c.must(c.pools.Patch(ctx, millpond.Caller{}, acct, "p", millpond.Condition{}, p))
}

func (c *core) rollout(state millpond.RolloutState) millpond.Pool {
	c.t.Helper()
	var p millpond.Pool
	c.wait("the rollout is "+string(state), func() (ok bool) {
		var err error
		p, err = c.pools.Get(ctx, acct.Name, "p")
		return err == nil && p.Rollout != nil && p.Rollout.State == state
	})
	return p
}

// TestRollout changes image and start task of a live pool over restarts of the
// server: one node after another, each when its tasks have ended.
func TestRollout(t *testing.T) {
	c, h, restart := setup(t, node.Config{})
	c.addPool("p", 3, func(s *millpond.PoolSpec) {
		s.Image.ResourceID = "/versions/1.0.0"
		s.Upgrade = &millpond.UpgradePolicy{Mode: millpond.UpgradeRolling, Rolling: &millpond.RollingPolicy{MaxBatch: 20, MaxUnhealthy: 20, MaxUnhealthyUpgraded: 20, RollBack: true}}
	})
	c.idle("p", 3)
	c.addJob("j", "p", nil)
	for i := range 3 {
		c.addTask("j", fmt.Sprint("t", i), "hang-once", nil)
		c.wait("it runs", h.began(fmt.Sprint("j/t", i), 1))
	}
	spec := c.steady("p").Spec
	next := pool.Machine{Image: millpond.ImageReference{ResourceID: "/versions/2.0.0"}, NodeAgentSKU: spec.NodeAgentSKU}
	c.patch(pool.Patch{Machine: &next})
	c.wait("one node waits for its task", func() bool { return c.inState("p", millpond.NodeUpgradingOS) == 1 })
	c = restart()
	for round := range 3 {
		c.wait("one node is upgrading", func() bool {
			return c.inState("p", millpond.NodeUpgradingOS) == 1 && c.inState("p", millpond.NodeRunning) == 2-round
		})
		var busy millpond.Node
		for _, n := range c.list("p") {
			if n.State == millpond.NodeUpgradingOS {
				busy = n
			}
		}
		if busy.Boot.VersionID != "/versions/1.0.0" || busy.RunningTasks != 1 {
			t.Fatalf("%+v", busy)
		}
		for i := range 3 {
			v, err := c.jobs.GetTask(ctx, acct.Name, "j", millpond.TaskID(fmt.Sprint("t", i)))
			c.must(err)
			if v.Node.Key() == busy.ID.Key() && v.State == millpond.TaskRunning {
				c.must(c.jobs.TerminateTask(ctx, acct.Name, "j", v.Spec.ID, millpond.Condition{}))
			}
		}
		if round == 1 {
			c = restart()
		}
	}
	p := c.rollout(millpond.RolloutDone)
	c.idle("p", 3)
	for _, n := range c.list("p") {
		if n.Boot.VersionID != "/versions/2.0.0" || n.Generation != 2 || n.ImageRevision != 1 {
			t.Fatalf("%+v", n)
		}
	}
	if p.Rollout.Batch != 3 {
		t.Fatalf("%d batches", p.Rollout.Batch)
	}

	// A start task that fails stops it at the first node, which goes back.
	c.patch(pool.Patch{StartTask: startTaskOf("sleep 1ms")})
	c.rollout(millpond.RolloutDone)
	c.idle("p", 3)
	c.patch(pool.Patch{StartTask: startTaskOf("exit 1")})
	p = c.rollout(millpond.RolloutStopped)
	if p.Rollout.Error == nil || p.Rollout.Error.Code != "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade" {
		t.Fatalf("%+v", p.Rollout)
	}
	c.idle("p", 3)
	back := 0
	for _, n := range c.list("p") {
		if n.StartTask.CommandLine != "sleep 1ms" || n.Generation != 2 {
			t.Fatalf("%+v", n)
		}
		if n.RolledBack {
			back++
		}
	}
	if back != 1 {
		t.Fatalf("%d nodes went back", back)
	}
	c.patch(pool.Patch{StartTask: startTaskOf("sleep 2ms")})
	c.rollout(millpond.RolloutDone)
	c.idle("p", 3)
	for _, n := range c.list("p") {
		if n.StartTask.CommandLine != "sleep 2ms" || n.RolledBack {
			t.Fatalf("%+v", n)
		}
	}
}

// TestUpgradeModes: manual leaves the nodes to their user, and automatic OS
// upgrades follow the newest version.
func TestUpgradeModes(t *testing.T) {
	c, h, _ := setup(t, node.Config{})
	c.addPool("p", 2, func(s *millpond.PoolSpec) {
		s.Image.ResourceID = "/images/i"
		s.Upgrade = &millpond.UpgradePolicy{Mode: millpond.UpgradeManual}
	})
	c.idle("p", 2)
	spec := c.steady("p").Spec
	next := pool.Machine{Image: millpond.ImageReference{ResourceID: "/versions/2.0.0"}, NodeAgentSKU: spec.NodeAgentSKU}
	c.patch(pool.Patch{Machine: &next})
	first := c.list("p")[0].ID
	c.must(c.nodes.Reimage(ctx, acct.Name, "p", first, ""))
	c.wait("the node is reimaged", func() bool {
		n, err := c.nodes.Get(ctx, acct.Name, "p", first)
		return err == nil && n.Generation == 2 && n.State == millpond.NodeIdle && n.Boot.VersionID == "/versions/2.0.0"
	})
	if n := c.list("p")[1]; n.Boot.VersionID != "/v/1.0.0" || n.Generation != 1 {
		t.Fatalf("%+v", n)
	}
	next.Image.ResourceID = "/images/i"
	h.mu.Lock()
	h.latest = "/versions/3.0.0"
	h.mu.Unlock()
	policy := &millpond.UpgradePolicy{Mode: millpond.UpgradeAutomatic, AutomaticOS: true}
	c.patch(pool.Patch{Machine: &next, Upgrade: &policy})
	all := func(version string) func() bool {
		return func() bool {
			n := 0
			for _, x := range c.list("p") {
				if x.State == millpond.NodeIdle && x.Boot.VersionID == version {
					n++
				}
			}
			return n == 2
		}
	}
	c.wait("both have the newest version", all("/versions/3.0.0"))
	c.rollout(millpond.RolloutDone)
	h.mu.Lock()
	h.latest = "/versions/4.0.0"
	h.mu.Unlock()
	c.wait("both have the next version", all("/versions/4.0.0"))
}
