package guest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// urgent lets this process go before all others of the machine, or not any more: a
// copy is to answer who it is before the services that notice the jump of the clock
// look after theirs. New threads are as the one that makes them, so it goes on until
// all are alike.
func urgent(on bool) error {
	attr := unix.SchedAttr{Policy: unix.SCHED_NORMAL}
	if on {
		attr = unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1}
	}
	done := map[int]bool{}
	for again := true; again; {
		again = false
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			done[tid], again = true, true
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return os.NewSyscallError("sched_setattr", err)
			}
		}
	}
	return nil
}

// calmSlack is how late, in nanoseconds, the runtime's monitor may look after its
// threads. It sleeps for 20 µs while there is something to do, and a timer costs more
// than that where a processor is emulated.
const calmSlack = "2000000"

// calm lets the runtime's monitor wake up less often. Its thread is the first that the
// runtime makes; its slack is not inherited by what tasks are, which other threads
// start.
func calm() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	monitor := 0
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err == nil && tid != os.Getpid() && (monitor == 0 || tid < monitor) {
			monitor = tid
		}
	}
	if monitor == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join("/proc", strconv.Itoa(monitor), "timerslack_ns"), []byte(calmSlack), 0)
}
