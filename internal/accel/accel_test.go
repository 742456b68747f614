package accel

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/qemu"
)

// prover runs a shell script in place of QEMU and counts its runs.
func prover(t *testing.T, script string, runs *int) Prover {
	t.Helper()
	dir := t.TempDir()
	device := filepath.Join(dir, "kvm")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return Prover{QEMU: "/bin/sh", CacheFile: filepath.Join(dir, "cache", "accel.json"), KVMDevice: device, Limit: 500 * time.Millisecond,
		Program: func(ctx context.Context, _ []string) *exec.Cmd {
			*runs++
			return exec.CommandContext(ctx, "/bin/sh", "-c", script)
		}}
}

func TestProofDecides(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         qemu.Accel
		reason       string
	}{
		{"all well", "printf TPL; exit 85", qemu.KVM, "ran 64-bit code"},
		{"wrong exit", "printf TPL; exit 0", qemu.TCG, "did not end as told"},
		{"QEMU refuses", "echo 'failed to set MSR' >&2; exit 1", qemu.TCG, "failed to set MSR"},
		{"no code", "exec sleep 5", qemu.TCG, "no code at all"},
		{"no timer", "printf T; exec sleep 5", qemu.TCG, "no timer interrupts"},
		{"crawls", "printf TP; exec sleep 5", qemu.TCG, "in 64-bit code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			runs := 0
			v, err := prover(t, c.script, &runs).Decide(t.Context(), Auto)
			if err != nil || v.Accel != c.want || !strings.Contains(v.Reason, c.reason) {
				t.Errorf("got %+v, %v", v, err)
			}
		})
	}
}

func TestVerdictIsKept(t *testing.T) {
	runs := 0
	p := prover(t, "printf TPL; exit 85", &runs)
	for range 3 {
		if v, err := p.Decide(t.Context(), Auto); err != nil || v.Accel != qemu.KVM {
			t.Fatalf("got %+v, %v", v, err)
		}
	}
	if runs != 1 {
		t.Errorf("the proof ran %d times", runs)
	}
	if err := p.Distrust("a VM hung"); err != nil {
		t.Fatal(err)
	}
	if v, err := p.Decide(t.Context(), Auto); err != nil || v.Accel != qemu.TCG || !v.Cached || v.Reason != "a VM hung" {
		t.Errorf("after distrust: %+v, %v", v, err)
	}
}

func TestModesWithoutProof(t *testing.T) {
	runs := 0
	p := prover(t, "exit 1", &runs)
	if v, err := p.Decide(t.Context(), TCG); err != nil || v.Accel != qemu.TCG {
		t.Errorf("tcg: %+v, %v", v, err)
	}
	if v, err := p.Decide(t.Context(), KVM); err != nil || v.Accel != qemu.KVM {
		t.Errorf("kvm: %+v, %v", v, err)
	}
	p.KVMDevice = filepath.Join(t.TempDir(), "none")
	if _, err := p.Decide(t.Context(), KVM); millpond.KindOf(err) != millpond.Invalid {
		t.Errorf("kvm without a device: %v", err)
	}
	if v, err := p.Decide(t.Context(), Auto); err != nil || v.Accel != qemu.TCG {
		t.Errorf("auto without a device: %+v, %v", v, err)
	}
	if runs != 0 {
		t.Errorf("%d proofs ran", runs)
	}
}

func TestParseMode(t *testing.T) {
	for in, want := range map[string]Mode{"": Auto, "KVM": KVM, "tcg": TCG, "auto": Auto} {
		if got, err := ParseMode(in); err != nil || got != want {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
	if _, err := ParseMode("xen"); err == nil {
		t.Error("xen accepted")
	}
}
