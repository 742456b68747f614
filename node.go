package millpond

import (
	"net/netip"
	"time"
)

// NodeState is a compute node's state, spelled as on the wire.
type NodeState string

const (
	NodeCreating            NodeState = "creating"
	NodeStarting            NodeState = "starting"
	NodeWaitingForStartTask NodeState = "waitingforstarttask"
	NodeStartTaskFailed     NodeState = "starttaskfailed"
	NodeIdle                NodeState = "idle"
	NodeRunning             NodeState = "running"
	NodeOffline             NodeState = "offline"
	NodeRebooting           NodeState = "rebooting"
	NodeReimaging           NodeState = "reimaging"
	NodeLeavingPool         NodeState = "leavingpool"
	NodeUnusable            NodeState = "unusable"
	NodeUnknown             NodeState = "unknown"
	NodePreempted           NodeState = "preempted"
	NodeDeallocating        NodeState = "deallocating"
	NodeDeallocated         NodeState = "deallocated"
	NodeUpgradingOS         NodeState = "upgradingos"
)

// NodeStates is every state, for tests over the full product and for counts.
var nodeStates = [...]NodeState{NodeCreating, NodeStarting, NodeWaitingForStartTask, NodeStartTaskFailed,
	NodeIdle, NodeRunning, NodeOffline, NodeRebooting, NodeReimaging, NodeLeavingPool, NodeUnusable, NodeUnknown, NodePreempted,
	NodeDeallocating, NodeDeallocated, NodeUpgradingOS}

// NodeStates lists every state.
func NodeStates() []NodeState { return append([]NodeState(nil), nodeStates[:]...) }

// NodeEvent is something that happened to a node.
type NodeEvent string

const (
	// NodeLaunched: the launcher runs the VM; the guest has not spoken yet.
	NodeLaunched NodeEvent = "launched"
	// NodeRegistered: the agent said hello (first time, or with a new boot id).
	NodeRegistered NodeEvent = "registered"
	// NodeStartTaskBegan: a start task with waitForSuccess is running.
	NodeStartTaskBegan NodeEvent = "starttaskbegan"
	// NodeReady: registered, start task satisfied.
	NodeReady NodeEvent = "ready"
	// NodeStartTaskGaveUp: the start task failed for good, waitForSuccess set.
	NodeStartTaskGaveUp NodeEvent = "starttaskgaveup"
	// NodeTaskBegan and NodeDrained: from no task to one, from one to none.
	NodeTaskBegan NodeEvent = "taskbegan"
	NodeDrained   NodeEvent = "drained"
	// NodeDisabled: scheduling disabled and no task left; NodeEnabled undoes it.
	NodeDisabled NodeEvent = "disabled"
	NodeEnabled  NodeEvent = "enabled"
	NodeReboot   NodeEvent = "reboot"
	NodeReimage  NodeEvent = "reimage"
	// NodeLeave: to be removed from the pool.
	NodeLeave NodeEvent = "leave"
	// NodeFailed: it cannot run tasks; errors say why.
	NodeFailed NodeEvent = "failed"
	// NodeLost: contact lost, state undetermined. NodeFound: contact again with
	// the same boot; the state before is restored by the caller's choice of event
	// (ready, taskbegan…) after Found.
	NodeLost  NodeEvent = "lost"
	NodeFound NodeEvent = "found"
	// NodeRelaunch: the VM died and is launched again under the same id.
	NodeRelaunch NodeEvent = "relaunch"
	// NodeDeallocate: its machine is to be stopped, disks kept; NodeStopped: it
	// has stopped; NodeStart: it is to run again.
	NodeDeallocate NodeEvent = "deallocate"
	NodeStopped    NodeEvent = "stopped"
	NodeStart      NodeEvent = "start"
	// NodePreempt: the machine of a low-priority node was taken away.
	NodePreempt NodeEvent = "preempt"
	// NodeUpgrade: a reimage that a change of the pool's image asked for.
	NodeUpgrade NodeEvent = "upgrade"
)

var nodeEvents = [...]NodeEvent{NodeLaunched, NodeRegistered, NodeStartTaskBegan, NodeReady, NodeStartTaskGaveUp, NodeTaskBegan,
	NodeDrained, NodeDisabled, NodeEnabled, NodeReboot, NodeReimage, NodeLeave, NodeFailed, NodeLost, NodeFound, NodeRelaunch,
	NodeDeallocate, NodeStopped, NodeStart, NodePreempt, NodeUpgrade}

// NodeEvents lists every event.
func NodeEvents() []NodeEvent { return append([]NodeEvent(nil), nodeEvents[:]...) }

// SchedulingState is whether tasks may be placed on a node.
type SchedulingState string

const (
	SchedulingEnabled  SchedulingState = "enabled"
	SchedulingDisabled SchedulingState = "disabled"
)

// NodeError is why a node is not ready: code, what stage it reached, evidence
// and what to do.
type NodeError struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Details []NameValue `json:"details,omitempty"`
	Time    time.Time   `json:"time"`
}

// NodeUser is an account of one node that people log in with.
type NodeUser struct {
	Name   string    `json:"name"`
	Admin  bool      `json:"admin,omitempty"`
	Expiry time.Time `json:"expiry"`
	// PasswordHash is of crypt(3); empty for none. Key is a line of OpenSSH.
	PasswordHash string `json:"passwordHash,omitempty"`
	Key          string `json:"key,omitempty"`
}

// LiveUsers are the accounts that have neither expired nor gone with a disk.
func (n Node) LiveUsers(now time.Time) (out []NodeUser) {
	if n.UsersOf != n.Generation {
		return nil
	}
	for _, u := range n.Users {
		if now.Before(u.Expiry) {
			out = append(out, u)
		}
	}
	return out
}

// Endpoint is a port of a node that can be reached from the host.
type Endpoint struct {
	Name     string         `json:"name"`
	UDP      bool           `json:"udp,omitempty"` // else TCP
	Frontend netip.AddrPort `json:"frontend"`
	Backend  int            `json:"backend"`
}

// Place is where a machine is in a virtual network.
type Place struct {
	// LAN names the network on its host.
	LAN     string       `json:"lan"`
	Subnet  netip.Prefix `json:"subnet"`
	Address netip.Addr   `json:"address"`
}

// StartTaskInfo is how a node's start task went.
type StartTaskInfo struct {
	State      string         `json:"state"` // running or completed
	Attempt    int            `json:"attempt"`
	StartTime  time.Time      `json:"startTime"`
	EndTime    time.Time      `json:"endTime"`
	ExitCode   *int           `json:"exitCode,omitempty"`
	Failure    *TaskFailure   `json:"failure,omitempty"`
	RetryCount int            `json:"retryCount"`
	LastRetry  time.Time      `json:"lastRetry"`
	Result     string         `json:"result,omitempty"` // success or failure
	Container  *ContainerInfo `json:"container,omitempty"`
}

// Boot phases in the order in which a node passes them; NodePhase names are
// keys of Node.Phases.
const (
	PhaseLaunch    = "launch"    // row written → QEMU runs
	PhaseBoot      = "boot"      // QEMU runs → agent says hello
	PhaseStartTask = "startTask" // hello → start task done
	PhaseIdle      = "idle"      // row written → idle, the sum
)

// BootStep is one step of a machine's way to its first word.
type BootStep struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration"`
}

// Node is one compute node.
//
// Writers: package pool adds rows, sends nodes away (leavingpool), asks for the
// upgrades of rollouts, has nodes preempted and brings those back; package
// ledger keeps idle, running, offline and the task counters in step with the
// tasks; package node writes all else and removes the row once the VM is gone.
type Node struct {
	Account AccountName
	Pool    PoolID
	ID      NodeID
	// Generation grows with each reimage; the launcher is idempotent by it.
	Generation int
	Dedicated  bool

	State           NodeState
	StateTransition time.Time
	Scheduling      SchedulingState
	// Pending is an operation that is not yet carried out, because tasks still
	// run or because the launcher has not been told: reboot, reimage, upgrade,
	// deallocate, preempt or leave. The state says already that it is under way
	// (a node that is to be preempted keeps its state until its notice is over);
	// PendingOption says what becomes of the tasks.
	Pending       NodeEvent
	PendingOption DeallocationOption
	// PendingDue is when it is carried out at the latest, tasks or not; zero
	// without a limit.
	PendingDue time.Time

	// Created is when the row was written; Phases count from it.
	Created time.Time
	// Request is the call that the last boot was for, as far as there was one.
	Request Request `json:",omitzero"`
	VMSize  string
	Boot    BootImage
	// ImageRevision and StartRevision are the pool's when the node got its image
	// and began its start task. RolledBack: it has what was before the last
	// rollout, because it failed with what is now.
	ImageRevision, StartRevision int
	RolledBack                   bool
	TokenHash                    string // SHA-256 of the node's channel credential
	Address                      string
	// Number is the node's within its pool, from 1; 0 until a machine was launched.
	Number int `json:",omitempty"`
	// Endpoints are those of the pool, and Login where SSH is, as of the machine's
	// launch.
	Endpoints []Endpoint     `json:",omitempty"`
	Login     netip.AddrPort `json:",omitzero"`
	// Place is where it is in the subnet of its pool, as of the machine's launch; nil
	// for a pool in no subnet.
	Place *Place `json:",omitempty"`
	// Users are accounts of this node alone. UsersOf is the generation whose disk
	// has, or had, some; with another they are gone.
	Users   []NodeUser `json:",omitempty"`
	UsersOf int        `json:",omitempty"`
	// SSH says that the machine has a server for it.
	SSH bool `json:",omitempty"`
	// HostAddress is where the guest reaches the loopback of its host; nodes know
	// it as host.millpond.internal.
	HostAddress  string
	AgentVersion string
	AgentUpdated time.Time
	BootID       string
	LastBoot     time.Time
	Allocated    time.Time
	RootDir      string
	// Installing: the pool's application packages are not all there yet since the
	// last boot.
	Installing bool `json:",omitempty"`
	// Certificates are those of the pool as of the last boot.
	Certificates  []CertificateReference `json:",omitempty"`
	StartTask     *StartTask             // as it ran
	StartTaskInfo *StartTaskInfo
	// Preparing: the boot is not yet what its pool wants; nothing may run.
	Preparing bool
	// Extensions are those of the pool that were run on the node.
	Extensions []NodeExtension `json:",omitempty"`
	Errors     []NodeError
	Phases     map[string]time.Duration
	// MadeFrom is the template that the machine is a clone of; empty for one that
	// booted by itself, for the reason BootedBecause. BootSteps are what the launch
	// and the boot consisted of.
	MadeFrom, BootedBecause string
	// Spare: the machine was there before the node was.
	Spare     bool `json:",omitempty"`
	BootSteps []BootStep
	// LastContact is when the agent was last heard; kept in memory between writes.
	LastContact time.Time
	// LastSequence is the last event of the agent that was applied.
	LastSequence uint64

	// LaunchTries counts launches that the host refused since the last that it
	// took; NextLaunch is when the next try is due. LaunchFailed says that no
	// further try is made.
	LaunchTries  int
	NextLaunch   time.Time
	LaunchFailed bool
	// Relaunches counts how often in a row the node got a new VM after its own died
	// young.
	Relaunches int
	// History is the last changes of state with their reasons, newest last.
	History []NodeChange

	TasksRun, TasksSucceeded   int
	RunningTasks, RunningSlots int // counted from tasks when read
	RecentTasks                []RecentTask
}

// RecentTask is one of a node's last tasks.
type RecentTask struct {
	Job   JobID     `json:"job"`
	Task  TaskID    `json:"task"`
	State TaskState `json:"state"`
}

// NodeChange is one change of a node's state.
type NodeChange struct {
	State  NodeState `json:"state"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}
