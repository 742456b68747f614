package vmrun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/lan"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/qemu"
	"millpond.dev/millpond/internal/qemu/qmp"
	"millpond.dev/millpond/internal/revert"
)

// ErrRunning says that another supervisor has the VM.
var ErrRunning = errors.New("another supervisor runs this VM")

const (
	// silenceLimit is how long a machine under KVM may take to its firmware's
	// first word, which takes well under a second where KVM works.
	silenceLimit = 20 * time.Second
	// lastWords is the time that a failing boot gets to finish its sentence.
	lastWords = time.Second
	// quitLimit is how long QEMU may take to end when told to.
	quitLimit = 5 * time.Second
	// pressEvery is how often the power button is pressed until the guest obeys: one
	// whose driver for it is not there yet loses what comes before.
	pressEvery = 2 * time.Second
	// memoryLimit keeps the heap of a supervisor small; there are many.
	memoryLimit = 16 << 20
)

type supervisor struct {
	dir   string
	cfg   Config
	log   *slog.Logger
	clock clock.Clock
	// begin is called before each step; tests make it fail.
	begin func(step string) error
	// watcher gets each status before it is written; it must not block. May be nil.
	watcher func(launch.Status)

	// clones: the machine is being made from its template.
	clones bool
	// host is the port to the agent when a clone was given its identity on it.
	host *nodeproto.Host
	// adoptions asks a spare to be a node's.
	adoptions chan chan error
	// hello is what a clone's agent has said to the server, whole tells when it
	// has done what it had put off; nil for a machine that boots.
	hello []byte
	whole <-chan error
	back  func()
	// migration gets what QEMU says of a state that is written or read.
	migration chan string

	disks *disks
	// mapping is asked for before the first step and taken by QEMU's start.
	mapping *mapping
	// growing is the map that QEMU has started with, if there is to be a larger one.
	growing *growingMap
	console *console
	// port is the machine's place in a network that it shares; nil without one.
	port *lan.Port
	// tpm is the machine's; nil without one.
	tpm    *tpm
	engine *engine
	qmp    *qmp.Client
	handle Handle
	loops  sync.WaitGroup

	mu     sync.Mutex
	status launch.Status
	// portMu serializes changes of ports.
	portMu sync.Mutex

	// asked: somebody wanted the end. powerOff: the guest shut itself down.
	asked, powerOff atomic.Bool
	// again: the machine was reset, and goes on in a new QEMU.
	again atomic.Bool
	// starved is how often the host had no time for it.
	starved int
	// broken gets the failure of a disk that could not be read, or of a clone that is
	// not its own.
	broken chan *launch.Failure
	// full is told that a write found no room on the host's disk.
	full chan struct{}
	// stop gets what the guest may still take; kill and reset carry no data.
	stop chan time.Duration
	// ended is closed when the last status is written.
	ended chan struct{}
}

// Run supervises the VM whose folder is dir until it has ended. If ctx ends, the
// guest is asked to power off first. The outcome is in the status file; an error
// means that not even that could be written, or ErrRunning.
func Run(ctx context.Context, dir string) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(50)
	return run(ctx, dir, func(string) error { return nil })
}

// Watch is Run in a process that has other things to do as well: watcher gets
// each status, and must not block.
func Watch(ctx context.Context, dir string, watcher func(launch.Status)) error {
	return runWatched(ctx, dir, func(string) error { return nil }, watcher)
}

func run(ctx context.Context, dir string, begin func(step string) error) error {
	return runWatched(ctx, dir, begin, nil)
}

func runWatched(ctx context.Context, dir string, begin func(step string) error, watcher func(launch.Status)) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	lock, err := process.Lock(filepath.Join(dir, lockFile))
	if errors.Is(err, process.ErrLocked) {
		return ErrRunning
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	logFile, err := os.OpenFile(SupervisorLog(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cfg, err := LoadConfig(dir)
	if err != nil {
		return err
	}
	s := &supervisor{
		dir: dir, cfg: cfg, clock: clock.System{}, begin: begin, watcher: watcher,
		log:    slog.New(slog.NewJSONHandler(logFile, nil)).With("node", string(cfg.Spec.Node), "generation", cfg.Spec.Generation),
		disks:  &disks{dir: dir, cfg: cfg, made: map[string][]string{}},
		broken: make(chan *launch.Failure, 1), full: make(chan struct{}, 1), migration: make(chan string, 16), adoptions: make(chan chan error),
		stop: make(chan time.Duration, 1), ended: make(chan struct{}),
	}
	if s.handle.Supervisor, err = process.Of(os.Getpid()); err != nil {
		return err
	}
	if err := s.handle.save(dir); err != nil {
		return err
	}
	now := s.clock.Now()
	s.status = launch.Status{Node: cfg.Spec.Node, Generation: cfg.Spec.Generation, Phase: launch.Preparing,
		Accel: string(cfg.Accel), Started: now, Changed: now, Clone: launch.Clone{Cold: cfg.Cold}}
	if cfg.Template != "" {
		s.status.Clone.Template = filepath.Base(cfg.Template)
	}
	if network := cfg.network(); network != nil {
		s.status.Addr, s.status.HostAddr = network.Guest().String(), network.Gateway().String()
	}
	var current atomic.Pointer[supervisor]
	current.Store(s)
	control, err := listenControl(dir, func(ctx context.Context, req Request) Reply {
		err := current.Load().answer(ctx, req)
		// The machine may have been reset and stopped meanwhile.
		r := Reply{Status: current.Load().now()}
		if err != nil {
			r.Error = err.Error()
		}
		return r
	})
	if err != nil {
		return err
	}
	for err = s.supervise(ctx); err == nil && s.again.Load(); err = s.supervise(ctx) {
		if s, err = s.renew(); err != nil {
			break
		}
		current.Store(s)
	}
	close(s.ended)
	control.close()
	return err
}

// supervise runs the VM from its first step to its last status.
func (s *supervisor) supervise(ctx context.Context) error {
	stepCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A stop or kill during the steps abandons them.
	s.loops.Go(func() {
		select {
		case g := <-s.stop:
			s.asked.Store(true) // it may have been said to the one before
			cancel()
			select {
			case s.stop <- g: // for watch, if the steps have just succeeded
			default:
			}
		case <-stepCtx.Done():
		}
	})
	stack, err := s.launch(stepCtx)
	cancel()
	if err != nil {
		s.loops.Wait()
		return s.failed(ctx, err)
	}
	stack.Keep() // disks stay until the folder is destroyed
	if card := s.cfg.Spec.Card; card != nil {
		s.setPorts(ctx, card.Ports)
		s.setFilters(card.Filters)
	}
	if err := s.change(func(st *launch.Status) { st.Phase, st.Step = launch.Running, "" }); err != nil {
		s.log.Error("the status was not written", "err", err)
	}
	return s.watch(ctx)
}

// failed writes the status of a launch whose steps were undone.
func (s *supervisor) failed(ctx context.Context, err error) error {
	s.dropMap()
	var se *revert.StepError
	step := ""
	if errors.As(err, &se) {
		step, err = se.Step, se.Err
		if se.Undone != nil {
			s.log.Error("undoing the launch failed", "err", se.Undone)
		}
	}
	phase := launch.Failed
	var f *launch.Failure
	switch {
	case s.asked.Load() || ctx.Err() != nil:
		phase = launch.Stopped
	case errors.Is(err, errEarlyExit):
		e := s.ending()
		phase, f = explain(e)
		if image := s.imageFault(context.WithoutCancel(ctx)); image != nil {
			image.Evidence, f = f.Evidence, image
		}
	default:
		f = failedStep(step, err, Evidence(filepath.Join(s.dir, qemuLog)))
	}
	s.log.Error("the launch failed", "step", step, "err", err)
	return s.change(func(st *launch.Status) { st.Phase, st.Step, st.Err = phase, step, f })
}

// watch waits for the end of QEMU, which it brings about when asked, and writes
// the last status.
func (s *supervisor) watch(ctx context.Context) error {
	var found *launch.Failure
	channelCtx, endChannel := context.WithCancel(context.Background())
	defer endChannel()
	frozen := make(chan error, 1)
	kept := ""
	if s.growing != nil {
		s.loops.Go(func() { s.growMap(channelCtx) })
	}
	s.loops.Go(func() {
		if s.cfg.Freeze {
			var err error
			kept, err = s.freeze(channelCtx)
			frozen <- err
			return
		}
		if s.host == nil {
			s.host = nodeproto.NewHost(s.engine.agent)
		}
		if s.whole != nil {
			s.loops.Go(func() {
				late := time.NewTimer(wholeLimit)
				defer late.Stop()
				s.plugIn(channelCtx, late.C)
			})
			s.loops.Go(func() { comeForth(channelCtx, s.back) })
		}
		ch := &channel{spec: s.cfg.Spec, log: s.log, heard: s.heard, hello: s.hello}
		ch.run(channelCtx, s.host)
	})

	s.loops.Go(func() { shrink(channelCtx) })
	s.loops.Go(func() { s.goOn(channelCtx) })

	var silence <-chan time.Time
	if s.cfg.Accel == qemu.KVM {
		timer := time.NewTimer(silenceLimit)
		defer timer.Stop()
		silence = timer.C
	}
	presses := time.NewTicker(pressEvery)
	defer presses.Stop()
	var force, patience, press, anew <-chan time.Time
	done, spoke, sealed := ctx.Done(), s.console.spoke, false
	for running := true; running; {
		select {
		case <-s.engine.done:
			running = false
		case f := <-s.console.found:
			if pause := s.starve(f); pause > 0 {
				anew = time.After(pause)
				continue
			}
			s.log.Error("the boot failed", "code", f.Code)
			if found == nil {
				found, patience = f, time.After(lastWords)
			}
		case <-anew:
			if err := s.beginAnew(context.Background()); err != nil && s.qmp.Err() == nil {
				s.log.Error("the machine did not begin anew", "err", err)
				s.kill()
			}
		case f := <-s.broken:
			s.log.Error("the machine cannot go on", "code", f.Code, "err", f.Message)
			// It is the cause of whatever the console says.
			found, patience = f, time.After(lastWords)
		case err := <-frozen:
			s.asked.Store(true)
			if sealed = err == nil; !sealed {
				s.log.Error("the template was not made", "err", err)
				found = &launch.Failure{Code: CodeTemplateNotMade, Message: "The machine could not be kept as a template: " + err.Error() + "."}
			}
			s.quit()
			patience = time.After(quitLimit)
		case <-patience:
			s.kill()
		case <-spoke:
			spoke, silence = nil, nil
		case <-silence:
			found = stuck(silenceLimit)
			s.kill()
		case <-done:
			done = nil
			s.asked.Store(true)
			force, press = time.After(s.powerDown(s.cfg.StopGrace)), presses.C
		case grace := <-s.stop:
			s.asked.Store(true)
			force, press = time.After(s.powerDown(grace)), presses.C
		case <-press:
			s.powerDown(quitLimit)
		case <-force:
			press = nil
			s.quit()
			patience = time.After(quitLimit)
		case <-s.qmp.Done():
			// QEMU is about to end; if it does not, it is made to.
			select {
			case <-s.engine.done:
			case <-time.After(quitLimit):
				s.kill()
				<-s.engine.done
			}
		}
	}
	s.engine.agent.Close()
	endChannel()
	// The process may be seen to end before its last events are read; that the
	// guest powered off is one of them. The connection ends behind them.
	select {
	case <-s.qmp.Done():
	case <-time.After(quitLimit):
	}
	e := s.ending()
	s.loops.Wait() // the pump has taken the console's last bytes
	s.engine.closeEnds()
	if err := s.killTPM(); err != nil {
		s.log.Warn("the machine's TPM did not end", "err", err)
	}
	if err := s.leaveLAN(); err != nil {
		s.log.Warn("the machine's place in its network was not given up", "err", err)
	}
	e.greeted, e.found = true, found
	e.console = Evidence(filepath.Join(s.dir, consoleFile))
	if err := s.console.close(); err != nil {
		s.log.Warn("the console was not closed", "err", err)
	}
	if s.again.Load() && !s.asked.Load() && found == nil && e.code == 0 && e.signal == 0 {
		s.log.Info("the machine was reset; it goes on in a new QEMU")
		return nil
	}
	if s.again.Swap(false) {
		// An order that came after the reset is what has ended the machine.
		e.asked = s.asked.Load()
	}
	phase, failure := explain(e)
	if sealed {
		if err := s.seal(context.Background(), kept); err != nil {
			phase, failure = launch.Failed, &launch.Failure{Host: true, Code: CodeTemplateNotMade, Message: "The template was not kept: " + err.Error() + "."}
		}
	}
	s.log.Info("the VM has ended", "phase", phase, "signal", int(e.signal), "code", e.code)
	return s.change(func(st *launch.Status) { st.Phase, st.Err = phase, failure })
}

// ending collects what explain needs, after QEMU has ended.
func (s *supervisor) ending() ending {
	e := ending{asked: s.asked.Load(), powerOff: s.powerOff.Load(), accel: s.cfg.Accel,
		complaint: Evidence(filepath.Join(s.dir, qemuLog))}
	e.code, e.signal = s.engine.exit()
	return e
}

// powerDown presses the power button and returns how long to wait for it.
func (s *supervisor) powerDown(grace time.Duration) time.Duration {
	if grace <= 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), quitLimit)
	defer cancel()
	if err := s.qmp.Execute(ctx, "system_powerdown", nil, nil); err != nil {
		s.log.Warn("the power button did not work", "err", err)
		return 0
	}
	return grace
}

// quit lets QEMU write what it holds; kill does not.
func (s *supervisor) quit() {
	ctx, cancel := context.WithTimeout(context.Background(), quitLimit)
	defer cancel()
	// The answer may be lost with the connection; what counts is the end.
	if err := s.qmp.Execute(ctx, "quit", nil, nil); err != nil && s.qmp.Err() == nil {
		s.kill()
	}
}

func (s *supervisor) kill() {
	if err := s.engine.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.log.Error("QEMU could not be killed", "err", err)
	}
}

// event is called by the QMP client.
func (s *supervisor) event(e qmp.Event) {
	s.log.Info("QEMU event", "event", e.Name, "data", string(e.Data))
	if e.Name == "MIGRATION" {
		s.migrating(e.Data)
	}
	if e.Name == "BLOCK_IO_ERROR" {
		s.diskFailed(e)
	}
	if e.Name != "SHUTDOWN" {
		return
	}
	var d struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &d) != nil {
		return
	}
	switch d.Reason {
	case "guest-shutdown":
		s.powerOff.Store(true)
	case "guest-reset", "host-qmp-system-reset":
		s.again.Store(true)
	}
}

// answer handles one request of the control socket.
func (s *supervisor) answer(ctx context.Context, req Request) error {
	switch req.Op {
	case OpStatus:
		return nil
	case OpAdopt:
		return s.adopt(ctx)
	case OpReset:
		return s.reset(ctx)
	case OpPorts:
		return s.replacePorts(ctx, req.Ports, req.Filters)
	case OpAttach:
		return s.attach(ctx, req.Disk)
	case OpDetach:
		return s.detach(ctx, req.Disk.LUN)
	case OpStop, OpKill:
		if req.Op == OpKill {
			req.Grace = 0
		}
		s.asked.Store(true)
		select {
		case s.stop <- req.Grace:
		case <-s.ended:
		}
		<-s.ended
		return nil
	}
	return fmt.Errorf("the request %q is not known", req.Op)
}

func (s *supervisor) reset(ctx context.Context) error {
	if s.now().Phase != launch.Running {
		return errors.New("the VM does not run yet, or not any more")
	}
	ctx, cancel := context.WithTimeout(ctx, quitLimit)
	defer cancel()
	s.console.watch(true)
	if err := s.change(func(st *launch.Status) { st.Heard = time.Time{} }); err != nil {
		return err
	}
	return s.qmp.Execute(ctx, "system_reset", nil, nil)
}

// heard notes that the agent answers.
func (s *supervisor) heard() {
	s.console.watch(false)
	if !s.now().Heard.IsZero() {
		return // a session of the same boot; the status is not written for nothing
	}
	if err := s.change(func(st *launch.Status) { st.Heard = s.clock.Now() }); err != nil {
		s.log.Warn("the status was not written", "err", err)
	}
}

// now is the status as it is.
func (s *supervisor) now() launch.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// change edits the status and writes it.
func (s *supervisor) change(edit func(*launch.Status)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.status)
	s.status.Changed = s.clock.Now()
	if s.watcher != nil {
		s.watcher(s.status)
	}
	return SaveStatus(s.dir, s.status)
}

// Begin and End make the supervisor the observer of its steps.
func (s *supervisor) Begin(step string) error {
	if err := s.change(func(st *launch.Status) { st.Step = step }); err != nil {
		return err
	}
	return s.begin(step)
}

func (s *supervisor) End(step string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && step != stepPark {
		s.status.Steps = append(s.status.Steps, launch.StepTime{Name: step, Duration: took})
	}
}
