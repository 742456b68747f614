package guest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMountsOfFstab(t *testing.T) {
	for what, c := range map[string]struct {
		fstab, mounts string
		done          bool
	}{
		"nothing":        {"", "", true},
		"not yet":        {"LABEL=app /data ext4 defaults,nofail 0 2\n", "/dev/vda2 / ext4 rw 0 0\n", false},
		"mounted":        {"LABEL=app /data ext4 defaults,nofail 0 2\n", "/dev/sda /data ext4 rw 0 0\n", true},
		"disk not there": {"LABEL=gone /data ext4 nofail 0 2\n", "", true},
		"noauto":         {"LABEL=app /data ext4 noauto,nofail 0 2\n", "", true},
		"comment":        {"# LABEL=app /data ext4 x 0 0\n", "", true},
		"swap, tmpfs":    {"LABEL=app none swap sw 0 0\ntmpfs /t tmpfs defaults 0 0\n", "", true},
	} {
		root := t.TempDir()
		for name, text := range map[string]string{"etc/fstab": c.fstab, "proc/self/mounts": c.mounts, "dev/disk/by-label/app": ""} {
			p := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := mountsDone(root); got != c.done {
			t.Errorf("%s: %v", what, got)
		}
	}
}
