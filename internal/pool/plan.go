package pool

import (
	"fmt"
	"sort"
	"time"

	millpond "millpond.dev/millpond"
)

// NodeView is what a plan needs to know of a node.
type NodeView struct {
	ID        millpond.NodeID
	Dedicated bool
	State     millpond.NodeState
	// Came: its machine has run, so that it counts as allocated.
	Came bool
	// Failure is why no machine could be launched for it, tried for the last time.
	Failure string
	Tasks   int
}

// Snapshot is everything that a plan for one pool depends on.
type Snapshot struct {
	Pool  millpond.Pool
	Nodes []NodeView
	// Room is how many more machines the launcher takes; -1 for no limit.
	Room int
	// QuotaDedicated and QuotaLow are how many more nodes of the pool's size the
	// account's core quota allows; -1 for no limit.
	QuotaDedicated, QuotaLow int
	// Addresses is how many more nodes the pool's subnet has room for; -1 for no limit.
	Addresses int
	// Preemptible are the low-priority nodes of the host, the one to be taken first
	// in front; Freeing counts those that are being taken.
	Preemptible []millpond.NodeID
	Freeing     int
	// Hindrance is why no new node can be made now; empty if one can.
	Hindrance string
	Now       time.Time
}

// Plan is what is to be done for one pool.
type Plan struct {
	CreateDedicated, CreateLow int
	// Retire are nodes to send away with Option. Withdraw are nodes to send away
	// whose machine never ran.
	Retire, Withdraw []millpond.NodeID
	Option           millpond.DeallocationOption
	// Preempt are nodes whose machines give room to dedicated ones.
	Preempt []millpond.NodeID
	// Settle ends the resize with Errors.
	Settle bool
	Errors []millpond.ResizeError
	// Remove removes the row of a pool without nodes.
	Remove bool
	// Next is when to plan again at the latest; zero when only a wake matters.
	Next time.Time
}

// Make plans one pool. A resize ends when there is nothing left to wait for, and
// at its timeout at the latest; nodes that came by then stay.
func Make(s Snapshot) Plan {
	p := Plan{Option: s.Pool.Deallocation}
	if s.Pool.State == millpond.PoolDeleting {
		p.Option = millpond.DeallocateRequeue
		for _, n := range s.Nodes {
			if n.State != millpond.NodeLeavingPool {
				p.Retire = append(p.Retire, n.ID)
			}
		}
		p.Remove = len(s.Nodes) == 0
		return p
	}
	if s.Pool.Allocation == millpond.AllocationSteady {
		return p
	}
	deadline := s.Pool.ResizeStarted.Add(s.Pool.ResizeTimeout)
	over := ""
	if !s.Now.Before(deadline) {
		over = "AllocationTimedout"
	}
	if s.Pool.Allocation == millpond.AllocationStopping {
		over = "ResizeStopped"
	}
	d := kind{name: "dedicated", target: s.Pool.TargetDedicated, quota: s.QuotaDedicated, quotaCode: "AccountCoreQuotaReached"}
	l := kind{name: "low-priority", target: s.Pool.TargetLowPriority, quota: s.QuotaLow, quotaCode: "AccountLowPriorityCoreQuotaReached"}
	for _, n := range s.Nodes {
		if n.Dedicated {
			d.add(n)
		} else {
			l.add(n)
		}
	}
	room, addresses := s.Room, s.Addresses
	waits := false
	if s.Pool.Spec.InterNode {
		free := max(0, millpond.MaxInterNode-len(d.live)-len(l.live))
		d.together, l.together = free, max(0, free-max(0, d.target-len(d.live)))
	} else {
		d.together, l.together = -1, -1
	}
	for _, k := range []*kind{&d, &l} {
		if over == "" {
			k.grow(s, &room, &addresses)
		}
		if over != "ResizeStopped" {
			p.Retire = append(p.Retire, k.surplus()...)
		}
		waits = waits || k.granted > 0 || k.coming > 0 || k.leaving > 0
		if k == &d && over == "" && k.short > 0 && s.Freeing+len(s.Preemptible) > 0 {
			p.Preempt = s.Preemptible[:min(len(s.Preemptible), max(0, k.short-s.Freeing))]
			waits = true
			room = 0
		}
	}
	waits = waits || len(p.Retire) > 0
	if over == "" && waits {
		p.CreateDedicated, p.CreateLow, p.Next = d.granted, l.granted, deadline
		return p
	}
	p.Settle = true
	for _, k := range []*kind{&d, &l} {
		errs, withdraw := k.settle(over, s.Now)
		p.Errors = append(p.Errors, errs...)
		p.Withdraw = append(p.Withdraw, withdraw...)
	}
	if over == "ResizeStopped" && len(p.Errors) == 0 {
		p.Errors = append(p.Errors, resizeError("ResizeStopped", "The resize was stopped by a user. Resize the pool again to reach another size.", s.Now))
	}
	return p
}

// kind is the dedicated or the low-priority half of a pool.
type kind struct {
	name      string
	target    int
	quota     int
	quotaCode string

	live             []NodeView // not leaving
	coming, leaving  int
	failed           []NodeView
	missing, granted int
	// short is how many are missing for want of room alone.
	short int
	// together is how many more fit into a network of nodes that reach each
	// other; -1 for no limit.
	together int
	// blockedCode says why missing nodes are not granted.
	blockedCode, blockedWhy string
}

func (k *kind) add(n NodeView) {
	if n.State == millpond.NodeLeavingPool {
		k.leaving++
		return
	}
	k.live = append(k.live, n)
	switch {
	case n.Came:
	case n.Failure != "":
		k.failed = append(k.failed, n)
	default:
		k.coming++
	}
}

// grow grants as many of the missing nodes as image, quota and room allow.
func (k *kind) grow(s Snapshot, room, addresses *int) {
	k.missing = max(0, k.target-len(k.live))
	if k.missing == 0 {
		return
	}
	if s.Hindrance != "" {
		k.blockedCode, k.blockedWhy = "AllocationFailed", s.Hindrance
		return
	}
	k.granted = k.missing
	if k.quota >= 0 && k.quota < k.granted {
		k.granted, k.blockedCode = k.quota, k.quotaCode
		k.blockedWhy = "The account's core quota is used up."
	}
	if k.together >= 0 && k.together < k.granted {
		k.granted, k.blockedCode = k.together, "CommunicationEnabledPoolReachedMaxVMCount"
		k.blockedWhy = fmt.Sprintf("A pool with inter-node communication has at most %d nodes.", millpond.MaxInterNode)
	}
	if *addresses >= 0 {
		if *addresses < k.granted {
			k.granted, k.blockedCode = *addresses, "AllocationFailed"
			k.blockedWhy = "The subnet of the pool does not have enough free IP addresses. Delete what is in it and not needed, or use a larger one."
		}
		*addresses -= k.granted
	}
	if *room >= 0 && *room < k.granted {
		k.short = k.granted - *room
		k.granted, k.blockedCode = *room, "AllocationFailed"
		k.blockedWhy = "Deployment allocation failed due to insufficient capacity for the requested VM size on this host."
	}
	if *room >= 0 {
		*room -= k.granted
	}
}

// surplus picks the nodes that go: those that cannot work first, then those
// that have not come, then deallocated ones, then idle ones, then those with the fewest tasks.
func (k *kind) surplus() []millpond.NodeID {
	n := len(k.live) - k.target
	if n <= 0 {
		return nil
	}
	order := append([]NodeView(nil), k.live...)
	sort.SliceStable(order, func(i, j int) bool {
		a, b := worth(order[i]), worth(order[j])
		if a != b {
			return a < b
		}
		if order[i].Tasks != order[j].Tasks {
			return order[i].Tasks < order[j].Tasks
		}
		return order[i].ID < order[j].ID
	})
	out := make([]millpond.NodeID, n)
	for i := range out {
		out[i] = order[i].ID
	}
	gone := map[millpond.NodeID]bool{}
	for _, id := range out {
		gone[id] = true
	}
	var live, failed []NodeView
	for _, v := range k.live {
		if !gone[v.ID] {
			live = append(live, v)
			continue
		}
		if !v.Came && v.Failure == "" {
			k.coming--
		}
	}
	for _, v := range k.failed {
		if !gone[v.ID] {
			failed = append(failed, v)
		}
	}
	k.live, k.failed = live, failed
	return out
}

func worth(n NodeView) int {
	switch {
	case n.Failure != "" || n.State == millpond.NodeUnusable || n.State == millpond.NodeStartTaskFailed || n.State == millpond.NodeUnknown || n.State == millpond.NodePreempted:
		return 0
	case !n.Came:
		return 1
	case n.State == millpond.NodeDeallocated || n.State == millpond.NodeDeallocating && n.Tasks == 0:
		return 2
	case n.Tasks == 0 && n.State != millpond.NodeRunning:
		return 3
	}
	return 4
}

// settle says why the half is not at its target and which nodes never came.
func (k *kind) settle(over string, now time.Time) (errs []millpond.ResizeError, withdraw []millpond.NodeID) {
	for _, n := range k.live {
		if !n.Came {
			withdraw = append(withdraw, n.ID)
		}
	}
	came := len(k.live) - len(withdraw)
	short := k.target - came
	what := "Desired number of " + k.name + " nodes could not be allocated"
	switch {
	case short <= 0:
	case len(k.failed) > 0:
		errs = append(errs, resizeError("AllocationFailed", what, now, millpond.NameValue{Name: "Reason", Value: k.failed[0].Failure}))
	case k.blockedCode != "":
		errs = append(errs, resizeError(k.blockedCode, what, now, millpond.NameValue{Name: "Reason", Value: k.blockedWhy}))
	case over == "ResizeStopped":
		errs = append(errs, resizeError(over, what+" as the resize was stopped by a user", now))
	default:
		errs = append(errs, resizeError("AllocationTimedout", what+" as the resize timeout was reached. Resize the pool again, with a longer resizeTimeout if its nodes were still starting.", now))
	}
	if over == "AllocationTimedout" && k.leaving > 0 {
		errs = append(errs, resizeError("RemoveNodesFailed", "Not all "+k.name+" nodes that are to leave have left within the resize timeout; they leave when their tasks allow it.", now))
	}
	return errs, withdraw
}

func resizeError(code, message string, now time.Time, values ...millpond.NameValue) millpond.ResizeError {
	return millpond.ResizeError{Code: code, Message: message, Values: values, Time: now}
}
