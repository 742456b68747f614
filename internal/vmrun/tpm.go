package vmrun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tpm is the emulator of the machine's TPM, a process beside QEMU. Its state lies with
// the machine's disks: what was sealed is there after a stop and a reset.
type tpm struct {
	cmd *exec.Cmd
	// control is QEMU's end of its control socket until QEMU has it.
	control *os.File
	done    chan struct{}
}

// forQEMU hands over the control socket; nil without a TPM.
func (t *tpm) forQEMU() *os.File {
	if t == nil {
		return nil
	}
	f := t.control
	t.control = nil
	return f
}

// startTPM starts the emulator. It waits for QEMU on its socket, and ends when that
// has ended; with the supervisor it ends as QEMU does.
func (s *supervisor) startTPM(context.Context) error {
	program, err := exec.LookPath(s.cfg.Tools.SWTPM)
	if err != nil {
		return fmt.Errorf("the emulator of TPMs is not there (Debian: apt install swtpm): %w", err)
	}
	if err := os.MkdirAll(filepath.Join(s.dir, tpmState), 0o700); err != nil {
		return err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	qemus, its := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "tpm")
	defer its.Close()
	log, err := os.OpenFile(filepath.Join(s.dir, tpmLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, qemus.Close())
	}
	defer log.Close()
	t := &tpm{control: qemus, done: make(chan struct{})}
	t.cmd = exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+tpmState+",mode=0600", "--ctrl", "type=unixio,clientfd=3",
		"--flags", "not-need-init,startup-clear", "--terminate")
	t.cmd.Dir, t.cmd.Stdout, t.cmd.Stderr, t.cmd.ExtraFiles = s.dir, log, log, []*os.File{its}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := startChild(t.cmd, t.done); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", program, err), qemus.Close())
	}
	s.tpm = t
	return nil
}

// killTPM ends the emulator after QEMU, which it follows by itself.
func (s *supervisor) killTPM() error {
	t := s.tpm
	if t == nil {
		return nil
	}
	s.tpm = nil
	if t.control != nil { // QEMU was not started
		t.control.Close()
	}
	select {
	case <-t.done:
		return nil
	case <-time.After(quitLimit):
	}
	err := t.cmd.Process.Kill()
	<-t.done
	return err
}
