package node

import (
	"sort"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/sqlite"
)

// What is one thing that the loop does for a node.
type What string

const (
	// Launch gives the node a machine of its generation.
	Launch What = "launch"
	// Launched notes that the machine runs.
	Launched What = "launched"
	// Retry notes a launch that the host failed and tries a new generation later.
	Retry What = "retry"
	// Fail makes the node unusable, for Cause.
	Fail What = "fail"
	// BootTimeout makes the node unusable because its agent never spoke.
	BootTimeout What = "boottimeout"
	// Relaunch gives the node a new machine because its own died.
	Relaunch What = "relaunch"
	// Restart starts a machine again that stopped by itself, disks kept.
	Restart What = "restart"
	// Lose notes that contact is lost.
	Lose What = "lose"
	// Reboot and Reimage carry out what is pending.
	Reboot  What = "reboot"
	Reimage What = "reimage"
	// Deallocate stops the machine, disks kept.
	Deallocate What = "deallocate"
	// Preempt destroys the machine of a low-priority node whose id stays.
	Preempt What = "preempt"
	// Remove destroys the machine and removes the row.
	Remove What = "remove"
	// Orphan destroys a machine that no row knows.
	Orphan What = "orphan"
)

// Action is one thing to do for one node.
type Action struct {
	What   What
	Node   millpond.NodeID
	Status *launch.Status
}

// Contact is what this server knows of a node's session.
type Contact struct {
	Live bool
	Last time.Time // when it was last heard, or when the server started
	// Asked is when it was told to reboot; zero when it was not.
	Asked time.Time
}

// Snapshot is everything that a plan for all nodes depends on.
type Snapshot struct {
	Nodes    []sqlite.NodeHead
	Machines []launch.Status
	Contact  func(millpond.NodeID) Contact
	// Retained says whether a node still has task directories to keep.
	Retained func(millpond.NodeID) bool
	// Source is what a node boots from; nil without a bound for boots.
	Source func(sqlite.NodeHead) Source
	// Windows are of the plan before, by image.
	Windows map[string]Window
	// Started is when this server started: no time before it counts as silence.
	Started time.Time
	Now     time.Time
	Config  Config
}

// Plan is what is to be done now.
type Plan struct {
	Actions []Action
	// Next is when a limit passes that nothing wakes for; zero without one.
	Next time.Time
	// Waiting counts launches that wait for other boots.
	Waiting int
	// Windows are for the next plan; nil without a bound for boots.
	Windows map[string]Window
}

// Make plans all nodes.
func Make(s Snapshot) Plan {
	p := planner{Snapshot: s}
	p.out.Actions = p.all()
	return p.out
}

func (p *planner) all() (actions []Action) {
	s := p.Snapshot
	machines := make(map[string]*launch.Status, len(s.Machines))
	for i := range s.Machines {
		machines[s.Machines[i].Node.Key()] = &s.Machines[i]
	}
	launching := map[string]sqlite.NodeHead{}
	rows := 0
	for _, h := range s.Nodes {
		key := h.ID.Key()
		m := machines[key]
		if m != nil {
			rows++
		}
		what := p.one(h, m)
		if what == "" {
			continue
		}
		if what == Launch {
			launching[key] = h
		}
		actions = append(actions, Action{What: what, Node: h.ID, Status: m})
	}
	sort.SliceStable(actions, func(i, j int) bool { return actions[i].Node < actions[j].Node })
	actions = p.bounded(actions, launching, machines)
	if rows == len(machines) {
		return actions
	}
	for _, h := range s.Nodes {
		delete(machines, h.ID.Key())
	}
	for _, m := range machines {
		actions = append(actions, Action{What: Orphan, Node: m.Node, Status: m})
	}
	sort.SliceStable(actions, func(i, j int) bool { return actions[i].Node < actions[j].Node })
	return actions
}

type planner struct {
	Snapshot
	out Plan
}

// passed says whether a limit has passed; one that has not is waited for.
func (p *planner) passed(at time.Time) bool {
	if !p.Now.Before(at) {
		return true
	}
	p.out.Next = reconcile.Sooner(p.out.Next, at)
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (p *planner) one(h sqlite.NodeHead, m *launch.Status) What {
	if h.Pending != "" {
		return p.pending(h, m)
	}
	// A machine of an older generation is being replaced; it counts for nothing.
	if m != nil && m.Generation != h.Generation {
		m = nil
	}
	switch h.State {
	case millpond.NodeLeavingPool:
		return Remove
	case millpond.NodeUnusable:
		return ""
	case millpond.NodePreempted:
		if m != nil {
			return Preempt
		}
		return ""
	case millpond.NodeDeallocating, millpond.NodeDeallocated:
		// The row was written after the machine had stopped; one that was switched
		// on since is stopped again.
		if m != nil && (m.Phase == launch.Running || m.Phase == launch.Preparing) {
			return Deallocate
		}
		return ""
	case millpond.NodeCreating, millpond.NodeReimaging, millpond.NodeUpgradingOS:
		return p.arriving(h, m)
	}
	return p.present(h, m)
}

// ended says that what ran on a node can never report any more: its machine has
// died, or nothing was heard for longer than a node may be silent.
func (p *planner) ended(h sqlite.NodeHead, m *launch.Status) bool {
	if m == nil || m.Generation != h.Generation || m.Phase == launch.Failed || m.Phase == launch.Stopped {
		return true
	}
	c := p.Contact(h.ID)
	return !c.Live && p.passed(later(later(c.Last, h.Changed), p.Started).Add(p.Config.Silence))
}

// pending carries out a reboot, reimage or leave once the tasks allow it. To
// wait for tasks that cannot end any more would be to wait for ever.
func (p *planner) pending(h sqlite.NodeHead, m *launch.Status) What {
	what := map[millpond.NodeEvent]What{millpond.NodeReboot: Reboot, millpond.NodeReimage: Reimage, millpond.NodeUpgrade: Reimage,
		millpond.NodeDeallocate: Deallocate, millpond.NodePreempt: Preempt, millpond.NodeLeave: Remove}[h.Pending]
	if what == Preempt {
		// The notice is kept to; a node without tasks needs none.
		if h.RunningTasks > 0 && !p.ended(h, m) && !p.passed(h.Due) {
			return ""
		}
		return what
	}
	switch h.Option {
	case millpond.DeallocateTaskCompletion:
		if h.RunningTasks > 0 && !p.ended(h, m) {
			return ""
		}
	case millpond.DeallocateRetainedData:
		if (h.RunningTasks > 0 || p.Retained(h.ID)) && !p.ended(h, m) {
			return ""
		}
	default:
		// Leaving need not wait for the agent: the machine is destroyed first.
		if what != Remove && h.RunningTasks > 0 && p.Contact(h.ID).Live && !p.passed(h.Changed.Add(p.Config.StopGrace)) {
			return ""
		}
	}
	return what
}

// arriving is for nodes that have no machine yet, or not the one they shall have.
func (p *planner) arriving(h sqlite.NodeHead, m *launch.Status) What {
	if h.LaunchFailed {
		return ""
	}
	if m == nil {
		if p.passed(h.NextLaunch) {
			return Launch
		}
		return ""
	}
	switch m.Phase {
	case launch.Running:
		return Launched
	case launch.Failed:
		if m.Err != nil && !m.Err.Host {
			return Fail
		}
		return Retry
	case launch.Stopped:
		return Retry
	}
	return ""
}

// present is for nodes whose machine has run.
func (p *planner) present(h sqlite.NodeHead, m *launch.Status) What {
	if m == nil {
		return Relaunch
	}
	c := p.Contact(h.ID)
	since := later(h.Changed, p.Started)
	switch m.Phase {
	case launch.Failed:
		if h.State == millpond.NodeStarting && m.Err != nil && !m.Err.Host {
			return Fail
		}
		return Relaunch
	case launch.Stopped:
		if !p.passed(h.NextLaunch) {
			return ""
		}
		return Restart
	case launch.Preparing:
		return ""
	}
	switch h.State {
	case millpond.NodeStarting, millpond.NodeRebooting:
		since = later(since, c.Asked)
		// A guest that was asked to reboot and speaks on is reset.
		if h.State == millpond.NodeRebooting && c.Live && !c.Asked.IsZero() && p.passed(c.Asked.Add(2*p.Config.StopGrace)) {
			return Restart
		}
		// One that speaks has booted; what its pool wants of it may take long.
		if h.State == millpond.NodeStarting && c.Live {
			return ""
		}
		if p.passed(since.Add(p.Config.BootLimit)) {
			return BootTimeout
		}
	case millpond.NodeUnknown:
	default:
		if !c.Live && p.passed(later(c.Last, p.Started).Add(p.Config.Silence)) {
			return Lose
		}
	}
	return ""
}
