//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/qemu/qmp"
	"millpond.dev/millpond/test/lab"
)

// part is where a piece of one copy's time went, in ms.
type part struct {
	name string
	ms   float64
}

// took are the parts of a node's way from the request for its pool to idle, one after
// another: of its launch the wait for its supervisor and the steps of that, of its boot
// the way of its agent's first word, its start task, and what lies outside of the
// node's own clock.
func took(x lab.Node, all time.Duration) (parts []part) {
	add := func(name string, ms float64) { parts = append(parts, part{name, max(0, ms)}) }
	// What its agent tells of itself lies within its birth.
	steps := x.Steps
	if i := slices.IndexFunc(steps, func(s lab.Step) bool { return s.Name == "agentToHello" }); i >= 0 {
		steps = steps[:i]
	}
	wait := x.Phases["launch"]
	for _, s := range steps {
		wait -= s.Milliseconds
	}
	add("wait", wait)
	for _, s := range steps {
		add(s.Name, s.Milliseconds)
	}
	add("connect", x.Phases["boot"])
	add("startTask", x.Phases["startTask"])
	add("outside", 1000*all.Seconds()-x.Phases["idle"])
	return parts
}

// floorRounds is how often the floor is measured beside each copy.
const floorRounds = 2

// parts keeps where the time of a copy went, and measures the floor beside it, while
// the copy is at rest: what QEMU itself takes to start, to set the copy's devices up,
// and to read its state, by QEMU's command line and files of that very copy.
func (p *pools) parts(all []part) {
	for _, x := range all {
		p.parted[x.name] = append(p.parted[x.name], x.ms)
		p.figure(median(p.parted[x.name]), "ms-part-"+x.name)
	}
	pids := p.l.Descendants("qemu-system")
	if len(pids) != 1 {
		p.b.Errorf("the floor is left out: there are %d machines", len(pids))
		return
	}
	for range floorRounds {
		f, err := floor(pids[0])
		if err != nil {
			p.b.Errorf("the floor is left out: %v", err)
			return
		}
		for _, x := range f {
			p.parted["floor-"+x.name] = append(p.parted["floor-"+x.name], x.ms)
		}
	}
	for _, name := range []string{"process", "devices", "state"} {
		p.figure(median(p.parted["floor-"+name]), "ms-floor-"+name)
	}
}

// floor starts a QEMU with the command line of the copy pid and copies of its disks, on
// the memory and the state of the same template, until it runs.
func floor(pid int) (out []part, _ error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return nil, err
	}
	// Beside the copy's own folder: its disks may name sockets relative to it.
	dir, err := os.MkdirTemp(filepath.Dir(home), ".floor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("cp", "-r", "--sparse=always", home+"/.", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cp: %w: %s", err, out)
	}
	began := time.Now()
	if out, err := exec.Command(args[0], "--version").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", args[0], err, out)
	}
	process := time.Since(began)

	state, err := stateOf(args)
	if err != nil {
		return nil, err
	}
	defer state.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	var ours [3]net.Conn // console, monitor, agent: descriptors 3, 4 and 5
	for i := range ours {
		here, there, err := socketPair()
		if err != nil {
			return nil, err
		}
		defer here.Close()
		defer there.Close()
		ours[i], cmd.ExtraFiles = here, append(cmd.ExtraFiles, there)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, state)
	go io.Copy(io.Discard, ours[0])
	go io.Copy(io.Discard, ours[2])
	began = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	completed := make(chan struct{}, 1)
	monitor, err := qmp.Connect(ctx, ours[1], func(e qmp.Event) {
		var m struct{ Status string }
		if e.Name == "MIGRATION" && json.Unmarshal(e.Data, &m) == nil && m.Status == "completed" {
			completed <- struct{}{}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	defer monitor.Close()
	devices := time.Since(began)
	if err := monitor.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []map[string]any{
		{"capability": "x-ignore-shared", "state": true}, {"capability": "events", "state": true}}}, nil); err != nil {
		return nil, err
	}
	if err := monitor.Execute(ctx, "migrate-incoming", map[string]string{"uri": "fd:6"}, nil); err != nil {
		return nil, err
	}
	select {
	case <-completed:
	case <-monitor.Done():
		return nil, fmt.Errorf("QEMU has ended: %w", monitor.Err())
	case <-ctx.Done():
		return nil, fmt.Errorf("the state was not read")
	}
	if err := monitor.Execute(ctx, "cont", nil, nil); err != nil {
		return nil, err
	}
	runs := time.Since(began)
	ms := func(d time.Duration) float64 { return 1000 * d.Seconds() }
	return []part{{"process", ms(process)}, {"devices", ms(devices - process)}, {"state", ms(runs - devices)}}, nil
}

// stateOf opens the state of the template that a copy's command line has the memory of.
func stateOf(args []string) (*os.File, error) {
	for _, a := range args {
		if !strings.HasPrefix(a, "memory-backend-file,") {
			continue
		}
		options := strings.Split(a, ",")
		if i := slices.IndexFunc(options, func(o string) bool { return strings.HasPrefix(o, "mem-path=") }); i > 0 {
			return os.Open(filepath.Join(filepath.Dir(strings.TrimPrefix(options[i], "mem-path=")), "state"))
		}
	}
	return nil, fmt.Errorf("the command line names no memory")
}

// socketPair is two connected sockets: a connection, and a file for a child.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	return conn, theirs, err
}
