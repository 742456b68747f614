// Package fake is the launcher that runs no machines (millpond serve
// --launcher fake): each node is a goroutine with the real agent over a
// scripted runner and files in memory. Thousands fit into one process. It can
// delay, fail, hang and crash, and serves scale tests, fault tests and trying
// out scripts for Batch without QEMU.
//
// Its nodes keep nothing over a restart of the process. It never starts a
// process and touches no disk. cmd/millpond and tests are its callers.
package fake

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/transfer"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/wake"
)

// Dial opens a node's channel to the server: through the network as a
// supervisor does, or within the process (nodeapi.Handler.Dial).
type Dial func(ctx context.Context, node millpond.NodeID, generation int, token string) (net.Conn, error)

// Join runs a session with an agent of this process, whose handler is called
// directly (nodeapi.Handler.Join), until the session or ctx ends. An error means
// that there was none.
type Join func(ctx context.Context, node millpond.NodeID, generation int, token string, agent http.Handler) error

// Behaviour is how machines behave. The zero value boots at once and well.
type Behaviour struct {
	// BootDelay is the time from Launch to the agent's first dial; Jitter is
	// added to it, evenly spread.
	BootDelay, Jitter time.Duration
	// FailBoot is the probability, 0–1, that a launch ends as failed by the guest.
	FailBoot float64
	// FailHost is the same for a failure by the host.
	FailHost float64
	// Hang is the probability that a guest runs but its agent never answers.
	Hang float64
	// CrashAfter, when not 0, is the mean time after which a running machine dies.
	CrashAfter time.Duration
}

// Config is what the launcher works with.
type Config struct {
	Clock clock.Clock
	Log   *slog.Logger
	// Dial is used when there is no Join, which costs a third of it.
	Dial Dial
	Join Join
	// Behaviour may be changed later with SetBehaviour.
	Behaviour Behaviour
	// Model is what boots need of hosts and replicas.
	Model Model
	// Seed makes the random choices repeatable.
	Seed uint64
	// VMs and MemoryMiB are the capacity; 10,000 and 64 TiB when 0.
	VMs       int
	MemoryMiB int64
	// Heartbeat is the time between heartbeats of an agent, 5 s when 0.
	Heartbeat time.Duration
	// Speed divides the seconds of sleep commands and of Model; 1 when 0.
	Speed float64
}

// Launcher implements launch.Launcher, launch.Notifier and launch.Consoler.
type Launcher struct {
	cfg     Config
	changed *wake.Signal
	handler http.Handler // all nodes'
	// reach and blobs fetch and list what tasks name, for all nodes.
	reach  *transfer.Reach
	blobs  *transfer.Blobs
	world  *world
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	rng       *rand.Rand
	behaviour Behaviour
	vms       map[string]*vm
	spares    map[string]*spares // by kind
	wanted    []launch.Spares
}

// New makes a launcher without machines. Close ends it.
func New(cfg Config) *Launcher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.VMs = cmp.Or(cfg.VMs, 10_000)
	cfg.MemoryMiB = cmp.Or(cfg.MemoryMiB, 64<<20)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, 5*time.Second)
	cfg.Speed = cmp.Or(cfg.Speed, 1)
	l := &Launcher{cfg: cfg, changed: wake.New(), handler: nodeproto.NewHandler(dispatch{}), rng: rand.New(rand.NewPCG(cfg.Seed, 0)), behaviour: cfg.Behaviour, vms: map[string]*vm{}, spares: map[string]*spares{}, reach: &transfer.Reach{}}
	l.blobs = transfer.NewBlobs(l.reach, time.Minute)
	l.world = newWorld(cfg.Model, cfg.Speed)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Close ends every machine and waits.
func (l *Launcher) Close() error {
	l.mu.Lock()
	l.cancel()
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

// enter counts a boot that Close waits for; false after Close.
func (l *Launcher) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.wg.Add(1)
	return true
}

// SetBehaviour is for boots from now on.
func (l *Launcher) SetBehaviour(b Behaviour) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behaviour = b
}

// AttachDisk and DetachDisk note the disk; a fake machine does nothing with it.
func (l *Launcher) AttachDisk(_ context.Context, node millpond.NodeID, d launch.Disk) error {
	return l.disks(node, func(have map[int]string) { have[d.LUN] = d.Managed })
}

// DetachDisk implements launch.Attacher.
func (l *Launcher) DetachDisk(_ context.Context, node millpond.NodeID, lun int) error {
	return l.disks(node, func(have map[int]string) { delete(have, lun) })
}

func (l *Launcher) disks(node millpond.NodeID, change func(map[int]string)) error {
	v, err := l.find(node)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	// Whoever has a status reads the old map.
	have := maps.Clone(v.status.Managed)
	change(have)
	v.status.Managed = have
	return nil
}

// SetPorts notes the ports as open and the filters as set; nothing listens.
func (l *Launcher) SetPorts(_ context.Context, node millpond.NodeID, ports []launch.Port, filters launch.Filters) error {
	l.mu.Lock()
	v := l.vms[node.Key()]
	l.mu.Unlock()
	if v == nil {
		return millpond.Errorf(millpond.NotFound, "NodeNotFound", "The node %s has no machine.", node)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.Ports, v.status.Filters = nil, filters
	for _, p := range ports {
		v.status.Ports = append(v.status.Ports, launch.PortStatus{Port: p})
	}
	return nil
}

// Launch implements launch.Launcher.
func (l *Launcher) Launch(_ context.Context, spec launch.Spec) error {
	if spec.Node == "" {
		return millpond.Errorf(millpond.Invalid, "InvalidSpec", "A machine needs a node id.")
	}
	l.mu.Lock()
	old := l.vms[spec.Node.Key()]
	if old != nil && old.spec.Generation > spec.Generation {
		l.mu.Unlock()
		return millpond.Errorf(millpond.Conflict, "NodeGenerationConflict", "Node %s runs in generation %d already; %d is older.", spec.Node, old.spec.Generation, spec.Generation)
	}
	if old != nil && old.spec.Generation == spec.Generation {
		l.mu.Unlock()
		return nil
	}
	if l.ctx.Err() != nil {
		l.mu.Unlock()
		return &launch.HostError{Step: "launch", Err: l.ctx.Err()}
	}
	if old == nil && len(l.vms) >= l.cfg.VMs {
		l.mu.Unlock()
		return &launch.HostError{Step: "launch", Err: fmt.Errorf("the fake launcher is full with %d machines", l.cfg.VMs)}
	}
	v := newVM(l, spec)
	v.status.Clone.Spare = l.take(spec)
	l.vms[spec.Node.Key()] = v
	l.yield()
	l.refill()
	l.mu.Unlock()
	if old != nil {
		old.end()
	}
	v.powerOn()
	l.changed.Wake()
	return nil
}

// List implements launch.Launcher.
func (l *Launcher) List(context.Context) ([]launch.Status, error) {
	l.mu.Lock()
	vms := make([]*vm, 0, len(l.vms))
	for _, v := range l.vms {
		vms = append(vms, v)
	}
	l.mu.Unlock()
	list := make([]launch.Status, 0, len(vms))
	for _, v := range vms {
		list = append(list, v.current())
	}
	return list, nil
}

// Tell is what List says of one machine.
func (l *Launcher) Tell(_ context.Context, node millpond.NodeID) (launch.Status, bool) {
	v, err := l.find(node)
	if err != nil {
		return launch.Status{}, false
	}
	return v.current(), true
}

// Reset implements launch.Launcher.
func (l *Launcher) Reset(_ context.Context, node millpond.NodeID) error {
	v, err := l.find(node)
	if err != nil {
		return err
	}
	v.end()
	v.powerOn()
	return nil
}

// Stop implements launch.Launcher.
func (l *Launcher) Stop(_ context.Context, node millpond.NodeID, _ time.Duration) error {
	v, err := l.find(node)
	if err != nil {
		return err
	}
	v.end()
	v.set(launch.Stopped, nil)
	return nil
}

// Destroy implements launch.Launcher.
func (l *Launcher) Destroy(_ context.Context, node millpond.NodeID) error {
	l.mu.Lock()
	v := l.vms[node.Key()]
	delete(l.vms, node.Key())
	l.refill()
	l.mu.Unlock()
	if v != nil {
		v.end()
		l.changed.Wake()
	}
	return nil
}

// Capacity implements launch.Launcher.
func (l *Launcher) Capacity(context.Context) (launch.Capacity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := launch.Capacity{VMs: l.cfg.VMs, UsedVMs: len(l.vms), MemoryMiB: l.cfg.MemoryMiB}
	for _, v := range l.vms {
		c.UsedMemoryMiB += int64(v.spec.MemoryMiB)
	}
	return c, nil
}

// Changed implements launch.Notifier.
func (l *Launcher) Changed() <-chan struct{} { return l.changed.C() }

// Console implements launch.Consoler.
func (l *Launcher) Console(_ context.Context, node millpond.NodeID, tail int64) ([]byte, error) {
	v, err := l.find(node)
	if err != nil {
		return nil, err
	}
	return v.consoleTail(tail), nil
}

// Crash makes a machine die as if its QEMU had, for fault tests.
func (l *Launcher) Crash(node millpond.NodeID) error {
	v, err := l.find(node)
	if err != nil {
		return err
	}
	v.end()
	v.crash()
	return nil
}

// Cut drops a node's session; its agent dials again.
func (l *Launcher) Cut(node millpond.NodeID) error {
	v, err := l.find(node)
	if err != nil {
		return err
	}
	v.cut()
	return nil
}

// HangNode makes a node's agent fall silent for good, while its machine runs.
func (l *Launcher) HangNode(node millpond.NodeID) error {
	v, err := l.find(node)
	if err != nil {
		return err
	}
	v.hang()
	return nil
}

func (l *Launcher) find(node millpond.NodeID) (*vm, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.vms[node.Key()]; v != nil {
		return v, nil
	}
	return nil, millpond.Errorf(millpond.NotFound, "NodeNotFound", "The launcher knows no machine of node %s.", node)
}

// fate is what chance has decided for one boot.
type fate struct {
	delay              time.Duration
	failBoot, failHost bool
	hang               bool
	crashAfter         time.Duration
	normal             float64 // how this boot differs from the median one
	slow               bool
}

// LabelFate is a label of a Spec that overrules chance for its machine:
// "fail-host", "fail-boot" or "hang".
const LabelFate = "millpond-fake"

func (l *Launcher) draw(spec launch.Spec) fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, r := l.behaviour, l.rng
	f := fate{delay: b.BootDelay}
	if b.Jitter > 0 {
		f.delay += time.Duration(r.Int64N(int64(b.Jitter)))
	}
	f.failHost = r.Float64() < b.FailHost
	f.failBoot = r.Float64() < b.FailBoot
	f.hang = r.Float64() < b.Hang
	f.normal, f.slow = r.NormFloat64(), r.Float64() < l.cfg.Model.Slow
	if told := spec.Labels[LabelFate]; told != "" {
		f.failHost, f.failBoot, f.hang = told == "fail-host", told == "fail-boot", told == "hang"
	}
	if b.CrashAfter > 0 {
		f.crashAfter = time.Duration(r.ExpFloat64() * float64(b.CrashAfter))
	}
	return f
}

var (
	_ launch.Launcher = (*Launcher)(nil)
	_ launch.Notifier = (*Launcher)(nil)
	_ launch.Consoler = (*Launcher)(nil)
	_ launch.Teller   = (*Launcher)(nil)
)
