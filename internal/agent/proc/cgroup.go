package proc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is a directory of the unified hierarchy. A nil one does nothing.
type cgroup struct {
	dir string
	// files are descriptors of the directory and of its files, by the constants below:
	// who opens them each time takes as long as the whole start of a small program.
	// There are none in a group that is only killed.
	files []int
	// before is what those used who had the group before, seen what cpu saw last.
	before, seen groupTime
	killed       bool
}

// groupTime is processor time.
type groupTime struct{ user, kernel time.Duration }

const (
	groupDirectory = iota
	groupEvents
	groupStat
)

// findCgroup finds the cgroup v2 in which the agent may make others: its own,
// which systemd delegates to it (Delegate=yes or pids), or the root's.
func findCgroup() (*cgroups, error) {
	mount, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	own := "/"
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = p
		}
	}
	dir := filepath.Join(mount, own)
	probe := filepath.Join(dir, "millpond-probe-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		return nil, err
	}
	defer os.Remove(probe)
	if _, err := os.Stat(filepath.Join(probe, "cgroup.kill")); err != nil {
		return nil, fmt.Errorf("the kernel has no cgroup.kill (needs 5.14): %w", err)
	}
	return &cgroups{dir: dir}, nil
}

func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted")
}

// idleFor is how long a group that nobody uses is kept: it takes the kernel as long to
// make one and to take it away as to start a program, and small tasks come one after
// another.
const idleFor = time.Second

// cgroups makes the groups of attempts below dir, and gives those that are empty again
// to others. A nil one has none.
type cgroups struct {
	dir string

	mu    sync.Mutex
	idle  []idleGroup // the longest idle first
	timer *time.Timer // runs while there are idle ones
}

type idleGroup struct {
	group *cgroup
	since time.Time
}

// take gives an empty group to an attempt, an idle one or a new one of that name.
func (c *cgroups) take(name string) (*cgroup, error) {
	if c == nil {
		return nil, nil
	}
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		g := c.idle[n-1].group
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return g, nil
	}
	c.mu.Unlock()
	g := &cgroup{dir: filepath.Join(c.dir, "millpond-"+name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{groupDirectory: "", groupEvents: "cgroup.events", groupStat: "cpu.stat"} {
		fd, err := unix.Open(filepath.Join(g.dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			g.remove()
			return nil, &os.PathError{Op: "open", Path: filepath.Join(g.dir, name), Err: err}
		}
		g.files = append(g.files, fd)
	}
	return g, nil
}

// give takes a group back from an attempt that has ended. One that had to be killed,
// or in which somebody lives still, is taken away.
func (c *cgroups) give(g *cgroup) {
	if g.killed || !g.empty() {
		g.remove()
		return
	}
	// Nobody has been in it since cpu saw it; the kernel adds up what all groups used
	// for each look.
	if g.seen == g.before {
		g.seen, _ = g.total()
	}
	g.before = g.seen
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, idleGroup{g, time.Now()})
	if c.timer == nil {
		c.timer = time.AfterFunc(idleFor, func() { c.trim(idleFor) })
	}
}

// trim takes those away that are idle for so long.
func (c *cgroups) trim(since time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	n := 0
	for n < len(c.idle) && time.Since(c.idle[n].since) >= since {
		n++
	}
	old := c.idle[:n:n]
	c.idle = c.idle[n:]
	if c.timer != nil && len(c.idle) == 0 {
		c.timer.Stop()
		c.timer = nil
	} else if c.timer != nil {
		c.timer.Reset(idleFor)
	}
	c.mu.Unlock()
	for _, i := range old {
		i.group.remove()
	}
}

// killChildren ends and removes the groups whose names begin so.
func (c *cgroups) killChildren(prefix string) {
	if c == nil {
		return
	}
	dirs, _ := filepath.Glob(filepath.Join(c.dir, "millpond-"+prefix+"*"))
	for _, d := range dirs {
		old := &cgroup{dir: d}
		old.kill()
		old.remove()
	}
}

func (c *cgroup) fd() int { return c.files[groupDirectory] }

// read gives a file's beginning as the kernel tells it now; nothing if that fails.
func (c *cgroup) read(file int, into []byte) []byte {
	n, err := unix.Pread(c.files[file], into, 0)
	if err != nil {
		return nil
	}
	return into[:n]
}

// empty says that no process is in the group or below it.
func (c *cgroup) empty() bool {
	if c == nil {
		return true
	}
	var b [128]byte
	return bytes.Contains(c.read(groupEvents, b[:]), []byte("populated 0\n"))
}

func (c *cgroup) kill() {
	if c == nil {
		return
	}
	c.killed = true
	_ = os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
}

// remove deletes the group. Killed processes leave it a moment later, so it is
// tried for up to a second; a group that stays is empty soon and does no harm.
func (c *cgroup) remove() {
	for _, fd := range c.files {
		unix.Close(fd)
	}
	c.files = nil
	for range 100 {
		if err := syscall.Rmdir(c.dir); !errors.Is(err, syscall.EBUSY) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// cpu is the processor time of all that were in the group since it was taken.
func (c *cgroup) cpu() (used groupTime, ok bool) {
	if c == nil {
		return groupTime{}, false
	}
	if c.seen, ok = c.total(); !ok {
		c.seen = c.before
	}
	return groupTime{max(c.seen.user-c.before.user, 0), max(c.seen.kernel-c.before.kernel, 0)}, ok
}

// total is the processor time of all that were ever in the group.
func (c *cgroup) total() (groupTime, bool) {
	b := c.read(groupStat, make([]byte, 2048))
	return parseCPU(string(b)), len(b) > 0
}
