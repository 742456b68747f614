package inspect

import (
	"fmt"
	"path"
	"strings"

	millpond "millpond.dev/millpond"
)

// Rules is the number of the rules in Check; it grows whenever they change, so
// that what was checked by older ones is checked again.
const Rules = 3

// Sizes that Azure allows (bytes).
const (
	maxOSDisk   = int64(4095) << 30
	maxMBR      = int64(2) << 40
	littleSpace = int64(64) << 20
)

// Want is what an image is to be; empty members are not checked.
type Want struct {
	HyperV       string // V1 or V2
	OSType       string // Linux or Windows
	Architecture string // x64 or Arm64
	// Specialized images keep the identity of their machine.
	Specialized bool
	// Data are the reports of the data disks by LUN.
	Data map[int]Report
}

// Check is the rules of preflight: what stands in the way of a node (errors),
// and what may surprise (warnings). It is pure.
func Check(r Report, w Want) []millpond.Finding {
	c := &check{r: r, w: w}
	c.size()
	c.boot()
	c.system()
	if r.System != nil {
		c.access()
		if !w.Specialized {
			c.generalized()
		}
		c.mounts()
	}
	c.health()
	return c.out
}

type check struct {
	r   Report
	w   Want
	out []millpond.Finding
}

func (c *check) refuse(code, seen, why, fix string) {
	c.out = append(c.out, millpond.Finding{Code: code, Severity: millpond.SeverityError, Seen: seen, Why: why, Fix: fix})
}

func (c *check) warn(code, seen, why, fix string) {
	c.out = append(c.out, millpond.Finding{Code: code, Severity: millpond.SeverityWarning, Seen: seen, Why: why, Fix: fix})
}

func (c *check) size() {
	switch n := c.r.Size; {
	case n < 1<<20:
		c.refuse("DiskTooSmall", fmt.Sprintf("The OS disk has %d bytes.", n), "No operating system fits on it.", "Make the image from a machine's OS disk.")
	case n > maxOSDisk:
		c.refuse("DiskTooLarge", fmt.Sprintf("The OS disk has %d GiB.", n>>30), "An OS disk may have at most 4095 GiB.", "Shrink its file systems and the disk, or keep the data on data disks.")
	case n%512 != 0:
		c.refuse("SizeNotWhole", fmt.Sprintf("The OS disk has %d bytes, which is no whole number of sectors.", n), "Its end cannot be read.", "Pad the file to a whole number of MiB: qemu-img resize -f raw FILE SIZE.")
	case n%(1<<20) != 0:
		c.warn("SizeNotAligned", fmt.Sprintf("The OS disk has %d bytes, which is no whole number of MiB.", n), "Azure refuses to upload such a VHD.", "Pad the file to a whole number of MiB: qemu-img resize -f raw FILE SIZE.")
	}
	if c.r.Table == "mbr" && c.r.Size > maxMBR {
		c.warn("TableTooSmall", fmt.Sprintf("The OS disk has %d GiB and an MBR partition table.", c.r.Size>>30), "What lies beyond 2 TiB cannot be reached.", "Convert the table to GPT.")
	}
}

// boot compares the ways to start the disk with the generation.
func (c *check) boot() {
	if len(c.r.Partitions) == 0 && !c.r.BIOS {
		why := "No firmware can start it."
		if len(c.r.Notes) > 0 {
			why += " " + sentence(strings.Join(c.r.Notes, "; "))
		}
		c.refuse("NoPartitionTable", "The OS disk has no partition table that can be read.", why, "Make the image from a machine's whole OS disk, not from a partition or a file on it.")
		return
	}
	table := "a GPT partition table"
	switch c.r.Table {
	case "mbr":
		table = "an MBR partition table"
	case "none":
		table = "no partition table"
	}
	switch {
	case c.w.HyperV == "V1" && !c.r.BIOS:
		seen := "The OS disk has " + table + " and no boot code for BIOS"
		fix := "Install a boot loader for BIOS (grub-install --target=i386-pc DISK, with a BIOS boot partition on GPT)"
		if c.r.UEFI {
			seen += "; it boots by UEFI"
			fix = "Publish it under a definition with --hyper-v-generation V2, or install a boot loader for BIOS"
		}
		c.refuse("NotBootableV1", seen+".", "A machine of generation V1 starts by BIOS.", fix+".")
	case c.w.HyperV == "V2" && !c.r.UEFI:
		seen := "The OS disk has " + table + " and no EFI system partition with EFI/BOOT/BOOTX64.EFI"
		fix := "Install the boot loader to where firmware looks on a disk that it does not know: grub-install --target=x86_64-efi --removable"
		if c.r.BIOS {
			seen += "; it boots by BIOS"
			fix = "Publish it under a definition with --hyper-v-generation V1, or install a boot loader for UEFI with grub-install --target=x86_64-efi --removable"
		}
		c.refuse("NotBootableV2", seen+".", "A machine of generation V2 starts by UEFI.", fix+".")
	case c.w.HyperV == "" && !c.r.BIOS && !c.r.UEFI:
		c.refuse("NotBootable", "The OS disk has "+table+", no boot code for BIOS and no EFI/BOOT/BOOTX64.EFI.", "No firmware can start it.", "Make the image from a machine's OS disk with its boot loader.")
	}
}

// system says what could not be looked into, and what does not fit.
func (c *check) system() {
	kinds := map[string][]string{}
	for _, p := range c.r.Partitions {
		kinds[p.FileSystem] = append(kinds[p.FileSystem], p.title())
	}
	where := func(kind string) string { return strings.Join(kinds[kind], ", ") }
	if c.r.OS.Family == "" {
		switch {
		case len(kinds["luks"]) > 0:
			c.refuse("EncryptedDisk", "An encrypted volume (LUKS) lies on "+where("luks")+", and no operating system beside it.", "A node would ask for a passphrase at its console and wait.", "Install the system on an unencrypted OS disk.")
			return
		case len(kinds["lvm"]) > 0:
			c.warn("LVMNotRead", "A physical volume of LVM lies on "+where("lvm")+".", "Preflight does not look into LVM, so the release, the agent and the leftovers of the machine are not known.", "Boot it once to be sure: a pool of one node tells the stage that it reached.")
			return
		case len(kinds["btrfs"]) > 0:
			c.warn("BtrfsNotRead", "A btrfs lies on "+where("btrfs")+".", "Preflight does not look into btrfs, so the release, the agent and the leftovers of the machine are not known.", "Boot it once to be sure: a pool of one node tells the stage that it reached.")
			return
		}
		seen := "No operating system was recognised on the OS disk."
		if len(c.r.Notes) > 0 {
			seen += " " + sentence(strings.Join(c.r.Notes, "; "))
		}
		c.warn("NoOSFound", seen, "Its release, agent and leftovers are not known; it may not become a node.", "Boot it once to be sure: a pool of one node tells the stage that it reached.")
		return
	}
	if c.w.OSType != "" && !strings.EqualFold(c.w.OSType, c.r.OS.Family) {
		c.refuse("WrongOSType", "The system on the disk is "+c.r.OS.Family+".", "The image is declared as "+c.w.OSType+".", "Declare it with --os-type "+c.r.OS.Family+".")
	}
	if c.r.OS.Family == "Windows" {
		c.warn("WindowsNotRead", "Windows was recognised by its partitions.", "Preflight does not look into NTFS, so whether it is generalized and has cloudbase-init or the agent is not known.", "Run sysprep /generalize /oobe /shutdown before the capture, and boot the image once to be sure.")
	}
	if c.r.System == nil {
		return
	}
	want := c.w.Architecture
	if want == "" {
		want = "x64"
	}
	if have := c.r.System.Architecture; have != "" && !strings.EqualFold(have, want) {
		c.refuse("WrongArchitecture", "The programs of the system are for "+have+".", "The machines have "+want+" processors.", "Install the system for "+want+".")
	}
}

// access says how the node agent comes into the machine, and what must not be
// there before.
func (c *check) access() {
	if !c.r.Agent && !c.r.CloudInit {
		c.refuse("NoAgent", "Neither Millpond's agent (/usr/sbin/millpond-agent) nor cloud-init (/usr/bin/cloud-init) is installed.", "Nothing would tell the service that a node is up, and it would be given up after its boot limit.", "Install cloud-init before the capture (apt-get install cloud-init), which brings the agent at the first boot.")
	}
	if e := c.r.System.Extensions; len(e) > 0 {
		c.refuse("ExtensionsInstalled", "The machine had extensions installed: "+strings.Join(e[:min(3, len(e))], ", ")+".", "Azure Batch does not start nodes from an image with extensions of a VM, because they run again on every node.", "Remove them with az vm extension delete and delete what is left under /var/lib/waagent and /var/log/azure, then generalize and capture again.")
	}
}

func (c *check) generalized() {
	s := c.r.System
	const fix = "Generalize the machine before the capture: sudo waagent -deprovision+user -force, or cloud-init clean --logs --machine-id"
	if s.MachineID {
		c.warn("MachineIDKept", "/etc/machine-id holds an id.", "Every node would have the same, and with it the same DHCP identity and journal.", fix+".")
	}
	if len(s.HostKeys) > 0 {
		c.warn("HostKeysKept", "The SSH host keys of the machine are there: "+strings.Join(base(s.HostKeys), ", ")+".", "Every node would show the same keys, and whoever has the image can pose as any of them.", fix+"; rm /etc/ssh/ssh_host_*_key*.")
	}
	if len(s.Users) > 0 {
		c.warn("UsersKept", "Accounts that people can sign in to are there: "+strings.Join(s.Users, ", ")+".", "They work on every node.", fix+", or delete them: userdel -r NAME.")
	}
	if len(s.CloudInit) > 0 {
		c.warn("CloudInitStateKept", "cloud-init has run: "+strings.Join(s.CloudInit[:min(2, len(s.CloudInit))], ", ")+".", "What it does once in a machine's life may be left out on nodes.", fix+".")
	}
	if len(s.Leases) > 0 {
		c.warn("NetworkStateKept", "The machine's network is remembered: "+strings.Join(s.Leases[:min(3, len(s.Leases))], ", ")+".", "A node may ask for the address of that machine, or give its interface another name.", "Delete these files before the capture.")
	}
	if len(s.Histories) > 0 {
		c.warn("HistoryKept", "Shell histories are there: "+strings.Join(s.Histories[:min(3, len(s.Histories))], ", ")+".", "Whoever runs a task can read what was typed, with its passwords.", "Delete them before the capture: rm -f ~/.bash_history.")
	}
	if s.RandomSeed {
		c.warn("RandomSeedKept", "/var/lib/systemd/random-seed is there.", "Nodes would begin with the same seed.", "Delete it before the capture.")
	}
	switch strings.ToLower(s.Hostname) {
	case "", "localhost", "localhost.localdomain", "debian", "ubuntu", "millpond", "node", "(none)":
	default:
		c.warn("HostnameKept", "The machine's name is "+s.Hostname+".", "A node has it until the agent or cloud-init gives it its own.", "Set it to localhost before the capture: echo localhost > /etc/hostname.")
	}
}

// mounts looks for lines of fstab that a node could not fulfil: the boot would
// stop in an emergency shell.
func (c *check) mounts() {
	for _, m := range c.r.System.Mounts {
		if !m.local() || m.Type == "none" {
			continue
		}
		line := fmt.Sprintf("/etc/fstab mounts %s at %s", m.Spec, m.Point)
		const nofail = "Add the options nofail,x-systemd.device-timeout=10 to the line."
		if m.temporary() {
			if m.waits() {
				c.warn("TemporaryDiskRequired", line+" without nofail.", "That is the temporary disk; a machine of a size without one would stop in an emergency shell.", nofail)
			}
			continue
		}
		if c.onDisk(m) {
			continue
		}
		lun, byLUN := m.lun()
		if byLUN {
			if _, ok := c.w.Data[lun]; ok {
				if c.r.System.LUNNames {
					continue
				}
				// The rules that Azure's images have for these names match Hyper-V's
				// controllers only.
				c.warn("MountByLUN", line+".", "Machines here have no such name for the disk unless the image makes it by a udev rule; without nofail the boot stops in an emergency shell.", "Name the file system by UUID or label (blkid shows both), or copy /usr/lib/udev/rules.d/66-millpond-disks.rules from a base image of `millpond image build debian-12`.")
				continue
			}
		}
		if !byLUN && unstable(m.Spec) {
			if m.waits() && m.Point != "/" {
				c.warn("UnstableDeviceName", line+".", "The names of disks may change from boot to boot and from machine to machine.", "Name the file system by UUID or label: blkid shows both.")
			}
			continue
		}
		if strings.HasPrefix(m.Spec, "/dev/mapper/") || strings.HasPrefix(m.Spec, "/dev/vg") || strings.HasPrefix(m.Spec, "/dev/disk/by-id/dm") || strings.HasPrefix(m.Spec, "/dev/zram") {
			continue // a volume that preflight does not look into
		}
		switch {
		case m.Point == "/":
			c.refuse("RootNotFound", line+", and no partition of the OS disk has that name.", "The system would not find its root file system.", "Correct the line: blkid shows the names.")
		case !m.waits():
			c.warn("MountNotFound", line+", and no disk of the image has that name.", "The folder stays empty on nodes.", "Add the data disk to the image with its LUN, or take the line out.")
		case m.Type == "swap":
			c.warn("SwapNotFound", fmt.Sprintf("/etc/fstab uses %s for swap, and no disk of the image has that name.", m.Spec), "A boot waits 90 seconds for it and goes on without.", "Take the line out, or "+lower(nofail))
		default:
			c.refuse("MountBlocksBoot", line+" without nofail, and no disk of the image has that name.", "A node waits 90 seconds for the disk and then stops in an emergency shell.", "Add the data disk to the image with its LUN, or "+lower(nofail))
		}
	}
}

func (c *check) onDisk(m Mount) bool {
	for _, p := range c.r.Partitions {
		if m.names(p) {
			return true
		}
	}
	for _, d := range c.w.Data {
		for _, p := range d.Partitions {
			if m.names(p) {
				return true
			}
		}
	}
	return false
}

// unstable says whether a device's name depends on the order of detection.
func unstable(spec string) bool {
	for _, p := range []string{"/dev/sd", "/dev/vd", "/dev/xvd", "/dev/nvme", "/dev/hd"} {
		if strings.HasPrefix(spec, p) {
			return true
		}
	}
	return false
}

func (c *check) health() {
	for _, p := range c.r.Partitions {
		switch p.Health {
		case NotClean:
			c.warn("FileSystemNotClean", fmt.Sprintf("The %s on %s was not unmounted cleanly.", p.FileSystem, p.title()), "The machine was captured while it ran or lost power; files that were being written may be incomplete.", "Shut the machine down before the capture: az vm deallocate, or poweroff in it.")
		case Errors:
			c.warn("FileSystemErrors", fmt.Sprintf("The %s on %s is marked as having errors.", p.FileSystem, p.title()), "Nodes may find files damaged, or mount it read-only.", "Run fsck -f on it and capture again.")
		}
		if p.Number == c.r.OS.Partition && p.Free >= 0 && p.FileSystem != "ntfs" && p.Free < littleSpace && p.Free*20 < p.Size && c.r.System != nil {
			c.warn("LittleFreeSpace", fmt.Sprintf("The root file system has %d MiB of %d MiB free.", p.Free>>20, p.Size>>20), "Logs and the agent need room; a full root makes tasks fail in odd ways.", "Delete what is not needed, or enlarge the OS disk and its file system.")
		}
	}
}

func base(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = path.Base(p)
	}
	return out
}

// sentence makes a note the reader's sentence.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }
