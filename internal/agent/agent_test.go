package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/guest"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// node is a real agent with real processes in a temporary root, behind the
// framing of the port.
type node struct {
	t     testing.TB
	root  string
	agent *agent.Agent
	host  *nodeproto.Host
	stop  func()
}

func startNode(t testing.TB, root string) *node {
	t.Helper()
	machine := guest.New(guest.Config{Root: root, Clock: clock.System{}, Runner: func(root string) agent.Runner {
		return proc.New(proc.Config{Root: root, SameUser: true, Clock: clock.System{}, Grace: 100 * time.Millisecond})
	}})
	a := agent.New(agent.Config{Version: "test", Machine: machine, Clock: clock.System{}, Heartbeat: 20 * time.Millisecond})
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); a.Serve(ctx, nodeproto.NewGuest(theirs, a.Birth)) }()
	n := &node{t: t, root: root, agent: a, host: nodeproto.NewHost(ours)}
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			<-served
			n.host.Close()
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(n.stop)
	return n
}

func bound(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// session opens a session and says Hello.
func (n *node) session(ctx context.Context) (*nodeproto.Client, *nodev1.HelloResponse) {
	n.t.Helper()
	conn, err := n.host.Open(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := nodeproto.NewClient(ctx, conn)
	if err != nil {
		n.t.Fatal(err)
	}
	hello, err := c.Hello(ctx, connect.NewRequest(&nodev1.HelloRequest{NodeId: "n1", Generation: 1, Now: timestamppb.Now(), Entropy: make([]byte, 64)}))
	if err != nil {
		n.t.Fatal(err)
	}
	return c, hello.Msg
}

func task(id string, attempt int32, line string) *connect.Request[nodev1.RunTaskRequest] {
	return connect.NewRequest(&nodev1.RunTaskRequest{
		Key: &nodev1.TaskKey{JobId: "j", TaskId: id, Attempt: attempt}, CommandLine: line, Directory: "workitems/j/job-1/" + id,
	})
}

// events reads until it has n kept events after a number.
func events(ctx context.Context, t testing.TB, c *nodeproto.Client, after uint64, n int) []*nodev1.Event {
	t.Helper()
	s, err := c.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{After: after}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var list []*nodev1.Event
	for len(list) < n && s.Receive() {
		if e := s.Msg(); e.GetSequence() > 0 {
			list = append(list, e)
		}
	}
	if len(list) < n {
		t.Fatalf("got %d of %d events: %v", len(list), n, s.Err())
	}
	return list
}

// TestBundles: a server that takes bundles gets what is kept in one message, and
// is not waked by a start alone; nothing is missing and nothing out of order.
func TestBundles(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, _ := n.session(ctx)
	s, err := c.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{Bundles: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const tasks = 100
	for i := range tasks {
		if _, err := c.RunTask(ctx, task(fmt.Sprint(i), 1, "true")); err != nil {
			t.Fatal(err)
		}
	}
	var last uint64
	messages := 0
	for last < 2*tasks && s.Receive() {
		all := append([]*nodev1.Event{s.Msg()}, s.Msg().GetMore()...)
		if all[0].GetSequence() == 0 {
			continue
		}
		messages++
		for i, e := range all {
			if e.GetSequence() != last+1 || i > 0 && len(e.GetMore()) > 0 {
				t.Fatalf("event %d after %d", e.GetSequence(), last)
			}
			last++
		}
	}
	if last != 2*tasks || messages > tasks {
		t.Errorf("%d events in %d messages: %v", last, messages, s.Err())
	}
}

func TestHelloComesFirst(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	conn, err := n.host.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := nodeproto.NewClient(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RunTask(ctx, task("a", 1, "true")); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Fatalf("RunTask before Hello: %v", err)
	}
	c.Close()
	c, hello := n.session(ctx)
	defer c.Close()
	if hello.GetBootId() == "" || hello.GetRootDir() == "" || hello.GetAgentVersion() != "test" || len(hello.GetStages()) != 3 {
		t.Fatal(hello)
	}
	for _, d := range []string{"applications", "fsmounts", "shared", "startup", "volatile", "workitems"} {
		if _, err := os.Stat(filepath.Join(n.root, d)); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Hello(ctx, connect.NewRequest(&nodev1.HelloRequest{NodeId: "other", Generation: 1})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Fatalf("Hello as another node: %v", err)
	}
}

func TestTaskOutlivesSessions(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, _ := n.session(ctx)
	gate := filepath.Join(n.root, "shared", "gate")
	q := task("a", 1, "/bin/sh -c 'echo one; while [ ! -e "+gate+" ]; do sleep 0.01; done; echo two; exit 3'")
	for range 3 { // idempotent
		if _, err := c.RunTask(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	if e := events(ctx, t, c, 0, 1)[0]; e.GetTaskStarted().GetKey().GetTaskId() != "a" {
		t.Fatal(e)
	}
	if _, err := c.RemoveTask(ctx, connect.NewRequest(&nodev1.RemoveTaskRequest{Directory: "workitems/j/job-1/a"})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Fatalf("RemoveTask of a running task: %v", err)
	}
	if _, err := c.RunTask(ctx, task("a", 2, "true")); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Fatalf("a second attempt beside the first: %v", err)
	}
	c.Close()
	c, hello := n.session(ctx)
	if len(hello.GetRunning()) != 1 || hello.GetRunning()[0].GetTaskId() != "a" {
		t.Fatal(hello)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list := events(ctx, t, c, 0, 2)
	done := list[1].GetTaskCompleted()
	if done.GetExitCode() != 3 || done.GetFailure().GetCode() != "FailureExitCode" || done.GetStartTime() == nil || done.GetEndTime() == nil {
		t.Fatal(done)
	}
	if _, err := c.RunTask(ctx, q); err != nil { // late repetition
		t.Fatal(err)
	}
	if _, err := c.Acknowledge(ctx, connect.NewRequest(&nodev1.AcknowledgeRequest{Through: 2})); err != nil {
		t.Fatal(err)
	}
	if got := download(ctx, t, c, "workitems/j/job-1/a/stdout.txt", 0, 0); string(got) != "one\ntwo\n" {
		t.Fatalf("stdout %q", got)
	}
	if _, err := c.RemoveTask(ctx, connect.NewRequest(&nodev1.RemoveTaskRequest{Directory: "workitems/j/job-1/a"})); err != nil {
		t.Fatal(err)
	}
	c, hello = n.session(ctx)
	defer c.Close()
	if hello.GetLastSequence() != 2 || len(hello.GetRunning()) != 0 {
		t.Fatal(hello)
	}
}

func TestStopTask(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, _ := n.session(ctx)
	defer c.Close()
	if _, err := c.StopTask(ctx, connect.NewRequest(&nodev1.StopTaskRequest{Key: &nodev1.TaskKey{TaskId: "none"}})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Fatal(err)
	}
	q := task("a", 1, "sleep 600")
	if _, err := c.RunTask(ctx, q); err != nil {
		t.Fatal(err)
	}
	events(ctx, t, c, 0, 1)
	if _, err := c.StopTask(ctx, connect.NewRequest(&nodev1.StopTaskRequest{Key: q.Msg.Key, Code: millpond.CodeTaskEnded, Message: "stopped by a test"})); err != nil {
		t.Fatal(err)
	}
	if f := events(ctx, t, c, 1, 1)[0].GetTaskCompleted().GetFailure(); f.GetCode() != millpond.CodeTaskEnded || f.GetMessage() != "stopped by a test" || f.GetServerError() {
		t.Fatal(f)
	}
}

func TestAgentRestartReplaysAndReportsWhatWasLost(t *testing.T) {
	root := t.TempDir()
	n := startNode(t, root)
	ctx := bound(t)
	c, _ := n.session(ctx)
	if _, err := c.RunTask(ctx, task("short", 1, "true")); err != nil {
		t.Fatal(err)
	}
	events(ctx, t, c, 0, 2)
	if _, err := c.RunTask(ctx, task("long", 1, "sleep 600")); err != nil {
		t.Fatal(err)
	}
	events(ctx, t, c, 2, 1)
	// A copy of the journal now is what an agent that is killed leaves.
	journal := filepath.Join(root, "volatile", "events.log")
	left, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	if err := os.WriteFile(journal, append(left, `{"event":"torn`...), 0o600); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, root)
	c, hello := n.session(ctx)
	defer c.Close()
	if hello.GetLastSequence() != 4 || len(hello.GetRunning()) != 0 {
		t.Fatal(hello)
	}
	list := events(ctx, t, c, 0, 4)
	if list[1].GetTaskCompleted().GetKey().GetTaskId() != "short" || list[1].GetTaskCompleted().GetExitCode() != 0 {
		t.Fatal(list[1])
	}
	lost := list[3].GetTaskCompleted()
	if lost.GetKey().GetTaskId() != "long" || !lost.GetFailure().GetServerError() || lost.GetFailure().GetCode() != millpond.CodeAgentRestarted || lost.ExitCode != nil {
		t.Fatal(lost)
	}
}

func download(ctx context.Context, t testing.TB, c *nodeproto.Client, path string, offset, length int64) []byte {
	t.Helper()
	s, err := c.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: path, Offset: offset, Length: length}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b bytes.Buffer
	for s.Receive() {
		b.Write(s.Msg().GetData())
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return b.Bytes()
}

func TestDownloadResumesAfterACut(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, _ := n.session(ctx)
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	if err := os.WriteFile(filepath.Join(n.root, "shared", "big"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for cuts := 0; len(got) < len(want); cuts++ {
		s, err := c.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: "shared/big", Offset: int64(len(got))}))
		if err != nil {
			t.Fatal(err)
		}
		for s.Receive() {
			got = append(got, s.Msg().GetData()...)
			if cuts < 5 && len(got) > (cuts+1)<<18 {
				break
			}
		}
		if cuts < 5 {
			c.Close()
			c, _ = n.session(ctx)
		} else if s.Err() != nil {
			t.Fatal(s.Err())
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the file differs")
	}
	if tail := download(ctx, t, c, "shared/big", 100, 7); !bytes.Equal(tail, want[100:107]) {
		t.Fatal("a range differs")
	}
	c.Close()
}

// Whatever the moments of the cuts and of the acknowledgements: every attempt
// is reported exactly once as started and once as completed, in order.
func TestNoEventIsLostOrDoubled(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		root, err := os.MkdirTemp("", "agent")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(root)
		n := startNode(t, root)
		defer n.stop()
		ctx := bound(t)
		tasks := rapid.IntRange(1, 4).Draw(rt, "tasks")
		started, completed := map[string]int{}, map[string]int{}
		var last uint64
		next := 0
		for len(completed) < tasks {
			c, _ := n.session(ctx)
			s, err := c.Watch(ctx, connect.NewRequest(&nodev1.WatchRequest{After: last}))
			if err != nil {
				rt.Fatal(err)
			}
			if next < tasks {
				// The answer may be lost with the session: ask again in the next one.
				for range rapid.IntRange(1, 2).Draw(rt, "times") {
					if _, err := c.RunTask(ctx, task(fmt.Sprint("t", next), 1, "true")); err != nil {
						rt.Fatal(err)
					}
				}
				next++
			}
			for range rapid.IntRange(0, 6).Draw(rt, "events") {
				if !s.Receive() {
					rt.Fatal(s.Err())
				}
				e := s.Msg()
				if e.GetSequence() == 0 {
					continue
				}
				if e.GetSequence() != last+1 {
					rt.Fatalf("event %d after %d", e.GetSequence(), last)
				}
				last = e.GetSequence()
				if k := e.GetTaskStarted().GetKey(); k != nil {
					started[k.GetTaskId()]++
				}
				if k := e.GetTaskCompleted().GetKey(); k != nil {
					completed[k.GetTaskId()]++
				}
				if rapid.Bool().Draw(rt, "acknowledge") {
					if _, err := c.Acknowledge(ctx, connect.NewRequest(&nodev1.AcknowledgeRequest{Through: last})); err != nil {
						rt.Fatal(err)
					}
				}
			}
			if rapid.Bool().Draw(rt, "close") {
				s.Close()
				c.Close()
			} // else the next Open cuts it
			if len(completed) < tasks && rapid.IntRange(0, 7).Draw(rt, "restart") == 0 && next == tasks && len(completed) == len(started) {
				n.stop()
				n = startNode(t, root)
			}
		}
		n.stop()
		for id, k := range completed {
			if k != 1 || started[id] > 1 {
				rt.Fatalf("%s: %d times started, %d times completed", id, started[id], k)
			}
		}
	})
}

func TestFilesStayInside(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := bound(t)
	c, hello := n.session(ctx)
	defer c.Close()
	root := hello.GetRootDir()
	outside := filepath.Join(t.TempDir(), "secret")
	shared := filepath.Join(root, "shared")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, []byte("secret"), 0o644))
	must(os.WriteFile(shared+"/f", []byte("fine"), 0o644))
	must(os.Mkdir(shared+"/dir", 0o755))
	must(os.WriteFile(shared+"/dir/g", []byte("fine"), 0o644))
	must(os.Symlink(outside, shared+"/absolute"))
	must(os.Symlink("../../../../../../../../../.."+outside, shared+"/relative"))
	must(os.Symlink("f", shared+"/inside"))
	// What has been reported is in the journal.
	must(os.WriteFile(filepath.Join(root, "volatile", "events.log"), nil, 0o600))
	must(os.Symlink("../volatile", shared+"/hidden"))
	must(os.Symlink("../volatile/events.log", shared+"/journal"))
	must(os.Symlink("..", shared+"/up"))
	must(os.Symlink("loop", shared+"/loop"))
	certs := filepath.Join(root, "startup", "certs")
	must(os.MkdirAll(certs, 0o700))
	must(os.WriteFile(certs+"/sha1-x.pfx", []byte("key"), 0o600))
	must(os.Symlink("../startup/certs", shared+"/keys"))
	for _, p := range []string{"startup/certs", "startup/certs/sha1-x.pfx", "shared/keys/sha1-x.pfx", "shared/up/startup/certs/sha1-x.pfx", "../x", "/etc/passwd", "shared/../../x", "shared/../volatile/events.log", "volatile", "volatile/events.log",
		"shared/absolute", "shared/relative", "shared/hidden/events.log", "shared/journal", "shared/up/volatile/events.log",
		"shared/none", "shared/f/x", "shared/loop", "shared", "", "shared/f\x00"} {
		s, err := c.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: p}))
		if err != nil {
			t.Fatal(err)
		}
		if s.Receive() {
			t.Errorf("%q can be read: %q", p, s.Msg().GetData())
		}
		if code := connect.CodeOf(s.Err()); code != connect.CodeNotFound && code != connect.CodeInvalidArgument {
			t.Errorf("%q: %v", p, s.Err())
		}
		s.Close()
		if p == "shared" || p == "" {
			continue
		}
		if i, err := c.StatFile(ctx, connect.NewRequest(&nodev1.StatFileRequest{Path: p})); err == nil {
			t.Errorf("%q has a stat: %v", p, i.Msg)
		}
	}
	for _, p := range []string{"", ".", "shared", "workitems", "volatile", "shared/hidden/events.log", "shared/up/volatile", "startup/certs/sha1-x.pfx", "shared/keys/sha1-x.pfx", "../x", "shared/dir"} {
		if _, err := c.DeleteFile(ctx, connect.NewRequest(&nodev1.DeleteFileRequest{Path: p})); err == nil {
			t.Errorf("%q was deleted", p)
		}
		if p != "shared/dir" {
			if _, err := c.DeleteFile(ctx, connect.NewRequest(&nodev1.DeleteFileRequest{Path: p, Recursive: true})); err == nil {
				t.Errorf("%q was deleted with all", p)
			}
		}
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "secret" {
		t.Fatal(string(b), err)
	}
	list, err := c.ListFiles(ctx, connect.NewRequest(&nodev1.ListFilesRequest{Directory: "shared", Recursive: true}))
	must(err)
	var names []string
	for _, f := range list.Msg.GetFiles() {
		names = append(names, f.GetPath())
	}
	if got := strings.Join(names, " "); got != "shared/dir shared/dir/g shared/f shared/inside shared/up" {
		t.Errorf("list of shared: %s", got)
	}
	list, err = c.ListFiles(ctx, connect.NewRequest(&nodev1.ListFilesRequest{Directory: "startup", Recursive: true}))
	must(err)
	if len(list.Msg.GetFiles()) != 0 {
		t.Errorf("list of the start task: %v", list.Msg)
	}
	list, err = c.ListFiles(ctx, connect.NewRequest(&nodev1.ListFilesRequest{}))
	must(err)
	if len(list.Msg.GetFiles()) != 5 {
		t.Errorf("list of the root: %v", list.Msg)
	}
	if got := download(ctx, t, c, "shared/inside", 0, 0); string(got) != "fine" {
		t.Errorf("a link inside reads %q", got)
	}
	if _, err := c.DeleteFile(ctx, connect.NewRequest(&nodev1.DeleteFileRequest{Path: "shared/dir", Recursive: true})); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"shared/absolute", "shared/hidden"} { // the link, not what it leads to
		if _, err := c.DeleteFile(ctx, connect.NewRequest(&nodev1.DeleteFileRequest{Path: p, Recursive: true})); err != nil {
			t.Error(err)
		}
	}
	must(func() error { _, err := os.Stat(filepath.Join(root, "volatile", "events.log")); return err }())
}
