//go:build bench

package bench

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
)

// agents is a launcher whose machines are processes: the program that a guest runs,
// with a socket in the place of its virtio-serial port.
type agents struct {
	ctx     context.Context
	dir     string
	log     *slog.Logger
	changed chan struct{}
	serve   func(launch.Spec, net.Conn) error
	wg      sync.WaitGroup

	mu      sync.Mutex
	program string // built for the first machine
	all     map[string]*process
}

// process is one machine.
type process struct {
	cmd    *exec.Cmd
	status launch.Status
}

func (a *agents) Changed() <-chan struct{} { return a.changed }

func (a *agents) Launch(_ context.Context, spec launch.Spec) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, have := a.all[spec.Node.Key()]; have {
		return nil
	}
	if a.program == "" {
		program := filepath.Join(a.dir, "millpond-agent")
		if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "millpond.dev/millpond/cmd/millpond-agent").CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		a.program = program
	}
	dir := filepath.Join(a.dir, strconv.Itoa(len(a.all)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	port, err := net.Listen("unix", filepath.Join(dir, "port"))
	if err != nil {
		return err
	}
	defer port.Close()
	said, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.CommandContext(a.ctx, a.program, "--unprivileged", "--root", filepath.Join(dir, "root"), "--port", filepath.Join(dir, "port"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return err
	}
	a.wg.Go(func() {
		if err := cmd.Wait(); err != nil && a.ctx.Err() == nil {
			a.log.Error("an agent has ended", "err", err)
		}
	})
	_ = port.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := port.Accept()
	if err != nil {
		return err
	}
	a.all[spec.Node.Key()] = &process{cmd, launch.Status{Node: spec.Node, Generation: spec.Generation, Phase: launch.Running}}
	a.wg.Go(func() { a.join(spec, nodeproto.NewHost(conn)) })
	select {
	case a.changed <- struct{}{}:
	default:
	}
	return nil
}

// join gives the service an agent's sessions, one after another, until the
// benchmark's end.
func (a *agents) join(spec launch.Spec, host *nodeproto.Host) {
	defer context.AfterFunc(a.ctx, func() { host.Close() })()
	for a.ctx.Err() == nil {
		session, err := host.Open(a.ctx)
		if err != nil {
			return
		}
		if err := a.serve(spec, session); err != nil {
			session.Close()
		}
	}
}

// used is how long the agents and what they ran have computed.
func (a *agents) used(b testing.TB) (sum time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.all {
		f := strings.Fields(string(read(b, filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))))
		for _, ticks := range f[13:17] { // its own, and those of its children that have ended
			n, _ := strconv.Atoi(ticks)
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

func (a *agents) List(context.Context) (out []launch.Status, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.all {
		out = append(out, p.status)
	}
	return out, nil
}

func (a *agents) Reset(context.Context, millpond.NodeID) error               { return nil }
func (a *agents) Stop(context.Context, millpond.NodeID, time.Duration) error { return nil }
func (a *agents) Destroy(context.Context, millpond.NodeID) error             { return nil }
func (a *agents) Capacity(context.Context) (launch.Capacity, error)          { return launch.Capacity{}, nil }
