package millpond

import "time"

// NodeUsage is what a node's machine used in the time before Time, as its agent
// measured it.
type NodeUsage struct {
	Time time.Time
	// Over is how long it was measured for; all rates are means over it.
	Over time.Duration
	// CPU is the share of all processors that was busy, 0 to 1.
	CPU float64
	// Bytes in use at Time.
	MemoryUsed, MemoryTotal uint64
	DiskUsed, DiskTotal     uint64
	// Per second.
	DiskReadBytes, DiskWriteBytes   float64
	DiskReads, DiskWrites           float64
	NetworkInBytes, NetworkOutBytes float64
}
