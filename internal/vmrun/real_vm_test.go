//go:build vm

package vmrun

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// TestRealQEMUWithoutASystem boots an empty disk, with every kind of drive,
// under both firmwares: QEMU must take the whole command line, and the failure
// must be explained as the guest's.
func TestRealQEMUWithoutASystem(t *testing.T) {
	for _, fw := range []launch.Firmware{launch.BIOS, launch.UEFI} {
		t.Run(string(fw), func(t *testing.T) {
			dir, cfg := newVM(t, "")
			cfg.Spec.Firmware, cfg.Spec.TempDiskMiB = fw, 64
			cfg.Tools = Tools{QEMU: "qemu-system-x86_64", MkE2fs: "mke2fs",
				OVMFCode: "/usr/share/OVMF/OVMF_CODE_4M.fd", OVMFVars: "/usr/share/OVMF/OVMF_VARS_4M.fd"}
			cfg.AgentDisk = filepath.Join(t.TempDir(), "agent.iso")
			if err := os.WriteFile(cfg.AgentDisk, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := cfg.Save(dir); err != nil {
				t.Fatal(err)
			}
			_, wait := start(t, dir)
			st := wait()
			t.Logf("steps %+v", st.Steps)
			if st.Err == nil || st.Err.Host || st.Err.Code != CodeBootFailed {
				t.Errorf("status %+v, err %+v\nqemu: %s", st, st.Err, Evidence(filepath.Join(dir, qemuLog)))
			}
			if st.Err != nil {
				t.Logf("evidence: %s", st.Err.Evidence)
			}
		})
	}
}

// TestRealStarvedMachine boots a sector that says what a kernel says which saw no ticks:
// a QEMU that is stopped can be reset, and what is in its place boots.
func TestRealStarvedMachine(t *testing.T) {
	defer func(most int, pause time.Duration) { mostStarved, starvedPause = most, pause }(mostStarved, starvedPause)
	mostStarved, starvedPause = 2, 10*time.Millisecond
	dir, cfg := newVM(t, "")
	// It writes the bytes at 0x7c14 to the first serial port and then runs in a circle.
	sector := append([]byte{0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x14, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xeb, 0xfe},
		"[    0.004000] Kernel panic - not syncing: IO-APIC + timer doesn't work!\r\n"...)
	sector = append(append(sector, make([]byte, 510-len(sector))...), 0x55, 0xaa)
	if err := os.WriteFile(cfg.Spec.OSDisk.Backing, append(sector, make([]byte, 1<<20-512)...), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Tools = Tools{QEMU: "qemu-system-x86_64", MkE2fs: "mke2fs"}
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	_, wait := start(t, dir)
	st := wait()
	said, err := Console(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if st.Err == nil || st.Err.Code != CodeStarved || !st.Err.Host || strings.Count(string(said), "timer doesn't work") != 3 {
		t.Errorf("%+v, %+v\nconsole: %s\nqemu: %s", st, st.Err, said, Evidence(filepath.Join(dir, qemuLog)))
	}
}
