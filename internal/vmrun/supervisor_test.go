package vmrun

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

func TestRunsAndStops(t *testing.T) {
	for _, script := range []qemutest.Script{qemutest.Boots, qemutest.Deaf} {
		t.Run(string(script), func(t *testing.T) {
			dir, _ := newVM(t, script)
			_, wait := start(t, dir)
			st := until(t, dir, "running", running)
			if st.Addr != "10.77.0.11" || st.Generation != 2 || st.Accel != "tcg" || len(st.Steps) != 8 {
				t.Errorf("status %+v", st)
			}
			r, err := Call(t.Context(), dir, Request{Op: OpStatus})
			if err != nil || r.Status.Phase != launch.Running {
				t.Errorf("status by the socket: %+v, %v", r, err)
			}
			if err := run(t.Context(), dir, nil); !errors.Is(err, ErrRunning) {
				t.Errorf("a second supervisor: %v", err)
			}
			first, err := LoadHandle(dir)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := Call(t.Context(), dir, Request{Op: OpReset}); err != nil {
				t.Errorf("reset: %+v, %v", r, err)
			}
			// Under emulation it goes on in a new QEMU.
			until(t, dir, "running again", func(st launch.Status) bool {
				h, err := LoadHandle(dir)
				return err == nil && running(st) && h.QEMU != first.QEMU && h.QEMU.PID != 0 && h.Supervisor == first.Supervisor
			})
			if _, err := Call(t.Context(), dir, Request{Op: "dance"}); err == nil {
				t.Error("an unknown request was accepted")
			}
			if r, err = Call(t.Context(), dir, Request{Op: OpStop, Grace: 300 * time.Millisecond}); err != nil || r.Status.Phase != launch.Stopped {
				t.Errorf("stop: %+v, %v", r, err)
			}
			if st := wait(); st.Phase != launch.Stopped || st.Err != nil {
				t.Errorf("at the end: %+v", st)
			}
			b, err := Console(t.Context(), dir, 0)
			if err != nil || strings.Count(string(b), "SeaBIOS") != 2 {
				t.Errorf("console %q, %v", b, err)
			}
			if _, err := Call(t.Context(), dir, Request{Op: OpStatus}); !errors.Is(err, ErrNoSupervisor) {
				t.Errorf("call after the end: %v", err)
			}
		})
	}
}

// TestStopOfAResetMachine: whenever the order comes, between the two QEMUs too, it
// is obeyed, and is no failure.
func TestStopOfAResetMachine(t *testing.T) {
	for i := range 10 {
		dir, _ := newVM(t, qemutest.Boots)
		_, wait := start(t, dir)
		until(t, dir, "running", running)
		if _, err := Call(t.Context(), dir, Request{Op: OpReset}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond) // any moment is a case
		if r, err := Call(t.Context(), dir, Request{Op: OpStop, Grace: time.Minute}); err != nil || r.Status.Phase != launch.Stopped {
			t.Errorf("%d: %+v, %v", i, r, err)
		}
		if st := wait(); st.Phase != launch.Stopped || st.Err != nil {
			t.Errorf("%d: at the end %+v, %+v", i, st, st.Err)
		}
	}
}

// TestPowerButtonIsPressedAgain stops a guest that is not ready for its button yet.
func TestPowerButtonIsPressedAgain(t *testing.T) {
	dir, _ := newVM(t, qemutest.Drowsy)
	_, wait := start(t, dir)
	until(t, dir, "running", running)
	if _, err := Call(t.Context(), dir, Request{Op: OpStop, Grace: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if st := wait(); st.Phase != launch.Stopped {
		t.Errorf("at the end %+v", st)
	}
	if b, err := os.ReadFile(SupervisorLog(dir)); err != nil || !strings.Contains(string(b), "guest-shutdown") {
		t.Errorf("the guest was ended by force: %s %v", b, err)
	}
}

func TestDisksSurviveAStop(t *testing.T) {
	dir, _ := newVM(t, qemutest.Boots)
	cancel, wait := start(t, dir)
	until(t, dir, "running", running)
	cancel() // as SIGTERM does
	if st := wait(); st.Phase != launch.Stopped {
		t.Fatalf("after SIGTERM: %+v", st)
	}
	before, err := os.Stat(filepath.Join(dir, osDisk))
	if err != nil {
		t.Fatal(err)
	}
	_, wait = start(t, dir)
	until(t, dir, "running again", running)
	if after, err := os.Stat(filepath.Join(dir, osDisk)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the OS disk was made anew: %v", err)
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpKill}); err != nil {
		t.Error(err)
	}
	wait()
}

func TestEndings(t *testing.T) {
	for _, c := range []struct {
		script qemutest.Script
		phase  launch.Phase
		code   string
		host   bool
		says   string
	}{
		{qemutest.PowersOff, launch.Stopped, "", false, ""},
		{qemutest.NoBoot, launch.Failed, CodeBootFailed, false, "No bootable device"},
		{qemutest.Crashes, launch.Failed, CodeQEMUCrashed, true, ""},
		{qemutest.Rejects, launch.Failed, CodeQEMURejected, true, "cannot be built"},
	} {
		t.Run(string(c.script), func(t *testing.T) {
			t.Parallel()
			dir, _ := newVM(t, c.script)
			_, wait := start(t, dir)
			st := wait()
			if st.Phase != c.phase || (st.Err == nil) != (c.code == "") {
				t.Fatalf("status %+v, err %+v", st, st.Err)
			}
			if st.Err != nil && (st.Err.Code != c.code || st.Err.Host != c.host || st.Err.Suggestion == "" || !strings.Contains(st.Err.Evidence, c.says)) {
				t.Errorf("failure %+v", st.Err)
			}
		})
	}
}

// TestKilledQEMU: the supervisor notices and says so.
func TestKilledQEMU(t *testing.T) {
	dir, _ := newVM(t, qemutest.Boots)
	_, wait := start(t, dir)
	until(t, dir, "running", running)
	signalQEMU(t, dir)
	if st := wait(); st.Phase != launch.Failed || st.Err == nil || st.Err.Code != CodeQEMUKilled || !st.Err.Host {
		t.Errorf("status %+v, err %+v", st, st.Err)
	}
}

func signalQEMU(t *testing.T, dir string) {
	t.Helper()
	h, err := LoadHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Find(h.QEMU)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestKilledSupervisor: QEMU does not run on alone.
func TestKilledSupervisor(t *testing.T) {
	dir, _ := newVM(t, qemutest.Boots)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "vm-run", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, dir, "running", running)
	h, err := LoadHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	q, err := process.Find(h.QEMU)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := q.Wait(ctx); err != nil {
		t.Errorf("QEMU outlived its supervisor: %v", err)
	}
	// The folder can be taken over.
	_, wait := start(t, dir)
	until(t, dir, "running again", func(st launch.Status) bool {
		h2, err := LoadHandle(dir)
		return err == nil && running(st) && h2.Supervisor != h.Supervisor && h2.QEMU.PID != 0
	})
	if _, err := Call(t.Context(), dir, Request{Op: OpKill}); err != nil {
		t.Error(err)
	}
	wait()
}

// TestEachStepFailsOnce makes every step of the launch fail in turn, once
// before it does anything: nothing is left behind, and the launch can be repeated.
func TestEachStepFailsOnce(t *testing.T) {
	needs(t, "mke2fs")
	var names []string
	for _, s := range (&supervisor{disks: &disks{}}).steps() {
		names = append(names, s.Name)
	}
	for _, fail := range names {
		t.Run(fail, func(t *testing.T) {
			dir, cfg := newVM(t, qemutest.Boots)
			cfg.Spec.TempDiskMiB = 16
			if err := cfg.Save(dir); err != nil {
				t.Fatal(err)
			}
			err := run(t.Context(), dir, func(step string) error {
				if step == fail {
					return errors.New("injected")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			st, err := LoadStatus(dir)
			if err != nil || st.Phase != launch.Failed || st.Step != fail || st.Err == nil || !st.Err.Host || st.Err.Code != CodeLaunchFailed {
				t.Fatalf("status %+v, err %+v, %v", st, st.Err, err)
			}
			left, err := filepath.Glob(filepath.Join(dir, diskFolder, "*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
			if tmp := hidden(t, dir, cfg.CacheDir); len(tmp) != 0 {
				t.Errorf("temporary files left behind: %v", tmp)
			}
			if h, err := LoadHandle(dir); err != nil || h.QEMU.PID != 0 {
				t.Errorf("QEMU left behind: %+v %v", h, err)
			}
			_, wait := start(t, dir)
			until(t, dir, "running at the second try", running)
			if _, err := Call(t.Context(), dir, Request{Op: OpKill}); err != nil {
				t.Error(err)
			}
			if st := wait(); st.Phase != launch.Stopped {
				t.Errorf("at the end %+v", st)
			}
		})
	}
}

func hidden(t *testing.T, dirs ...string) (found []string) {
	t.Helper()
	for _, d := range dirs {
		err := filepath.WalkDir(d, func(p string, e fs.DirEntry, err error) error {
			if strings.HasPrefix(filepath.Base(p), ".tmp-") {
				found = append(found, p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestStopDuringTheSteps(t *testing.T) {
	dir, _ := newVM(t, qemutest.Boots)
	reached, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- run(t.Context(), dir, func(step string) error {
			if step == stepSeed {
				close(reached)
				<-goOn
			}
			return nil
		})
	}()
	<-reached
	stopped := make(chan Reply, 1)
	go func() {
		r, err := Call(t.Context(), dir, Request{Op: OpStop, Grace: time.Minute})
		if err != nil {
			t.Error(err)
		}
		stopped <- r
	}()
	// The request is in when the supervisor has noted it; nothing tells a client so
	// before the end, hence the steps go on at once: both orders must work.
	close(goOn)
	select {
	case r := <-stopped:
		if r.Status.Phase != launch.Stopped {
			t.Errorf("reply %+v", r)
		}
	case <-time.After(bound):
		t.Fatal("stop was not answered")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMissingBase(t *testing.T) {
	dir, cfg := newVM(t, qemutest.Boots)
	if err := os.Remove(cfg.Spec.OSDisk.Backing); err != nil {
		t.Fatal(err)
	}
	_, wait := start(t, dir)
	if st := wait(); st.Err == nil || st.Err.Code != CodeLaunchFailed || !st.Err.Host || !strings.Contains(st.Err.Message, "os-disk") {
		t.Errorf("status %+v, err %+v", st, st.Err)
	}
}

func TestConsoleIsBounded(t *testing.T) {
	dir, _ := newVM(t, qemutest.Chatters)
	_, wait := start(t, dir)
	until(t, dir, "running", running)
	deadline := time.Now().Add(bound)
	for {
		if _, err := os.Stat(filepath.Join(dir, oldConsoleFile)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the console was not rotated")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpKill}); err != nil {
		t.Error(err)
	}
	wait()
	for _, name := range []string{consoleFile, oldConsoleFile} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() > consoleLimit {
			t.Errorf("%s: %v, %v", name, st.Size(), err)
		}
	}
	b, err := Console(t.Context(), dir, 3000)
	if err != nil || len(b) != 3000 {
		t.Errorf("tail of %d bytes, %v", len(b), err)
	}
}

func TestPortsOfACard(t *testing.T) {
	dir, cfg := newVM(t, qemutest.Boots)
	port := func(host string, guest uint16) launch.Port {
		return launch.Port{Host: netip.MustParseAddrPort(host), Guest: guest}
	}
	cfg.Spec.Card = &launch.Card{MAC: "00:0d:3a:01:02:03", Network: netip.MustParsePrefix("10.0.0.0/24"), Address: netip.MustParseAddr("10.0.0.4"),
		Ports: []launch.Port{port("127.0.0.1:22", 22), port("127.0.0.1:2022", 22)}}
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	_, wait := start(t, dir)
	st := until(t, dir, "running", running)
	if st.Addr != "10.0.0.4" || st.HostAddr != "10.0.0.1" || len(st.Ports) != 2 {
		t.Fatalf("status %+v", st)
	}
	if why := st.Ports[0].Err; !strings.Contains(why, "127.0.0.1:22") || !strings.Contains(why, "ip_unprivileged_port_start") {
		t.Errorf("a port that is refused: %q", why)
	}
	if st.Ports[1].Err != "" {
		t.Errorf("a port that is open: %q", st.Ports[1].Err)
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpPorts, Ports: []launch.Port{port("127.0.0.1:8080", 80)}}); err != nil {
		t.Fatal(err)
	}
	st = until(t, dir, "with other ports", func(st launch.Status) bool { return len(st.Ports) == 1 })
	if st.Ports[0].Guest != 80 || st.Ports[0].Err != "" {
		t.Errorf("ports %+v", st.Ports)
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpKill}); err != nil {
		t.Error(err)
	}
	wait()
}
