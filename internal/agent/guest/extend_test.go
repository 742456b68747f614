package guest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func newPreparer(t *testing.T) *preparer {
	return &preparer{root: t.TempDir(), log: slog.New(slog.DiscardHandler), wait: func(context.Context) {}}
}

// TestExtendOutlivesItsCall: a call that is cut short does not end the script, and
// the next one has its answer; the script has run once.
func TestExtendOutlivesItsCall(t *testing.T) {
	p := newPreparer(t)
	dir := t.TempDir()
	q := &nodev1.ExtendRequest{Id: "a", Script: `echo x >> "$D/ran"; while [ ! -e "$D/go" ]; do sleep 0.02; done; echo out; echo err >&2; exit 3`,
		Environment: map[string]string{"D": dir}, Limit: durationpb.New(time.Minute)}
	ctx, cancel := context.WithCancel(context.Background())
	cut := make(chan error)
	go func() {
		_, err := p.Extend(ctx, q)
		cut <- err
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the script does not run")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-cut; err == nil {
		t.Fatal("the call was not cut short")
	}
	// However many run meanwhile.
	for i := range 2 * mostExtended {
		if _, err := p.Extend(context.Background(), &nodev1.ExtendRequest{Id: strings.Repeat("b", i+1), Script: "true", Limit: durationpb.New(time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a, err := p.Extend(context.Background(), q)
		if err != nil || a.GetExitCode() != 3 || a.GetStdout() != "out\n" || a.GetStderr() != "err\n" || a.GetEndTime().AsTime().Before(a.GetStartTime().AsTime()) {
			t.Fatalf("%v %v", a, err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "ran")); string(b) != "x\n" {
		t.Errorf("it ran %q", b)
	}
}

func TestExtendEnds(t *testing.T) {
	p := newPreparer(t)
	run := func(id, script string, limit time.Duration) *nodev1.ExtendResponse {
		a, err := p.Extend(context.Background(), &nodev1.ExtendRequest{Id: id, Script: script, Limit: durationpb.New(limit)})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := run("late", "sleep 60 & wait", 50*time.Millisecond); a.ExitCode != nil || !strings.Contains(a.GetMessage(), "longer than 50ms") {
		t.Errorf("%v", a)
	}
	if a := run("killed", "kill -KILL $$", time.Minute); a.GetExitCode() != 137 {
		t.Errorf("%v", a)
	}
	// A service that it leaves running does not hold the answer up.
	a := run("service", "sleep 90 & echo $!", time.Minute)
	if pid, err := strconv.Atoi(strings.TrimSpace(a.GetStdout())); err != nil || a.ExitCode == nil || a.GetExitCode() != 0 || a.GetEndTime().AsTime().Sub(a.GetStartTime().AsTime()) > 30*time.Second {
		t.Errorf("%v", a)
	} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the service has not gone on: %v", err)
	}
	if a := run("long", "i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done; echo end", time.Minute); len(a.GetStdout()) != outputTail || !strings.HasSuffix(a.GetStdout(), "end\n") {
		t.Errorf("%d bytes", len(a.GetStdout()))
	}
	// Below the agent's own folder, not in the machine's.
	if a := run("where", `echo $MILLPOND_WAAGENT`, time.Minute); strings.TrimSpace(a.GetStdout()) != filepath.Join(p.root, "volatile", "waagent") {
		t.Errorf("%v", a)
	}
	for i := range 2 * mostExtended {
		run(strings.Repeat("n", i+10), "true", time.Minute)
	}
	if len(p.extensions.runs) != mostExtended || len(p.extensions.given) != mostExtended {
		t.Errorf("%d runs are remembered", len(p.extensions.runs))
	}
}
