package millpond

import (
	"fmt"
	"strings"
	"time"
)

// nodeTable, the usual way (every cell is in the table below):
//
//	creating ─launched▶ starting ─ready▶ idle ◀─taskbegan/drained─▶ running
//	    ▲                 │   ▲            │ ▲                         │
//	    │    starttaskbegan   │   disabled │ │ enabled                 │
//	    │                 ▼   │            ▼ │                         │
//	    │  waitingforstarttask│          offline                       │
//	    │     │ready ▶ idle   │ registered (a new boot)                │
//	    │     ▼ starttaskgaveup                                        │
//	    │  starttaskfailed                                             │
//	    │                                                              │
//	relaunch (the VM died)      reboot ▶ rebooting ─registered▶ starting
//	                            reimage ▶ reimaging ─launched▶ starting
//	lost ▶ unknown ─found▶ starting, then on to where it was
//	failed ▶ unusable           leave ▶ leavingpool, and then no row
//	deallocate ▶ deallocating ─stopped▶ deallocated ─start▶ starting
//	preempt ▶ preempted ─relaunch▶ creating
//	upgrade ▶ upgradingos ─launched▶ starting
var nodeTable = func() map[NodeState]map[NodeEvent]cell[NodeState] {
	t, s, n := to[NodeState], same[NodeState](), no[NodeState]
	const (
		notYet   = "the machine of this node is still being created"
		booting  = "the node is starting"
		rebootng = "the node is being rebooted"
		reimagng = "the node is being reimaged"
		leavng   = "the node is leaving the pool"
		broken   = "the node is unusable"
		taken    = "the node was preempted"
		silent   = "contact with the node is lost"
		stFailed = "the start task of the node failed"
		stRuns   = "the start task of the node is running"
		busy     = "tasks still run on the node"
		off      = "scheduling is disabled on the node"
		stopping = "the node is being deallocated"
		stopped  = "the node is deallocated; start it first"
		runs     = "the node is not deallocated, so there is nothing to start"
		upgradng = "the image of the node is being upgraded"
		notStopd = "nobody asked for its machine to stop"
	)
	return map[NodeState]map[NodeEvent]cell[NodeState]{
		NodeCreating: {
			NodeLaunched: t(NodeStarting), NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(notYet), NodeReady: n(notYet), NodeStartTaskGaveUp: n(notYet),
			NodeTaskBegan: n(notYet), NodeDrained: s, NodeDisabled: n(notYet), NodeEnabled: n(notYet), NodeReboot: n(notYet), NodeReimage: n(notYet),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: n("nothing was heard of it yet"), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(notYet), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: n(notYet),
		},
		NodeStarting: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: t(NodeWaitingForStartTask), NodeReady: t(NodeIdle), NodeStartTaskGaveUp: t(NodeStartTaskFailed),
			NodeTaskBegan: n(booting), NodeDrained: s, NodeDisabled: n(booting), NodeEnabled: n(booting), NodeReboot: n(booting), NodeReimage: n(booting),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: t(NodeUnknown), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(booting), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: n(booting),
		},
		NodeWaitingForStartTask: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: s, NodeReady: t(NodeIdle), NodeStartTaskGaveUp: t(NodeStartTaskFailed),
			NodeTaskBegan: n(stRuns), NodeDrained: s, NodeDisabled: n(stRuns), NodeEnabled: n(stRuns), NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: t(NodeUnknown), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(stRuns), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodeStartTaskFailed: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(stFailed), NodeReady: n(stFailed), NodeStartTaskGaveUp: s,
			NodeTaskBegan: n(stFailed), NodeDrained: s, NodeDisabled: n(stFailed), NodeEnabled: n(stFailed), NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: t(NodeUnknown), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: t(NodeDeallocating), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodeIdle: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: s, NodeReady: s, NodeStartTaskGaveUp: s,
			NodeTaskBegan: t(NodeRunning), NodeDrained: s, NodeDisabled: t(NodeOffline), NodeEnabled: s, NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: t(NodeUnknown), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: t(NodeDeallocating), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodeRunning: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: s, NodeReady: s, NodeStartTaskGaveUp: s,
			NodeTaskBegan: s, NodeDrained: t(NodeIdle), NodeDisabled: n(busy), NodeEnabled: s, NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: t(NodeUnknown), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: t(NodeDeallocating), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodeOffline: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: s, NodeReady: s, NodeStartTaskGaveUp: s,
			NodeTaskBegan: n(off), NodeDrained: s, NodeDisabled: s, NodeEnabled: t(NodeIdle), NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: t(NodeUnknown), NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: t(NodeDeallocating), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodeRebooting: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(rebootng), NodeReady: n(rebootng), NodeStartTaskGaveUp: n(rebootng),
			NodeTaskBegan: n(rebootng), NodeDrained: s, NodeDisabled: n(rebootng), NodeEnabled: n(rebootng), NodeReboot: n(rebootng), NodeReimage: n(rebootng),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: s, NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(rebootng), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: n(rebootng),
		},
		NodeReimaging: {
			NodeLaunched: t(NodeStarting), NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(reimagng), NodeReady: n(reimagng), NodeStartTaskGaveUp: n(reimagng),
			NodeTaskBegan: n(reimagng), NodeDrained: s, NodeDisabled: n(reimagng), NodeEnabled: n(reimagng), NodeReboot: n(reimagng), NodeReimage: n(reimagng),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: s, NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(reimagng), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: n(reimagng),
		},
		NodeLeavingPool: {
			NodeLaunched: s, NodeRegistered: s, NodeStartTaskBegan: s, NodeReady: s, NodeStartTaskGaveUp: s,
			NodeTaskBegan: n(leavng), NodeDrained: s, NodeDisabled: n(leavng), NodeEnabled: n(leavng), NodeReboot: n(leavng), NodeReimage: n(leavng),
			NodeLeave: s, NodeFailed: s, NodeLost: s, NodeFound: s, NodeRelaunch: n(leavng),
			NodeDeallocate: n(leavng), NodeStopped: n(notStopd), NodeStart: n(leavng), NodePreempt: n(leavng), NodeUpgrade: n(leavng),
		},
		NodeUnusable: {
			// A guest that speaks after all is welcome; so is one that its user repairs.
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(broken), NodeReady: n(broken), NodeStartTaskGaveUp: n(broken),
			NodeTaskBegan: n(broken), NodeDrained: s, NodeDisabled: n(broken), NodeEnabled: n(broken), NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: s, NodeLost: s, NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: t(NodeDeallocating), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodeUnknown: {
			NodeLaunched: s, NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(silent), NodeReady: n(silent), NodeStartTaskGaveUp: n(silent),
			NodeTaskBegan: n(silent), NodeDrained: s, NodeDisabled: n(silent), NodeEnabled: n(silent), NodeReboot: t(NodeRebooting), NodeReimage: t(NodeReimaging),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: s, NodeFound: t(NodeStarting), NodeRelaunch: t(NodeCreating),
			NodeDeallocate: t(NodeDeallocating), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: t(NodeUpgradingOS),
		},
		NodePreempted: {
			NodeLaunched: s, NodeRegistered: n(taken), NodeStartTaskBegan: n(taken), NodeReady: n(taken), NodeStartTaskGaveUp: n(taken),
			NodeTaskBegan: n(taken), NodeDrained: s, NodeDisabled: n(taken), NodeEnabled: n(taken), NodeReboot: n(taken), NodeReimage: n(taken),
			NodeLeave: t(NodeLeavingPool), NodeFailed: n(taken), NodeLost: s, NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(taken), NodeStopped: n(notStopd), NodeStart: n(taken), NodePreempt: s, NodeUpgrade: n(taken),
		},
		NodeDeallocating: {
			NodeLaunched: s, NodeRegistered: s, NodeStartTaskBegan: n(stopping), NodeReady: n(stopping), NodeStartTaskGaveUp: n(stopping),
			NodeTaskBegan: n(stopping), NodeDrained: s, NodeDisabled: n(stopping), NodeEnabled: n(stopping), NodeReboot: n(stopping), NodeReimage: n(stopping),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: s, NodeFound: s, NodeRelaunch: n(stopping),
			NodeDeallocate: n(stopping), NodeStopped: t(NodeDeallocated), NodeStart: n(stopping), NodePreempt: n(stopping), NodeUpgrade: n(stopping),
		},
		NodeDeallocated: {
			// A machine that runs nevertheless is stopped again.
			NodeLaunched: s, NodeRegistered: s, NodeStartTaskBegan: n(stopped), NodeReady: n(stopped), NodeStartTaskGaveUp: n(stopped),
			NodeTaskBegan: n(stopped), NodeDrained: s, NodeDisabled: n(stopped), NodeEnabled: n(stopped), NodeReboot: n(stopped), NodeReimage: n(stopped),
			NodeLeave: t(NodeLeavingPool), NodeFailed: s, NodeLost: s, NodeFound: s, NodeRelaunch: n(stopped),
			NodeDeallocate: n(stopped), NodeStopped: s, NodeStart: t(NodeStarting), NodePreempt: n(stopped), NodeUpgrade: n(stopped),
		},
		NodeUpgradingOS: {
			NodeLaunched: t(NodeStarting), NodeRegistered: t(NodeStarting), NodeStartTaskBegan: n(upgradng), NodeReady: n(upgradng), NodeStartTaskGaveUp: n(upgradng),
			NodeTaskBegan: n(upgradng), NodeDrained: s, NodeDisabled: n(upgradng), NodeEnabled: n(upgradng), NodeReboot: n(upgradng), NodeReimage: n(upgradng),
			NodeLeave: t(NodeLeavingPool), NodeFailed: t(NodeUnusable), NodeLost: s, NodeFound: s, NodeRelaunch: t(NodeCreating),
			NodeDeallocate: n(upgradng), NodeStopped: n(notStopd), NodeStart: n(runs), NodePreempt: t(NodePreempted), NodeUpgrade: n(upgradng),
		},
	}
}()

// NodeTransition is the table's answer: the next state and whether the event was
// accepted, a duplicate or refused, with a reason for people.
func NodeTransition(from NodeState, e NodeEvent) (NodeState, Outcome, string) {
	return answer(nodeTable, from, e)
}

// NodeHistory is how many changes of state a node remembers.
const NodeHistory = 32

// Enter applies an event to the node in memory and notes why. It says whether the
// event was accepted.
func (n *Node) Enter(e NodeEvent, why string, now time.Time) bool {
	next, outcome, _ := NodeTransition(n.State, e)
	if outcome != Accepted {
		return false
	}
	if next != n.State {
		n.State, n.StateTransition = next, now
		n.Note(why, now)
	}
	return true
}

// Note adds to the node's history why its state is what it is.
func (n *Node) Note(why string, now time.Time) {
	n.History = append(n.History, NodeChange{State: n.State, Reason: why, Time: now})
	n.History = n.History[max(0, len(n.History)-NodeHistory):]
}

// NextGeneration is for a node that gets another machine or other disks: the agent
// of those counts anew.
func (n *Node) NextGeneration() {
	n.Generation++
	n.LastSequence, n.BootID = 0, ""
}

// Preempt has the node's machine taken away when its tasks have ended, at due at
// the latest. The answer is the table's.
func (n *Node) Preempt(due time.Time) (Outcome, string) {
	_, outcome, reason := NodeTransition(n.State, NodePreempt)
	switch {
	case n.Pending != "":
		return Refused, "another operation on the node is under way"
	case outcome == Accepted:
		n.Pending, n.PendingOption, n.PendingDue = NodePreempt, DeallocateRequeue, due
	}
	return outcome, reason
}

// NodeRefusal is Azure's error for an operation that a node in state s does not
// allow.
func NodeRefusal(s NodeState, reason string) *Error {
	code, then := "OperationInvalidForCurrentState", "Try again when the node is idle or running."
	switch s {
	case NodeCreating:
		code = "NodeBeingCreated"
	case NodeStarting, NodeWaitingForStartTask:
		code = "NodeBeingStarted"
	case NodeRebooting:
		code = "NodeBeingRebooted"
	case NodeReimaging:
		code = "NodeBeingReimaged"
	case NodeUnusable:
		code = "NodeStateUnusable"
	case NodeDeallocated, NodePreempted:
		then = ""
	}
	return Errorf(Conflict, code, "%s", strings.TrimSpace(fmt.Sprintf("The operation is not possible now: %s (its state is %s). %s", reason, s, then)))
}
