package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/accel"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/launchtest"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/qemu/qemutest"
	"millpond.dev/millpond/internal/vmrun"
)

// The test binary is also the supervisor's command and the stub in QEMU's place.
func TestMain(m *testing.M) {
	qemutest.Main()
	if i := slices.Index(os.Args, "--dir"); i > 0 && os.Args[1] == "vm-run" {
		if err := vmrun.Run(context.Background(), os.Args[i+1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type fixture struct {
	l     *Launcher
	cfg   Config
	bases string
}

func newFixture(t *testing.T, edit func(*Config)) *fixture {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{bases: t.TempDir(), cfg: Config{
		Dir: filepath.Join(t.TempDir(), "vms"), CacheDir: t.TempDir(), Supervisor: []string{self, "vm-run"},
		Tools: vmrun.Tools{QEMU: self, MkE2fs: "mke2fs"}, Accel: accel.TCG, MemoryCapMiB: 256,
		Templates: Templates{Off: true},
		Clock:     clock.System{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}}
	if edit != nil {
		edit(&f.cfg)
	}
	f.open(t)
	t.Cleanup(func() {
		f.l.EndMaking() // and the spares
		list, err := f.l.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, st := range list {
			if err := f.l.Destroy(context.Background(), st.Node); err != nil {
				t.Error(err)
			}
		}
		f.l.Close()
		left, err := os.ReadDir(f.cfg.Dir)
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), templatePrefix) })
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
	return f
}

func (f *fixture) open(t *testing.T) {
	t.Helper()
	l, err := Open(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.l = l
}

func (f *fixture) spec(t *testing.T, script qemutest.Script) func(millpond.NodeID, int) launch.Spec {
	return func(node millpond.NodeID, generation int) launch.Spec {
		base := filepath.Join(f.bases, string(script)[6:])
		// Written once: a file that has been written anew is another image.
		if _, err := os.Stat(base); err != nil {
			if err := os.WriteFile(base, script.Base(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return launch.Spec{Node: node, Generation: generation, VCPUs: 2, MemoryMiB: 8192, Firmware: launch.BIOS, Hostname: "host",
			OSDisk: launch.Disk{Backing: base, SizeBytes: qemutest.DiskSize}}
	}
}

func (f *fixture) kill(t *testing.T, node millpond.NodeID, which func(vmrun.Handle) process.ID) {
	t.Helper()
	h, err := vmrun.LoadHandle(filepath.Join(f.cfg.Dir, node.Key()))
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Find(which(h))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func qemuOf(h vmrun.Handle) process.ID       { return h.QEMU }
func supervisorOf(h vmrun.Handle) process.ID { return h.Supervisor }

func TestConformance(t *testing.T) {
	for name, victim := range map[string]func(vmrun.Handle) process.ID{"QEMU dies": qemuOf, "supervisor dies": supervisorOf} {
		t.Run(name, func(t *testing.T) {
			launchtest.Run(t, func(t *testing.T) launchtest.Subject {
				f := newFixture(t, nil)
				missing := func(n millpond.NodeID, g int) launch.Spec {
					s := f.spec(t, qemutest.Boots)(n, g)
					s.OSDisk.Backing += ".missing"
					return s
				}
				return launchtest.Subject{
					Launcher: f.l, Healthy: f.spec(t, qemutest.Boots), Deaf: f.spec(t, qemutest.Deaf),
					HostFault: missing, GuestFault: f.spec(t, qemutest.NoBoot),
					Crash: func(t *testing.T, n millpond.NodeID) { f.kill(t, n, victim) },
					Reopen: func(t *testing.T) launch.Launcher {
						if err := f.l.Close(); err != nil {
							t.Fatal(err)
						}
						f.open(t)
						return f.l
					},
				}
			})
		})
	}
}

func (f *fixture) until(t *testing.T, node millpond.NodeID, p launch.Phase) launch.Status {
	t.Helper()
	limit := time.After(launchtest.Bound)
	for {
		list, err := f.l.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range list {
			if st.Node == node && st.Phase == p {
				return st
			}
		}
		select {
		case <-f.l.Changed():
		case <-limit:
			t.Fatalf("%s is not %s: %+v", node, p, list)
		}
	}
}

// TestQueuedStartIsKept: Launch has promised the start; a server that dies right
// after it keeps the promise when it comes back.
func TestQueuedStartIsKept(t *testing.T) {
	f := newFixture(t, nil)
	if err := f.l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(f.cfg.Dir, "node-a")
	cfg := vmrun.Config{Spec: f.spec(t, qemutest.Boots)("node-a", 1), Tools: f.cfg.Tools, CacheDir: f.cfg.CacheDir,
		VCPUs: 1, MemoryMiB: 128, Network: netip.MustParsePrefix("10.77.0.0/29")}
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := vmrun.SaveStatus(dir, launch.Status{Node: "node-a", Generation: 1, Phase: launch.Preparing, Step: stepQueued}); err != nil {
		t.Fatal(err)
	}
	// Rubbish of a launch that had promised nothing, and of a removal.
	for _, d := range []string{"node-b", trashPrefix + "node-c"} {
		if err := os.MkdirAll(filepath.Join(f.cfg.Dir, d, "disks"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f.open(t)
	f.until(t, "node-a", launch.Running)
	if e, err := os.ReadDir(f.cfg.Dir); err != nil || len(e) != 1 {
		t.Errorf("folders %v, %v", e, err)
	}
}

func TestCapsAndCapacity(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxVMs, c.VCPUCap, c.MemoryMiB = 2, 1, 600 })
	healthy := f.spec(t, qemutest.Boots)
	for _, n := range []millpond.NodeID{"node-a", "node-b"} {
		if err := f.l.Launch(t.Context(), healthy(n, 1)); err != nil {
			t.Fatal(err)
		}
	}
	var he *launch.HostError
	if err := f.l.Launch(t.Context(), healthy("node-c", 1)); !errors.As(err, &he) {
		t.Errorf("a third VM: %v", err)
	}
	f.until(t, "node-a", launch.Running)
	f.until(t, "node-b", launch.Running)
	cfg, err := vmrun.LoadConfig(filepath.Join(f.cfg.Dir, "node-a"))
	if err != nil || cfg.VCPUs != 1 || cfg.MemoryMiB != 256 || cfg.Accel != "tcg" {
		t.Errorf("config %+v, %v", cfg, err)
	}
	if st, err := os.Stat(vmrun.ConfigFile(filepath.Join(f.cfg.Dir, "node-a"))); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file with the token: %v, %v", st.Mode(), err)
	}
}

// TestManyLaunchesAtOnce: launches, starts, looks and ends go on side by side.
func TestManyLaunchesAtOnce(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MemoryCapMiB, c.MemoryMiB = 16, 1000 })
	healthy := f.spec(t, qemutest.Boots)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			n := millpond.NodeID(fmt.Sprintf("node-%d", i))
			if err := f.l.Launch(t.Context(), healthy(n, 1)); err != nil {
				t.Error(err)
			}
			if _, err := f.l.Capacity(t.Context()); err != nil {
				t.Error(err)
			}
			if i%4 == 0 {
				if err := f.l.Destroy(t.Context(), n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	limit := time.After(launchtest.Bound)
	for {
		list, err := f.l.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		running := 0
		for _, st := range list {
			if st.Phase == launch.Running {
				running++
			}
		}
		if running == 12 && len(list) == 12 {
			return
		}
		select {
		case <-f.l.Changed():
		case <-limit:
			t.Fatalf("%d of 12 run: %+v", running, list)
		}
	}
}

func TestNodeIDsThatAreNoFolders(t *testing.T) {
	f := newFixture(t, nil)
	for _, n := range []millpond.NodeID{"", "..", "a/b", ".trash-x", "../x", "a b"} {
		if err := f.l.Launch(t.Context(), f.spec(t, qemutest.Boots)(n, 1)); millpond.KindOf(err) != millpond.Invalid {
			t.Errorf("%q: %v", n, err)
		}
	}
}

func TestSupervisorThatDoesNotStart(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Supervisor = []string{"/nonexistent/millpond"} })
	if err := f.l.Launch(t.Context(), f.spec(t, qemutest.Boots)("node-a", 1)); err != nil {
		t.Fatal(err)
	}
	if st := f.until(t, "node-a", launch.Failed); st.Err == nil || !st.Err.Host || st.Err.Code != vmrun.CodeLaunchFailed {
		t.Errorf("failure %+v", st.Err)
	}
}

func TestFreeSubnet(t *testing.T) {
	all := netip.MustParsePrefix("10.77.0.0/27") // four networks
	taken := map[netip.Prefix]bool{}
	for range 4 {
		p, ok := freeSubnet(all, "node-a", taken)
		if !ok || taken[p] || !all.Contains(p.Addr()) || p != p.Masked() {
			t.Fatalf("%v %v with %v", p, ok, taken)
		}
		taken[p] = true
	}
	if p, ok := freeSubnet(all, "node-a", taken); ok {
		t.Errorf("a fifth network: %v", p)
	}
	one, _ := freeSubnet(all, "node-a", nil)
	if two, _ := freeSubnet(all, "node-a", nil); one != two {
		t.Error("the choice is not stable")
	}
}

func BenchmarkReopen32(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	base := filepath.Join(dir, "base")
	if err := os.WriteFile(base, qemutest.Boots.Base(), 0o600); err != nil {
		b.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(dir, "vms"), CacheDir: dir, Supervisor: []string{self, "vm-run"},
		Tools: vmrun.Tools{QEMU: self, MkE2fs: "mke2fs"}, Accel: accel.TCG, MemoryCapMiB: 64,
		Clock: clock.System{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	l, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	name := func(i int) millpond.NodeID { return millpond.NodeID(fmt.Sprintf("node-%d", i)) }
	for i := range 32 {
		err := l.Launch(b.Context(), launch.Spec{Node: name(i), Generation: 1, VCPUs: 1, MemoryMiB: 64, Firmware: launch.BIOS, Hostname: "h",
			OSDisk: launch.Disk{Backing: base, SizeBytes: qemutest.DiskSize}})
		if err != nil {
			b.Fatal(err)
		}
	}
	for running := 0; running < 32; {
		<-l.Changed()
		list, err := l.List(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		running = 0
		for _, st := range list {
			if st.Phase == launch.Running {
				running++
			}
		}
	}
	for b.Loop() {
		l.Close()
		if l, err = Open(cfg); err != nil {
			b.Fatal(err)
		}
		if list, err := l.List(b.Context()); err != nil || len(list) != 32 {
			b.Fatal(len(list), err)
		}
	}
	for i := range 32 {
		if err := l.Destroy(context.Background(), name(i)); err != nil {
			b.Error(err)
		}
	}
	l.Close()
}
