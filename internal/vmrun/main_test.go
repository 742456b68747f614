package vmrun

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

// The test binary is three programs: the tests, the stub in QEMU's place, and a
// supervisor.
func TestMain(m *testing.M) {
	qemutest.Main()
	if len(os.Args) == 3 && os.Args[1] == "vm-run" {
		if err := Run(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const bound = 30 * time.Second

// newVM makes a folder whose guest plays the script.
func newVM(t *testing.T, script qemutest.Script) (string, Config) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "base.raw")
	if err := os.WriteFile(base, script.Base(), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A folder as deep as users have them: longer than a socket's name may be.
	dir := filepath.Join(t.TempDir(), "a-folder-with-a-long-name-because-people-do-that", "and-another-one-inside-of-it-for-good-measure", "node-1")
	cfg := Config{
		Spec: launch.Spec{
			Node: "Node-1", Generation: 2, VCPUs: 1, MemoryMiB: 128, Firmware: launch.BIOS, Hostname: "node-1",
			OSDisk:    launch.Disk{Backing: base, SizeBytes: 2 * qemutest.DiskSize},
			DataDisks: []launch.Disk{{LUN: 0, SizeBytes: 1 << 30}, {LUN: 5, Backing: base, SizeBytes: qemutest.DiskSize}},
			Channel:   launch.Channel{EndpointFile: filepath.Join(t.TempDir(), "endpoint"), CAFile: "none", Token: "secret"},
		},
		Accel: qemu.TCG, VCPUs: 1, MemoryMiB: 128, Network: netip.MustParsePrefix("10.77.0.8/29"),
		Tools: Tools{QEMU: self, MkE2fs: "mke2fs"}, CacheDir: t.TempDir(), StopGrace: time.Second,
	}
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir, cfg
}

// start runs a supervisor in this process; the returned wait joins it.
func start(t *testing.T, dir string) (cancel func(), wait func() launch.Status) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, dir, func(string) error { return nil }) }()
	joined := false
	wait = func() launch.Status {
		t.Helper()
		if !joined {
			joined = true
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(bound):
				t.Fatal("the supervisor did not end")
			}
		}
		st, err := LoadStatus(dir)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	t.Cleanup(func() {
		cancel()
		if !joined {
			<-done
		}
	})
	return cancel, wait
}

// until waits for a condition on the status.
func until(t *testing.T, dir string, what string, ok func(launch.Status) bool) launch.Status {
	t.Helper()
	deadline := time.Now().Add(bound)
	for {
		st, err := LoadStatus(dir)
		if err == nil && ok(st) {
			return st
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s in time: %+v, %v", what, st, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func running(st launch.Status) bool { return st.Phase == launch.Running }

func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}
