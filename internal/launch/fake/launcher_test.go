package fake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/launchtest"
	"millpond.dev/millpond/internal/nodeapi"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// server takes every node and tells of its sessions.
type server struct {
	sessions chan *session
}

type session struct {
	node   millpond.NodeID
	client nodev1.AgentClient
	ctx    context.Context
	hello  *nodev1.HelloResponse
}

func (s *server) AuthenticateNode(context.Context, millpond.NodeID, int, string) error { return nil }

func (s *server) Serve(ctx context.Context, node millpond.NodeID, generation int, c nodev1.AgentClient, _ *nodev1.HelloResponse) error {
	h, err := c.Hello(ctx, connect.NewRequest(&nodev1.HelloRequest{NodeId: string(node), Generation: int32(generation)}))
	if err != nil {
		return err
	}
	select {
	case s.sessions <- &session{node, c, ctx, h.Msg}:
	case <-ctx.Done():
	}
	<-ctx.Done()
	return ctx.Err()
}

func start(t testing.TB, cfg Config) (*Launcher, *server) {
	s := &server{sessions: make(chan *session, 8)}
	h := nodeapi.New(s, s, slog.New(slog.DiscardHandler))
	cfg.Clock = clock.System{}
	cfg.Dial = h.Dial
	l := New(cfg)
	t.Cleanup(func() {
		l.Close()
		h.Close()
	})
	return l, s
}

// drain is for tests that do not look at sessions.
func (s *server) drain(ctx context.Context) {
	for {
		select {
		case <-s.sessions:
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) next(t testing.TB) *session {
	t.Helper()
	select {
	case x := <-s.sessions:
		return x
	case <-time.After(30 * time.Second):
		t.Fatal("no node came")
		return nil
	}
}

func spec(node millpond.NodeID, generation int, told string) launch.Spec {
	return launch.Spec{Node: node, Generation: generation, MemoryMiB: 512, VCPUs: 1, Labels: map[string]string{LabelFate: told}}
}

func TestConformance(t *testing.T) {
	launchtest.Run(t, func(t *testing.T) launchtest.Subject {
		l, s := start(t, Config{})
		go s.drain(t.Context())
		of := func(told string) func(millpond.NodeID, int) launch.Spec {
			return func(n millpond.NodeID, g int) launch.Spec { return spec(n, g, told) }
		}
		return launchtest.Subject{
			Ready:    func(*testing.T) {},
			Launcher: l, Healthy: of(""), HostFault: of("fail-host"), GuestFault: of("fail-boot"),
			Crash: func(t *testing.T, n millpond.NodeID) {
				if err := l.Crash(n); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// runTask runs a command line and returns its report and outputs.
func runTask(t *testing.T, x *session, id, line string) (*nodev1.TaskCompleted, string, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, 30*time.Second)
	defer cancel()
	dir := "workitems/j/job-1/" + id
	_, err := x.client.RunTask(ctx, connect.NewRequest(&nodev1.RunTaskRequest{
		Key: &nodev1.TaskKey{JobId: "j", TaskId: id, Attempt: 1}, CommandLine: line, Directory: dir,
		Environment: map[string]string{"AZ_BATCH_TASK_ID": id, "AZ_BATCH_NODE_ID": "n1"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	w, err := x.client.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for w.Receive() {
		c := w.Msg().GetTaskCompleted()
		if c.GetKey().GetTaskId() != id {
			continue
		}
		if c.ExitCode == nil {
			return c, "", ""
		}
		return c, cat(t, x, dir+"/stdout.txt"), cat(t, x, dir+"/stderr.txt")
	}
	t.Fatal(w.Err())
	return nil, "", ""
}

func cat(t *testing.T, x *session, path string) string {
	t.Helper()
	s, err := x.client.ReadFile(x.ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: path}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b strings.Builder
	for s.Receive() {
		b.Write(s.Msg().GetData())
	}
	if s.Err() != nil {
		t.Fatal(path, s.Err())
	}
	return b.String()
}

func TestScriptedCommands(t *testing.T) {
	l, s := start(t, Config{Speed: 100})
	if err := l.Launch(t.Context(), spec("n1", 1, "")); err != nil {
		t.Fatal(err)
	}
	x := s.next(t)
	for i, c := range []struct {
		line           string
		exit           int // -1: none
		code           string
		stdout, stderr string
	}{
		{"echo hello  world", 0, "", "hello world\n", ""},
		{"true", 0, "", "", ""},
		{"/bin/false", 1, "FailureExitCode", "", ""},
		{"sleep 1", 0, "", "", ""},
		{"exit 5", 5, "FailureExitCode", "", ""},
		{"hostname", 0, "", "n1\n", ""},
		{"printenv AZ_BATCH_NODE_ROOT_DIR", 0, "", "/mnt/batch\n", ""},
		{`/bin/sh -c "echo $AZ_BATCH_NODE_ID; exit 3"`, 3, "FailureExitCode", "n1\n", ""},
		{`/bin/bash -c 'set=1; echo "a  $set" ${AZ_BATCH_NODE_ID}x "\$y" '"'"'$z'"'"''`, 0, "", "a  1 n1x $y $z\n", ""},
		{`/bin/sh -c 'false || echo one && echo two; true && false; echo $?'`, 0, "", "one\ntwo\n1\n", ""},
		{`/bin/sh -c 'echo out; echo err >&2; echo x > f; echo y >> f; cat f'`, 0, "", "out\nx\ny\n", "err\n"},
		{`/bin/sh -c 'python3 x.py; exit $?'`, 127, "FailureExitCode", "", "python3: not found\n"},
		{`/bin/sh -c 'cat none'`, 1, "FailureExitCode", "", "cat: none: No such file or directory\n"},
		{`/bin/sh -c 'echo keep > $AZ_BATCH_NODE_SHARED_DIR/s; cat $AZ_BATCH_NODE_SHARED_DIR/s'`, 0, "", "keep\n", ""},
		{`/bin/bash -c 'set -e; set -o pipefail; echo one; wait'`, 0, "", "one\n", ""},
		{`cmd /c "echo hello world"`, 0, "", "hello world\n", ""},
		{`cmd.exe /c exit 3`, 3, "FailureExitCode", "", ""},
		{"cmd x", 1, "FailureExitCode", "", "cmd: the fake node runs cmd /c SCRIPT only\n"},
		{"mpirun x", -1, "CommandProgramNotFound", "", ""},
		{"echo 'x", -1, "CommandLaunchFailed", "", ""},
	} {
		got, stdout, stderr := runTask(t, x, fmt.Sprint("t", i), c.line)
		if got.GetFailure().GetCode() != c.code || (got.ExitCode == nil) != (c.exit < 0) || c.exit >= 0 && got.GetExitCode() != int32(c.exit) || stdout != c.stdout || stderr != c.stderr {
			t.Errorf("%s: %v, stdout %q, stderr %q", c.line, got, stdout, stderr)
		}
	}
	list, err := x.client.ListFiles(x.ctx, connect.NewRequest(&nodev1.ListFilesRequest{Directory: "workitems/j/job-1/t0", Recursive: true}))
	if err != nil || len(list.Msg.GetFiles()) != 3 {
		t.Fatal(list, err)
	}
}

func TestTaskOutlivesCut(t *testing.T) {
	l, s := start(t, Config{})
	if err := l.Launch(t.Context(), spec("n1", 1, "")); err != nil {
		t.Fatal(err)
	}
	x := s.next(t)
	if _, err := x.client.RunTask(x.ctx, connect.NewRequest(&nodev1.RunTaskRequest{Key: &nodev1.TaskKey{JobId: "j", TaskId: "t", Attempt: 1}, CommandLine: "sleep 1000", Directory: "workitems/j/job-1/t"})); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut("n1"); err != nil {
		t.Fatal(err)
	}
	y := s.next(t)
	if len(y.hello.GetRunning()) != 1 || y.hello.GetBootId() != x.hello.GetBootId() {
		t.Fatal(y.hello)
	}
	if err := l.Reset(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	z := s.next(t)
	if len(z.hello.GetRunning()) != 0 || z.hello.GetBootId() == x.hello.GetBootId() {
		t.Fatal(z.hello)
	}
	if _, err := z.client.Shutdown(z.ctx, connect.NewRequest(&nodev1.ShutdownRequest{})); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		list, _ := l.List(t.Context())
		if list[0].Phase == launch.Stopped {
			break
		}
		select {
		case <-l.Changed():
		case <-time.After(time.Until(end)):
			t.Fatal("the machine is not off", list)
		}
	}
}

func TestHangingNodeNeverComesBack(t *testing.T) {
	l, s := start(t, Config{})
	if err := l.Launch(t.Context(), spec("n1", 1, "")); err != nil {
		t.Fatal(err)
	}
	s.next(t)
	if err := l.HangNode("n1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Launch(t.Context(), spec("n2", 1, "hang")); err != nil {
		t.Fatal(err)
	}
	select {
	case x := <-s.sessions:
		t.Fatal(x.node, "came")
	case <-time.After(200 * time.Millisecond):
	}
}

func TestChance(t *testing.T) {
	l, s := start(t, Config{Seed: 7, Behaviour: Behaviour{FailBoot: 0.3, FailHost: 0.3, Jitter: 5 * time.Millisecond}})
	go s.drain(t.Context())
	const n = 100
	for i := range n {
		if err := l.Launch(t.Context(), spec(millpond.NodeID(fmt.Sprint("n", i)), 1, "")); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(30 * time.Second); ; {
		var running, host, guest int
		list, _ := l.List(t.Context())
		for _, st := range list {
			switch {
			case st.Phase == launch.Running:
				running++
			case st.Phase == launch.Failed && st.Err.Host:
				host++
			case st.Phase == launch.Failed:
				guest++
			}
		}
		if running+host+guest == n {
			if running < n/4 || host < n/8 || guest < n/16 {
				t.Fatal(running, host, guest)
			}
			return
		}
		select {
		case <-l.Changed():
		case <-time.After(time.Until(end)):
			t.Fatal("not settled", running, host, guest)
		}
	}
}

func TestFull(t *testing.T) {
	l, s := start(t, Config{VMs: 1})
	if err := l.Launch(t.Context(), spec("n1", 1, "")); err != nil {
		t.Fatal(err)
	}
	s.next(t)
	var he *launch.HostError
	if err := l.Launch(t.Context(), spec("n2", 1, "")); !errors.As(err, &he) {
		t.Fatal(err)
	}
}

// BenchmarkNodes tells what an idle node costs, both ends of its session
// together.
func BenchmarkNodes(b *testing.B) {
	const n = 3000
	l, s := start(b, Config{})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			x := <-s.sessions
			go func() {
				w, err := x.client.Watch(x.ctx, connect.NewRequest(&nodev1.WatchRequest{}))
				if err == nil {
					for w.Receive() {
					}
				}
			}()
		}
	})
	for i := range n {
		if err := l.Launch(b.Context(), spec(millpond.NodeID(fmt.Sprint("n", i)), 1, "")); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/n/1024, "KiB/node")
	b.ReportMetric(float64(runtime.NumGoroutine())/n, "goroutines/node")
}
