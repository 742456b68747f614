// Package guest is the virtual machine as its agent sees it: the virtio-serial
// port, entropy, clock, name, the names of its neighbours, temporary disk, node
// directories, extensions, mounts, the images of containers, the accounts of those
// who log in, its rest in a template and its start as a clone, and the power button. It is agent.Machine and agent.Preparer
// for real guests.
//
// It starts no tasks and knows nothing of attempts and events. It runs on Linux as
// root; each thing that it cannot do is logged and left out unless the node could
// not work without it. cmd/millpond-agent is its caller.
package guest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/container"
	"millpond.dev/millpond/internal/agent/managed"
	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// directories are those below the node's root, with their modes. The agent's
// own is volatile; shared is for all tasks to write.
var directories = []struct {
	name string
	mode os.FileMode
}{
	{"applications", 0o755},
	{"fsmounts", 0o755},
	{"shared", 0o777},
	{"startup", 0o755},
	{proc.Volatile, 0o700},
	{"workitems", 0o755},
}

// Config is what a Machine works with.
type Config struct {
	// Root is the node's root directory; empty for the product's rule: /mnt/batch
	// on the temporary disk, else /opt/batch/data.
	Root  string
	Clock clock.Clock
	Log   *slog.Logger
	// Privileged machines set clock, name and entropy and mount disks; others
	// (tests, a trial run on a host) leave the machine as it is.
	Privileged bool
	// Accounts is the folder of passwd, and Homes that of the homes of those who
	// log in; empty for /etc and /home, which only privileged machines have in hand.
	Accounts, Homes string
	// Tokens gives the tokens of the node's managed identities, which Metadata answers
	// with, host:port; empty for Azure's address, which only privileged machines take.
	Tokens   *managed.Broker
	Metadata string
	// Reach is told by each Hello how the server is reached; nil if nobody asks.
	Reach *transfer.Reach
	// Runner makes the runner once the root directory is known.
	Runner func(root string) agent.Runner
	// Engine finds the machine's container engine; nil when it has none.
	Engine func() *container.Engine
}

// Machine implements agent.Machine.
type Machine struct {
	cfg     Config
	started time.Duration // uptime of the kernel when the agent began, or a clone was born

	still  *freezer
	logins logins
	hosts  hostsFile

	mu     sync.Mutex
	place  *agent.Place
	online *online // the place's runner; nil if nothing waits for the network
	root   string
	stages []*nodev1.Stage
	// answers says that the metadata service was started.
	answers bool
	// template is what Settle has made ready, in a template and so in its clones.
	template *settled
	// born is when a clone became a machine of its own, whole is closed when the rest
	// of it is its own as well; own is what it is to have in its hosts file.
	born  time.Time
	whole chan struct{}
	own   ownHosts
	// adopted is closed by the first Hello.
	adopted chan struct{}
}

// New notes when the agent began and raises its protection.
func New(cfg Config) *Machine {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Machine{cfg: cfg, started: uptime(), still: newFreezer(), hosts: hostsFile{path: "/etc/hosts"}, adopted: make(chan struct{}), logins: logins{wanted: make(chan struct{})}}
	if cfg.Privileged {
		m.attempt("timer slack", calm())
		m.attempt("addresses of programs", repeatAddresses("/"))
		// A task that takes all memory must not take the agent with it.
		m.attempt("oom_score_adj", os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0))
	}
	return m
}

// attempt logs what could not be done and need not be.
func (m *Machine) attempt(what string, err error) {
	if err != nil {
		m.cfg.Log.Warn("left out", "what", what, "error", err)
	}
}

// Adopt implements agent.Machine. The order matters: entropy before anything
// makes a key, the clock before anything writes a time.
func (m *Machine) Adopt(_ context.Context, q *nodev1.HelloRequest) (agent.Place, *nodev1.HelloResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cfg.Reach != nil {
		m.cfg.Reach.Set(q.GetServerAddress(), q.GetServerCa(), q.GetAzureHosts())
	}
	first := true
	select {
	case <-m.adopted:
		first = false
	default:
	}
	if m.cfg.Privileged {
		if first && len(q.GetEntropy()) > 0 {
			m.attempt("entropy", addEntropy(q.GetEntropy()))
		}
		if now := q.GetNow(); now.IsValid() && now != nil {
			m.correctClock(now.AsTime(), first)
		}
		m.own = ownHosts{q.GetHostname(), q.GetHostAddress(), q.GetNetworkAddress(), q.GetNetworkDomain()}
		if q.GetHostname() != "" && m.complete() {
			m.attempt("hostname", setHostname(q.GetHostname()))
			m.attempt("hosts", m.hosts.own(m.own))
			if q.GetNetworkAddress() != "" {
				m.attempt("names of one word", askForShortNames(resolvedConf))
			}
		}
	}
	if q.GetIdentities() {
		m.attempt("metadata service", m.serveMetadata())
	}
	if first {
		begin := time.Now()
		if err := m.makeRoot(); err != nil {
			return agent.Place{}, nil, err
		}
		if m.online != nil {
			m.online.until = begin.Add(networkLimit)
		}
		close(m.adopted)
		m.stages = []*nodev1.Stage{
			{Name: "agentToHello", Duration: durationpb.New(uptime() - m.started)},
			{Name: "directories", Duration: durationpb.New(time.Since(begin))},
		}
		if m.born.IsZero() { // a clone has not booted
			m.stages = append([]*nodev1.Stage{{Name: "kernelToAgent", Duration: durationpb.New(m.started)}}, m.stages...)
		}
		if m.cfg.Privileged {
			// A service manager may have let it go first until now. Of all threads,
			// and before any task can be their child.
			m.attempt("priority", unix.Setpriority(unix.PRIO_PGRP, 0, 0))
		}
	}
	if !m.complete() {
		// The answer of a birth: with what is known, and nothing looked up.
		facts := proto.Clone(m.template.facts).(*nodev1.HelloResponse)
		facts.Booted, facts.Stages = timestamppb.New(m.born), m.stages
		return *m.place, facts, nil
	}
	return *m.place, m.describe(), nil
}

// complete says that all of the machine is its own; mu is held. A clone is not
// until what Personalise has left is done.
func (m *Machine) complete() bool {
	if m.whole == nil {
		return true
	}
	select {
	case <-m.whole:
		return true
	default:
		return false
	}
}

// awaitWhole returns when all of the machine is its own, or with ctx.
func (m *Machine) awaitWhole(ctx context.Context) {
	m.mu.Lock()
	whole := m.whole
	m.mu.Unlock()
	if whole == nil {
		return
	}
	select {
	case <-whole:
	case <-ctx.Done():
	}
}

// makeRoot finds the root directory and makes what belongs below it, once; mu is
// held.
func (m *Machine) makeRoot() error {
	if m.place != nil {
		return nil
	}
	root := m.cfg.Root
	if root == "" {
		root = "/opt/batch/data"
		mounted, err := mountTempDisk(m.cfg.Privileged)
		m.attempt("temporary disk", err)
		if mounted {
			root = filepath.Join(tempMount, "batch")
		}
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("make the node's root directory: %w", err)
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	var fixed []string
	for _, d := range directories {
		path := filepath.Join(root, d.name)
		if err := os.MkdirAll(path, d.mode); err != nil {
			return fmt.Errorf("make the node's directories: %w", err)
		}
		if err := os.Chmod(path, d.mode); err != nil { // whatever the umask
			return fmt.Errorf("make the node's directories: %w", err)
		}
		fixed = append(fixed, d.name)
	}
	files, err := agent.NewRootFiles(root, fixed)
	if err != nil {
		return err
	}
	m.root = root
	runner := m.cfg.Runner(root)
	prepare := &preparer{root: root, log: m.cfg.Log, mayMount: m.cfg.Privileged, engine: m.cfg.Engine, wait: func(context.Context) {}}
	if prepare.engine == nil {
		prepare.engine = func() *container.Engine { return nil }
	}
	if m.cfg.Privileged {
		m.online = &online{Runner: runner, hosts: &m.hosts, whole: m.awaitWhole, up: func() bool { return networkUp() && mountsUp() }, log: m.cfg.Log}
		runner, prepare.wait = m.online, m.online.wait
	}
	// What was announced before this boot has happened.
	if err := os.Remove(filepath.Join(root, proc.ScheduledEvents)); !os.IsNotExist(err) {
		m.attempt("notices", err)
	}
	m.place = &agent.Place{
		Runner:   runner,
		Preparer: prepare,
		Files:    files,
		Journal:  filepath.Join(root, proc.Volatile, "events.log"),
	}
	return nil
}

func (m *Machine) describe() *nodev1.HelloResponse {
	booted := m.born
	if booted.IsZero() {
		booted = m.cfg.Clock.Now().Add(-uptime())
	}
	r := &nodev1.HelloResponse{
		BootId:  firstLine("/proc/sys/kernel/random/boot_id"),
		Kernel:  firstLine("/proc/sys/kernel/osrelease"),
		RootDir: m.root,
		Booted:  timestamppb.New(booted),
		Address: address(),
		Stages:  m.stages,

		SshServer: hasSSH(),
	}
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if b, err := os.ReadFile(p); err == nil {
			r.OsRelease = strings.ToValidUTF8(string(b), "\uFFFD")
			break
		}
	}
	return r
}

// Heartbeat implements agent.Machine.
func (m *Machine) Heartbeat() *nodev1.Heartbeat {
	m.mu.Lock()
	root := m.root
	m.mu.Unlock()
	h := &nodev1.Heartbeat{}
	if f := strings.Fields(firstLine("/proc/loadavg")); len(f) > 0 {
		h.Load1, _ = strconv.ParseFloat(f[0], 64)
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
				kib, _ := strconv.ParseUint(f[1], 10, 64)
				h.MemoryAvailable = kib << 10
			} else if len(f) >= 2 && f[0] == "MemTotal:" {
				kib, _ := strconv.ParseUint(f[1], 10, 64)
				h.MemoryTotal = kib << 10
			}
		}
	}
	var st unix.Statfs_t
	if root != "" && unix.Statfs(root, &st) == nil {
		h.DiskTotal = st.Blocks * uint64(st.Bsize)
		h.DiskAvailable = st.Bavail * uint64(st.Bsize)
	}
	count(h, readFile("/proc/stat"), readFile("/proc/diskstats"), readFile("/proc/net/dev"))
	return h
}

// uptime is the kernel's; time in which a template was frozen is not in it.
func uptime() time.Duration {
	f := strings.Fields(firstLine("/proc/uptime"))
	if len(f) == 0 {
		return 0
	}
	s, _ := strconv.ParseFloat(f[0], 64)
	return time.Duration(s * float64(time.Second))
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

// address is the first IPv4 address that is not the loopback's, empty while
// the network is not up.
func address() string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}

// shutdownGrace is how long an init that was asked has to end the system.
const shutdownGrace = 60 * time.Second

// Shutdown implements agent.Machine; the agent calls it on a goroutine. An init is
// asked first, so that the system ends in order; when none does, the kernel is.
func (m *Machine) Shutdown(reboot bool) error {
	if !m.cfg.Privileged {
		return fmt.Errorf("this agent may not end the machine")
	}
	// What boots next is to find who it is.
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	m.awaitWhole(ctx)
	cancel()
	unix.Sync()
	if askInit(reboot) == nil {
		// An init that does so ends this process long before.
		time.Sleep(shutdownGrace)
	}
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	unix.Sync()
	return unix.Reboot(how)
}

// askInit signals process 1 as systemctl and busybox do: systemd takes
// SIGRTMIN+4 (power off) and +5 (reboot), busybox init SIGUSR2 and SIGTERM.
func askInit(reboot bool) error {
	exe, err := os.Readlink("/proc/1/exe")
	if err != nil {
		return err
	}
	const rtmin = 34 // the C library's SIGRTMIN, as systemd sees it
	var sig syscall.Signal
	switch filepath.Base(exe) {
	case "systemd":
		sig = rtmin + 4
		if reboot {
			sig = rtmin + 5
		}
	case "busybox":
		sig = syscall.SIGUSR2
		if reboot {
			sig = syscall.SIGTERM
		}
	default:
		return fmt.Errorf("process 1 is %s, which takes no signal that is known here", exe)
	}
	return syscall.Kill(1, sig)
}

// Freeze implements agent.Machine.
func (m *Machine) Freeze(limit time.Duration) (held int, trimmed uint64, err error) {
	if !m.cfg.Privileged {
		return 0, 0, fmt.Errorf("this agent may not freeze file systems")
	}
	return m.still.hold(limit)
}

// Thaw implements agent.Machine.
func (m *Machine) Thaw() error { return m.still.end() }

var _ agent.Machine = (*Machine)(nil)
