package fake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/agent/managed"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// vm is one machine. Its disk (files) lives as long as it; each power-on is a
// boot with a boot id and an agent of its own.
type vm struct {
	l    *Launcher
	spec launch.Spec
	disk *disk

	power sync.Mutex // one power change at a time

	mu      sync.Mutex
	status  launch.Status
	console []byte
	boots   int
	logins  []*nodev1.Login
	boot    *boot // nil while off
}

// boot is one run of a machine.
type boot struct {
	vm     *vm
	id     string
	began  time.Time
	fate   fate
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	end    func() // ends the session that runs; nil without one
	silent bool

	frozen atomic.Bool
	// spare: all that a boot takes has passed before.
	spare bool
	// tokens are those of the node's managed identities.
	tokens *managed.Broker
}

// maxConsole bounds what is kept of a console.
const maxConsole = 8 << 10

func newVM(l *Launcher, spec launch.Spec) *vm {
	now := l.cfg.Clock.Now()
	addr := address(spec.Node)
	if spec.Card != nil && spec.Card.Address.IsValid() {
		addr = spec.Card.Address.String()
	}
	lent := map[int]string{}
	for _, d := range spec.DataDisks {
		if d.Managed != "" {
			lent[d.LUN] = d.Managed
		}
	}
	return &vm{l: l, spec: spec, disk: newDisk(l.cfg.Clock), status: launch.Status{
		Node: spec.Node, Generation: spec.Generation, Phase: launch.Preparing, Step: "boot", Accel: "fake", Addr: addr, Started: now, Changed: now, Managed: lent,
	}}
}

// address is a private address made from the node's id; nobody dials it.
func address(node millpond.NodeID) string {
	h := uint32(2166136261)
	for _, c := range []byte(node.Key()) {
		h = (h ^ uint32(c)) * 16777619
	}
	return fmt.Sprintf("10.%d.%d.%d", byte(h>>16), byte(h>>8), 1+byte(h)%254)
}

func (v *vm) current() launch.Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status
}

func (v *vm) set(p launch.Phase, why *launch.Failure) {
	v.mu.Lock()
	v.status.Phase, v.status.Err, v.status.Changed = p, why, v.l.cfg.Clock.Now()
	v.status.Step = ""
	if p == launch.Preparing || p == launch.Failed {
		v.status.Step = "boot"
	}
	v.mu.Unlock()
	v.l.changed.Wake()
}

func (v *vm) log(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.console = fmt.Appendf(v.console, format+"\n", args...)
	if n := len(v.console) - maxConsole; n > 0 {
		v.console = append([]byte(nil), v.console[n:]...)
	}
}

func (v *vm) consoleTail(tail int64) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.console
	if tail >= 0 && int64(len(c)) > tail {
		c = c[int64(len(c))-tail:]
	}
	return append([]byte(nil), c...)
}

// powerOn starts a boot unless one runs.
func (v *vm) powerOn() {
	v.power.Lock()
	defer v.power.Unlock()
	ctx, cancel := context.WithCancel(v.l.ctx)
	b := &boot{vm: v, began: v.l.cfg.Clock.Now(), fate: v.l.draw(v.spec), cancel: cancel, done: make(chan struct{}), tokens: managed.NewBroker(v.l.cfg.Clock)}
	v.mu.Lock()
	if v.boot != nil || !v.l.enter() {
		v.mu.Unlock()
		cancel()
		return
	}
	v.boots++
	if v.boots == 1 && v.status.Clone.Spare {
		b.fate = fate{hang: b.fate.hang, crashAfter: b.fate.crashAfter}
		b.spare = true
	}
	b.id = fmt.Sprintf("%s-%d-%d", v.spec.Node, v.spec.Generation, v.boots)
	v.boot = b
	v.mu.Unlock()
	v.set(launch.Preparing, nil)
	go func() {
		defer v.l.wg.Done()
		defer close(b.done)
		defer cancel()
		b.run(ctx)
	}()
}

// end ends the boot that runs, if any, and waits for it.
func (v *vm) end() {
	v.power.Lock()
	defer v.power.Unlock()
	v.mu.Lock()
	b := v.boot
	v.mu.Unlock()
	if b == nil {
		return
	}
	b.cancel()
	<-b.done
	v.mu.Lock()
	v.boot = nil
	v.mu.Unlock()
}

func (v *vm) crash() {
	v.log("kernel panic - not syncing: crashed on purpose")
	v.set(launch.Failed, &launch.Failure{Host: true, Code: "MachineDied", Message: "The machine's process died.",
		Evidence: string(v.consoleTail(1024)), Suggestion: "The fake launcher was told to crash it."})
}

func (v *vm) cut() {
	if b := v.running(); b != nil {
		b.drop(false)
	}
}

func (v *vm) hang() {
	if b := v.running(); b != nil {
		b.drop(true)
	}
}

func (v *vm) running() *boot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.boot
}

// drop closes the connection, for good when silent.
func (b *boot) drop(silent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent = b.silent || silent
	if b.end != nil {
		b.end()
	}
}

// run is a machine from power-on to its end.
func (b *boot) run(ctx context.Context) {
	v := b.vm
	v.log("fake BIOS: booting %s generation %d", v.spec.Node, v.spec.Generation)
	leave := func() {}
	if !b.spare {
		if !wait(ctx, b.fate.delay) || !v.l.world.enter(ctx) {
			return
		}
		// It has its place on the host until it has booted.
		leave = sync.OnceFunc(v.l.world.leave)
	}
	defer leave()
	switch {
	case b.fate.failHost:
		v.set(launch.Failed, &launch.Failure{Host: true, Code: "HostFailure", Message: "The host could not start the machine.",
			Suggestion: "The fake launcher was told to fail a share of launches."})
		return
	case b.fate.failBoot && v.l.world.model.zero():
		b.failBoot()
		return
	}
	v.mu.Lock()
	v.status.Steps = append(v.status.Steps[:0:0], launch.StepTime{Name: "boot", Duration: v.l.cfg.Clock.Now().Sub(b.began)})
	v.mu.Unlock()
	v.set(launch.Running, nil)
	if b.fate.crashAfter > 0 {
		crashed := time.AfterFunc(b.fate.crashAfter, b.cancel)
		defer func() {
			if !crashed.Stop() && v.l.ctx.Err() == nil {
				v.crash()
			}
		}()
	}
	if !b.spare && !v.l.world.boot(ctx, v.spec, b.fate.normal, b.fate.slow) {
		return
	}
	leave()
	if b.fate.failBoot {
		b.failBoot()
		return
	}
	if b.fate.hang {
		<-ctx.Done()
		return
	}
	b.serve(ctx)
}

func (b *boot) failBoot() {
	b.vm.log("kernel panic - not syncing: VFS: Unable to mount root fs")
	b.vm.set(launch.Failed, &launch.Failure{Code: "GuestBootFailed", Message: "The image did not boot.",
		Evidence: string(b.vm.consoleTail(1024)), Suggestion: "The fake launcher was told to fail a share of boots."})
}

// serve keeps the agent connected until the boot ends.
func (b *boot) serve(ctx context.Context) {
	v := b.vm
	a := agent.New(agent.Config{Version: "fake", Machine: b, Clock: v.l.cfg.Clock, Heartbeat: v.l.cfg.Heartbeat, Tokens: b.tokens})
	defer a.Close()
	v.log("millpond-agent: waiting for the server")
	pause := 20 * time.Millisecond
	for ctx.Err() == nil {
		err := b.session(ctx, a)
		b.mu.Lock()
		b.end = nil
		silent := b.silent
		b.mu.Unlock()
		if silent {
			<-ctx.Done()
			return
		}
		if err == nil {
			pause = 20 * time.Millisecond
		}
		// Without a session the row may not be committed yet, or the server is away.
		if !wait(ctx, pause) {
			return
		}
		if err != nil {
			pause = min(2*pause, time.Second)
		}
	}
}

// session is one contact with the server; an error means that there was none.
func (b *boot) session(ctx context.Context, a *agent.Agent) error {
	v := b.vm
	ctx, end := context.WithCancel(context.WithValue(ctx, agentKey{}, a))
	defer end()
	if v.l.cfg.Join != nil {
		if !b.begin(end) {
			return nil
		}
		return v.l.cfg.Join(ctx, v.spec.Node, v.spec.Generation, v.spec.Channel.Token, v.l.handler)
	}
	conn, err := v.l.cfg.Dial(ctx, v.spec.Node, v.spec.Generation, v.spec.Channel.Token)
	if err != nil {
		return err
	}
	defer conn.Close()
	if b.begin(func() { conn.Close() }) {
		_ = nodeproto.ServeConn(ctx, conn, v.l.handler)
	}
	return nil
}

// begin notes how the session that begins is ended; false for a guest that has
// fallen silent.
func (b *boot) begin(end func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.silent {
		b.end = end
	}
	return !b.silent
}

// wait waits for d unless ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Adopt implements agent.Machine.
func (b *boot) Adopt(_ context.Context, q *nodev1.HelloRequest) (agent.Place, *nodev1.HelloResponse, error) {
	v := b.vm
	v.l.reach.Set(q.GetServerAddress(), q.GetServerCa(), q.GetAzureHosts())
	return agent.Place{Runner: &runner{boot: b}, Files: v.disk, Preparer: preparer{disk: v.disk}}, &nodev1.HelloResponse{
		BootId:    b.id,
		Kernel:    "fake",
		OsRelease: "NAME=\"Millpond fake node\"\nID=fake\n",
		Address:   address(v.spec.Node),
		RootDir:   rootDir,
		Booted:    timestamppb.New(b.began),
		SshServer: true,
		Stages:    []*nodev1.Stage{{Name: "kernelToAgent", Duration: durationpb.New(b.fate.delay)}},
	}, nil
}

// Heartbeat implements agent.Machine.
func (b *boot) Heartbeat() *nodev1.Heartbeat {
	return &nodev1.Heartbeat{Load1: 0.1, MemoryAvailable: uint64(b.vm.spec.MemoryMiB) << 20, DiskTotal: 64 << 30, DiskAvailable: 60 << 30}
}

// SetLogins implements agent.Machine: nobody logs in to a fake machine, which
// remembers who could.
func (b *boot) SetLogins(q *nodev1.SetLoginsRequest) error {
	b.vm.mu.Lock()
	defer b.vm.mu.Unlock()
	b.vm.logins = q.GetLogins()
	return nil
}

// Logins are the accounts of a node's machine that people could log in with.
func (l *Launcher) Logins(node millpond.NodeID) []*nodev1.Login {
	l.mu.Lock()
	v := l.vms[node.Key()]
	l.mu.Unlock()
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

// Shutdown implements agent.Machine. It is called on a goroutine of its own,
// which may therefore wait for the boot that it ends.
func (b *boot) Shutdown(reboot bool) error {
	v := b.vm
	if v.running() != b {
		return nil
	}
	v.end()
	if reboot {
		v.powerOn()
	} else {
		v.set(launch.Stopped, nil)
	}
	return nil
}

// Freeze implements agent.Machine: a fake machine has one file system, which
// nobody writes to, and no limit ends its stillness.
func (b *boot) Freeze(time.Duration) (held int, trimmed uint64, err error) {
	b.frozen.Store(true)
	return 1, 0, nil
}

// Thaw implements agent.Machine.
func (b *boot) Thaw() error {
	if !b.frozen.Swap(false) {
		return errors.New("nothing is frozen")
	}
	return nil
}

// Frozen says whether the guest of a node is held still.
func (l *Launcher) Frozen(node millpond.NodeID) bool {
	l.mu.Lock()
	v := l.vms[node.Key()]
	l.mu.Unlock()
	if v == nil {
		return false
	}
	b := v.running()
	return b != nil && b.frozen.Load()
}
