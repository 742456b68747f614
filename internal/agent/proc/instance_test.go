package proc

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// playing is an instance that runs.
type playing struct {
	coordinated, proceed chan struct{}
	cancel               context.CancelCauseFunc
	done                 chan *nodev1.TaskCompleted
}

func play(r *Runner, q *nodev1.RunTaskRequest) playing {
	ctx, cancel := context.WithCancelCause(context.Background())
	p := playing{coordinated: make(chan struct{}), proceed: make(chan struct{}), cancel: cancel, done: make(chan *nodev1.TaskCompleted, 1)}
	go func() {
		p.done <- r.RunInstance(ctx, q, func(time.Time) {}, func() { close(p.coordinated) }, p.proceed)
	}()
	return p
}

func (p playing) wait(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case got := <-p.done:
		t.Fatal("it ended:", got)
	case <-time.After(30 * time.Second):
		t.Fatal("it does not come to that")
	}
}

func (p playing) end(t *testing.T) *nodev1.TaskCompleted {
	t.Helper()
	select {
	case got := <-p.done:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

func instanceRequest(coordination, line string, primary bool) *nodev1.RunTaskRequest {
	q := request(line)
	q.Instance = &nodev1.Instance{CoordinationCommandLine: coordination, Primary: primary}
	return q
}

// leaves starts what outlives its command and notes its pid.
const leaves = `/bin/sh -c 'setsid sleep 600 & echo $! > pid; echo coordinated'`

func TestInstances(t *testing.T) {
	for _, grouped := range []bool{true, false} {
		t.Run("cgroup="+strconv.FormatBool(grouped), func(t *testing.T) {
			r, root := newRunner(t)
			if grouped && r.groups == nil {
				t.Skip("no cgroup for us here")
			}
			if !grouped {
				r.groups = nil
			}
			dir := filepath.Join(root, "workitems/j/job-1/t")
			alive := func() bool {
				b, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(read(t, dir, "wd/pid")), "stat"))
				_, state, _ := strings.Cut(string(b), ") ")
				return err == nil && !strings.HasPrefix(state, "Z")
			}

			p := play(r, instanceRequest(leaves, `/bin/sh -c 'kill -0 $(cat pid) && echo went on; exit 5'`, true))
			p.wait(t, p.coordinated)
			if read(t, dir, "stdout.txt") != "coordinated\n" || !alive() {
				t.Error("what the coordination command left does not run")
			}
			close(p.proceed)
			if got := p.end(t); got.GetExitCode() != 5 || read(t, dir, "stdout.txt") != "coordinated\nwent on\n" {
				t.Error(got, read(t, dir, "stdout.txt"))
			}
			await(t, func() bool { return !alive() })

			// Another than the primary never runs the task's command, whoever says so.
			p = play(r, instanceRequest(leaves, "touch went-on", false))
			p.wait(t, p.coordinated)
			close(p.proceed)
			p.cancel(millpond.Errorf(millpond.Conflict, millpond.CodeTaskEnded, "over"))
			if got := p.end(t); got.GetFailure().GetCode() != millpond.CodeTaskEnded {
				t.Error(got)
			}
			if _, err := os.Stat(filepath.Join(dir, "wd/went-on")); err == nil {
				t.Error("it ran the task's command")
			}
			await(t, func() bool { return !alive() })
		})
	}
}

func TestInstanceThatFails(t *testing.T) {
	r, _ := newRunner(t)
	p := play(r, instanceRequest("/bin/sh -c 'exit 3'", "true", true))
	if got := p.end(t); got.GetExitCode() != 3 || got.GetFailure().GetCode() != "FailureExitCode" {
		t.Error(got)
	}
	p = play(r, instanceRequest("no-such-program", "true", true))
	if got := p.end(t); got.GetFailure().GetCode() != "CommandProgramNotFound" {
		t.Error(got)
	}
	// The limit is for both commands and for the time between.
	q := instanceRequest("true", "true", true)
	q.MaxWallClock = durationpb.New(50 * time.Millisecond)
	p = play(r, q)
	if got := p.end(t); got.GetFailure().GetCode() != millpond.CodeTaskEnded {
		t.Error(got)
	}
}

func TestCommonResourceFiles(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) }))
	defer s.Close()
	r, root := newRunner(t)
	q := instanceRequest(`/bin/sh -c 'cat $AZ_BATCH_TASK_SHARED_DIR/common'`, "true", false)
	q.Instance.CommonResourceFiles = []*nodev1.ResourceFile{{Url: s.URL + "/common", Path: "common"}}
	p := play(r, q)
	p.wait(t, p.coordinated)
	p.cancel(millpond.Errorf(millpond.Conflict, millpond.CodeTaskEnded, "over"))
	p.end(t)
	if got := read(t, root, "workitems/j/job-1/t/stdout.txt"); got != "/common" {
		t.Errorf("it reads %q", got)
	}
}
