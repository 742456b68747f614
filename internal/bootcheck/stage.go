package bootcheck

import (
	"regexp"
	"strings"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/vmrun"
)

// Stage is how far a boot came.
type Stage string

const (
	// None: the machine was not even switched on.
	None Stage = "none"
	// Firmware: SeaBIOS or OVMF ran.
	Firmware Stage = "firmware"
	// BootLoader: something on the disk was started.
	BootLoader Stage = "boot loader"
	// Kernel: Linux ran.
	Kernel Stage = "kernel"
	// System: the first programs of the system ran.
	System Stage = "system"
	// Agent: the agent answered. The image becomes a node.
	Agent Stage = "agent heard"
)

// Stages are all of them in their order.
func Stages() []Stage { return []Stage{None, Firmware, BootLoader, Kernel, System, Agent} }

// marks are texts on the console that tell of a stage, the latest stage first.
// Nobody has to write any of them: a quiet kernel is seen only by what comes
// after it.
func marks() []struct {
	stage Stage
	text  *regexp.Regexp
} {
	re := regexp.MustCompile
	return []struct {
		stage Stage
		text  *regexp.Regexp
	}{
		{System, re(`(?m)systemd\[1\]|cloud-init\[|millpond-agent\[|waiting for the server| login:|Welcome to .*!$|You are in emergency mode`)},
		{Kernel, re(`(?m)Linux version \d|^\[ *\d+\.\d{6}\]|Kernel panic - not syncing|EFI stub: Loaded|Gave up waiting for root|Dropping to a shell`)},
		{BootLoader, re(`SYSLINUX|ISOLINUX|EXTLINUX|GRUB|grub rescue>|systemd-boot|BdsDxe: starting Boot|EFI stub|Booting .* from |Missing operating system|Invalid or corrupt kernel image`)},
	}
}

// Reached tells the stage from what the supervisor and the console say; pure.
func Reached(st launch.Status, console string) Stage {
	switch {
	case !st.Heard.IsZero():
		return Agent
	case strings.TrimSpace(console) == "" && st.Phase != launch.Running && (st.Err == nil || st.Err.Host):
		return None
	}
	for _, m := range marks() {
		if m.text.MatchString(console) {
			return m.stage
		}
	}
	// The supervisor may have seen a sign that is not on the console's tail.
	if st.Err != nil {
		switch st.Err.Code {
		case vmrun.CodeEmergency:
			return System
		case vmrun.CodeKernelPanic, vmrun.CodeRootNotFound, vmrun.CodeStarved:
			return Kernel
		case vmrun.CodeKernelNotLoaded:
			return BootLoader
		}
	}
	if strings.TrimSpace(console) == "" && st.Phase != launch.Running && st.Phase != launch.Failed {
		return None
	}
	return Firmware
}

// AtLeast says whether a boot that reached one stage has passed another.
func AtLeast(reached, s Stage) bool {
	rank := map[Stage]int{}
	for i, v := range Stages() {
		rank[v] = i
	}
	return rank[reached] >= rank[s]
}
