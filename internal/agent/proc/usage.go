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
		return parseCounts(ioText(pid))
	}
}

// ioText is /proc/PID/io, empty if it cannot be read. os.ReadFile takes twice as many
// system calls for these 100 bytes, for every task.
func ioText(pid int) string {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/io", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var b [512]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return ""
	}
	return string(b[:n])
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
	used := groupTime{s.UserTime(), s.SystemTime()}
	if all, ok := group.cpu(); ok {
		used = groupTime{max(used.user, all.user), max(used.kernel, all.kernel)}
	}
	return &nodev1.Usage{UserCpu: durationpb.New(used.user), KernelCpu: durationpb.New(used.kernel), Reads: io.reads, Writes: io.writes, BytesRead: io.bytesRead, BytesWritten: io.bytesWritten}
}

func parseCPU(text string) (t groupTime) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		us, err := strconv.ParseInt(value, 10, 64)
		if err != nil || us < 0 {
			continue
		}
		switch name {
		case "user_usec":
			t.user = time.Duration(us) * time.Microsecond
		case "system_usec":
			t.kernel = time.Duration(us) * time.Microsecond
		}
	}
	return t
}
