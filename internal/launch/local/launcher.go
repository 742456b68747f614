// Package local runs VMs on this host: one folder and one detached supervisor
// process (package vmrun) per VM. It keeps nothing of a VM in memory that the
// folders do not say, so a restarted server opens the same folder and has its VMs
// again. Beside the VMs' folders lie those of templates, the machines at rest that
// VMs are copied from, and of spares, copies that are nobody's yet; templates.go and
// spares.go decide when one is made and goes.
//
// It knows no pools and chooses no sizes; only cmd/millpond names it. It never
// talks to QEMU: that is the supervisor's.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/accel"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/lan"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/vmrun"
	"millpond.dev/millpond/internal/wake"
)

// Config is what the launcher is made from. Dir, CacheDir, Supervisor, Tools,
// Clock and Log are required.
type Config struct {
	// Dir has one folder per VM, named by the node's key.
	Dir string
	// CacheDir keeps what VMs share and what can be made again.
	CacheDir string
	// HostKey is the file of the host's key for encrypted disks, which is made when the
	// first VM needs it.
	HostKey string
	// Supervisor is the command of a supervisor, such as [millpond vm-run]; it
	// gets "--dir DIR" behind it.
	Supervisor []string
	Tools      vmrun.Tools
	// AgentBinary is delivered to images that have no agent; empty for never.
	AgentBinary string
	Accel       accel.Mode
	// VCPUCap and MemoryCapMiB cap each VM whatever its size promises; 0 means
	// the host's processors, and no cap.
	VCPUCap, MemoryCapMiB int
	// MaxVMs and MemoryMiB bound what runs in all; 0 means no bound, and nine
	// tenths of the host's memory.
	MaxVMs    int
	MemoryMiB int64
	// ConcurrentStarts is how many VMs start at a time; 0 means one a core.
	// More of them only make all of them late together.
	ConcurrentStarts int
	// StopGrace is what guests may take to power off when their supervisor gets
	// SIGTERM; 0 means 20 s.
	StopGrace time.Duration
	// Subnets is divided into one network of 8 addresses per VM; the zero value
	// means 10.77.0.0/16. Nodes cannot reach each other through it: each VM's
	// network is an island behind QEMU's address translation.
	Subnets netip.Prefix
	// Images serves contents of image stores; nil if no VM has a disk from one.
	Images Images
	// Managed is the folder of managed disks, and ManagedStores are the stores that
	// have what these lie on.
	Managed       string
	ManagedStores []launch.Store
	// Templates says how VMs are copied from one that has booted.
	Templates Templates
	Clock     clock.Clock
	Log       *slog.Logger
}

// startLimit is how long a start may hold one of the places; it then goes on
// without.
const startLimit = 90 * time.Second

// killLimit bounds the wait for processes that have been sent SIGKILL.
const killLimit = 10 * time.Second

// Launcher implements launch.Launcher, Notifier and Consoler.
type Launcher struct {
	cfg     Config
	changed *wake.Signal
	starts  chan struct{}
	watch   *watcher
	prover  accel.Prover
	// prepared is closed when verdict, agentDisk and prepareErr are set.
	prepared   chan struct{}
	verdict    accel.Verdict
	agentDisk  string
	prepareErr error

	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup

	mu  sync.Mutex
	vms map[string]*vm // by node key
	// contents are what VMs read from image stores.
	contents contents
	// locks serialize Launch, Reset, Stop and Destroy of a node.
	locks map[string]*nodeLock
	// templates has a lock of its own, which is taken before the launcher's.
	templates *templates
	// spares has a lock of its own, which is taken before the launcher's.
	spares *spares
}

var (
	_ launch.Launcher = (*Launcher)(nil)
	_ launch.Notifier = (*Launcher)(nil)
	_ launch.Consoler = (*Launcher)(nil)
	_ launch.Porter   = (*Launcher)(nil)
	_ launch.Keeper   = (*Launcher)(nil)
	_ launch.Teller   = (*Launcher)(nil)
)

// lans is the folder of the networks that machines share; no VM's folder begins
// with a dot.
func (l *Launcher) lans() string { return filepath.Join(l.cfg.Dir, ".lan") }

// trashPrefix marks folders whose removal has begun.
const trashPrefix = ".trash-"

// Open takes over the VMs in cfg.Dir, running or not. The launcher works until
// Close, which leaves the VMs running.
func Open(cfg Config) (*Launcher, error) {
	if cfg.ConcurrentStarts <= 0 {
		cfg.ConcurrentStarts = runtime.NumCPU()
	}
	if cfg.VCPUCap <= 0 {
		cfg.VCPUCap = runtime.NumCPU()
	}
	if cfg.StopGrace <= 0 {
		cfg.StopGrace = 20 * time.Second
	}
	if !cfg.Subnets.IsValid() {
		cfg.Subnets = netip.MustParsePrefix("10.77.0.0/16")
	}
	var err error
	for _, d := range []*string{&cfg.Dir, &cfg.CacheDir} {
		if *d, err = filepath.Abs(*d); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(*d, 0o700); err != nil {
			return nil, err
		}
	}
	l := &Launcher{cfg: cfg, changed: wake.New(), starts: make(chan struct{}, cfg.ConcurrentStarts),
		contents: contents{images: cfg.Images}, prepared: make(chan struct{}), vms: map[string]*vm{}, locks: map[string]*nodeLock{},
		prover: accel.Prover{QEMU: cfg.Tools.QEMU, CacheFile: filepath.Join(cfg.CacheDir, "accel.json")}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.templates, l.spares = newTemplates(l, cfg.Templates), newSpares(l)
	if l.watch, err = newWatcher(l.statusChanged); err != nil {
		return nil, err
	}
	l.loops.Go(l.watch.loop)
	if err := errors.Join(l.takeOver(), l.templates.takeOver(l.ctx)); err != nil {
		l.Close()
		return nil, err
	}
	l.loops.Go(l.prepare)
	l.loops.Go(l.spares.loop)
	return l, nil
}

// Close ends the launcher, not its VMs.
func (l *Launcher) Close() error {
	l.cancel()
	l.mu.Lock()
	for _, v := range l.vms {
		v.cancel()
	}
	l.mu.Unlock()
	err := l.watch.close()
	l.loops.Wait()
	return err
}

// prepare does what every start needs and may take seconds: the proof of KVM,
// the agent disk.
func (l *Launcher) prepare() {
	defer close(l.prepared)
	l.loops.Go(func() { l.provideAll(l.ctx) })
	v, err := l.prover.Decide(l.ctx, l.cfg.Accel)
	if l.prepareErr = err; err != nil {
		return
	}
	l.mu.Lock()
	l.verdict = v
	l.mu.Unlock()
	l.cfg.Log.Info("acceleration decided", "accel", string(v.Accel), "reason", v.Reason, "took", v.Took)
	if l.cfg.AgentBinary != "" {
		l.agentDisk, l.prepareErr = agentDisk(l.cfg.CacheDir, l.cfg.AgentBinary)
	}
}

// Accel tells the acceleration that VMs get and why; it waits for the proof.
func (l *Launcher) Accel(ctx context.Context) (accel.Verdict, error) {
	select {
	case <-l.prepared:
		return l.accelFor(), l.prepareErr
	case <-ctx.Done():
		return accel.Verdict{}, ctx.Err()
	}
}

// Changed is received from after any VM's status may have changed.
func (l *Launcher) Changed() <-chan struct{} { return l.changed.C() }

// nodeName is what may be a folder's name: it cannot climb out of one, and it
// is none of the launcher's own names.
var nodeName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,127}$`)

// Launch writes the VM's folder and queues its start.
func (l *Launcher) Launch(ctx context.Context, spec launch.Spec) error {
	key := spec.Node.Key()
	if !nodeName.MatchString(key) {
		return millpond.Errorf(millpond.Invalid, "InvalidNodeId",
			"The node id %q cannot name a folder; use 1 to 128 letters, digits, dots, hyphens and underscores, beginning with a letter or digit.", spec.Node)
	}
	unlock, err := l.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if old := l.find(key); old != nil {
		switch have := old.cfg.Spec.Generation; {
		case have == spec.Generation:
			return nil
		case have > spec.Generation:
			return millpond.Errorf(millpond.Conflict, "StaleGeneration",
				"The node %s has generation %d on this host already; generation %d is over.", spec.Node, have, spec.Generation)
		}
		if err := l.destroy(ctx, old); err != nil {
			return err
		}
	}
	return l.create(key, spec)
}

// configured is what a VM's supervisor is told. Its network stands for the one that
// it gets when it is admitted: that it has one is a part of its kind.
func (l *Launcher) configured(spec launch.Spec) vmrun.Config {
	cfg := vmrun.Config{Spec: spec, Tools: l.cfg.Tools, CacheDir: l.cfg.CacheDir, HostKey: l.cfg.HostKey, StopGrace: l.cfg.StopGrace,
		VCPUs: min(spec.VCPUs, l.cfg.VCPUCap), MemoryMiB: spec.MemoryMiB}
	if l.cfg.MemoryCapMiB > 0 {
		cfg.MemoryMiB = min(cfg.MemoryMiB, l.cfg.MemoryCapMiB)
	}
	cfg.LAN, _ = vmrun.LANPlace(l.lans(), spec)
	cfg.Network = netip.PrefixFrom(l.cfg.Subnets.Masked().Addr(), subnetBits)
	return cfg
}

// create makes a VM that is not there, of a spare if there is one of its kind. The
// caller holds the node's lock.
func (l *Launcher) create(key string, spec launch.Spec) error {
	cfg := l.configured(spec)
	for sp := l.spares.take(cfg); sp != nil; sp = l.spares.take(cfg) {
		if again, err := l.adopt(key, sp, cfg); !again {
			return err
		}
	}
	v := newVM(l.ctx, key, filepath.Join(l.cfg.Dir, key), cfg)
	attempt := v.enqueue()
	for err := l.admit(key, v); err != nil; err = l.admit(key, v) {
		if !full(err) || !l.spares.yield() {
			v.cancel()
			return err
		}
	}
	if err := l.write(v); err != nil {
		v.cancel()
		l.forget(key)
		return errors.Join(&launch.HostError{Step: "write the VM's folder", Err: err}, os.RemoveAll(v.dir))
	}
	l.cfg.Log.Info("VM queued", "node", string(spec.Node), "generation", spec.Generation)
	l.begin(v, attempt)
	l.changed.Wake()
	return nil
}

// write makes the folder. The configuration comes last: a folder without one is
// rubbish, a folder with one is a promise to start the VM.
func (l *Launcher) write(v *vm) error {
	if vmrun.Encrypts(v.cfg.Spec) {
		if err := vmrun.EnsureHostKey(v.cfg.HostKey); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return err
	}
	if err := vmrun.SaveStatus(v.dir, l.queuedStatus(v)); err != nil {
		return err
	}
	if err := v.cfg.Save(v.dir); err != nil {
		return err
	}
	return l.watch.add(v.dir)
}

func (l *Launcher) queuedStatus(v *vm) launch.Status {
	now := l.cfg.Clock.Now()
	return launch.Status{Node: v.cfg.Spec.Node, Generation: v.cfg.Spec.Generation, Phase: launch.Preparing, Step: stepQueued, Started: now, Changed: now}
}

// List reads every VM's status.
func (l *Launcher) List(ctx context.Context) ([]launch.Status, error) {
	vms := l.all()
	out := make([]launch.Status, 0, len(vms))
	for _, v := range vms {
		if v.spare {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		st, ok := l.status(v)
		if ok {
			st.Managed = v.managed()
			out = append(out, st)
		}
	}
	return out, nil
}

// Tell is what List says of one VM.
func (l *Launcher) Tell(_ context.Context, node millpond.NodeID) (launch.Status, bool) {
	v := l.find(node.Key())
	if v == nil || v.spare {
		return launch.Status{}, false
	}
	st, ok := l.status(v)
	st.Managed = v.managed()
	return st, ok
}

// managed are the managed data disks that a VM was given.
func (v *vm) managed() map[int]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[int]string{}
	for _, d := range v.cfg.Spec.DataDisks {
		if d.Managed != "" {
			out[d.LUN] = d.Managed
		}
	}
	return out
}

// status is a VM's, false if it was destroyed under our hands.
func (l *Launcher) status(v *vm) (launch.Status, bool) {
	// First whether it runs, then what it wrote: the other way round a VM that
	// ends in between would look lost.
	alive := v.alive()
	st, err := vmrun.LoadStatus(v.dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) && l.find(v.key) != v {
			return launch.Status{}, false
		}
		if errors.Is(err, os.ErrNotExist) && alive { // Launch is just writing it
			return l.queuedStatus(v), true
		}
		return launch.Status{Node: v.cfg.Spec.Node, Generation: v.cfg.Spec.Generation, Phase: launch.Failed, Changed: l.cfg.Clock.Now(),
			Err: vmrun.SupervisorLost(err.Error())}, true
	}
	if st.Phase == vmrun.Parked { // it has a node and does not know yet; see become
		return l.queuedStatus(v), true
	}
	st.Node, st.Generation = v.cfg.Spec.Node, v.cfg.Spec.Generation // it may have ended as a spare
	if !alive && (st.Phase == launch.Running || st.Phase == launch.Preparing) {
		st.Phase = launch.Failed
		st.Err = vmrun.SupervisorLost(vmrun.Evidence(vmrun.SupervisorLog(v.dir)))
	}
	return st, true
}

// Reset restarts a running guest under its supervisor; a VM that has ended is
// started again with its disks.
func (l *Launcher) Reset(ctx context.Context, node millpond.NodeID) error {
	unlock, err := l.lock(ctx, node.Key())
	if err != nil {
		return err
	}
	defer unlock()
	v, err := l.known(node)
	if err != nil {
		return err
	}
	if v.alive() {
		_, err := vmrun.Call(ctx, v.dir, vmrun.Request{Op: vmrun.OpReset})
		if err == nil || !errors.Is(err, vmrun.ErrNoSupervisor) {
			return hostError("reset", err)
		}
		if err := v.waitEnd(ctx); err != nil {
			return err
		}
	}
	attempt := v.enqueue()
	err = l.room(v)
	for err != nil && full(err) && l.spares.yield() {
		err = l.room(v)
	}
	if err != nil {
		_, derr := v.dequeue(nil)
		return errors.Join(err, derr)
	}
	if err := vmrun.SaveStatus(v.dir, l.queuedStatus(v)); err != nil {
		_, derr := v.dequeue(nil)
		return hostError("reset", errors.Join(err, derr))
	}
	l.begin(v, attempt)
	return nil
}

// Stop ends the VM by its power button, by force after grace, and returns when
// it has ended.
func (l *Launcher) Stop(ctx context.Context, node millpond.NodeID, grace time.Duration) error {
	unlock, err := l.lock(ctx, node.Key())
	if err != nil {
		return err
	}
	defer unlock()
	v, err := l.known(node)
	if err != nil {
		return err
	}
	st := launch.Status{Node: v.cfg.Spec.Node, Generation: v.cfg.Spec.Generation, Phase: launch.Stopped, Changed: l.cfg.Clock.Now()}
	if ok, err := v.dequeue(&st); ok || err != nil {
		return hostError("stop", err)
	}
	if !v.alive() {
		return nil
	}
	if err := v.waitControl(ctx); err != nil {
		return err
	}
	_, err = vmrun.Call(ctx, v.dir, vmrun.Request{Op: vmrun.OpStop, Grace: grace})
	if err != nil && !errors.Is(err, vmrun.ErrNoSupervisor) {
		return hostError("stop", err)
	}
	return v.waitEnd(ctx)
}

// SetPorts replaces the ports that lead into a VM and the filters of its card, now
// and at its next start.
func (l *Launcher) SetPorts(ctx context.Context, node millpond.NodeID, ports []launch.Port, filters launch.Filters) error {
	unlock, err := l.lock(ctx, node.Key())
	if err != nil {
		return err
	}
	defer unlock()
	v, err := l.known(node)
	if err != nil {
		return err
	}
	if v.cfg.Spec.Card == nil {
		return millpond.Errorf(millpond.Conflict, "NoNetworkCard", "The machine %s has no network card of its own.", node)
	}
	card := *v.cfg.Spec.Card
	card.Ports, card.Filters = ports, filters
	v.mu.Lock()
	v.cfg.Spec.Card = &card
	err = v.cfg.Save(v.dir)
	v.mu.Unlock()
	if err != nil {
		return hostError("set ports", err)
	}
	st, err := vmrun.LoadStatus(v.dir)
	if err != nil || st.Phase != launch.Running || !v.alive() {
		return nil // the next start opens them
	}
	_, err = vmrun.Call(ctx, v.dir, vmrun.Request{Op: vmrun.OpPorts, Ports: ports, Filters: filters})
	if errors.Is(err, vmrun.ErrNoSupervisor) {
		return nil
	}
	return hostError("set ports", err)
}

// Destroy ends the VM at once and removes its folder.
func (l *Launcher) Destroy(ctx context.Context, node millpond.NodeID) error {
	unlock, err := l.lock(ctx, node.Key())
	if err != nil {
		return err
	}
	defer unlock()
	v := l.find(node.Key())
	if v == nil {
		return nil
	}
	return l.destroy(ctx, v)
}

// destroy is Destroy under the node's lock.
func (l *Launcher) destroy(ctx context.Context, v *vm) error {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	if _, err := v.dequeue(nil); err != nil {
		return hostError("destroy", err)
	}
	if err := v.kill(ctx); err != nil {
		return hostError("destroy", err)
	}
	// The folder gets out of the way at once; if its removal is cut short, the
	// next Open finishes it.
	trash := filepath.Join(l.cfg.Dir, fmt.Sprintf("%s%s-%d-%d", trashPrefix, v.key, v.cfg.Spec.Generation, l.cfg.Clock.Now().UnixNano()))
	l.watch.remove(v.dir)
	if err := os.Rename(v.dir, trash); err != nil && !errors.Is(err, os.ErrNotExist) {
		return hostError("destroy", err)
	}
	l.forget(v.key)
	v.cancel()
	if dir, mac := vmrun.LANPlace(l.lans(), v.cfg.Spec); dir != "" {
		// A supervisor that was killed has left it.
		if err := lan.Leave(dir, mac); err != nil {
			l.cfg.Log.Warn("a machine's place in its network was not removed", "node", string(v.cfg.Spec.Node), "err", err)
		}
		_ = os.Remove(dir) // of the last one; else it is not empty
	}
	if len(l.exports(v.cfg.Spec)) > 0 {
		l.loops.Go(func() { l.keepImages(l.ctx) })
	}
	l.changed.Wake()
	l.spares.wake.Wake()
	l.cfg.Log.Info("VM destroyed", "node", string(v.cfg.Spec.Node), "generation", v.cfg.Spec.Generation)
	return hostError("destroy", os.RemoveAll(trash))
}

// Console is the VM's last serial output.
func (l *Launcher) Console(ctx context.Context, node millpond.NodeID, tail int64) ([]byte, error) {
	v, err := l.known(node)
	if err != nil {
		return nil, err
	}
	return vmrun.Console(ctx, v.dir, tail)
}

func (l *Launcher) find(key string) *vm {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.vms[key]
}

// inFolder is the VM whose folder is dir.
func (l *Launcher) inFolder(dir string) *vm {
	if v := l.find(filepath.Base(dir)); v != nil && v.dir == dir {
		return v
	}
	for _, v := range l.all() {
		if v.dir == dir {
			return v
		}
	}
	return nil
}

// all are the VMs as they are now, spares too.
func (l *Launcher) all() []*vm {
	l.mu.Lock()
	defer l.mu.Unlock()
	vms := make([]*vm, 0, len(l.vms))
	for _, v := range l.vms {
		vms = append(vms, v)
	}
	return vms
}

func (l *Launcher) known(node millpond.NodeID) (*vm, error) {
	if v := l.find(node.Key()); v != nil {
		return v, nil
	}
	return nil, millpond.Errorf(millpond.NotFound, "NodeNotFound", "The node %s has no VM on this host.", node)
}

func (l *Launcher) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.vms, key)
}

func hostError(step string, err error) error {
	if err == nil {
		return nil
	}
	return &launch.HostError{Step: step, Err: err}
}
