package vmrun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// backstage is how long a clone that has said who it is leaves the processors to those
// that have not: it has its disks, its card and its session to see to, which nobody
// waits for, where a machine that is not a node yet is waited for. Alone it loses
// nothing.
const backstage = 10 * time.Second

// atRest is when a machine is taken to have begun: what its supervisor's memory grew by
// then is given back. There are as many supervisors as machines, and each waits from
// then on.
const atRest = 15 * time.Second

// shrink gives the host what the supervisor's heap does not use, when it is at rest.
func shrink(ctx context.Context) {
	timer := time.NewTimer(atRest)
	defer timer.Stop()
	select {
	case <-timer.C:
		debug.FreeOSMemory()
	case <-ctx.Done():
	}
}

// lowest is the priority of the last in line.
const lowest = 19

// giveWay puts the machine behind all others and returns what ends that. Who may not
// raise a priority again does not lower it.
func (s *supervisor) giveWay() (back func()) {
	pid := s.engine.id.PID
	was, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil || unix.Geteuid() != 0 {
		return func() {}
	}
	// QEMU leads a group of its own, so that all its threads are meant.
	s.prioritise(pid, lowest)
	return func() { s.prioritise(pid, 20-was) }
}

func (s *supervisor) prioritise(pid, nice int) {
	if err := unix.Setpriority(unix.PRIO_PGRP, pid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
		s.log.Warn("the machine's priority was not changed", "err", err)
	}
	// Where the kernel groups sessions, that counts between groups and not the above.
	group := fmt.Sprintf("/proc/%d/autogroup", pid)
	if _, err := os.Stat(group); err == nil {
		if err := os.WriteFile(group, []byte(strconv.Itoa(nice)), 0); err != nil {
			s.log.Debug("the priority of the machine's session was not changed", "err", err)
		}
	}
}

// comeForth ends what giveWay began when it is time, or with ctx.
func comeForth(ctx context.Context, back func()) {
	timer := time.NewTimer(backstage)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	back()
}
