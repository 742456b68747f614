package bootcheck

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/qemu/qemutest"
	"millpond.dev/millpond/internal/vmrun"
)

// The test binary is also the stub in QEMU's place.
func TestMain(m *testing.M) {
	qemutest.Main()
	os.Exit(m.Run())
}

type script []byte

func (s script) Size() int64 { return int64(len(s)) }
func (s script) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s).ReadAt(p, off)
}

func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(t.TempDir(), "agent.raw")
	if err := os.WriteFile(base, qemutest.Agent.Base(), 0o400); err != nil {
		t.Fatal(err)
	}
	// The temporary disk is no part of this.
	mkfs := filepath.Join(t.TempDir(), "mkfs")
	if err := os.WriteFile(mkfs, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		os    Disk
		limit time.Duration
		stage Stage
		code  string
		host  bool
	}{
		"an agent":           {os: Disk{Raw: base}, limit: time.Minute, stage: Agent},
		"an agent, copied":   {os: Disk{Source: script(qemutest.Agent.Base())}, limit: time.Minute, stage: Agent},
		"nothing to boot":    {os: Disk{Source: script(qemutest.NoBoot.Base())}, limit: time.Minute, stage: Firmware, code: vmrun.CodeBootFailed},
		"no agent":           {os: Disk{Source: script(qemutest.Boots.Base())}, limit: 300 * time.Millisecond, code: CodeSilent},
		"switches off":       {os: Disk{Source: script(qemutest.PowersOff.Base())}, limit: time.Minute, code: "PoweredOff"},
		"QEMU that rejects":  {os: Disk{Source: script(qemutest.Rejects.Base())}, limit: time.Minute, host: true},
		"a file that is not": {os: Disk{Raw: filepath.Join(t.TempDir(), "none")}, limit: time.Minute, host: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Scratch: t.TempDir(), Firmware: launch.BIOS, OS: c.os, Data: []Disk{{LUN: 3, Source: script(make([]byte, 1<<20))}}, Accel: qemu.TCG, VCPUs: 1, MemoryMiB: 128,
				Tools: vmrun.Tools{QEMU: self, MkE2fs: mkfs}, Limit: c.limit, Now: time.Now}
			r, err := Run(t.Context(), o)
			if c.host {
				if err == nil {
					t.Errorf("%+v", r)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.stage != "" && r.Stage != c.stage || (r.Failure == nil) != (c.code == "") || r.Failure != nil && (r.Failure.Code != c.code || r.Failure.Suggestion == "") {
				t.Errorf("%+v %+v", r, r.Failure)
			}
		})
	}
	if b, err := os.ReadFile(base); err != nil || !bytes.Equal(b, qemutest.Agent.Base()) {
		t.Errorf("the image was changed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	_, err = Run(ctx, Options{Scratch: t.TempDir(), Firmware: launch.BIOS, OS: Disk{Source: script(qemutest.Boots.Base())}, Accel: qemu.TCG, VCPUs: 1, MemoryMiB: 128,
		Tools: vmrun.Tools{QEMU: self, MkE2fs: mkfs}, Limit: time.Minute, Now: time.Now})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestReached(t *testing.T) {
	const bios, loader = "SeaBIOS (version 1.16.2-debian-1.16.2-1)\n", "Booting from Hard Disk...\nSYSLINUX 6.04 EDD\n"
	failed := func(code string) launch.Status {
		return launch.Status{Phase: launch.Failed, Err: &launch.Failure{Code: code}}
	}
	running := launch.Status{Phase: launch.Running}
	for _, c := range []struct {
		name    string
		status  launch.Status
		console string
		want    Stage
	}{
		{"nothing yet", launch.Status{Phase: launch.Preparing}, "", None},
		{"QEMU did not start", launch.Status{Phase: launch.Failed, Err: &launch.Failure{Host: true, Code: vmrun.CodeQEMURejected}}, "", None},
		{"silent firmware", running, "", Firmware},
		{"firmware", running, bios, Firmware},
		{"no boot sector", failed(vmrun.CodeBootFailed), bios + "Boot failed: not a bootable disk\n\nNo bootable device.\n", Firmware},
		{"UEFI without a loader", failed(vmrun.CodeBootFailed), "BdsDxe: No bootable option or device was found.\n", Firmware},
		{"loader", running, bios + loader, BootLoader},
		{"GRUB in distress", failed(vmrun.CodeBootFailed), bios + "GRUB loading.\nerror: no such partition.\ngrub rescue> ", BootLoader},
		{"no kernel", failed(vmrun.CodeKernelNotLoaded), bios + loader + "Invalid or corrupt kernel image.\nboot: ", BootLoader},
		{"kernel", running, bios + loader + "[    0.000000] Linux version 6.1.0\n", Kernel},
		{"panic", failed(vmrun.CodeKernelPanic), bios + loader + "[    2.500000] Kernel panic - not syncing: No working init found.\n", Kernel},
		{"no root", failed(vmrun.CodeRootNotFound), bios + loader + "Gave up waiting for root file system device.\n", Kernel},
		{"sign off the tail", failed(vmrun.CodeKernelPanic), strings.Repeat("call trace\n", 3), Kernel},
		{"systemd", running, bios + loader + "[    5.000000] systemd[1]: Detected virtualization qemu.\n", System},
		{"quiet kernel", running, bios + loader + "Debian GNU/Linux 12 vm1 ttyS0\n\nvm1 login: ", System},
		{"emergency", failed(vmrun.CodeEmergency), "You are in emergency mode.\n", System},
		{"agent", launch.Status{Phase: launch.Running, Heard: time.Unix(1, 0)}, "", Agent},
	} {
		if got := Reached(c.status, c.console); got != c.want {
			t.Errorf("%s: %s, not %s", c.name, got, c.want)
		}
	}
}
