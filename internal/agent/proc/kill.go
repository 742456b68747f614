package proc

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

// killer ends all processes of an attempt.
type killer struct {
	pid   int // of the command, whose session and process group it leads
	mark  string
	group *cgroup // nil without
}

// end asks the process group to end, kills it after grace, and returns what
// the wait for the command gave.
func (k killer) end(ended <-chan error, grace time.Duration) error {
	_ = syscall.Kill(-k.pid, syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
	}
	_ = syscall.Kill(-k.pid, syscall.SIGKILL)
	k.group.kill()
	timer.Reset(30 * time.Second)
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		// In uninterruptible sleep; the reader of ended has a buffer.
		return errUnkillable
	}
}

var errUnkillable = errors.New("the process does not end even when killed")

// sweep kills what the command has left behind: its process group, its cgroup,
// and, without a cgroup, every process that carries the attempt's mark in its
// environment. What changed its session and its environment both, escapes the
// latter; a cgroup it cannot escape.
func (k killer) sweep() {
	if k.pid == 0 {
		return // no command was started
	}
	_ = syscall.Kill(-k.pid, syscall.SIGKILL)
	if k.group != nil {
		if !k.group.empty() {
			k.group.kill()
		}
		return
	}
	mine := func(mark []byte) bool { return string(mark) == k.mark }
	// A process may fork while the list is read; a few rounds find its child.
	for range 5 {
		if !killMarked(mine) {
			return
		}
	}
}

// killMarked kills every process whose mark is meant; true when there was one.
func killMarked(meant func(mark []byte) bool) (found bool) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile("/proc/" + d.Name() + "/environ")
		if err != nil {
			continue
		}
		for _, e := range bytes.Split(env, []byte{0}) {
			if mark, ok := bytes.CutPrefix(e, []byte(markName+"=")); ok && meant(mark) {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
	}
	return found
}
