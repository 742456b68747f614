package millpond

import "time"

// JobState is a job's state, spelled as on the wire.
type JobState string

const (
	JobActive      JobState = "active"
	JobDisabling   JobState = "disabling"
	JobDisabled    JobState = "disabled"
	JobEnabling    JobState = "enabling"
	JobTerminating JobState = "terminating"
	JobCompleted   JobState = "completed"
	JobDeleting    JobState = "deleting"
)

var jobStates = [...]JobState{JobActive, JobDisabling, JobDisabled, JobEnabling, JobTerminating, JobCompleted, JobDeleting}

// JobStates lists every state.
func JobStates() []JobState { return append([]JobState(nil), jobStates[:]...) }

// JobEvent is something that happens to a job.
type JobEvent string

const (
	JobDisable   JobEvent = "disable"
	JobEnable    JobEvent = "enable"
	JobTerminate JobEvent = "terminate"
	JobDelete    JobEvent = "delete"
	// JobQuiet: no task of it runs any more.
	JobQuiet JobEvent = "quiet"
)

var jobEvents = [...]JobEvent{JobDisable, JobEnable, JobTerminate, JobDelete, JobQuiet}

// JobEvents lists every event.
func JobEvents() []JobEvent { return append([]JobEvent(nil), jobEvents[:]...) }

// DisableTasks says what becomes of a disabled job's running tasks.
type DisableTasks string

const (
	DisableRequeue   DisableTasks = "requeue"
	DisableTerminate DisableTasks = "terminate"
	DisableWait      DisableTasks = "wait"
)

// JobSpec is what a user asked for.
type JobSpec struct {
	ID               JobID         `json:"id"`
	DisplayName      string        `json:"displayName,omitempty"`
	Pool             PoolID        `json:"pool"`
	Priority         int           `json:"priority"`
	MaxParallelTasks int           `json:"maxParallelTasks"` // -1: no limit
	MaxWallClock     time.Duration `json:"maxWallClock"`     // 0: no limit
	MaxTaskRetries   int           `json:"maxTaskRetries"`   // -1: no limit
	Environment      []NameValue   `json:"environment,omitempty"`
	Metadata         []NameValue   `json:"metadata,omitempty"`
	// OnAllTasksComplete is noaction or terminatejob.
	OnAllTasksComplete string `json:"onAllTasksComplete"`
	// UsesTaskDependencies lets tasks have dependsOn.
	UsesTaskDependencies bool `json:"usesTaskDependencies,omitempty"`
	// OnTaskFailure is noaction or performexitoptionsjobaction.
	OnTaskFailure string `json:"onTaskFailure,omitempty"`
	// AllowPreemption lets jobs of higher priority take this one's slots.
	AllowPreemption bool `json:"allowPreemption,omitempty"`
	// Manager is the job's manager task, which is added with it.
	Manager *TaskSpec `json:"manager,omitempty"`
	// Preparation runs on a node before the job's first task there, Release when
	// the job ends on every node where Preparation ran. Nil without.
	Preparation *JobTask `json:"preparation,omitempty"`
	Release     *JobTask `json:"release,omitempty"`
	// Auto is the pool that is made for the job; Pool is then its id, as soon as
	// the job is there.
	Auto *AutoPool `json:"auto,omitempty"`
}

// Job is a job and how far it is. The verbs of package job are its only writer.
type Job struct {
	Account AccountName
	Spec    JobSpec

	State              JobState
	StateTransition    time.Time
	Previous           JobState
	PreviousTransition time.Time
	DisableTasks       DisableTasks
	TerminateReason    string
	// Force: it ends without waiting for what still runs on nodes.
	Force bool `json:",omitempty"`
	// EndEmpty: it was told to end with its tasks after it had been added, and ends
	// also if there are none.
	EndEmpty bool `json:",omitempty"`
	// SchedulingError is why the job could not be started.
	SchedulingError       *SchedulingError `json:",omitempty"`
	Started, Ended        time.Time
	Created, LastModified time.Time
	Version               int64
}

// ETag is a text that differs for each change.
func (j Job) ETag() string { return etag(j.Version, j.LastModified) }

// Modified is when the job last changed.
func (j Job) Modified() time.Time { return j.LastModified }
