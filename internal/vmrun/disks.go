package vmrun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/seed"
)

// disks makes the files that QEMU gets. A file that is there already is kept: a
// VM that is started again after a stop has its disks. What this run has made,
// and only that, is removed by undo.
type disks struct {
	dir string
	cfg Config
	// clones: disks that are not there yet are made over the template's.
	clones bool
	// made are files that this run has made, by step.
	made map[string][]string
}

func (d *disks) path(name string) string { return filepath.Join(d.dir, name) }

// make calls write for the file unless it is there.
func (d *disks) make(step, name string, write func(name string) error) error {
	p := d.path(name)
	if _, err := os.Stat(p); err == nil {
		return nil
	}
	if err := write(p); err != nil {
		return err
	}
	d.made[step] = append(d.made[step], p)
	return nil
}

func (d *disks) undo(step string) func() error {
	return func() error {
		var errs []error
		for _, p := range d.made[step] {
			if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		d.made[step] = nil
		return errors.Join(errs...)
	}
}

// overlay puts a writable disk over disk's base. The base is looked at here,
// because QEMU's own complaint about a missing one is hard to read.
func (d *disks) overlay(step, name string, disk launch.Disk) error {
	return d.make(step, name, func(p string) error {
		crypt, err := d.crypt(step, disk.Encrypted)
		if err != nil {
			return err
		}
		if d.clones {
			return d.overTemplate(p, name, disk.SizeBytes, crypt)
		}
		if disk.Content != "" {
			base, err := contentBase(d.dir, d.cfg.ImageSocket, disk.Content)
			if err != nil {
				return err
			}
			return writeOverlayOf(p, base, "raw", disk.SizeBytes, crypt)
		}
		base := disk.Backing
		if strings.HasPrefix(base, "/") {
			st, err := os.Stat(base)
			if err != nil {
				return fmt.Errorf("the base of the disk is not there: %w", err)
			}
			if st.Size() > disk.SizeBytes {
				return fmt.Errorf("the disk of %d bytes is smaller than its base of %d", disk.SizeBytes, st.Size())
			}
		} else if base != "" && !strings.Contains(base, ":") {
			return fmt.Errorf("the base %q is neither an absolute path nor a URI", base)
		}
		return writeOverlayOf(p, base, "raw", disk.SizeBytes, crypt)
	})
}

// overTemplate puts the disk p over the template's of that name.
func (d *disks) overTemplate(p, name string, size int64, crypt []byte) error {
	base := filepath.Join(d.cfg.Template, name)
	if _, err := os.Stat(base); err != nil {
		return fmt.Errorf("the template's disk is not there: %w", err)
	}
	return writeOverlayOf(p, base, "qcow2", size, crypt)
}

func (d *disks) osDisk(ctx context.Context) error {
	if d.cfg.Spec.OSDisk.Managed != "" {
		return d.managed(d.cfg.Spec.OSDisk)
	}
	return d.own(ctx, stepOSDisk, osDisk, d.cfg.Spec.OSDisk)
}

// own makes a disk that goes with the VM. An encrypted one is always an overlay: the
// copy of an image is not written to.
func (d *disks) own(ctx context.Context, step, name string, disk launch.Disk) error {
	if disk.FullCopy {
		if err := d.fullCopy(ctx, step, name, disk); err != nil || !d.encrypted(disk) {
			return err
		}
		disk.Content, disk.Backing = "", d.path(rawName(name))
	}
	return d.overlay(step, name, disk)
}

func (d *disks) dataDisks(ctx context.Context) error {
	for _, disk := range d.cfg.Spec.DataDisks {
		if disk.Managed != "" {
			if err := d.managed(disk); err != nil {
				return fmt.Errorf("LUN %d: %w", disk.LUN, err)
			}
			continue
		}
		if err := d.own(ctx, stepDataDisks, dataDisk(disk.LUN), disk); err != nil {
			return fmt.Errorf("LUN %d: %w", disk.LUN, err)
		}
	}
	return nil
}

// drive is a disk as QEMU gets it: a file, or for a managed disk the image host's
// export of it, which only this VM has, and which stays when the VM goes.
func (d *disks) drive(q qemu.Drive, disk launch.Disk, file string) qemu.Drive {
	q.File, q.Format, q.Encrypted = file, qemu.QCOW2, d.encrypted(disk)
	switch {
	case disk.Managed != "":
		// The step of the disks has looked at the name.
		socket, _ := socketName(d.dir, d.cfg.ImageSocket)
		q.File, q.Format = "", qemu.Raw
		q.NBD = &qemu.NBD{Socket: socket, Export: disk.Managed, ReconnectDelay: reconnectDelay, OpenTimeout: openTimeout}
	case disk.FullCopy && !q.Encrypted:
		q.File, q.Format = rawName(file), qemu.Raw
	}
	return q
}

// managed checks that a managed disk can be reached.
func (d *disks) managed(disk launch.Disk) error {
	if d.cfg.ImageSocket == "" {
		return fmt.Errorf("the managed disk %s has to be reached through an image host, and this host has none", disk.Managed)
	}
	_, err := socketName(d.dir, d.cfg.ImageSocket)
	return err
}

// tempDisk puts an overlay over an empty file system that all VMs of the host
// share, so that nobody formats at boot.
func (d *disks) tempDisk(ctx context.Context) error {
	mib := d.cfg.Spec.TempDiskMiB
	if mib == 0 {
		return nil
	}
	return d.make(stepTempDisk, tempDisk, func(p string) error {
		crypt, err := d.crypt(stepTempDisk, d.cfg.Spec.TempEncrypted)
		if err != nil {
			return err
		}
		if d.clones {
			return d.overTemplate(p, tempDisk, mib<<20, crypt)
		}
		base := tempBase(d.cfg.CacheDir, mib)
		if err := ensureTempBase(ctx, d.cfg.Tools.MkE2fs, base, mib); err != nil {
			return err
		}
		return writeOverlayOf(p, base, "raw", mib<<20, crypt)
	})
}

// ensureTempBase makes the base once. Two supervisors may do it at the same
// time; the last rename wins, but only a file that nobody uses yet is replaced,
// because a link is made instead of a rename.
func ensureTempBase(ctx context.Context, mke2fs, base string, mib int64) error {
	if _, err := os.Stat(base); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(base), ".tmp-temp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(f.Truncate(mib<<20), f.Close()); err != nil {
		return err
	}
	// nodiscard: the file is all holes already. The lazy options leave tables
	// and journal to be zeroed by the guest, which need not either: holes are zeros.
	cmd := exec.CommandContext(ctx, mke2fs, "-q", "-F", "-t", "ext4", "-L", launch.TempDiskLabel, "-m", "0",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", f.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format a temporary disk: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := os.Link(f.Name(), base); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func (d *disks) seed(context.Context) error {
	return d.make(stepSeed, seedDisk, func(p string) error {
		return writeWhole(p, func(w io.Writer) error { return seed.Write(w, d.instance()) })
	})
}

// firmware gives a UEFI machine variables of its own.
func (d *disks) firmware(context.Context) error {
	switch d.cfg.Spec.Firmware {
	case launch.BIOS:
		return nil
	case launch.UEFI:
	default:
		return fmt.Errorf("firmware %q is not known", d.cfg.Spec.Firmware)
	}
	code, vars := d.cfg.firmware()
	if _, err := os.Stat(code); err != nil {
		return fmt.Errorf("the UEFI firmware is not there (Debian: apt install ovmf): %w", err)
	}
	return d.make(stepFirmware, firmwareVars, func(p string) error {
		if d.clones {
			vars = filepath.Join(d.cfg.Template, firmwareVars)
		}
		in, err := os.Open(vars)
		if err != nil {
			return fmt.Errorf("the UEFI firmware's variables are not there (Debian: apt install ovmf): %w", err)
		}
		defer in.Close()
		return writeWhole(p, func(w io.Writer) error { _, err := io.Copy(w, in); return err })
	})
}

// writeWhole makes the file appear whole or not at all.
func writeWhole(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-"+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// drives lists what QEMU gets.
func (d *disks) drives() []qemu.Drive {
	list := []qemu.Drive{d.drive(qemu.Drive{ID: "os", Bus: qemu.VirtioBlk, Boot: true, Serial: "millpond-os"}, d.cfg.Spec.OSDisk, osDisk)}
	if d.cfg.Spec.TempDiskMiB != 0 {
		list = append(list, qemu.Drive{ID: "temp", File: tempDisk, Format: qemu.QCOW2, Bus: qemu.VirtioBlk, Serial: launch.TempDiskLabel, Encrypted: d.encrypts(d.cfg.Spec.TempEncrypted)})
	}
	for _, disk := range d.cfg.Spec.DataDisks {
		list = append(list, d.dataDrive(disk))
	}
	list = append(list, qemu.Drive{ID: "seed", File: seedDisk, Format: qemu.Raw, ReadOnly: true, Bus: qemu.VirtioBlk, Serial: "millpond-seed"})
	if d.cfg.AgentDisk != "" {
		list = append(list, qemu.Drive{ID: "agent", File: d.cfg.AgentDisk, Format: qemu.Raw, ReadOnly: true, Bus: qemu.VirtioBlk, Serial: "millpond-agent"})
	}
	return list
}

// dataDrive is a data disk as QEMU gets it.
func (d *disks) dataDrive(disk launch.Disk) qemu.Drive {
	id := fmt.Sprintf("data-%d", disk.LUN)
	return d.drive(qemu.Drive{ID: id, Bus: qemu.SCSI, LUN: disk.LUN, Serial: "millpond-" + id}, disk, dataDisk(disk.LUN))
}

// machine is the VM as QEMU is told of it.
func (d *disks) machine(consoleFD, qmpFD, agentFD int) qemu.Machine {
	c := d.cfg
	m := qemu.Machine{
		Name: c.Spec.Node.Key(), UUID: c.uuid(), Accel: c.Accel, VCPUs: c.VCPUs, MemoryMiB: c.MemoryMiB,
		Drives: d.drives(), ConsoleFD: consoleFD, QMPFD: qmpFD, AgentFD: agentFD,
	}
	if c.Spec.Firmware == launch.UEFI {
		code, _ := c.firmware()
		m.UEFI = &qemu.UEFI{Code: code, Vars: firmwareVars, Secure: c.Spec.SecureBoot}
	}
	if c.Spec.TPM {
		m.TPMFD = tpmFD
	}
	for _, drive := range m.Drives {
		if drive.Encrypted {
			m.DiskKey = &qemu.DiskKey{Host: c.HostKey, Wrapped: diskKey}
		}
	}
	m.Network = c.network()
	m.Memory, m.Incoming = c.memory(d.clones), d.clones
	m.NoReboot = c.renews()
	// Only a VM with a disk of its own gets disks later.
	m.SCSI = c.Spec.OSDisk.Managed != ""
	return m
}
