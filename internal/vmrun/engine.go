package vmrun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/process"
)

// The descriptors that QEMU inherits.
const (
	consoleFD = 3
	qmpFD     = 4
	agentFD   = 5
	// stateFD is the file that a template's state goes to or a clone's comes from.
	stateFD = 6
	// tpmFD is the control socket of the machine's TPM, of one that has one.
	tpmFD = 8
	// Of a machine that shares a network only, which is neither.
	cardFD    = 6
	gatewayFD = 7
)

// engine is the running QEMU.
type engine struct {
	id process.ID
	// console, qmp and agent are this end of what QEMU inherited.
	console, qmp, agent net.Conn
	// card and gateway carry frames; nil for a machine that shares no network.
	card, gateway *net.UnixConn
	cmd           *exec.Cmd
	// done is closed when QEMU has ended and been waited for.
	done chan struct{}
}

// startEngine starts QEMU as a child in dir. It gets a session of its own, so
// that no signal of a terminal reaches it, and SIGKILL when the supervisor dies.
// state, if not nil, is its stateFD; it is closed here. shares gives it the
// sockets of a shared network; one of the two at most. tpm, if not nil, is its tpmFD;
// it is closed here. keep, if not nil, is a file that QEMU only holds open.
func startEngine(dir, program string, args []string, state *os.File, shares bool, tpm, keep *os.File) (*engine, error) {
	var theirs []*os.File
	defer func() {
		for _, f := range append(theirs, tpm) {
			if f != nil {
				f.Close()
			}
		}
	}()
	e := &engine{done: make(chan struct{})}
	for _, conn := range []*net.Conn{&e.console, &e.qmp, &e.agent} { // in the order of the descriptors
		here, there, err := socketPair(unix.SOCK_STREAM)
		if err != nil {
			e.closeEnds()
			return nil, err
		}
		theirs = append(theirs, there)
		*conn = here
	}
	if state != nil {
		theirs = append(theirs, state)
	}
	if shares {
		for _, conn := range []**net.UnixConn{&e.card, &e.gateway} {
			here, there, err := socketPair(unix.SOCK_DGRAM)
			if err != nil {
				e.closeEnds()
				return nil, err
			}
			theirs = append(theirs, there)
			*conn = here.(*net.UnixConn)
		}
	}
	log, err := os.OpenFile(filepath.Join(dir, qemuLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.closeEnds()
		return nil, err
	}
	defer log.Close()
	e.cmd = exec.Command(program, args...)
	e.cmd.Dir = dir
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.ExtraFiles = theirs
	if tpm != nil {
		for len(e.cmd.ExtraFiles) < tpmFD-consoleFD { // descriptors that it does not get
			e.cmd.ExtraFiles = append(e.cmd.ExtraFiles, nil)
		}
		e.cmd.ExtraFiles = append(e.cmd.ExtraFiles, tpm)
	}
	if keep != nil {
		e.cmd.ExtraFiles = append(e.cmd.ExtraFiles, keep)
	}
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}

	if err := startChild(e.cmd, e.done); err != nil {
		e.closeEnds()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	e.id, err = process.Of(e.cmd.Process.Pid)
	if err != nil && !errors.Is(err, process.ErrGone) {
		return nil, errors.Join(err, e.kill())
	}
	return e, nil
}

// startChild starts a child that the kernel ends with this process (Pdeathsig); done
// is closed when it has ended and been waited for.
func startChild(cmd *exec.Cmd, done chan struct{}) error {
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread that forked
		// ends, not the process. This thread is therefore kept for the child.
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		cmd.Wait()
		close(done)
	}()
	return <-started
}

// kill ends QEMU at once and waits for it. A process that is stuck in the
// kernel is waited for as well: its disks are still in use.
func (e *engine) kill() error {
	err := e.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-e.done
	e.closeEnds()
	return err
}

func (e *engine) closeEnds() {
	for _, c := range []net.Conn{e.console, e.qmp, e.agent} {
		if c != nil {
			c.Close()
		}
	}
	for _, c := range []*net.UnixConn{e.card, e.gateway} {
		if c != nil {
			c.Close()
		}
	}
}

// exit is QEMU's exit code and the signal that ended it, after done.
func (e *engine) exit() (code int, signal unix.Signal) {
	ws, ok := e.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return e.cmd.ProcessState.ExitCode(), 0
	}
	if ws.Signaled() {
		return -1, ws.Signal()
	}
	return ws.ExitStatus(), 0
}

func socketPair(kind int) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	here, there := os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")
	conn, err := net.FileConn(here)
	here.Close()
	if err != nil {
		there.Close()
		return nil, nil, err
	}
	return conn, there, nil
}
