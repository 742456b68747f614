package millpond

import "time"

// Default ids of a job's two own tasks.
const (
	DefaultPreparationID TaskID = "jobpreparation"
	DefaultReleaseID     TaskID = "jobrelease"
)

// MaxReleaseTime is the longest that a release task may run, and the default.
const MaxReleaseTime = 15 * time.Minute

// JobTask is a job's preparation or release task. Of the TaskSpec only what
// such tasks have is set.
type JobTask struct {
	TaskSpec
	// WaitForSuccess keeps the job's tasks waiting on a node until its
	// preparation has succeeded there. It is of preparation tasks only, as is
	// RerunOnReboot.
	WaitForSuccess bool `json:"waitForSuccess,omitempty"`
	// RerunOnReboot prepares a node again after it has rebooted.
	RerunOnReboot bool `json:"rerunOnReboot,omitempty"`
}

// JobNodePhase is how far a job is on one node.
type JobNodePhase string

const (
	// JobNodeDue: the preparation is to run before the job's next task there.
	JobNodeDue JobNodePhase = "due"
	// JobNodePreparing: the preparation runs, or its agent is to start it.
	JobNodePreparing JobNodePhase = "preparing"
	// JobNodeReady: tasks may run there.
	JobNodeReady JobNodePhase = "ready"
	// JobNodeBarred: the preparation failed for good; no task of the job may run there.
	JobNodeBarred JobNodePhase = "barred"
	// JobNodeReleasing: the release task runs, or its agent is to start it.
	JobNodeReleasing JobNodePhase = "releasing"
	// JobNodeDone: nothing more happens there; the row tells what did.
	JobNodeDone JobNodePhase = "done"
)

var jobNodePhases = [...]JobNodePhase{JobNodeDue, JobNodePreparing, JobNodeReady, JobNodeBarred, JobNodeReleasing, JobNodeDone}

// JobNodePhases lists every phase.
func JobNodePhases() []JobNodePhase { return append([]JobNodePhase(nil), jobNodePhases[:]...) }

// JobNodeEvent is something that happens to a job on one node.
type JobNodeEvent string

const (
	// JobNodeTask: a task of the job was given to the node.
	JobNodeTask JobNodeEvent = "task"
	// JobNodePrepared: the preparation succeeded, or need not.
	JobNodePrepared JobNodeEvent = "prepared"
	// JobNodeGaveUp: it failed and is not tried again.
	JobNodeGaveUp JobNodeEvent = "gaveup"
	// JobNodeStale: what ran on the node is gone, or what the preparation made.
	JobNodeStale JobNodeEvent = "stale"
	// JobNodeRelease: the job ends and has a release task.
	JobNodeRelease JobNodeEvent = "release"
	// JobNodeEnd: nothing is left to do, or the node is gone.
	JobNodeEnd JobNodeEvent = "end"
)

var jobNodeEvents = [...]JobNodeEvent{JobNodeTask, JobNodePrepared, JobNodeGaveUp, JobNodeStale, JobNodeRelease, JobNodeEnd}

// JobNodeEvents lists every event.
func JobNodeEvents() []JobNodeEvent { return append([]JobNodeEvent(nil), jobNodeEvents[:]...) }

// jobNodeTable:
//
//	      task              prepared           release              end
//	due ────────▶ preparing ─────────▶ ready ──────────▶ releasing ─────▶ done
//	 ▲                │ gaveup           │
//	 │                ▼                  │
//	 ├── stale ◀── barred                │
//	 └── stale ◀─────────────────────────┘
//
//	release: from every phase before it; end: from every phase.
var jobNodeTable = map[JobNodePhase]map[JobNodeEvent]cell[JobNodePhase]{
	JobNodeDue: {
		JobNodeTask: to(JobNodePreparing), JobNodePrepared: no[JobNodePhase](notPreparing), JobNodeGaveUp: no[JobNodePhase](notPreparing),
		JobNodeStale: same[JobNodePhase](), JobNodeRelease: to(JobNodeReleasing), JobNodeEnd: to(JobNodeDone),
	},
	JobNodePreparing: {
		JobNodeTask: same[JobNodePhase](), JobNodePrepared: to(JobNodeReady), JobNodeGaveUp: to(JobNodeBarred),
		JobNodeStale: to(JobNodeDue), JobNodeRelease: to(JobNodeReleasing), JobNodeEnd: to(JobNodeDone),
	},
	JobNodeReady: {
		JobNodeTask: same[JobNodePhase](), JobNodePrepared: same[JobNodePhase](), JobNodeGaveUp: no[JobNodePhase](notPreparing),
		JobNodeStale: to(JobNodeDue), JobNodeRelease: to(JobNodeReleasing), JobNodeEnd: to(JobNodeDone),
	},
	JobNodeBarred: {
		JobNodeTask: no[JobNodePhase]("the job's preparation failed on the node"), JobNodePrepared: no[JobNodePhase](notPreparing), JobNodeGaveUp: same[JobNodePhase](),
		JobNodeStale: to(JobNodeDue), JobNodeRelease: to(JobNodeReleasing), JobNodeEnd: to(JobNodeDone),
	},
	JobNodeReleasing: {
		JobNodeTask: no[JobNodePhase](jobLeft), JobNodePrepared: no[JobNodePhase](jobLeft), JobNodeGaveUp: no[JobNodePhase](jobLeft),
		JobNodeStale: same[JobNodePhase](), JobNodeRelease: same[JobNodePhase](), JobNodeEnd: to(JobNodeDone),
	},
	JobNodeDone: {
		JobNodeTask: no[JobNodePhase](jobLeft), JobNodePrepared: no[JobNodePhase](jobLeft), JobNodeGaveUp: no[JobNodePhase](jobLeft),
		JobNodeStale: same[JobNodePhase](), JobNodeRelease: same[JobNodePhase](), JobNodeEnd: same[JobNodePhase](),
	},
}

const (
	notPreparing = "no preparation of the job runs on the node"
	jobLeft      = "the job has left the node"
)

// JobNodeTransition is the table's answer: the next phase and whether the event
// was accepted, a duplicate or refused, with a reason for people.
func JobNodeTransition(from JobNodePhase, e JobNodeEvent) (JobNodePhase, Outcome, string) {
	return answer(jobNodeTable, from, e)
}

// JobTaskRun is how a preparation or release task went on one node.
type JobTaskRun struct {
	// State is running or completed; Result success or failure once completed.
	State      string
	Started    time.Time
	Ended      time.Time `json:",omitzero"`
	Directory  string    // relative to the node's root
	ExitCode   *int      `json:",omitempty"`
	Failure    *TaskFailure
	RetryCount int       `json:",omitempty"`
	LastRetry  time.Time `json:",omitzero"`
	Result     string    `json:",omitempty"`
}

// JobNode is a job with a preparation task on one node that was given a task of
// it. Package ledger is its only writer.
type JobNode struct {
	Account AccountName
	Job     JobID
	Pool    PoolID
	Node    NodeID
	Phase   JobNodePhase
	// Changed is when the phase, or Stopping, last changed.
	Changed time.Time
	// Generation is the node's when the preparation began: a new machine has
	// nothing of it.
	Generation int
	// Attempt numbers the runs of both tasks.
	Attempt int
	// Stopping: the job ends, and the agent is to end the preparation.
	Stopping bool `json:",omitempty"`
	// Prepared is nil until the preparation began, Released likewise.
	Prepared *JobTaskRun `json:",omitempty"`
	Released *JobTaskRun `json:",omitempty"`
}
