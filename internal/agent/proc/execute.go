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
	x := t.execution()
	defer x.close()
	exit, start, err := x.command(ctx, t.request.GetCommandLine(), started)
	x.sweep()
	return exit, start, err
}

// executeInstance runs the coordination command of an instance, and then the
// primary's own command when told to. What the first leaves running is swept with
// the rest at the end.
func (t *task) executeInstance(ctx context.Context, started func(time.Time), coordinated func(), proceed <-chan struct{}) (*int32, time.Time, error) {
	x := t.execution()
	defer x.close()
	if t.request.GetContainer() != nil {
		var err error
		if x.box, err = t.holdContainer(ctx, x); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, time.Time{}, err
		}
		defer x.box.end()
	}
	exit, start, err := x.command(ctx, t.request.GetInstance().GetCoordinationCommandLine(), started)
	defer x.sweep()
	if err != nil || exit == nil || *exit != 0 {
		return exit, start, err
	}
	coordinated()
	if !t.request.GetInstance().GetPrimary() {
		proceed = nil
	}
	select {
	case <-proceed:
	case <-ctx.Done():
		return exit, start, context.Cause(ctx)
	case <-x.limit:
		return nil, start, t.tooLong()
	}
	exit, _, err = x.command(ctx, t.request.GetCommandLine(), func(time.Time) {})
	return exit, start, err
}

// execution is one attempt's processes, of one command or of two in turn.
type execution struct {
	task           *task
	mark           string
	env            []string
	stdout, stderr *os.File // nil until a command begins
	group          *cgroup  // nil without, or until a command begins
	box            *box     // the container that all commands run in; nil for one each or none
	timer          *time.Timer
	limit          <-chan time.Time // nil without a limit, or until a command begins
	// killer is of the last command; its zero value is of no command.
	killer killer
	// used notes what the last command used, or with a cgroup all of them; nil for
	// nothing.
	used func()
}

// sweep ends what the commands left behind, and notes what was used.
func (x *execution) sweep() {
	x.killer.sweep()
	if x.used != nil {
		x.used()
	}
}

func (t *task) execution() *execution {
	x := &execution{task: t}
	x.mark = fmt.Sprintf("%s%d-%d-%d", t.runner.prefix, os.Getpid(), t.runner.next(), t.runner.cfg.Clock.Now().UnixNano())
	x.env = t.environment(x.mark)
	return x
}

// open makes what the commands share, with the first of them.
func (x *execution) open() (err error) {
	if x.stderr != nil {
		return nil
	}
	if x.stdout, err = x.task.output("stdout.txt"); err != nil {
		return &failure{server: true, code: "ResourceFileCreateFailed", message: "stdout.txt could not be made.", err: err}
	}
	if x.stderr, err = x.task.output("stderr.txt"); err != nil {
		return &failure{server: true, code: "ResourceFileCreateFailed", message: "stderr.txt could not be made.", err: err}
	}
	x.group, err = x.task.runner.groups.take(x.mark)
	if err != nil {
		x.task.runner.cfg.Log.Warn("no cgroup for this task", "error", err)
	}
	if d := x.task.request.GetMaxWallClock(); d != nil {
		x.timer = time.NewTimer(d.AsDuration())
		x.limit = x.timer.C
	}
	return nil
}

func (x *execution) close() {
	if x.stdout != nil {
		x.stdout.Close()
	}
	if x.stderr != nil {
		x.stderr.Close()
	}
	if x.group != nil {
		x.task.runner.groups.give(x.group)
	}
	if x.timer != nil {
		x.timer.Stop()
	}
}

func (t *task) tooLong() error {
	return millpond.Errorf(millpond.Conflict, millpond.CodeTaskEnded,
		"The task was ended because it ran longer than its maxWallClockTime of %s.", t.request.GetMaxWallClock().AsDuration())
}

// command runs one command until it ends or is ended.
func (x *execution) command(ctx context.Context, line string, started func(time.Time)) (*int32, time.Time, error) {
	t, none := x.task, time.Time{}
	words, err := Split(line)
	if err != nil {
		return nil, none, &failure{code: "CommandLaunchFailed", message: "The command line cannot be divided into words: " + err.Error() + "."}
	}
	env := x.env
	var program string
	var box *box
	switch {
	case x.box != nil:
		program, words, env = x.box.engine.Program, x.box.engine.Exec(x.box.id, words), append(x.box.engine.Environment(), markName+"="+x.mark)
	case t.request.GetContainer() != nil:
		if box, err = t.makeContainer(ctx, words, env, x.mark); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, none, err
		}
		defer box.end()
		program, words, env = box.engine.Program, box.engine.Start(box.id), append(box.engine.Environment(), markName+"="+x.mark)
	default:
		if program, err = t.program(words[0], env); err != nil {
			return nil, none, err
		}
	}
	if err := x.open(); err != nil {
		return nil, none, err
	}
	// Files, not pipes: a child that outlives the command and holds its output
	// open must not delay the end.
	command := func() *exec.Cmd {
		cmd := &exec.Cmd{Path: program, Args: words, Env: env, Dir: t.wd, Stdout: x.stdout, Stderr: x.stderr}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		// The client of a container engine is the agent's; the container has the user.
		if !t.runner.rootless && box == nil && x.box == nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(t.user.uid), Gid: uint32(t.user.gid), Groups: t.user.groups}
		}
		if x.group != nil {
			cmd.SysProcAttr.UseCgroupFD = true
			cmd.SysProcAttr.CgroupFD = x.group.fd()
		}
		return cmd
	}

	start := t.runner.cfg.Clock.Now()
	cmd := command()
	err = cmd.Start()
	if x.group != nil && (errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS)) {
		// The group can be made but not entered (a threaded domain, an old kernel).
		t.runner.cfg.Log.Warn("the task's cgroup cannot be entered", "error", err)
		x.group.remove()
		x.group = nil
		cmd = command()
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
	x.killer = killer{pid: cmd.Process.Pid, mark: x.mark, group: x.group}
	var why, werr error
	select {
	case werr = <-ended:
	case <-ctx.Done():
		why = context.Cause(ctx)
		werr = x.killer.end(ended, t.runner.cfg.Grace)
	case <-x.limit:
		why = t.tooLong()
		werr = x.killer.end(ended, t.runner.cfg.Grace)
	}
	x.used = nil
	if !errors.Is(werr, errUnkillable) && cmd.ProcessState != nil {
		x.used = func() { t.report.Usage = usageOf(cmd.ProcessState, io, x.group) }
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

// ExitCode is how a process ended as a shell tells it: a signal's number counts
// from 128.
func ExitCode(e *exec.ExitError) int32 {
	if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int32(ws.Signal())
	}
	return int32(e.ExitCode())
}

func exitCode(err error) (*int32, error) {
	var code int32
	var ee *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &ee):
		code = ExitCode(ee)
	default:
		return nil, &failure{server: true, code: "Unknown", message: "The end of the task's process could not be learnt.", err: err}
	}
	return &code, nil
}
