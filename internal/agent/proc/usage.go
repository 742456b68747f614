package proc

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// ioCounts are what /proc/PID/io tells.
type ioCounts struct{ reads, writes, bytesRead, bytesWritten uint64 }

// countsAtExit waits until a process has ended, without taking its exit code,
// and reads its counts. They are zero where the kernel does not tell.
func countsAtExit(pid int) ioCounts {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return ioCounts{}
		}
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/io")
		if err != nil {
			return ioCounts{}
		}
		return parseCounts(string(text))
	}
}

func parseCounts(text string) (c ioCounts) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "syscr":
			c.reads = n
		case "syscw":
			c.writes = n
		case "read_bytes":
			c.bytesRead = n
		case "write_bytes":
			c.bytesWritten = n
		}
	}
	return c
}

// usageOf is what a command and its descendants used. Without a cgroup only
// those descendants count that somebody has waited for.
func usageOf(s *os.ProcessState, io ioCounts, group *cgroup) *nodev1.Usage {
	user, kernel := s.UserTime(), s.SystemTime()
	if u, k, ok := group.cpu(); ok {
		user, kernel = max(user, u), max(kernel, k)
	}
	return &nodev1.Usage{UserCpu: durationpb.New(user), KernelCpu: durationpb.New(kernel), Reads: io.reads, Writes: io.writes, BytesRead: io.bytesRead, BytesWritten: io.bytesWritten}
}

func parseCPU(text string) (user, kernel time.Duration) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		us, err := strconv.ParseInt(value, 10, 64)
		if err != nil || us < 0 {
			continue
		}
		switch name {
		case "user_usec":
			user = time.Duration(us) * time.Microsecond
		case "system_usec":
			kernel = time.Duration(us) * time.Microsecond
		}
	}
	return user, kernel
}
