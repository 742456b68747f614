package vmrun

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
)

// Codes of failures. Those of the guest are about the image; those of the host
// say that the same launch may work elsewhere or later.
const (
	CodeBootFailed   = "BootFailed"
	CodeRootNotFound = "RootNotFound"
	// CodeKernelNotLoaded: the boot loader ran and found no kernel that it can start.
	CodeKernelNotLoaded = "KernelNotLoaded"
	// CodeSecureBoot: the firmware or the boot loader met something that is not signed.
	CodeSecureBoot  = "SecureBootViolation"
	CodeKernelPanic = "KernelPanic"
	CodeEmergency   = "EmergencyMode"
	// CodeStarved: the host had no time for the machine while its kernel counted ticks.
	CodeStarved = "HostTooBusy"

	CodeLaunchFailed   = "LaunchFailed"
	CodeQEMURejected   = "QemuRejected"
	CodeQEMUKilled     = "QemuKilled"
	CodeQEMUCrashed    = "QemuCrashed"
	CodeAccelStuck     = "AccelerationStuck"
	CodeSupervisorLost = "SupervisorLost"
	// CodeHostDiskFull: it runs, and stands still until the host's disk has room.
	CodeHostDiskFull = "HostDiskFull"

	// CodeImageUnreadable: no replica gives a part of the image. It is the host's
	// fault as far as the guest can tell: the same launch works when a store does.
	CodeImageUnreadable = imagehost.CodeUnreadable
)

// sign is a text on the console that tells that this boot leads nowhere.
type sign struct {
	text, code, message, suggestion string
	// behind, if not empty, stands before the text in its line.
	behind string
	// prompt: the text is not followed by the end of a line. Other signs count
	// only when their line is complete, because its rest may say more.
	prompt bool
	// host: the host is at fault.
	host bool
}

const checkImage = " `millpond image check` on the image says what it finds."

// signs are looked for until the agent is heard for the first time, in the order
// in which the console says them.
func signs() []sign {
	noBoot := sign{code: CodeBootFailed,
		message:    "The firmware found nothing to boot on the OS disk.",
		suggestion: "The disk's boot loader must fit the image definition's hyperVGeneration: V1 boots by BIOS (a boot sector), V2 by UEFI (an EFI system partition with /EFI/BOOT/BOOTX64.EFI). Make sure that the OS disk, and not a data disk, was captured." + checkImage}
	root := sign{code: CodeRootNotFound,
		message:    "The kernel started but did not find its root file system.",
		suggestion: "The initrd needs the drivers virtio_pci and virtio_blk, and the root must be named by UUID or label, not by a device name of another hypervisor." + checkImage}
	noKernel := sign{code: CodeKernelNotLoaded,
		message:    "The boot loader started but could not load a kernel.",
		suggestion: "The boot loader's configuration must name a kernel and an initrd that are on the disk; install the kernel again (Debian: apt install --reinstall linux-image-cloud-amd64; update-grub)." + checkImage}
	unsigned := sign{code: CodeSecureBoot,
		message:    "Secure boot refused what is on the OS disk: its boot loader or kernel is not signed with a key that the firmware has.",
		suggestion: "The EFI system partition needs Microsoft's signed shim as /EFI/BOOT/BOOTX64.EFI, and the distribution's signed boot loader and kernel behind it (Debian: apt install shim-signed grub-efi-amd64-signed; grub-install --uefi-secure-boot --removable). Or set secureBootEnabled to false."}
	with := func(s sign, text string) sign { s.text = text; return s }
	prompt := func(s sign) sign { s.prompt = true; return s }
	behind := func(s sign, text string) sign { s.behind = text; return s }
	return []sign{
		behind(with(unsigned, ": Access Denied"), "BdsDxe: failed to load "),
		with(unsigned, "Verification failed: (0x1A) Security Violation"),
		with(unsigned, "error: bad shim signature"),
		with(noBoot, "No bootable device"),
		with(noBoot, "BdsDxe: No bootable option or device was found"),
		with(noBoot, "UEFI Interactive Shell"),
		with(noBoot, "Missing operating system"),
		prompt(with(noBoot, "grub rescue>")),
		with(noKernel, "Invalid or corrupt kernel image"),
		with(noKernel, "Booting kernel failed"),
		with(noKernel, "Could not find kernel image"),
		with(noKernel, "you need to load the kernel first"),
		with(noKernel, "Failed to load"),
		with(root, "Unable to mount root fs"),
		with(root, "Gave up waiting for root"),
		with(root, "Dropping to a shell"),
		with(root, "Entering emergency mode. Exit the shell to continue"),
		// Early in its boot a kernel wants five ticks of its timer within some 60 ms, and
		// gives up for ever if it does not see them. An emulated machine sees one for each
		// slice of time that it gets.
		{text: "Kernel panic - not syncing: IO-APIC + timer doesn't work", code: CodeStarved, host: true,
			message:    "The kernel gave up because it saw no ticks of its timer: this host's processors had no time for the machine.",
			suggestion: "Start fewer machines at a time on this host, or put no_timer_check on the image's kernel command line."},
		{text: "Kernel panic - not syncing", code: CodeKernelPanic, message: "The kernel stopped with a panic during boot.",
			suggestion: "The console's last lines name the cause. A missing init, a damaged file system and too little memory for the initrd are the usual ones." + checkImage},
		{text: "You are in emergency mode", code: CodeEmergency, message: "The system stopped in emergency mode during boot.",
			suggestion: "A mount of /etc/fstab that does not exist on the new machine is the usual cause: mark data disks nofail." + checkImage},
	}
}

// index is where the sign is in text; -1 if it is not there.
func (s sign) index(text string) int {
	for from := 0; ; {
		i := strings.Index(text[from:], s.text)
		if i < 0 {
			return -1
		}
		i += from
		if strings.Contains(text[strings.LastIndexByte(text[:i], '\n')+1:i], s.behind) {
			return i
		}
		from = i + len(s.text)
	}
}

// findSign looks for the first sign in text.
func findSign(text string) *launch.Failure {
	at, found := len(text), sign{}
	complete := strings.LastIndexByte(text, '\n')
	for _, s := range signs() {
		// At the same place the earlier, more special sign counts: a panic line
		// says "Kernel panic - not syncing: VFS: Unable to mount root fs".
		i := s.index(text)
		if i < 0 || i > complete && !s.prompt {
			continue
		}
		if line := strings.LastIndexByte(text[:i], '\n') + 1; line < at {
			at, found = line, s
		}
	}
	if found.text == "" {
		return nil
	}
	return &launch.Failure{Host: found.host, Code: found.code, Message: found.message, Suggestion: found.suggestion}
}

// ending is all that is known when QEMU has ended.
type ending struct {
	// asked: a request or SIGTERM wanted the end.
	asked bool
	// found is what made the supervisor end QEMU itself, nil if nothing did.
	found *launch.Failure
	// powerOff: QEMU said that the guest has shut itself down.
	powerOff bool
	// greeted: QMP had been up, so QEMU had accepted its command line.
	greeted bool
	signal  unix.Signal
	code    int
	accel   qemu.Accel
	// console and complaint are the tails of the console and of QEMU's log.
	console, complaint string
}

// explain says how the VM has ended; pure.
func explain(e ending) (launch.Phase, *launch.Failure) {
	switch {
	case e.found != nil:
		f := *e.found
		if f.Evidence == "" {
			f.Evidence = e.console
		}
		return launch.Failed, &f
	case e.asked, e.powerOff:
		return launch.Stopped, nil
	case !e.greeted:
		f := &launch.Failure{Host: true, Code: CodeQEMURejected,
			Message:    "QEMU ended before the machine was built: " + how(e) + ".",
			Evidence:   e.complaint,
			Suggestion: "QEMU's own words are in the evidence. `millpond doctor` checks this host's QEMU and acceleration."}
		if e.accel == qemu.KVM {
			f.Suggestion += " If it speaks of KVM or of an MSR, set acceleration to auto or tcg."
		}
		return launch.Failed, f
	case e.signal == unix.SIGKILL || e.signal == unix.SIGTERM || e.signal == unix.SIGINT || e.signal == unix.SIGHUP:
		return launch.Failed, &launch.Failure{Host: true, Code: CodeQEMUKilled,
			Message:    "Somebody or something on the host ended QEMU: " + how(e) + ".",
			Evidence:   e.complaint,
			Suggestion: "If nobody did it by hand, the kernel may have run out of memory (see dmesg); then run fewer or smaller VMs, or lower local.memoryMiB."}
	default:
		return launch.Failed, &launch.Failure{Host: true, Code: CodeQEMUCrashed,
			Message:    "QEMU ended by itself: " + how(e) + ".",
			Evidence:   e.complaint,
			Suggestion: "QEMU's own words are in the evidence; a full disk under the data folder is a usual cause."}
	}
}

func how(e ending) string {
	if e.signal != 0 {
		return "signal " + unix.SignalName(e.signal)
	}
	return fmt.Sprintf("exit code %d", e.code)
}

// stuck is the failure of a VM under KVM whose firmware has not said a word.
func stuck(limit time.Duration) *launch.Failure {
	return &launch.Failure{Host: true, Code: CodeAccelStuck,
		Message:    fmt.Sprintf("Under KVM the machine's firmware wrote nothing in %s, which takes it a second: guest code does not run on this host.", limit),
		Suggestion: "With acceleration auto, later launches use emulation until the host reboots. To choose it for good, set local.accel to tcg."}
}

// failedStep is the failure of a step before the VM ran.
func failedStep(step string, err error, complaint string) *launch.Failure {
	return &launch.Failure{Host: true, Code: CodeLaunchFailed,
		Message:    fmt.Sprintf("The step %s of the launch failed: %v.", step, err),
		Evidence:   complaint,
		Suggestion: "Nothing of the launch was left behind; it can be repeated. `millpond doctor` checks this host."}
}

// SupervisorLost is the failure of a VM whose supervisor ended without a word.
func SupervisorLost(log string) *launch.Failure {
	return &launch.Failure{Host: true, Code: CodeSupervisorLost,
		Message:    "The VM's supervisor process has ended, and the VM with it, because the host was restarted or the process was killed.",
		Evidence:   log,
		Suggestion: "If nobody did it by hand, look for out-of-memory messages in dmesg. The supervisor's log is in the evidence."}
}
