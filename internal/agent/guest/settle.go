package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

const (
	// quietFor is how long the processors must have been idle, and quietShare how
	// idle: a template that is frozen at work has all its clones finish that work.
	quietFor   = time.Second
	quietShare = 0.95
	quietTick  = 200 * time.Millisecond
)

// hostKeys are the keys by which a machine is known to those who log in.
const hostKeys = "/etc/ssh/ssh_host_*"

// sleeping is what Settle has stopped and a clone starts again: units of systemd.
type sleeping struct {
	// keys are units that need host keys.
	keys []string
	// timers are clocks: a clone's jumps ahead by all the time that its template has
	// lain, and each that is due in between would go off in all clones at once.
	timers []string
}

// Settle implements agent.Cloner.
func (m *Machine) Settle(ctx context.Context) (string, []*nodev1.Stage, error) {
	if !m.cfg.Privileged {
		return "", nil, errors.New("this agent may not prepare its machine for being copied")
	}
	var stages []*nodev1.Stage
	begin := time.Now()
	stage := func(name string) {
		stages = append(stages, &nodev1.Stage{Name: name, Duration: durationpb.New(time.Since(begin))})
		begin = time.Now()
	}
	state, asleep := "", sleeping{}
	if systemd() {
		// Its exit code only says whether the state is a good one.
		out, err := exec.CommandContext(ctx, "systemctl", "is-system-running", "--wait").Output()
		if ctx.Err() != nil {
			return "", nil, fmt.Errorf("the machine's start did not end in time: %w", ctx.Err())
		}
		state = strings.TrimSpace(string(out))
		if state != "running" && state != "degraded" {
			return state, nil, fmt.Errorf("the machine's start ended in the state %q: %v", state, err)
		}
		asleep = m.sleep(ctx)
	}
	stage("start")
	// What a node needs whatever its name is.
	m.mu.Lock()
	err := m.makeRoot()
	m.mu.Unlock()
	if err != nil {
		return state, nil, err
	}
	keys, err := filepath.Glob(hostKeys)
	if err != nil {
		return state, nil, err
	}
	for _, k := range keys {
		if err := os.Remove(k); err != nil && !os.IsNotExist(err) {
			return state, nil, fmt.Errorf("remove the host keys: %w", err)
		}
	}
	t, err := m.ready(asleep)
	if err != nil {
		return state, nil, err
	}
	m.mu.Lock()
	m.template = t
	m.mu.Unlock()
	unix.Sync()
	if err := quiet(ctx); err != nil {
		return state, nil, err
	}
	stage("quiet")
	// What the agent does not need any more need not be in every clone.
	debug.FreeOSMemory()
	m.attempt("priority", urgent(true))
	return state, stages, nil
}

// ready prepares what each copy does first.
func (m *Machine) ready(asleep sleeping) (*settled, error) {
	t := &settled{asleep: asleep}
	var err error
	if t.bootID, err = coverID("/proc/sys/kernel/random/boot_id", false); err != nil {
		return nil, fmt.Errorf("the boot id: %w", err)
	}
	if t.machineID, err = coverID("/etc/machine-id", true); err != nil {
		return nil, fmt.Errorf("the machine id: %w", err)
	}
	if err := t.machineID.forget(); err != nil {
		return nil, fmt.Errorf("the machine id: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.facts = m.describe()
	t.facts.Address = "" // each copy gets one of its own
	return t, nil
}

func systemd() bool {
	st, err := os.Stat("/run/systemd/system")
	return err == nil && st.IsDir()
}

// sleep stops what must not run in a machine that is copied.
func (m *Machine) sleep(ctx context.Context) sleeping {
	var s sleeping
	for _, u := range []string{"ssh.socket", "sshd.socket", "ssh.service", "sshd.service", "dropbear.service"} {
		if exec.CommandContext(ctx, "systemctl", "is-active", "--quiet", u).Run() == nil {
			s.keys = append(s.keys, u)
		}
	}
	out, err := exec.CommandContext(ctx, "systemctl", "list-units", "--type=timer", "--state=active", "--plain", "--no-legend", "--no-pager").Output()
	m.attempt("list of timers", err)
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 {
			s.timers = append(s.timers, f[0])
		}
	}
	if stop := append(append([]string{"stop"}, s.keys...), s.timers...); len(stop) > 1 {
		m.attempt("stop of units", exec.CommandContext(ctx, "systemctl", stop...).Run())
	}
	return s
}

// quiet returns when the processors have been idle for a while. A machine that
// never is so is no template.
func quiet(ctx context.Context) error {
	tick := time.NewTicker(quietTick)
	defer tick.Stop()
	idle, all, err := processorTime()
	if err != nil {
		return err
	}
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the machine did not come to rest: %w", ctx.Err())
		case <-tick.C:
		}
		i, a, err := processorTime()
		if err != nil {
			return err
		}
		if a > all && float64(i-idle) < quietShare*float64(a-all) {
			since = time.Now()
		}
		idle, all = i, a
		if time.Since(since) >= quietFor {
			return nil
		}
	}
}

// processorTime is what all processors have spent, in the kernel's ticks.
func processorTime() (idle, all int64, err error) {
	f := strings.Fields(firstLine("/proc/stat"))
	if len(f) < 6 || f[0] != "cpu" {
		return 0, 0, errors.New("/proc/stat has no line of all processors")
	}
	for i, field := range f[1:min(len(f), 9)] { // what guests of the machine use is in user time already
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += n
		if i == 3 || i == 4 { // idle, iowait
			idle += n
		}
	}
	return idle, all, nil
}

var _ agent.Cloner = (*Machine)(nil)
