package guest

import (
	"os"
	"path/filepath"
	"strings"
)

// mountsUp says that what /etc/fstab mounts at boot is mounted, as far as its
// disks are there. The agent speaks before that, so that a node is known early;
// a task finds the image's data disks in place.
func mountsUp() bool { return mountsDone("/") }

// mountsDone reads fstab and the kernel's list below a root directory. Devices
// are looked for where udev names them; what udev does not name once it has seen
// all devices is not waited for, because it does not exist.
func mountsDone(root string) bool {
	fstab, err := os.ReadFile(filepath.Join(root, "etc/fstab"))
	if err != nil {
		return true
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mounts"))
	if err != nil {
		return true
	}
	mounted := map[string]bool{}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 {
			mounted[f[1]] = true
		}
	}
	for line := range strings.Lines(string(fstab)) {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") || !strings.HasPrefix(f[1], "/") || mounted[f[1]] {
			continue
		}
		if dev := device(f[0]); dev == "" || strings.Contains(","+f[3]+",", ",noauto,") {
			continue
		} else if missing(filepath.Join(root, dev)) && devicesSeen(root) {
			continue
		}
		return false
	}
	return true
}

// devicesSeen says that udev has been told of the devices that were there before
// it, and has nothing left to do. A machine without systemd is not asked.
func devicesSeen(root string) bool {
	there := func(name string) bool { return !missing(filepath.Join(root, name)) }
	if !there("run/systemd/system") {
		return true
	}
	// The link that names its run dangles on purpose, so it is not followed.
	_, err := os.Lstat(filepath.Join(root, "run/systemd/units/invocation:systemd-udev-trigger.service"))
	return err == nil && !there("run/udev/queue")
}

func missing(path string) bool { _, err := os.Stat(path); return err != nil }

// device is where a device of fstab shows; empty for what is none.
func device(spec string) string {
	for prefix, dir := range map[string]string{"LABEL=": "by-label", "UUID=": "by-uuid", "PARTUUID=": "by-partuuid", "PARTLABEL=": "by-partlabel"} {
		if name, ok := strings.CutPrefix(spec, prefix); ok {
			return "/dev/disk/" + dir + "/" + strings.Trim(name, `"`)
		}
	}
	if strings.HasPrefix(spec, "/dev/disk/") {
		return spec
	}
	return ""
}
