package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/accel"
	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/vmrun"
	"millpond.dev/millpond/internal/wake"
)

// stepQueued is the step of a VM whose supervisor has not been started yet.
const stepQueued = "queued"

// vm is one VM as this process knows it. Its life:
//
//	queued ──► started (a supervisor lives) ──► ended
//	   ▲──────────────── Reset ◄──────────────────┘
type vm struct {
	key string
	dir string

	// ctx ends with the launcher or the VM.
	ctx    context.Context
	cancel context.CancelFunc

	// mu is taken after the launcher's, never before it.
	mu  sync.Mutex
	cfg vmrun.Config
	// coming are data disks that are being attached and not in cfg yet.
	coming []launch.Disk
	// cloneLost: it has been seen that the VM's clone did not come to life.
	cloneLost bool
	// queued is set from begin until the supervisor is started or dequeue.
	queued bool
	// attempt grows with each begin and dequeue, so that an overtaken start
	// does nothing.
	attempt int
	// proc is the living supervisor, nil without one; ended is closed with it.
	proc  *process.Process
	ended chan struct{}

	// spare: it is nobody's machine; its key is its folder's name, which no node has.
	// parked: it waits, and takes resident MiB. claimed, by who ends it or gives it to
	// a node, is the launcher's mutex's.
	spare    bool
	parked   atomic.Bool
	resident atomic.Int64
	claimed  bool
}

func newVM(parent context.Context, key, dir string, cfg vmrun.Config) *vm {
	v := &vm{key: key, dir: dir, cfg: cfg}
	v.ctx, v.cancel = context.WithCancel(parent)
	return v
}

// alive says that a supervisor lives or is about to be started.
func (v *vm) alive() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.queued || v.proc != nil
}

// room is what the VM takes of the host's memory, in MiB: what its guest may use, or
// what it has used if it is stopped there. 0 when it has ended.
func (v *vm) room() int64 {
	switch {
	case !v.alive():
		return 0
	case v.spare && v.parked.Load():
		return v.resident.Load()
	}
	return int64(v.cfg.MemoryMiB)
}

// enqueue promises a start; begin is to follow. The promise is made before the
// status says so: a VM that is preparing and not alive would look lost.
func (v *vm) enqueue() (attempt int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.queued = true
	v.attempt++
	return v.attempt
}

// dequeue takes back a start that has not happened and writes the status that
// says so, if there is one to write; false if the start has happened.
func (v *vm) dequeue(st *launch.Status) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.queued {
		return false, nil
	}
	if st != nil {
		if err := vmrun.SaveStatus(v.dir, *st); err != nil {
			return false, err
		}
	}
	v.queued = false
	v.attempt++
	return true, nil
}

// attach takes hold of the supervisor that the folder's handle names.
func (v *vm) attach() (bool, error) {
	h, err := vmrun.LoadHandle(v.dir)
	if err != nil {
		return false, err
	}
	p, err := process.Find(h.Supervisor)
	if errors.Is(err, process.ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.proc, v.ended = p, make(chan struct{})
	return true, nil
}

// follow waits for the supervisor's end and tells the launcher's owner. A
// supervisor that found another one in the folder gives way to it; then the
// handle names that one, and it is followed instead.
func (v *vm) follow(changed *wake.Signal) {
	for {
		v.mu.Lock()
		p, ended := v.proc, v.ended
		v.mu.Unlock()
		err := p.Wait(v.ctx)
		p.Close()
		if err != nil && v.ctx.Err() != nil {
			return // the launcher closes; the VM lives on
		}
		v.mu.Lock()
		v.proc = nil
		v.mu.Unlock()
		close(ended)
		changed.Wake()
		if again, err := v.attach(); err != nil || !again {
			return
		}
		changed.Wake()
	}
}

// follow follows a VM until it has ended, which leaves room for a spare.
func (l *Launcher) follow(v *vm) {
	l.loops.Go(func() { v.follow(l.changed); l.spares.wake.Wake() })
}

// waitEnd waits until no supervisor lives.
func (v *vm) waitEnd(ctx context.Context) error {
	v.mu.Lock()
	p, ended := v.proc, v.ended
	v.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitControl waits until the supervisor answers on its socket or has ended.
// There is nothing to wait on but the socket's file, which comes within
// milliseconds of the process.
func (v *vm) waitControl(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for v.alive() {
		_, err := vmrun.Call(ctx, v.dir, vmrun.Request{Op: vmrun.OpStatus})
		if err == nil || !errors.Is(err, vmrun.ErrNoSupervisor) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// kill ends supervisor and QEMU, whoever started them, and waits until both are
// gone. Their names are verified, so nobody else is hit.
func (v *vm) kill(ctx context.Context) error {
	v.mu.Lock()
	p := v.proc
	v.mu.Unlock()
	if p != nil {
		// This hold is surer than the handle, which a supervisor that has only
		// just been started has not yet written.
		if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, process.ErrGone) && !errors.Is(err, os.ErrClosed) {
			return err
		}
		if err := v.waitEnd(ctx); err != nil {
			return fmt.Errorf("the supervisor does not end: %w", err)
		}
	}
	h, err := vmrun.LoadHandle(v.dir)
	if err != nil {
		return err
	}
	for _, id := range []process.ID{h.Supervisor, h.QEMU} {
		if err := process.Kill(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// begin starts v's supervisor when it is its turn, unless the attempt has been
// overtaken by then.
func (l *Launcher) begin(v *vm, attempt int) {
	l.loops.Go(func() {
		if err := l.start(v, attempt); err != nil && v.ctx.Err() == nil {
			l.cfg.Log.Error("the VM was not started", "node", string(v.cfg.Spec.Node), "err", err)
			l.notStarted(v, attempt, err)
		}
	})
}

// notStarted writes the status that no supervisor is there to write.
func (l *Launcher) notStarted(v *vm, attempt int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.queued || v.attempt != attempt {
		return
	}
	st := launch.Status{Node: v.cfg.Spec.Node, Generation: v.cfg.Spec.Generation, Phase: launch.Failed, Step: stepQueued, Changed: l.cfg.Clock.Now(),
		Err: notStartedFailure(err)}
	if err := vmrun.SaveStatus(v.dir, st); err != nil {
		l.cfg.Log.Error("the status was not written", "node", string(v.cfg.Spec.Node), "err", err)
	}
	v.queued = false
	l.changed.Wake()
}

// notStartedFailure says why there is no supervisor.
func notStartedFailure(err error) *launch.Failure {
	var e *millpond.Error
	if errors.As(err, &e) && e.Code == imagehost.CodeUnreadable {
		return vmrun.ImageUnreadable(e.Message)
	}
	return &launch.Failure{Host: true, Code: vmrun.CodeLaunchFailed, Message: "The VM's supervisor could not be started: " + err.Error() + ".",
		Suggestion: "`millpond doctor` checks this host."}
}

// start waits for a place, starts the supervisor, and keeps the place until the
// VM runs or has ended.
func (l *Launcher) start(v *vm, attempt int) error {
	select {
	case <-l.prepared:
	case <-v.ctx.Done():
		return v.ctx.Err()
	}
	if l.prepareErr != nil {
		return l.prepareErr
	}
	if err := l.chooseTemplate(v); err != nil {
		return err
	}
	select {
	case l.starts <- struct{}{}:
	case <-v.ctx.Done():
		return v.ctx.Err()
	}
	defer func() { <-l.starts }()
	if err := l.provide(v.ctx, v.cfg.Spec); err != nil {
		return err
	}
	exited, err := l.spawn(v, attempt)
	if err != nil || exited == nil {
		return err
	}
	l.follow(v)
	settled := l.watch.settled(v.dir)
	defer l.watch.unsettle(v.dir)
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	for {
		st, err := vmrun.LoadStatus(v.dir)
		if err != nil || st.Phase != launch.Preparing {
			return nil
		}
		select {
		case <-settled:
		case <-exited:
			return nil
		case <-limit.C:
			return nil
		case <-v.ctx.Done():
			return nil
		}
	}
}

// chooseTemplate decides whether a VM that has not run yet is to be a clone.
func (l *Launcher) chooseTemplate(v *vm) error {
	if v.spare || !vmrun.Fresh(v.dir) {
		return nil
	}
	v.mu.Lock()
	cfg := v.cfg
	v.mu.Unlock()
	dir, cold, err := l.templates.forVM(v.ctx, l.hosted(cfg))
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cfg.Template, v.cfg.Cold = dir, cold
	return nil
}

// hosted is a configuration with what this host has found out about itself.
func (l *Launcher) hosted(cfg vmrun.Config) vmrun.Config {
	cfg.Accel, cfg.AgentDisk = l.accelFor().Accel, l.agentDisk
	if l.contents.images != nil {
		cfg.ImageSocket = l.contents.images.Socket()
	}
	return cfg
}

// spawn starts the supervisor, detached: it has a session of its own and no
// descriptor of ours. It returns nil, nil if the start was overtaken.
func (l *Launcher) spawn(v *vm, attempt int) (<-chan struct{}, error) {
	host := l.hosted(vmrun.Config{}) // before v.mu: the launcher's lock comes first
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.queued || v.attempt != attempt {
		return nil, nil
	}
	v.cfg.Accel, v.cfg.AgentDisk, v.cfg.ImageSocket = host.Accel, host.AgentDisk, host.ImageSocket
	if err := v.cfg.Save(v.dir); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(vmrun.SupervisorLog(v.dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append(append([]string(nil), l.cfg.Supervisor[1:]...), "--dir", v.dir)
	cmd := exec.Command(l.cfg.Supervisor[0], args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Our own child cannot vanish before it is waited for, so its name is safe.
	id, err := process.Of(cmd.Process.Pid)
	if err == nil {
		v.proc, err = process.Find(id)
	}
	if err != nil && !errors.Is(err, process.ErrGone) {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	v.queued = false
	// Not joined at Close: the child outlives the launcher, and its zombie must
	// be collected as long as this process lives.
	go cmd.Wait()
	if v.proc == nil {
		return nil, errors.New("the supervisor ended at once; see its log")
	}
	v.ended = make(chan struct{})
	return v.ended, nil
}

// accelFor is the verdict, or what Distrust made of it meanwhile.
func (l *Launcher) accelFor() accel.Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.verdict
}

// statusChanged is called by the watcher when a VM has written its status.
func (l *Launcher) statusChanged(dir string) {
	l.changed.Wake()
	st, err := vmrun.LoadStatus(dir)
	defer l.spares.wake.Wake()
	v := l.inFolder(dir)
	if v != nil && v.spare {
		if err == nil {
			l.spares.seen(v, st)
		}
		l.templates.quiet()
		return
	}
	if err == nil && (st.Phase == launch.Running || st.Phase == launch.Failed) {
		l.cloned(v, st)
	}
	if err != nil || st.Err == nil || st.Err.Code != vmrun.CodeAccelStuck || l.cfg.Accel == accel.KVM {
		return
	}
	// The proof was wrong about this host: a real VM did not run under KVM.
	if err := l.prover.Distrust(st.Err.Message); err != nil {
		l.cfg.Log.Error("distrust of KVM was not recorded", "err", err)
		return
	}
	verdict, err := l.prover.Decide(l.ctx, l.cfg.Accel)
	if err != nil {
		return
	}
	l.mu.Lock()
	l.verdict = verdict
	l.mu.Unlock()
}

// cloned looks at what became of a VM for the templates' sake.
func (l *Launcher) cloned(v *vm, st launch.Status) {
	if v != nil && vmrun.CloneFailed(st) {
		v.mu.Lock()
		template, lost := v.cfg.Template, v.cloneLost
		v.cloneLost = true
		v.mu.Unlock()
		if !lost {
			l.cfg.Log.Warn("a clone did not do", "node", string(st.Node), "why", st.Clone.Cold)
			l.templates.distrust(template)
		}
	}
	if !st.Heard.IsZero() || st.Phase == launch.Failed {
		l.templates.quiet()
	}
}
