package millpond

import "time"

// PoolLifetime says how long a pool lives that the service makes for a job.
type PoolLifetime string

const (
	// LifetimeJob: the pool is of one job and goes with it.
	LifetimeJob PoolLifetime = "job"
	// LifetimeSchedule: the jobs of a schedule share it, and it goes with the schedule.
	LifetimeSchedule PoolLifetime = "jobschedule"
)

// PoolRequest is everything with which a pool is added but its id. Nil members
// are unset.
type PoolRequest struct {
	Spec          PoolSpec       `json:"spec"`
	Dedicated     *int           `json:"dedicated,omitempty"`
	LowPriority   *int           `json:"lowPriority,omitempty"`
	ResizeTimeout *time.Duration `json:"resizeTimeout,omitempty"`
	// AutoScale sizes it by a formula; Formula and Interval are then the formula's.
	AutoScale bool           `json:"autoScale,omitempty"`
	Formula   *string        `json:"formula,omitempty"`
	Interval  *time.Duration `json:"interval,omitempty"`
}

// AutoPool is the pool that is to be made for a job.
type AutoPool struct {
	Lifetime PoolLifetime `json:"lifetime"`
	// Prefix begins the pool's id.
	Prefix string `json:"prefix,omitempty"`
	// KeepAlive leaves the pool when its time is over.
	KeepAlive bool        `json:"keepAlive,omitempty"`
	Pool      PoolRequest `json:"pool"`
	// Creator is for whom rights are checked when the pool is made.
	Creator Caller `json:"creator"`
}

// Stages of a pool that the service makes.
const (
	AutoPoolWanted = "wanted" // to be made
	AutoPoolMade   = "made"
	AutoPoolDoomed = "doomed" // to be deleted
)

// OwnedPool is a pool that the service makes, owns and deletes. Package job is
// its only writer.
type OwnedPool struct {
	Account AccountName
	ID      PoolID
	// Job or Schedule owns it.
	Job      JobID         `json:",omitempty"`
	Schedule JobScheduleID `json:",omitempty"`
	Stage    string
	Auto     AutoPool
}

// SchedulingError is why a job could not be started.
type SchedulingError struct {
	// Category is usererror or servererror.
	Category string      `json:"category"`
	Code     string      `json:"code"`
	Message  string      `json:"message"`
	Details  []NameValue `json:"details,omitempty"`
}
