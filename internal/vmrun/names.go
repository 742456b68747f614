// Package vmrun is the supervisor of exactly one virtual machine: it prepares
// the disks, runs QEMU as its child, one after another when the machine is reset
// (renew.go), carries the node channel and the frames of its network, watches, and
// says how it ended. It is the body of `millpond vm-run --dir DIR`, which launchers
// start and which outlives the server.
//
// A VM boots, or is a clone: a copy of a machine that another supervisor has taken
// through its boot and kept at rest (template.go, clone.go). A clone may wait, stopped,
// for the node that it is to be (park.go). One that boots reads of its image what the
// host has already from the cache's file (mapped.go).
//
// It knows no pool, no job and no database, and never more than one VM. Every
// name inside a VM's folder is in names.go; launch/local reads them too.
//
// QEMU lives and dies with its supervisor: it is a child with a parent-death
// signal. Under emulation a reset ends it, and the same supervisor runs the next
// one on the same disks (renew.go). A supervisor that was killed leaves no machine
// that nobody watches; the launcher then reports the VM as failed, and the server
// replaces it.
package vmrun

import (
	"fmt"
	"path/filepath"
)

// The files of a VM's folder.
const (
	// configFile is the Config, 0600 because of the channel's token.
	configFile = "spec.json"
	// statusFile is a launch.Status, replaced as a whole at each change.
	statusFile = "status.json"
	// handleFile is the Handle of the last supervisor.
	handleFile = "handle.json"
	// lockFile is locked by the supervisor as long as it lives.
	lockFile = "lock"
	// controlSocket is where the supervisor takes requests.
	controlSocket = "ctl.sock"
	// consoleFile is what the guest said on its serial port, and oldConsoleFile
	// what it said before that; each is bounded by consoleLimit.
	consoleFile    = "console.log"
	oldConsoleFile = "console.old.log"
	qemuLog        = "qemu.log"
	tpmLog         = "tpm.log"
	supervisorLog  = "supervisor.log"
	diskFolder     = "disks"
)

// The files of the disk folder; names are relative to the VM's folder, which is
// QEMU's working directory.
const (
	osDisk       = diskFolder + "/os.qcow2"
	tempDisk     = diskFolder + "/temp.qcow2"
	seedDisk     = diskFolder + "/seed.iso"
	firmwareVars = diskFolder + "/vars.fd"
	diskKey      = diskFolder + "/key"
	tpmState     = diskFolder + "/tpm"
)

func dataDisk(lun int) string { return fmt.Sprintf(diskFolder+"/data-%d.qcow2", lun) }

// tempBase is the shared, formatted base of temporary disks of a size.
func tempBase(cache string, mib int64) string {
	return filepath.Join(cache, fmt.Sprintf("temp-%d.raw", mib))
}

// ConfigFile, StatusFile and SupervisorLog name files of the VM in dir for the
// launcher that started it.
func ConfigFile(dir string) string    { return filepath.Join(dir, configFile) }
func StatusFile(dir string) string    { return filepath.Join(dir, statusFile) }
func SupervisorLog(dir string) string { return filepath.Join(dir, supervisorLog) }

// DiskFolder has what a VM writes to; without it, it starts anew.
func DiskFolder(dir string) string { return filepath.Join(dir, diskFolder) }

// StatusName is StatusFile's last element, as inotify reports it.
const StatusName = statusFile
