package guest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/agent/managed"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// TestMetadataAddress: the service answers at Azure's address, twice started or not,
// in a network of the test's own.
func TestMetadataAddress(t *testing.T) {
	if os.Getenv("MILLPOND_TEST_METADATA") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestMetadataAddress$", "-test.v")
		cmd.Env = append(os.Environ(), "MILLPOND_TEST_METADATA=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if _, ran := err.(*exec.ExitError); err != nil && !ran {
			t.Skipf("this machine gives no network of its own: %v", err)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestMetadataAddress") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	up(t)
	b := managed.NewBroker(clock.System{})
	m := New(Config{Tokens: b, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	m.cfg.Privileged = true
	if err := m.serveMetadata(); err != nil {
		t.Fatal(err)
	}
	if err := m.serveMetadata(); err != nil {
		t.Errorf("a second Hello: %v", err)
	}
	// An agent that was started anew finds the address there.
	if err := addLoopback(net.ParseIP("169.254.169.254")); err != nil {
		t.Errorf("the address again: %v", err)
	}
	go func() {
		list, changed := b.Pending()
		for len(list) == 0 {
			<-changed
			list, changed = b.Pending()
		}
		b.Answer(&nodev1.GiveTokenRequest{Id: list[0].GetId(), Code: "invalid_request", Message: "Identity not found"})
	}()
	q, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Metadata", "true")
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !strings.Contains(string(text), "Identity not found") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	// The address is one alone, not a network.
	if _, err := net.Listen("tcp", "169.254.1.1:0"); err == nil {
		t.Error("the whole of 169.254.0.0/16 is on the loopback interface")
	}
}

// up brings the loopback interface up.
func up(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}
