// Package process names processes of this host so that a reused pid cannot be
// mistaken for them, watches and signals them through pidfds, and lets one of them
// at a time have a file. It starts nothing. vmrun and imagehost write such names to
// disk, launch/local and imagehost's runner read them back.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ID is a process for all time: pid, start time and the boot it ran in.
type ID struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks since boot.
	Start uint64 `json:"start"`
	// Boot is /proc/sys/kernel/random/boot_id.
	Boot string `json:"boot"`
}

// ErrGone says that the process has ended, or that its pid is another's now.
var ErrGone = errors.New("process is gone")

// BootID is the id of this boot of the host.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// Of names the process that has pid now.
func Of(pid int) (ID, error) {
	boot, err := BootID()
	if err != nil {
		return ID{}, err
	}
	f, err := stat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: f.start, Boot: boot}, nil
}

// userHZ is the unit of times in /proc, of all ports of Linux.
const userHZ = 100

// ProcessorTime is what the process and those of its children that it has waited
// for have spent, to a hundredth of a second; ErrGone when it has ended.
func (id ID) ProcessorTime() (time.Duration, error) {
	f, err := stat(id.PID)
	if err != nil {
		return 0, err
	}
	if f.start != id.Start {
		return 0, ErrGone
	}
	return f.used, nil
}

// fields are some of /proc/PID/stat.
type fields struct {
	start uint64
	state byte
	used  time.Duration
}

// stat reads what /proc says of a process.
func stat(pid int) (fields, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = ErrGone
		}
		return fields{}, err
	}
	// The command name may hold spaces and parentheses; fields count from its
	// last ")". The state is field 3, times are 14 to 17, the start time is 22.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return fields{}, fmt.Errorf("stat of process %d has no command", pid)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return fields{}, fmt.Errorf("stat of process %d has %d fields", pid, len(f))
	}
	var n [5]uint64
	for i, field := range []string{f[11], f[12], f[13], f[14], f[19]} {
		if n[i], err = strconv.ParseUint(field, 10, 64); err != nil {
			return fields{}, fmt.Errorf("stat of process %d: %w", pid, err)
		}
	}
	return fields{start: n[4], state: f[0][0], used: time.Duration(n[0]+n[1]+n[2]+n[3]) * time.Second / userHZ}, nil
}

// Process is a live hold on a process: the pid cannot be reused under it.
type Process struct {
	f *os.File
}

// Find takes hold of the process id; ErrGone if it does not run any more.
func Find(id ID) (*Process, error) {
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	if id.PID <= 0 || id.Boot != boot {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd of %d: %w", id.PID, err)
	}
	p := &Process{f: os.NewFile(uintptr(fd), "pidfd")}
	// Only now is the comparison safe: while the pidfd is open and the process
	// has not ended, the pid means the same process.
	now, err := stat(id.PID)
	if err == nil && (now.start != id.Start || now.state == 'Z' || now.state == 'X') {
		err = ErrGone
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Signal sends sig; ErrGone if the process has ended.
func (p *Process) Signal(sig unix.Signal) error {
	c, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := c.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return ErrGone
	}
	return serr
}

// Wait returns nil when the process has ended (a zombie has), or ctx's error.
func (p *Process) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { p.f.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			p.f.SetReadDeadline(time.Time{})
		}
	}()
	c, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	err = c.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n == 1
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Close lets go; it ends a Wait that is under way with os.ErrClosed.
func (p *Process) Close() error { return p.f.Close() }

// Kill ends the process id by force and returns when it has ended. One that has
// ended before is no error.
func Kill(ctx context.Context, id ID) error {
	p, err := Find(id)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return fmt.Errorf("process %d does not end: %w", id.PID, err)
	}
	return nil
}

// ErrLocked says that another process has the file.
var ErrLocked = errors.New("locked by another process")

// Lock opens a file, making it if need be (0600), and takes it for whoever holds
// what is returned; it does not wait. The kernel frees it when that is closed or
// the process ends, however it ends.
func Lock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}
