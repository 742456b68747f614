package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	millpond "millpond.dev/millpond"
)

// RolloutView is what a rollout needs to know of a node.
type RolloutView struct {
	ID      millpond.NodeID
	State   millpond.NodeState
	Pending bool
	// Image and Start are the revisions that it has.
	Image, Start int
	RolledBack   bool
	Tasks        int
}

// RolloutPlan is what is to be done next for one rollout.
type RolloutPlan struct {
	// Upgrade are to be given the pool's image, Reboot only its start task. They
	// are the nodes of a new batch.
	Upgrade, Reboot []millpond.NodeID
	// RollBack are to go back to what was before.
	RollBack []millpond.NodeID
	// Rollout is what the pool's becomes.
	Rollout millpond.Rollout
	// Next is when to plan again at the latest; zero when only a change of a node
	// matters.
	Next time.Time
}

// health is what a rollout makes of a node's state.
type health int

const (
	absent health = iota // it has no machine: it takes what there is when it gets one
	moving
	healthy
	unhealthy
)

func (v RolloutView) health() health {
	switch v.State {
	case millpond.NodeLeavingPool, millpond.NodeDeallocating, millpond.NodeDeallocated, millpond.NodePreempted:
		return absent
	case millpond.NodeUnusable, millpond.NodeUnknown, millpond.NodeStartTaskFailed:
		if v.Pending {
			return moving
		}
		return unhealthy
	case millpond.NodeIdle, millpond.NodeRunning, millpond.NodeOffline:
		if v.Pending {
			return moving
		}
		return healthy
	}
	return moving
}

// rolloutAfter begins the rollout next, which takes the place of another, nil if
// there was none.
func rolloutAfter(last *millpond.Rollout, next millpond.Rollout) *millpond.Rollout {
	next.State = millpond.RolloutRunning
	switch {
	case last == nil:
	case last.State == millpond.RolloutRunning:
		// Its batch is waited for, or two would be away at the same time.
		next.Nodes = last.Nodes
	case last.State == millpond.RolloutStopped:
		// What it was stopped for is nothing to go back to.
		next.WasBoot, next.WasStart = last.WasBoot, last.WasStart
	}
	return &next
}

// MakeRollout plans the next step of a pool's rollout, which is under way. A
// batch has ended when none of its nodes is on its way any more; before each
// batch the policy's limits are looked at. Nodes that are unhealthy with what
// was before do not stop it if they are to be upgraded first: it may be what
// they wait for.
func MakeRollout(p millpond.Pool, nodes []RolloutView, now time.Time) RolloutPlan {
	plan := RolloutPlan{Rollout: *p.Rollout}
	r, limits := &plan.Rollout, p.Spec.Upgrade.Limits()
	old := func(v RolloutView) bool {
		return v.RolledBack || v.Image < p.ImageRevision || v.Start < p.StartRevision
	}
	var total, bad, upgraded, badUpgraded, coming int
	var waiting []RolloutView
	var failed []millpond.NodeID
	inBatch := func(id millpond.NodeID) bool {
		return slices.ContainsFunc(r.Nodes, func(x millpond.NodeID) bool { return x.Key() == id.Key() })
	}
	for _, v := range nodes {
		h := v.health()
		if h == absent {
			continue
		}
		total++
		switch {
		case v.State == millpond.NodeWaitingForStartTask && !v.Pending && old(v):
			// A start task that never ends would otherwise keep its own correction off.
			waiting = append(waiting, v)
		case h == moving && inBatch(v.ID):
			return plan
		case h == moving && old(v):
			coming++
		case old(v):
			waiting = append(waiting, v)
			if h == unhealthy && !limits.PrioritizeUnhealthy {
				bad++
			}
		case h == unhealthy:
			bad++
			upgraded++
			badUpgraded++
			failed = append(failed, v.ID)
		case h == healthy:
			upgraded++
		}
	}
	if len(r.Nodes) > 0 {
		r.Nodes, r.Next = nil, now.Add(limits.Pause)
	}
	stop := func(code, format string, args ...any) RolloutPlan {
		r.State, r.Ended = millpond.RolloutStopped, now
		e := resizeError(code, fmt.Sprintf(format, args...)+" The rollout was stopped. Look at the errors of the pool's nodes, correct the image or the start task, and patch the pool again.", now)
		r.Error = &e
		if limits.RollBack || r.Automatic && !p.Spec.Upgrade.KeepFailed {
			plan.RollBack = failed
		}
		return plan
	}
	if r.Batch > 0 && badUpgraded*100 > limits.MaxUnhealthyUpgraded*upgraded {
		return stop("MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade", "%d of the %d upgraded nodes are unhealthy, more than the %d %% of maxUnhealthyUpgradedInstancePercent.", badUpgraded, upgraded, limits.MaxUnhealthyUpgraded)
	}
	if len(waiting) > 0 && bad*100 > limits.MaxUnhealthy*total {
		code := "MaxUnhealthyInstancePercentExceededInRollingUpgrade"
		if r.Batch == 0 {
			code = "MaxUnhealthyInstancePercentExceededBeforeRollingUpgrade"
		}
		return stop(code, "%d of the pool's %d nodes are unhealthy, more than the %d %% of maxUnhealthyInstancePercent.", bad, total, limits.MaxUnhealthy)
	}
	if len(waiting) == 0 {
		if coming == 0 {
			r.State, r.Ended = millpond.RolloutDone, now
		}
		return plan
	}
	if now.Before(r.Next) {
		plan.Next = r.Next
		return plan
	}
	slices.SortStableFunc(waiting, func(a, b RolloutView) int {
		if limits.PrioritizeUnhealthy && a.health() != b.health() {
			return cmp.Compare(b.health(), a.health())
		}
		return cmp.Or(cmp.Compare(a.Tasks, b.Tasks), cmp.Compare(a.ID, b.ID))
	})
	for _, v := range waiting[:min(len(waiting), max(1, total*limits.MaxBatch/100))] {
		if v.Image < p.ImageRevision {
			plan.Upgrade = append(plan.Upgrade, v.ID)
		} else {
			plan.Reboot = append(plan.Reboot, v.ID)
		}
		r.Nodes = append(r.Nodes, v.ID)
	}
	r.Batch++
	return plan
}
