package vmrun

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

// trustedVM has secure boot and a TPM; QEMU is the stub, which leaves both alone.
func trustedVM(t *testing.T) (string, Config) {
	t.Helper()
	dir, cfg := newVM(t, qemutest.Boots)
	firmware := t.TempDir()
	for _, name := range []string{"code", "vars"} {
		if err := os.WriteFile(filepath.Join(firmware, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Spec.Firmware, cfg.Spec.SecureBoot, cfg.Spec.TPM = launch.UEFI, true, true
	cfg.Tools.SecureCode, cfg.Tools.SecureVars, cfg.Tools.SWTPM = filepath.Join(firmware, "code"), filepath.Join(firmware, "vars"), "swtpm"
	return dir, cfg
}

// tpms are the emulators that work in a folder.
func tpms(t *testing.T, dir string) (pids []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "comm"))
		if at, err := os.Readlink(p); err == nil && at == dir && strings.TrimSpace(string(name)) == "swtpm" {
			pids = append(pids, filepath.Base(filepath.Dir(p)))
		}
	}
	return pids
}

// TestTPM: the machine's TPM is there while it runs, also after a reset, and not after it.
func TestTPM(t *testing.T) {
	needs(t, "swtpm")
	dir, cfg := trustedVM(t)
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	_, wait := start(t, dir)
	st := until(t, dir, "running", running)
	if !slices.ContainsFunc(st.Steps, func(s launch.StepTime) bool { return s.Name == stepTPM }) {
		t.Errorf("steps %+v", st.Steps)
	}
	first := tpms(t, dir)
	if len(first) != 1 {
		t.Fatalf("emulators %v", first)
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpReset}); err != nil {
		t.Fatal(err)
	}
	until(t, dir, "running again", func(st launch.Status) bool {
		now := tpms(t, dir)
		return running(st) && len(now) == 1 && now[0] != first[0]
	})
	if _, err := Call(t.Context(), dir, Request{Op: OpStop, Grace: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if st := wait(); st.Phase != launch.Stopped {
		t.Errorf("%+v %+v", st, st.Err)
	}
	if left := tpms(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestTrustedLaunchWithoutItsPrograms(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Config)
		says  string
	}{
		"firmware": {func(c *Config) { c.Tools.SecureCode = "/nowhere" }, "apt install ovmf"},
		"emulator": {func(c *Config) { c.Tools.SWTPM = "/nowhere" }, "apt install swtpm"},
	} {
		dir, cfg := trustedVM(t)
		c.spoil(&cfg)
		if err := cfg.Save(dir); err != nil {
			t.Fatal(err)
		}
		_, wait := start(t, dir)
		if st := wait(); st.Phase != launch.Failed || st.Err == nil || !st.Err.Host || !strings.Contains(st.Err.Message+st.Err.Evidence, c.says) {
			t.Errorf("%s: %+v %+v", name, st, st.Err)
		}
	}
}

func TestTrustedMachinesAreNoClones(t *testing.T) {
	for _, s := range []launch.Spec{{SecureBoot: true}, {TPM: true}} {
		if why := Unclonable(s); !strings.Contains(why, "trusted launch") {
			t.Errorf("%+v: %q", s, why)
		}
	}
}
