package millpond

import "time"

// MultiInstance is what a task that runs on several nodes at once has beside
// what every task has.
type MultiInstance struct {
	// Instances is how many nodes it takes, its own included.
	Instances int `json:"instances"`
	// Coordination is the command that runs on every node before the task's own,
	// which runs on the first alone. What it leaves running lives as long as the task.
	Coordination string         `json:"coordination"`
	CommonFiles  []ResourceFile `json:"commonFiles,omitempty"`
}

// Gang is how the instances of one attempt of a multi-instance task are. The
// attempt begins on all nodes at once and is over when it is over on each:
//
//	every instance: preparing ──▶ running (its coordination command succeeded) ──▶ completed
//	the gang:       ──▶ ready (all are running; the first runs the task's command)
//	                ──▶ closing (the first ended, another failed, a node was lost, a user said so) ──▶ over
//
// What follows from the cause of closing follows when all are over: no instance
// of one attempt lives when the next begins.
type Gang struct {
	// Instances are in their order; the first is the primary.
	Instances []Instance
	Ready     bool `json:",omitempty"`
	// Closing is why the gang ends; nil while it does not.
	Closing *Closing `json:",omitempty"`
}

// Closing is the first cause of a gang's end.
type Closing struct {
	// Lost: a node was lost, and the task runs again without counting it.
	Lost bool `json:",omitempty"`
	// The others are of the report of the instance that ended.
	Started  time.Time    `json:",omitzero"`
	Ended    time.Time    `json:",omitzero"`
	ExitCode *int         `json:",omitempty"`
	Failure  *TaskFailure `json:",omitempty"`
}

// Instance is one of a gang.
type Instance struct {
	Node    NodeID
	Address string
	// State is preparing, running or completed; Over says that it is completed.
	State      TaskState
	Changed    time.Time
	Previous   TaskState `json:",omitempty"`
	PreviousAt time.Time `json:",omitzero"`
	// Waits says that its node is being prepared for the job.
	Waits    bool         `json:",omitempty"`
	Started  time.Time    `json:",omitzero"`
	Ended    time.Time    `json:",omitzero"`
	ExitCode *int         `json:",omitempty"`
	Failure  *TaskFailure `json:",omitempty"`
}

// Over says that nothing of the instance runs any more.
func (i Instance) Over() bool { return i.State == TaskCompleted }

// Enter moves an instance to a state.
func (i *Instance) Enter(s TaskState, now time.Time) {
	if i.State != s {
		i.Previous, i.PreviousAt, i.State, i.Changed = i.State, i.Changed, s, now
	}
}

// On is the place of a node's instance; -1 without one.
func (g *Gang) On(node NodeID) int {
	if g == nil {
		return -1
	}
	for i, x := range g.Instances {
		if x.Node.Key() == node.Key() {
			return i
		}
	}
	return -1
}

// Over says that every instance is over.
func (g *Gang) Over() bool {
	for _, x := range g.Instances {
		if !x.Over() {
			return false
		}
	}
	return true
}

// Clone is a copy that can be changed.
func (g *Gang) Clone() *Gang {
	if g == nil {
		return nil
	}
	c := *g
	c.Instances = append([]Instance(nil), g.Instances...)
	return &c
}
