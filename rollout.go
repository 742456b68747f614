package millpond

import "time"

// UpgradeMode is how a change of a pool's image or start task reaches the nodes
// that it has.
type UpgradeMode string

const (
	// UpgradeManual leaves it to whoever reimages or reboots nodes.
	UpgradeManual UpgradeMode = "manual"
	// UpgradeAutomatic and UpgradeRolling roll it out batch by batch.
	UpgradeAutomatic UpgradeMode = "automatic"
	UpgradeRolling   UpgradeMode = "rolling"
)

// UpgradePolicy is a pool's upgradePolicy.
type UpgradePolicy struct {
	Mode UpgradeMode `json:"mode"`
	// AutomaticOS rolls a newer version of a "latest" image out by itself;
	// KeepFailed leaves nodes that fail with it as they are.
	AutomaticOS bool `json:"automaticOS,omitempty"`
	KeepFailed  bool `json:"keepFailed,omitempty"`
	// UseRolling and Deferral are kept and echoed: every rollout follows Rolling,
	// and waits for the tasks of a node.
	UseRolling bool           `json:"useRolling,omitempty"`
	Deferral   bool           `json:"deferral,omitempty"`
	Rolling    *RollingPolicy `json:"rolling,omitempty"`
}

// RollingPolicy bounds a rollout. Percentages are of the pool's nodes that have
// machines.
type RollingPolicy struct {
	MaxBatch             int           `json:"maxBatch"`
	MaxUnhealthy         int           `json:"maxUnhealthy"`
	MaxUnhealthyUpgraded int           `json:"maxUnhealthyUpgraded"`
	Pause                time.Duration `json:"pause,omitempty"`
	PrioritizeUnhealthy  bool          `json:"prioritizeUnhealthy,omitempty"`
	RollBack             bool          `json:"rollBack,omitempty"`
	// CrossZone is kept and echoed: the zones of a region are one host here.
	CrossZone bool `json:"crossZone,omitempty"`
	// Option says what becomes of the tasks of a node whose turn it is; empty waits
	// for them. Azure's policy has no such member.
	Option DeallocationOption `json:"option,omitempty"`
}

// Rolls says whether a change is rolled out.
func (p *UpgradePolicy) Rolls() bool {
	return p != nil && (p.Mode == UpgradeAutomatic || p.Mode == UpgradeRolling)
}

// Limits are the policy's bounds, Azure's defaults (20 %) where it has none.
func (p *UpgradePolicy) Limits() RollingPolicy {
	r := RollingPolicy{MaxBatch: 20, MaxUnhealthy: 20, MaxUnhealthyUpgraded: 20}
	if p != nil && p.Rolling != nil {
		r = *p.Rolling
	}
	if r.Option == "" {
		r.Option = DeallocateTaskCompletion
	}
	return r
}

// RolloutState is how far a rollout is.
type RolloutState string

const (
	RolloutRunning RolloutState = "running"
	RolloutDone    RolloutState = "done"
	// RolloutStopped: too many nodes were unhealthy; the next change of the image,
	// the start task or the policy begins another.
	RolloutStopped RolloutState = "stopped"
)

// Rollout brings a pool's nodes to its image and start task, one batch after
// another. Its row and those of the nodes are all that it goes by.
type Rollout struct {
	State   RolloutState `json:"state"`
	Started time.Time    `json:"started"`
	Ended   time.Time    `json:"ended,omitzero"`
	// Batch counts the batches that have begun; Nodes are those of the last.
	Batch int      `json:"batch"`
	Nodes []NodeID `json:"nodes,omitempty"`
	// Next is when the next batch may begin.
	Next time.Time `json:"next,omitzero"`
	// Automatic: a newer version of the image began it, not a user.
	Automatic bool `json:"automatic,omitempty"`
	// WasBoot and WasStart are what nodes go back to that fail.
	WasBoot  BootImage    `json:"wasBoot"`
	WasStart *StartTask   `json:"wasStart,omitempty"`
	Error    *ResizeError `json:"error,omitempty"`
}
