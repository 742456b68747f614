//go:build vm

package accel

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"millpond.dev/millpond/internal/qemu"
)

const program = "qemu-system-x86_64"

// TestBootSector runs the sector where it must succeed: under emulation.
func TestBootSector(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 1440<<10); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, proofArgs(qemu.TCG, disk)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if ok, why := judge(out.String(), stderr.String(), cmd.ProcessState, ctx.Err() != nil, time.Minute, err); !ok {
		t.Errorf("%s (said %q, stderr %q)", why, out.String(), stderr.String())
	}
}

// TestThisHost shows what auto makes of the host; both answers are right ones.
func TestThisHost(t *testing.T) {
	v, err := Prover{QEMU: program, CacheFile: filepath.Join(t.TempDir(), "accel.json")}.Decide(t.Context(), Auto)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s in %s: %s", v.Accel, v.Took, v.Reason)
}
