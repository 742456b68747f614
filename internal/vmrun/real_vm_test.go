//go:build vm

package vmrun

import (
	"os"
	"path/filepath"
	"testing"

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
