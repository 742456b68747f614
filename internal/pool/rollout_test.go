package pool

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
)

func rollingPool(mod func(*millpond.RollingPolicy, *millpond.Rollout)) millpond.Pool {
	l := (*millpond.UpgradePolicy)(nil).Limits()
	r := millpond.Rollout{State: millpond.RolloutRunning, Started: t0}
	if mod != nil {
		mod(&l, &r)
	}
	return millpond.Pool{Spec: millpond.PoolSpec{Upgrade: &millpond.UpgradePolicy{Mode: millpond.UpgradeRolling, Rolling: &l}}, ImageRevision: 1, StartRevision: 1, Rollout: &r}
}

func TestMakeRollout(t *testing.T) {
	node := func(id string, s millpond.NodeState, revision int) RolloutView {
		return RolloutView{ID: millpond.NodeID(id), State: s, Image: revision, Start: revision}
	}
	idle, bad, up := millpond.NodeIdle, millpond.NodeUnusable, millpond.NodeUpgradingOS
	inBatch := func(ids ...millpond.NodeID) func(*millpond.RollingPolicy, *millpond.Rollout) {
		return func(_ *millpond.RollingPolicy, r *millpond.Rollout) { r.Batch, r.Nodes = 1, ids }
	}
	startOnly := node("a", idle, 1)
	startOnly.Start = 0
	backed := node("a", idle, 1)
	backed.RolledBack, backed.Image = true, -1
	for _, c := range []struct {
		name                      string
		pool                      millpond.Pool
		nodes                     []RolloutView
		upgrade, reboot, rollBack string
		state                     millpond.RolloutState
		code                      string
		batch                     int
	}{
		{"a fifth at a time", rollingPool(nil), []RolloutView{node("e", idle, 0), node("d", idle, 0), node("c", idle, 0), node("b", idle, 0), node("a", idle, 0)}, "[a]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"at least one", rollingPool(nil), []RolloutView{node("a", idle, 0)}, "[a]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"half", rollingPool(func(l *millpond.RollingPolicy, _ *millpond.Rollout) { l.MaxBatch = 50 }), []RolloutView{node("a", idle, 0), node("b", idle, 0), node("c", idle, 0), node("d", idle, 0)}, "[a b]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"a start task needs a reboot", rollingPool(nil), []RolloutView{startOnly}, "[]", "[a]", "[]", millpond.RolloutRunning, "", 1},
		{"a batch under way", rollingPool(inBatch("a")), []RolloutView{node("a", up, 0), node("b", idle, 0)}, "[]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"the batch of the rollout before", rollingPool(func(_ *millpond.RollingPolicy, r *millpond.Rollout) { r.Nodes = []millpond.NodeID{"a"} }), []RolloutView{node("a", up, 0), node("b", idle, 0)}, "[]", "[]", "[]", millpond.RolloutRunning, "", 0},
		{"a start task of the rollout before that never ends", rollingPool(func(_ *millpond.RollingPolicy, r *millpond.Rollout) { r.Nodes = []millpond.NodeID{"a"} }), []RolloutView{node("a", millpond.NodeWaitingForStartTask, 0)}, "[a]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"the next batch", rollingPool(inBatch("a")), []RolloutView{node("a", idle, 1), node("b", idle, 0)}, "[b]", "[]", "[]", millpond.RolloutRunning, "", 2},
		{"a node that left", rollingPool(inBatch("a")), []RolloutView{node("b", idle, 0)}, "[b]", "[]", "[]", millpond.RolloutRunning, "", 2},
		{"done", rollingPool(inBatch("a")), []RolloutView{node("a", idle, 1)}, "[]", "[]", "[]", millpond.RolloutDone, "", 1},
		{"nothing to do", rollingPool(nil), nil, "[]", "[]", "[]", millpond.RolloutDone, "", 0},
		{"deallocated nodes are left alone", rollingPool(nil), []RolloutView{node("a", millpond.NodeDeallocated, 0)}, "[]", "[]", "[]", millpond.RolloutDone, "", 0},
		{"a node still comes", rollingPool(nil), []RolloutView{node("a", millpond.NodeStarting, 0)}, "[]", "[]", "[]", millpond.RolloutRunning, "", 0},
		{"a start task that never ends", rollingPool(nil), []RolloutView{node("a", millpond.NodeWaitingForStartTask, 0)}, "[a]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"unhealthy before", rollingPool(nil), []RolloutView{node("a", bad, 0), node("b", idle, 0)}, "[]", "[]", "[]", millpond.RolloutStopped, "MaxUnhealthyInstancePercentExceededBeforeRollingUpgrade", 0},
		{"unhealthy first", rollingPool(func(l *millpond.RollingPolicy, _ *millpond.Rollout) { l.PrioritizeUnhealthy = true }), []RolloutView{node("a", idle, 0), node("b", bad, 0)}, "[b]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"the first fails", rollingPool(inBatch("a")), []RolloutView{node("a", millpond.NodeStartTaskFailed, 1), node("b", idle, 0)}, "[]", "[]", "[]", millpond.RolloutStopped, "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade", 1},
		{"and goes back", rollingPool(func(l *millpond.RollingPolicy, r *millpond.Rollout) { l.RollBack = true; inBatch("a")(l, r) }), []RolloutView{node("a", bad, 1), node("b", idle, 0)}, "[]", "[]", "[a]", millpond.RolloutStopped, "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade", 1},
		{"what went back is tried again", rollingPool(nil), []RolloutView{backed}, "[a]", "[]", "[]", millpond.RolloutRunning, "", 1},
		{"others fail under way", rollingPool(func(l *millpond.RollingPolicy, r *millpond.Rollout) { l.MaxUnhealthyUpgraded = 100; r.Batch = 2 }),
			[]RolloutView{node("a", idle, 1), node("b", bad, 0), node("c", idle, 0)}, "[]", "[]", "[]", millpond.RolloutStopped, "MaxUnhealthyInstancePercentExceededInRollingUpgrade", 2},
		{"a pause", rollingPool(func(l *millpond.RollingPolicy, r *millpond.Rollout) { l.Pause = time.Minute; inBatch("a")(l, r) }), []RolloutView{node("a", idle, 1), node("b", idle, 0)}, "[]", "[]", "[]", millpond.RolloutRunning, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := MakeRollout(c.pool, c.nodes, t0)
			code := ""
			if p.Rollout.Error != nil {
				code = p.Rollout.Error.Code
			}
			if fmt.Sprint(p.Upgrade) != c.upgrade || fmt.Sprint(p.Reboot) != c.reboot || fmt.Sprint(p.RollBack) != c.rollBack || p.Rollout.State != c.state || code != c.code || p.Rollout.Batch != c.batch {
				t.Errorf("got %+v %s", p, code)
			}
		})
	}
}

// TestRolloutAfterAnother: the batch that is under way is waited for, and what failed
// is nothing to go back to.
func TestRolloutAfterAnother(t *testing.T) {
	v := func(id string) millpond.BootImage { return millpond.BootImage{VersionID: id} }
	next := millpond.Rollout{Started: t0, Automatic: true, WasBoot: v("2")}
	for state, want := range map[millpond.RolloutState]struct {
		back  string
		batch int
	}{
		"":                      {"2", 0},
		millpond.RolloutDone:    {"2", 0},
		millpond.RolloutRunning: {"2", 1},
		millpond.RolloutStopped: {"1", 0},
	} {
		var last *millpond.Rollout
		if state != "" {
			last = &millpond.Rollout{State: state, WasBoot: v("1"), Batch: 3, Nodes: []millpond.NodeID{"a"}}
		}
		got := rolloutAfter(last, next)
		if got.State != millpond.RolloutRunning || got.WasBoot.VersionID != want.back || len(got.Nodes) != want.batch || got.Batch != 0 || !got.Automatic || got.Started != t0 {
			t.Errorf("after one that is %q: %+v", state, got)
		}
	}
}

// TestEveryRolloutEnds plays rollouts on nodes that fail, leave and are slow:
// never are more upgraded at once than a batch has, and each rollout ends.
func TestEveryRolloutEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rollingPool(func(l *millpond.RollingPolicy, _ *millpond.Rollout) {
			l.MaxBatch = rapid.IntRange(5, 100).Draw(t, "batch")
			l.MaxUnhealthy = rapid.IntRange(5, 100).Draw(t, "unhealthy")
			l.PrioritizeUnhealthy, l.RollBack = rapid.Bool().Draw(t, "first"), rapid.Bool().Draw(t, "back")
			l.Pause = time.Duration(rapid.IntRange(0, 2).Draw(t, "pause")) * time.Minute
		})
		var nodes []RolloutView
		for i := range rapid.IntRange(0, 12).Draw(t, "nodes") {
			nodes = append(nodes, RolloutView{ID: millpond.NodeID(fmt.Sprintf("n%02d", i)), Image: rapid.IntRange(0, 1).Draw(t, "image"),
				State: rapid.SampledFrom([]millpond.NodeState{millpond.NodeIdle, millpond.NodeRunning, millpond.NodeUnusable, millpond.NodeDeallocated}).Draw(t, "state")})
		}
		now := t0
		for range 500 {
			plan := MakeRollout(p, nodes, now)
			again := MakeRollout(p, nodes, now)
			if fmt.Sprint(plan.Upgrade, plan.Reboot) != fmt.Sprint(again.Upgrade, again.Reboot) {
				t.Fatal("the plan is not pure")
			}
			if plan.Rollout.State != millpond.RolloutRunning {
				if plan.Rollout.State == millpond.RolloutDone {
					for _, v := range nodes {
						if v.health() != absent && (v.Image < 1 || v.Start < 1) {
							t.Fatalf("done with %+v", v)
						}
					}
				} else if plan.Rollout.Error == nil {
					t.Fatal("stopped without a word")
				}
				return
			}
			p.Rollout = &plan.Rollout
			busy := 0
			for i := range nodes {
				v := &nodes[i]
				for _, id := range append(plan.Upgrade, plan.Reboot...) {
					if id == v.ID {
						v.State = millpond.NodeUpgradingOS
					}
				}
				if v.State == millpond.NodeUpgradingOS {
					busy++
					switch rapid.IntRange(0, 4).Draw(t, "what") {
					case 0, 1:
						v.State, v.Image, v.Start = millpond.NodeIdle, 1, 1
					case 2:
						v.State, v.Image, v.Start = millpond.NodeUnusable, 1, 1
					case 3:
						v.State = millpond.NodeLeavingPool
					}
				}
			}
			if most := max(1, len(nodes)*p.Spec.Upgrade.Rolling.MaxBatch/100); busy > most {
				t.Fatalf("%d at once; a batch has %d", busy, most)
			}
			now = now.Add(30 * time.Second)
		}
		t.Fatal("it goes on for ever")
	})
}
