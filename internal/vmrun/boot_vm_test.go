//go:build vm

package vmrun

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/qemu/qemutest"
)

// TestRealGuest boots the image that MILLPOND_TEST_IMAGE names (raw, with an
// agent) under the real QEMU, talks to its agent through the channel, resets it,
// and stops it by its power button.
func TestRealGuest(t *testing.T) {
	e, dir, cfg := realGuest(t)
	if err := cfg.Save(dir); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	_, wait := start(t, dir)
	hello := func(what string) string {
		t.Helper()
		var conn net.Conn
		select {
		case conn = <-e.conns:
		case <-time.After(3 * time.Minute):
			t.Fatalf("%s: no channel; console:\n%s", what, Evidence(filepath.Join(dir, consoleFile)))
		}
		client, err := nodeproto.NewClient(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		r, err := client.Hello(t.Context(), connect.NewRequest(&nodev1.HelloRequest{NodeId: "node-1", Generation: 2, Hostname: "node-1", Entropy: bytes.Repeat([]byte{7}, 64)}))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: agent %s answered after %s, kernel %s, address %s", what, r.Msg.AgentVersion, time.Since(started).Round(time.Millisecond), r.Msg.Kernel, r.Msg.Address)
		return r.Msg.BootId
	}
	first := hello("first boot")
	pss(t, os.Getpid())
	started = time.Now()
	if _, err := Call(t.Context(), dir, Request{Op: OpReset}); err != nil {
		t.Fatal(err)
	}
	if second := hello("reset"); second == first {
		t.Error("the boot id is the same after a reset")
	}
	started = time.Now()
	if _, err := Call(t.Context(), dir, Request{Op: OpStop, Grace: 30 * time.Second}); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %s", time.Since(started).Round(time.Millisecond))
	if end := wait(); end.Phase != launch.Stopped {
		t.Errorf("at the end %+v, %+v", end, end.Err)
	}
	if b, err := os.ReadFile(SupervisorLog(dir)); err != nil || !strings.Contains(string(b), "guest-shutdown") {
		t.Errorf("the guest did not obey its power button: %s %v", b, err)
	}
}

func pss(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Pss:") || strings.HasPrefix(line, "Rss:") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// realGuest is a VM's folder and configuration with the image that
// MILLPOND_TEST_IMAGE names, under the real QEMU, and the server that it dials.
func realGuest(t *testing.T) (*edge, string, Config) {
	t.Helper()
	image := os.Getenv("MILLPOND_TEST_IMAGE")
	if image == "" {
		t.Skip("MILLPOND_TEST_IMAGE names no image")
	}
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	e := newEdge(t)
	e.quiet = true
	addr, closeEdge := e.listen(t)
	t.Cleanup(closeEdge)
	dir, cfg := newVM(t, qemutest.Boots)
	files := t.TempDir()
	cfg.Spec.OSDisk = launch.Disk{Backing: image, SizeBytes: st.Size()}
	cfg.Spec.TempDiskMiB, cfg.MemoryMiB = 1024, 512
	cfg.Spec.Channel = launch.Channel{EndpointFile: filepath.Join(files, "endpoint"), CAFile: filepath.Join(files, "ca.pem"), Token: "secret"}
	cfg.Tools = Tools{QEMU: "qemu-system-x86_64", MkE2fs: "mke2fs"}
	cfg.StopGrace = time.Minute
	for name, content := range map[string]string{cfg.Spec.Channel.EndpointFile: addr, cfg.Spec.Channel.CAFile: string(e.pem)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return e, dir, cfg
}
