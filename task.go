package millpond

import "time"

// TaskState is a task's state, spelled as on the wire.
type TaskState string

const (
	TaskActive    TaskState = "active"
	TaskPreparing TaskState = "preparing"
	TaskRunning   TaskState = "running"
	TaskCompleted TaskState = "completed"
)

var taskStates = [...]TaskState{TaskActive, TaskPreparing, TaskRunning, TaskCompleted}

// TaskStates lists every state.
func TaskStates() []TaskState { return append([]TaskState(nil), taskStates[:]...) }

// TaskEvent is something that happens to a task.
type TaskEvent string

const (
	// TaskAssigned: the scheduler gave it a node; a new attempt begins.
	TaskAssigned TaskEvent = "assigned"
	// TaskWaits: the same, but the node is being prepared for its job first;
	// TaskPrepared: it may run there now.
	TaskWaits    TaskEvent = "waits"
	TaskPrepared TaskEvent = "prepared"
	// TaskSucceeded and TaskFailedForGood end it.
	TaskSucceeded     TaskEvent = "succeeded"
	TaskFailedForGood TaskEvent = "failed"
	// TaskRetry: non-zero exit with tries left.
	TaskRetry TaskEvent = "retry"
	// TaskNodeLost: internal recovery, counts as neither retry nor requeue.
	TaskNodeLost TaskEvent = "nodelost"
	// TaskRequeue: a user's action took the node or disabled the job.
	TaskRequeue TaskEvent = "requeue"
	// TaskTerminate: by the user or with its job.
	TaskTerminate TaskEvent = "terminate"
	// TaskReactivate: a failed task is to run again.
	TaskReactivate TaskEvent = "reactivate"
)

var taskEvents = [...]TaskEvent{TaskAssigned, TaskWaits, TaskPrepared, TaskSucceeded, TaskFailedForGood, TaskRetry, TaskNodeLost, TaskRequeue, TaskTerminate, TaskReactivate}

// TaskEvents lists every event.
func TaskEvents() []TaskEvent { return append([]TaskEvent(nil), taskEvents[:]...) }

// TaskFailure is why a task, or a start task, failed.
type TaskFailure struct {
	// Category is usererror or servererror.
	Category string      `json:"category"`
	Code     string      `json:"code"`
	Message  string      `json:"message"`
	Details  []NameValue `json:"details,omitempty"`
}

// Codes of failures that the service itself acts upon.
const (
	// CodeTaskEnded is that of attempts that were ended from outside: by a user, a
	// limit, their job or their node.
	CodeTaskEnded = "TaskEnded"
	// CodeAgentRestarted is the agent's word for attempts that ended with the agent
	// that ran them; they run again.
	CodeAgentRestarted = "AgentRestarted"
)

// DefaultRetention is how long a completed task's files are kept on its node.
const DefaultRetention = 7 * 24 * time.Hour

// TaskSpec is what a user asked for.
type TaskSpec struct {
	ID            TaskID         `json:"id"`
	DisplayName   string         `json:"displayName,omitempty"`
	CommandLine   string         `json:"commandLine"`
	Environment   []NameValue    `json:"environment,omitempty"`
	ResourceFiles []ResourceFile `json:"resourceFiles,omitempty"`
	OutputFiles   []OutputFile   `json:"outputFiles,omitempty"`
	// Packages are installed on the node before the command runs.
	Packages []PackageReference `json:"packages,omitempty"`
	// Token gives the command a token for the operations of its job.
	Token         bool         `json:"token,omitempty"`
	User          UserIdentity `json:"user"`
	RequiredSlots int          `json:"requiredSlots"`
	// Affinity is a soft hint, usually a node's affinity id.
	Affinity string `json:"affinity,omitempty"`
	// MaxWallClock 0 means no limit; it counts per attempt.
	MaxWallClock time.Duration `json:"maxWallClock"`
	Retention    time.Duration `json:"retention"`
	// MaxRetries nil means the job's; -1 means no limit.
	MaxRetries *int `json:"maxRetries,omitempty"`
	// DependsOn nil means that it waits for nothing.
	DependsOn *Dependencies   `json:"dependsOn,omitempty"`
	Exit      *ExitConditions `json:"exit,omitempty"`
	// Manager is set for a job's manager task.
	Manager *ManagerSpec `json:"manager,omitempty"`
	// Container is nil for a process.
	Container *ContainerSettings `json:"container,omitempty"`
	// MultiInstance is set for a task that runs on several nodes at once.
	MultiInstance *MultiInstance `json:"multiInstance,omitempty"`
}

// ManagerSpec is what a job manager task has beside what every task has.
type ManagerSpec struct {
	// KillJob ends the job when the manager completes.
	KillJob bool `json:"killJob"`
	// Exclusive gives it a node without any other task.
	Exclusive bool `json:"exclusive"`
	// AnyNode lets it run on low-priority nodes as well.
	AnyNode bool `json:"anyNode"`
}

// Task is a task and how far it is.
//
// Writers: package job adds rows and package ledger changes and deletes them,
// for job (users' requests), sched (placing) and node (what agents report), by
// TaskTransition inside one transaction that re-reads the row.
type Task struct {
	Account AccountName
	Job     JobID
	Spec    TaskSpec

	State              TaskState
	StateTransition    time.Time `json:",omitzero"`
	Previous           TaskState `json:",omitempty"`
	PreviousTransition time.Time `json:",omitzero"`
	// Attempt counts every run whatever its reason; reports carry it, so that a
	// late report of an earlier run changes nothing.
	Attempt int
	// Incarnation tells the task from one of the same id that was there before:
	// agents know an attempt by the sum of both. 0 in rows from before it was kept.
	Incarnation int    `json:",omitempty"`
	Pool        PoolID `json:",omitempty"`
	Node        NodeID `json:",omitempty"`
	// NodeRoot-relative directory of the last attempt.
	Directory string `json:",omitempty"`
	// Stopping is the failure code asked for while the agent is told to stop it.
	Stopping     string         `json:",omitempty"`
	StopMessage  string         `json:",omitempty"`
	StopRequeue  bool           `json:",omitempty"`
	Started      time.Time      `json:",omitzero"`
	Ended        time.Time      `json:",omitzero"`
	ExitCode     *int           `json:",omitempty"`
	Container    *ContainerInfo `json:",omitempty"`
	Failure      *TaskFailure   `json:",omitempty"`
	RetryCount   int            `json:",omitempty"`
	LastRetry    time.Time      `json:",omitzero"`
	RequeueCount int            `json:",omitempty"`
	LastRequeue  time.Time      `json:",omitzero"`
	Result       string         // success or failure once completed
	// Satisfies is set while those that depend on the task may start.
	Satisfies    bool `json:",omitempty"`
	FilesRemoved bool `json:",omitempty"`
	// Usage is what all its attempts used.
	Usage Usage `json:",omitzero"`
	// Gang is set for a multi-instance task that has been placed. What it leads to
	// is not changed; a changed one is another.
	Gang *Gang `json:",omitempty"`
	// Order is the place in the job's queue: older first.
	Order        int64
	Created      time.Time
	LastModified time.Time
	Version      int64
}

// TaskCounts are tasks, or slots, by state.
type TaskCounts struct{ Active, Running, Completed, Succeeded, Failed int }

// ETag is a text that differs for each change.
func (t Task) ETag() string { return etag(t.Version, t.LastModified) }

// Modified is when the task last changed.
func (t Task) Modified() time.Time { return t.LastModified }

// OnNode says whether the task occupies a node's slots.
func (t Task) OnNode() bool { return t.State == TaskRunning || t.State == TaskPreparing }
