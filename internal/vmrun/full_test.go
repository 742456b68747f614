package vmrun

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

func held(st launch.Status) bool { return running(st) && st.Held != nil }

// TestFullDisk: a machine whose write finds no room on the host stands still, says
// so, and goes on by itself, as often as it takes.
func TestFullDisk(t *testing.T) {
	dir, _ := newVM(t, qemutest.Fills)
	cancel, wait := start(t, dir)
	st := until(t, dir, "standing still", held)
	if st.Held.Code != CodeHostDiskFull || !st.Held.Host || !strings.Contains(st.Held.Suggestion, dir) || st.Err != nil {
		t.Errorf("%+v", st.Held)
	}
	until(t, dir, "going on after two stops", func(st launch.Status) bool {
		b, err := os.ReadFile(SupervisorLog(dir))
		return err == nil && running(st) && st.Held == nil && strings.Count(string(b), "there is room again") == 2
	})
	cancel()
	if st := wait(); st.Phase != launch.Stopped || st.Err != nil {
		t.Errorf("at the end %+v", st)
	}
}

// TestHeldIsToldOnAFullDisk: the status that says that there is no room finds room.
func TestHeldIsToldOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs root to mount a small file system: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := &supervisor{dir: dir, log: slog.New(slog.DiscardHandler), clock: clock.System{}, status: launch.Status{Phase: launch.Running}}
	s.keepRoom()
	if err := s.change(func(*launch.Status) {}); err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	for {
		if _, err := fill.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := s.change(func(*launch.Status) {}); err == nil {
		t.Fatal("the disk is not full")
	}
	if !s.tellHeld(heldByFullDisk(dir)) {
		t.Error("there was no room to tell")
	}
	if st, err := LoadStatus(dir); err != nil || st.Held == nil || st.Held.Code != CodeHostDiskFull {
		t.Errorf("%+v, %v", st, err)
	}
}
