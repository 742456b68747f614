package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// randomizeKey is the kernel's setting by which programs start at random addresses.
	randomizeKey = "kernel.randomize_va_space"
	// repeatedMark says that the setting was made since the machine has booted. What
	// somebody makes of it later holds, whenever the agent starts again.
	repeatedMark = "run/millpond-addresses"
)

// repeatAddresses has programs start at the same addresses each time, if the
// processor is emulated: QEMU finds translated code by its address, and translates
// a program and its libraries again for each start that is at another. Where the
// machine's owner has said in /etc what is to be, that holds. root is the root of the
// file system.
func repeatAddresses(root string) error {
	if !emulated(root) || decided(root) {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(root, repeatedMark), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	return os.WriteFile(filepath.Join(root, "proc/sys", strings.ReplaceAll(randomizeKey, ".", "/")), []byte("0\n"), 0o644)
}

// emulated says that the machine's processor is QEMU's own.
func emulated(root string) bool {
	b, err := os.ReadFile(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.HasPrefix(strings.TrimSpace(value), "QEMU TCG CPU")
		}
	}
	return false
}

// decided says that the machine's own configuration names the setting.
func decided(root string) bool {
	files, _ := filepath.Glob(filepath.Join(root, "etc/sysctl.d/*.conf")) // the pattern is a good one
	for _, name := range append(files, filepath.Join(root, "etc/sysctl.conf")) {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, _, ok := strings.Cut(line, "=")
			key = strings.TrimPrefix(strings.TrimSpace(key), "-") // "-" lets it fail
			if ok && strings.ReplaceAll(strings.TrimSpace(key), "/", ".") == randomizeKey {
				return true
			}
		}
	}
	return false
}
