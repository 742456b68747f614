package autoscale

import (
	"strings"
	"time"
)

// The variables of the service (batch-data-plane.md §7.2).
const (
	TargetDedicated    = "$TargetDedicatedNodes"
	TargetLowPriority  = "$TargetLowPriorityNodes"
	DeallocationOption = "$NodeDeallocationOption"
)

var writable = map[string]bool{TargetDedicated: true, TargetLowPriority: true, DeallocationOption: true, shortDedicated: true, shortLow: true}

// The short names count only where the full ones are not written.
const (
	shortDedicated = "$TargetDedicated"
	shortLow       = "$TargetLowPriority"
)

// sampled are the variables that have samples.
var sampled = func() map[string]bool {
	m := map[string]bool{}
	for _, n := range Sampled() {
		m[n] = true
	}
	return m
}()

// Sampled lists the variables that have samples.
func Sampled() []string {
	return []string{"$CPUPercent", "$WallClockSeconds", "$MemoryBytes", "$DiskBytes", "$DiskReadBytes", "$DiskWriteBytes", "$DiskReadOps", "$DiskWriteOps",
		"$NetworkInBytes", "$NetworkOutBytes", "$SampleNodeCount", "$CurrentDedicatedNodes", "$CurrentLowPriorityNodes", "$PreemptedNodeCount", "$UsableNodeCount",
		"$TaskSlotsPerNode", "$ActiveTasks", "$RunningTasks", "$PendingTasks", "$SucceededTasks", "$FailedTasks"}
}

// words are the values of $NodeDeallocationOption.
var words = map[string]bool{"requeue": true, "terminate": true, "taskcompletion": true, "retaineddata": true}

var spellings = func() map[string]string {
	m := map[string]string{}
	for n := range sampled {
		m[strings.ToLower(n)] = n
	}
	for n := range writable {
		m[strings.ToLower(n)] = n
	}
	return m
}()

// canonical is the one spelling of a service variable; others keep their own,
// with the $ that a result shows.
func canonical(n string) string {
	if s, ok := spellings[strings.ToLower(n)]; ok {
		return s
	}
	return n
}

// constantOf is a constant of the language.
func constantOf(n string) (time.Duration, bool) {
	unit, is := strings.CutPrefix(n, "TimeInterval_")
	if !is {
		return 0, false
	}
	d, ok := map[string]time.Duration{"Zero": 0, "100ns": 100, "Microsecond": time.Microsecond, "Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute,
		"Hour": time.Hour, "Day": 24 * time.Hour, "Week": 7 * 24 * time.Hour, "Year": 365 * 24 * time.Hour}[unit]
	return d, ok
}
