package millpond

import "time"

// Usage is what commands used of the machines that ran them. Reads and Writes
// are calls, the bytes those that reached a disk.
type Usage struct {
	UserCPU      time.Duration `json:"user,omitempty"`
	KernelCPU    time.Duration `json:"kernel,omitempty"`
	WallClock    time.Duration `json:"wall,omitempty"`
	Reads        int64         `json:"reads,omitempty"`
	Writes       int64         `json:"writes,omitempty"`
	BytesRead    int64         `json:"read,omitempty"`
	BytesWritten int64         `json:"written,omitempty"`
}

// Plus is the sum of both.
func (u Usage) Plus(v Usage) Usage {
	return Usage{u.UserCPU + v.UserCPU, u.KernelCPU + v.KernelCPU, u.WallClock + v.WallClock, u.Reads + v.Reads, u.Writes + v.Writes,
		u.BytesRead + v.BytesRead, u.BytesWritten + v.BytesWritten}
}

// JobStatistics are what the tasks of a job, or of several, have come to.
type JobStatistics struct {
	Usage
	Succeeded, Failed, Retries int64
	// Wait is the time from adding to starting, of all that have completed.
	Wait time.Duration
	// Started is when the first of them was made, Updated when the last change was.
	Started, Updated time.Time
}

// PoolUsage is what the nodes of pools have come to.
type PoolUsage struct {
	// CoreTime is the time that nodes were there, times their cores; Dedicated is
	// the part of dedicated ones.
	CoreTime, Dedicated time.Duration
	Started             time.Time
}

// UsageInterval is what a pool used in one interval.
type UsageInterval struct {
	Pool       PoolID
	VMSize     string
	Start, End time.Time
	CoreTime   time.Duration
}
