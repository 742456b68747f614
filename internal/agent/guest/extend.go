package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// mostExtended bounds the answers that are remembered after they were given.
const mostExtended = 64

// outputTail is how much of a script's output is answered, as in Azure.
const outputTail = 4096

// extender runs the scripts of extensions. They outlive the call that began them:
// a session may be lost while one runs, and the next asks again.
type extender struct {
	mu   sync.Mutex
	runs map[string]*extended
	// given are those whose answer somebody has, the oldest first. No other may be
	// forgotten: who asks again for one would have it run twice.
	given []string
}

// extended is one run; answer is there when done is closed.
type extended struct {
	done   chan struct{}
	answer *nodev1.ExtendResponse
}

// Extend implements agent.Preparer.
func (p *preparer) Extend(ctx context.Context, q *nodev1.ExtendRequest) (*nodev1.ExtendResponse, error) {
	p.wait(ctx)
	x := p.extensions.begin(q.GetId(), func() *nodev1.ExtendResponse { return p.extend(q) })
	select {
	case <-x.done:
		p.extensions.gave(q.GetId())
		return x.answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *extender) begin(id string, run func() *nodev1.ExtendResponse) *extended {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.runs[id]; x != nil {
		return x
	}
	if e.runs == nil {
		e.runs = map[string]*extended{}
	}
	x := &extended{done: make(chan struct{})}
	e.runs[id] = x
	go func() {
		defer close(x.done)
		x.answer = run()
	}()
	return x
}

// gave notes that somebody has a run's answer. One that is given once more, because
// the first was lost on its way, is the newest again.
func (e *extender) gave(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.given = append(slices.DeleteFunc(e.given, func(had string) bool { return had == id }), id)
	if len(e.given) > mostExtended {
		delete(e.runs, e.given[0])
		e.given = slices.Delete(e.given, 0, 1)
	}
}

// extend runs a script as the agent's own user, root on a machine of its own, in a
// process group that is killed when the limit is reached. What a script leaves
// running on purpose, such as a service, goes on.
func (p *preparer) extend(q *nodev1.ExtendRequest) *nodev1.ExtendResponse {
	var stdout, stderr tailBuffer
	cmd := exec.Command("/bin/sh", "-c", q.GetScript())
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = "/", &stdout, &stderr, 2*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{"PATH=" + proc.BasePath, "HOME=/root", "LANG=C.UTF-8"}
	if !p.mayMount {
		// The machine's own folders are to be left alone.
		cmd.Env = append(cmd.Env, "MILLPOND_WAAGENT="+filepath.Join(p.root, proc.Volatile, "waagent"))
	}
	for k, v := range q.GetEnvironment() {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	start := time.Now()
	answer := &nodev1.ExtendResponse{StartTime: timestamppb.New(start)}
	err := cmd.Start()
	if err == nil {
		if p.mayMount {
			// The agent's protection from the OOM killer is inherited, and not meant.
			_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("0"), 0)
		}
		limit := q.GetLimit().AsDuration()
		late := time.AfterFunc(limit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		err = cmd.Wait()
		if !late.Stop() {
			err = errors.Join(err, errLate)
		}
	}
	answer.EndTime, answer.Stdout, answer.Stderr = timestamppb.New(time.Now()), stdout.String(), stderr.String()
	switch exit := (*exec.ExitError)(nil); {
	case errors.Is(err, errLate):
		answer.Message = fmt.Sprintf("The script ran longer than %s and was ended.", q.GetLimit().AsDuration())
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		code := int32(0)
		answer.ExitCode = &code
	case errors.As(err, &exit):
		code := proc.ExitCode(exit)
		answer.ExitCode = &code
	default:
		answer.Message = "The script could not be started: " + err.Error()
	}
	p.log.Info("an extension's script has ended", "id", q.GetId(), "exit", answer.GetExitCode(), "message", answer.GetMessage())
	return answer
}

var errLate = errors.New("the limit was reached")

// tailBuffer keeps the last bytes of what is written.
type tailBuffer struct{ b []byte }

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*outputTail {
		t.b = slices.Clone(t.b[len(t.b)-outputTail:])
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	return strings.ToValidUTF8(string(t.b[max(0, len(t.b)-outputTail):]), "?")
}
