package machine

import (
	"maps"
	"slices"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// What is what the loop does about a machine.
type What string

const (
	// MakeDisks: the disks are not all there. Begin: they are.
	MakeDisks What = "make disks"
	Begin     What = "begin"
	// FailDisks: one of them cannot be made.
	FailDisks What = "give up"
	Launch    What = "launch"
	// Ran and Down are news from the launcher.
	Ran  What = "ran"
	Down What = "down"
	// Stop powers off; Release makes the launcher forget; Released says it has.
	Stop     What = "stop"
	Release  What = "release"
	Released What = "released"
	Remove   What = "remove"
	// Ports: the open ports, or the filters, are not those that the card says.
	Ports What = "ports"
	// DataDisks: the data disks of the running machine are not those that the row says.
	DataDisks What = "data disks"
	// GiveUp: the first boot takes too long.
	GiveUp What = "give up provisioning"
)

// facts is what decide knows beside the row.
type facts struct {
	// machine is the launcher's; nil without one.
	machine *launch.Status
	// disks are the states of the disks, by the machine's order; empty for none.
	disks []millpond.ProvisioningState
	// ports and filters are those that the card says; known is false when they
	// cannot be read.
	ports   []launch.Port
	filters launch.Filters
	known   bool
	// luns are the managed disks that a running machine's row says, by LUN; nil if
	// they are not known.
	luns map[int]string
	now  time.Time
	// provision bounds a first boot.
	provision time.Duration
}

// decide is pure: what to do now about a machine, nothing if it is as it shall
// be or if there is only waiting.
func decide(v *millpond.VirtualMachine, f facts) What {
	m := f.machine
	up := m != nil && (m.Phase == launch.Running || m.Phase == launch.Preparing)
	switch v.Power {
	case millpond.VMCreating:
		switch {
		case slices.Contains(f.disks, millpond.StateFailed):
			return FailDisks
		case slices.Contains(f.disks, ""):
			return MakeDisks
		case slices.ContainsFunc(f.disks, func(s millpond.ProvisioningState) bool { return s != millpond.StateSucceeded }):
			return ""
		}
		return Begin
	case millpond.VMStarting:
		switch {
		case m == nil || m.Generation < v.Generation:
			return Launch
		case m.Phase == launch.Running:
			return Ran
		case m.Phase == launch.Preparing:
			return ""
		}
		return Down
	case millpond.VMRunning:
		if !up {
			return Down
		}
		if f.known && m.Phase == launch.Running && !(samePorts(f.ports, m.Ports) && f.filters.Equal(m.Filters)) {
			return Ports
		}
		if m.Phase == launch.Running && m.Managed != nil && f.luns != nil && !maps.Equal(m.Managed, f.luns) {
			return DataDisks
		}
		if !v.Provisioned && v.Base().State != millpond.StateFailed && f.now.After(v.Started.Add(f.provision)) {
			return GiveUp
		}
	case millpond.VMStopping:
		if up {
			return Stop
		}
		return Down
	case millpond.VMDeallocating:
		switch {
		case up:
			return Stop
		case m != nil:
			return Release
		}
		return Released
	case millpond.VMDeallocated:
		if m != nil {
			return Release
		}
	case millpond.VMDeleting:
		if m != nil {
			return Release
		}
		return Remove
	}
	return ""
}

// samePorts compares what is wanted with what was asked of the launcher, whether
// it could be opened or not.
func samePorts(want []launch.Port, have []launch.PortStatus) bool {
	if len(want) != len(have) {
		return false
	}
	seen := map[launch.Port]bool{}
	for _, h := range have {
		seen[h.Port] = true
	}
	for _, w := range want {
		if !seen[w] {
			return false
		}
	}
	return true
}
