package qemu

import (
	"fmt"
	"net"
	"regexp"
)

var (
	safeID   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	safeName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	safeUUID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

// maxLUN is the highest logical unit of a virtio-scsi target that every guest
// addresses in the simple way.
const maxLUN = 255

// check refuses what would change the meaning of an option.
func (m Machine) check() error {
	switch {
	case !safeName.MatchString(m.Name):
		return fmt.Errorf("qemu: name %q has characters that an option cannot hold", m.Name)
	case !safeUUID.MatchString(m.UUID):
		return fmt.Errorf("qemu: %q is not a UUID", m.UUID)
	case m.Accel != KVM && m.Accel != TCG:
		return fmt.Errorf("qemu: acceleration %q is not known", m.Accel)
	case m.VCPUs < 1 || m.MemoryMiB < 16:
		return fmt.Errorf("qemu: %d CPUs and %d MiB make no machine", m.VCPUs, m.MemoryMiB)
	case m.ConsoleFD < 3 || m.QMPFD < 3 || m.AgentFD < 3 ||
		m.ConsoleFD == m.QMPFD || m.QMPFD == m.AgentFD || m.AgentFD == m.ConsoleFD:
		return fmt.Errorf("qemu: descriptors %d, %d, %d for console, QMP and agent must differ and be above 2", m.ConsoleFD, m.QMPFD, m.AgentFD)
	}
	if m.TPMFD != 0 && (m.TPMFD < 3 || m.UEFI == nil) {
		return fmt.Errorf("qemu: descriptor %d cannot be the TPM's, or the machine has no UEFI firmware", m.TPMFD)
	}
	for _, d := range m.Drives {
		if d.Encrypted && (m.DiskKey == nil || d.Format != QCOW2 || d.NBD != nil) {
			return fmt.Errorf("qemu: drive %s cannot be encrypted: it is no qcow2 file, or there is no key", d.ID)
		}
	}
	if n := m.Network; n != nil {
		if !n.Prefix.IsValid() || !n.Prefix.Addr().Is4() || n.Prefix.Bits() > 29 {
			return fmt.Errorf("qemu: network %s is not an IPv4 prefix of at least 8 addresses", n.Prefix)
		}
		if a := n.Address; a.IsValid() && (!n.Prefix.Contains(a) || a == n.Prefix.Masked().Addr() || a == n.Gateway() || a == n.DNS()) {
			return fmt.Errorf("qemu: the guest's address %s is not one of the network %s that a guest can have", a, n.Prefix)
		}
		if _, err := net.ParseMAC(n.MAC); err != nil {
			return fmt.Errorf("qemu: %w", err)
		}
	}
	return m.checkDrives()
}

func (m Machine) checkDrives() error {
	ids, luns, boots := map[string]bool{}, map[int]bool{}, 0
	for _, d := range m.Drives {
		if !safeID.MatchString(d.ID) || ids[d.ID] {
			return fmt.Errorf("qemu: drive id %q is not plain or not unique", d.ID)
		}
		ids[d.ID] = true
		if (d.File == "") == (d.NBD == nil) || (d.Format != Raw && d.Format != QCOW2) {
			return fmt.Errorf("qemu: drive %s needs a file and a format", d.ID)
		}
		if len(d.Serial) > 20 || (d.Serial != "" && !safeName.MatchString(d.Serial)) {
			return fmt.Errorf("qemu: serial %q of drive %s is not plain or too long", d.Serial, d.ID)
		}
		switch d.Bus {
		case VirtioBlk:
		case SCSI:
			if d.LUN < 0 || d.LUN > maxLUN || luns[d.LUN] {
				return fmt.Errorf("qemu: LUN %d of drive %s is out of range or taken", d.LUN, d.ID)
			}
			luns[d.LUN] = true
		default:
			return fmt.Errorf("qemu: bus %q of drive %s is not known", d.Bus, d.ID)
		}
		if d.Boot {
			boots++
		}
	}
	if boots > 1 {
		return fmt.Errorf("qemu: %d drives want to be booted from", boots)
	}
	return nil
}
