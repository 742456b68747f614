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
		k.group.kill()
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

// cgroup is a directory of the unified hierarchy. A nil one does nothing.
type cgroup struct {
	dir    string
	handle *os.File
}

// findCgroup finds the cgroup v2 in which the agent may make others: its own,
// which systemd delegates to it (Delegate=yes or pids), or the root's.
func findCgroup() (*cgroup, error) {
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
	return &cgroup{dir: dir}, nil
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

func (c *cgroup) child(name string) (*cgroup, error) {
	if c == nil {
		return nil, nil
	}
	dir := filepath.Join(c.dir, "millpond-"+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	h, err := os.Open(dir)
	if err != nil {
		os.Remove(dir)
		return nil, err
	}
	return &cgroup{dir: dir, handle: h}, nil
}

// killChildren ends and removes the groups whose names begin so.
func (c *cgroup) killChildren(prefix string) {
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

func (c *cgroup) fd() int { return int(c.handle.Fd()) }

func (c *cgroup) kill() {
	if c == nil {
		return
	}
	_ = os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
}

// remove deletes the group. Killed processes leave it a moment later, so it is
// tried for up to a second; a group that stays is empty soon and does no harm.
func (c *cgroup) remove() {
	if c.handle != nil {
		c.handle.Close()
	}
	for range 100 {
		if err := syscall.Rmdir(c.dir); !errors.Is(err, syscall.EBUSY) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
