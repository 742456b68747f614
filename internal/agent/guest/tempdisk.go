package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/launch"
)

// tempMount is where the temporary disk is mounted.
const tempMount = "/mnt"

// mountTempDisk mounts the file system labelled launch.TempDiskLabel at /mnt
// unless it is mounted already; false when the machine has none.
func mountTempDisk(may bool) (bool, error) {
	dev, err := findLabel("/sys/class/block", "/dev", launch.TempDiskLabel)
	if dev == "" || err != nil {
		return false, err
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 1 && f[1] == tempMount {
			if sameDevice(f[0], dev) {
				return true, nil
			}
			return false, fmt.Errorf("%s is taken by %s", tempMount, f[0])
		}
	}
	if !may {
		return false, errors.New("not privileged to mount")
	}
	if err := os.MkdirAll(tempMount, 0o755); err != nil {
		return false, err
	}
	err = unix.Mount(dev, tempMount, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "")
	if errors.Is(err, unix.ENODEV) { // the driver is a module that nobody loaded
		_ = exec.Command("modprobe", "-q", "ext4").Run()
		err = unix.Mount(dev, tempMount, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "")
	}
	return err == nil, err
}

func sameDevice(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Rdev == y.Rdev && x.Rdev != 0
}

// findLabel finds the block device with an ext file system of the label. It
// reads superblocks, because a small image has neither udev nor blkid.
func findLabel(class, dev, label string) (string, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		n := e.Name()
		if strings.HasPrefix(n, "loop") || strings.HasPrefix(n, "ram") || strings.HasPrefix(n, "sr") || strings.HasPrefix(n, "fd") {
			continue
		}
		path := filepath.Join(dev, n)
		if l, ok := extLabel(path); ok && l == label {
			return path, nil
		}
	}
	return "", nil
}

// extLabel reads the volume label of an ext2/3/4 file system: its superblock
// lies at 1024, the magic 0xEF53 at 56 of it, the label at 120, 16 bytes.
func extLabel(path string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	var sb [1024]byte
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return "", false
	}
	if binary.LittleEndian.Uint16(sb[56:]) != 0xEF53 {
		return "", false
	}
	label, _, _ := bytes.Cut(sb[120:136], []byte{0})
	return string(label), true
}
