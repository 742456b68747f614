package proc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	millpond "millpond.dev/millpond"
)

// markName is the variable by which leftovers of an attempt are known.
const markName = "MILLPOND_ATTEMPT"

// execute runs the command to its end and cleans up after it.
//
// The exit code is the process's own; one killed by signal n has 128+n, as a
// shell would tell it and as Azure's Linux nodes do.
func (t *task) execute(ctx context.Context, started func(time.Time)) (*int32, time.Time, error) {
	none := time.Time{}
	words, err := Split(t.request.GetCommandLine())
	if err != nil {
		return nil, none, &failure{code: "CommandLaunchFailed", message: "The command line cannot be divided into words: " + err.Error() + "."}
	}
	number := t.runner.next()
	mark := fmt.Sprintf("%s%d-%d-%d", t.runner.prefix, os.Getpid(), number, t.runner.cfg.Clock.Now().UnixNano())
	env := t.environment(mark)
	var program string
	var box *box
	if t.request.GetContainer() != nil {
		if box, err = t.makeContainer(ctx, words, env, mark); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, none, err
		}
		defer box.end()
		program, words, env = box.engine.Program, box.engine.Start(box.id), append(box.engine.Environment(), markName+"="+mark)
	} else if program, err = t.program(words[0], env); err != nil {
		return nil, none, err
	}
	stdout, err := t.output("stdout.txt")
	if err != nil {
		return nil, none, &failure{server: true, code: "ResourceFileCreateFailed", message: "stdout.txt could not be made.", err: err}
	}
	defer stdout.Close()
	stderr, err := t.output("stderr.txt")
	if err != nil {
		return nil, none, &failure{server: true, code: "ResourceFileCreateFailed", message: "stderr.txt could not be made.", err: err}
	}
	defer stderr.Close()

	// Files, not pipes: a child that outlives the command and holds its output
	// open must not delay the end.
	group, err := t.runner.group.child(mark)
	if err != nil {
		t.runner.cfg.Log.Warn("no cgroup for this task", "error", err)
	}
	if group != nil {
		defer group.remove()
	}
	command := func(group *cgroup) *exec.Cmd {
		cmd := &exec.Cmd{Path: program, Args: words, Env: env, Dir: t.wd, Stdout: stdout, Stderr: stderr}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		// The client of a container engine is the agent's; the container has the user.
		if !t.runner.rootless && box == nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(t.user.uid), Gid: uint32(t.user.gid), Groups: t.user.groups}
		}
		if group != nil {
			cmd.SysProcAttr.UseCgroupFD = true
			cmd.SysProcAttr.CgroupFD = group.fd()
		}
		return cmd
	}

	start := t.runner.cfg.Clock.Now()
	cmd := command(group)
	err = cmd.Start()
	if group != nil && (errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS)) {
		// The group can be made but not entered (a threaded domain, an old kernel).
		t.runner.cfg.Log.Warn("the task's cgroup cannot be entered", "error", err)
		group = nil
		cmd = command(nil)
		err = cmd.Start()
	}
	if err != nil {
		return nil, none, t.launchFailure(words[0], err)
	}
	// The agent protects itself from the OOM killer; its children inherit that
	// and must not.
	if !t.runner.rootless {
		_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("0"), 0)
	}
	started(start)

	ended := make(chan error, 1)
	var io ioCounts
	go func() {
		// The counts are those of the process and of all it has waited for; they go
		// when it is waited for itself.
		io = countsAtExit(cmd.Process.Pid)
		ended <- cmd.Wait()
	}()
	k := killer{pid: cmd.Process.Pid, mark: mark, group: group}
	var limit <-chan time.Time
	if d := t.request.GetMaxWallClock(); d != nil {
		timer := time.NewTimer(d.AsDuration())
		defer timer.Stop()
		limit = timer.C
	}
	var why, werr error
	select {
	case werr = <-ended:
	case <-ctx.Done():
		why = context.Cause(ctx)
		werr = k.end(ended, t.runner.cfg.Grace)
	case <-limit:
		why = millpond.Errorf(millpond.Conflict, "TaskEnded",
			"The task was ended because it ran longer than its maxWallClockTime of %s.", t.request.GetMaxWallClock().AsDuration())
		werr = k.end(ended, t.runner.cfg.Grace)
	}
	k.sweep()
	if !errors.Is(werr, errUnkillable) && cmd.ProcessState != nil {
		t.report.Usage = usageOf(cmd.ProcessState, io, group)
	}
	exit, err := exitCode(werr)
	if box != nil && why == nil {
		if failure := box.settle(); failure != nil {
			return nil, start, failure
		}
	}
	if why != nil {
		return exit, start, why
	}
	return exit, start, err
}

func (t *task) launchFailure(name string, err error) error {
	var server bool
	code, message := "CommandLaunchFailed", fmt.Sprintf("The command program %q could not be started.", name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The file was there: it is its interpreter that is not.
		message = fmt.Sprintf("The command program %q could not be started: the interpreter or loader that it names does not exist on this node.", name)
	case errors.Is(err, syscall.ENOEXEC):
		message = fmt.Sprintf("The command program %q is no program for this machine and has no #! line.", name)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		server = true
	}
	return &failure{server: server, code: code, message: message, details: map[string]string{"Program": name}, err: err}
}

func exitCode(err error) (*int32, error) {
	var code int32
	var ee *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &ee):
		ws, ok := ee.Sys().(syscall.WaitStatus)
		if ok && ws.Signaled() {
			code = 128 + int32(ws.Signal())
		} else {
			code = int32(ee.ExitCode())
		}
	default:
		return nil, &failure{server: true, code: "Unknown", message: "The end of the task's process could not be learnt.", err: err}
	}
	return &code, nil
}
