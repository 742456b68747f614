//go:build e2e

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/test/lab"
)

// TestFullHostDisk fills the disk on which the machines' disks lie from within a
// guest: the machine stands still and its node says why; with room again it goes on
// by itself, and its task has seen nothing of it.
func TestFullHostDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "millpond.yaml")
	// A template would take the room.
	if err := os.WriteFile(file, []byte("local:\n  clones: off\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := lab.New(t, "--config", file)
	vms := filepath.Join(s.Data, "vms")
	if err := os.Mkdir(vms, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", vms, "tmpfs", 0, "size=192m,mode=700"); err != nil {
		t.Skip("needs root to mount a small file system: ", err)
	}
	t.Cleanup(func() {
		s.Stop()
		if err := unix.Unmount(vms, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.Serve()
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 1), 5*time.Minute)
	node := l.Nodes("p")[0].ID
	l.AddJob("j", "p", task("t", `/bin/sh -c 'dd if=/dev/urandom of=big bs=1M count=256 && sync && ls -l big | grep -c 268435456 && echo whole'`))
	code := func() string {
		n := l.Nodes("p")
		if len(n) != 1 || len(n[0].Errors) == 0 {
			return ""
		}
		return n[0].Errors[0].Code
	}
	lab.Wait(t, 2*time.Minute, "the node says that the host's disk is full", func() (bool, string) {
		return code() == "HostDiskFull", fmt.Sprintf("%+v", l.Nodes("p"))
	})
	if x := l.Tasks("j"); len(x) != 1 || x[0].State != "running" {
		t.Errorf("while the machine stands still: %+v", x)
	}
	if err := unix.Mount("tmpfs", vms, "tmpfs", unix.MS_REMOUNT, "size=1g,mode=700"); err != nil {
		t.Fatal(err)
	}
	done := l.WaitTasks("j", 3*time.Minute)
	if x := done["t"]; x.Info.Result != "success" || x.Info.RetryCount != 0 || x.Info.RequeueCount != 0 {
		t.Errorf("the task: %+v", x)
	}
	if out := l.Stdout("j", "t"); out != "1\nwhole\n" {
		t.Errorf("the task printed %q", out)
	}
	if n := l.WaitIdle("p", 1, time.Minute); n[0].ID != node || len(n[0].Errors) != 0 {
		t.Errorf("afterwards: %+v", n)
	}
}
