package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/vmrun"
	"millpond.dev/millpond/internal/wake"
)

// sparePrefix marks the folders of spares. One that a node was given keeps its
// folder, whose configuration then names the node.
const sparePrefix = ".spare-"

// spareRetry is how long none is made of a kind of which one did not come to wait;
// it doubles each time, up to maxRetry.
const spareRetry = 30 * time.Second

// spares are machines that are nobody's yet: clones that were stopped when their
// agent answered. The life of one:
//
//	starting ──► parked ──► a node's
//	    └───────────┴─────► ended (not wanted any more, no room, dead)
//
// They are made one at a time and while no machine of a node starts. A node that
// finds no room has them ended.
type spares struct {
	l    *Launcher
	wake *wake.Signal
	// turn is had by whoever goes through all of them.
	turn sync.Mutex

	mu sync.Mutex
	// told: somebody has said what is wanted. Until then those of an earlier server
	// stay as they are.
	told, over bool
	wanted     []*wantedSpares
	// losses are kinds of which one did not come to wait.
	losses map[string]loss
}

type wantedSpares struct {
	launch.Spares
	cfg vmrun.Config
	// key is the kind's, empty for one that is not made here; why says the reason.
	key, why string
}

type loss struct {
	why     string
	retry   time.Time
	patient time.Duration
}

func newSpares(l *Launcher) *spares {
	return &spares{l: l, wake: wake.New(), losses: map[string]loss{}}
}

var _ launch.Parker = (*Launcher)(nil)

// Park implements launch.Parker.
func (l *Launcher) Park(_ context.Context, wanted []launch.Spares) error {
	s := l.spares
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told, s.wanted = true, nil
	for _, w := range wanted {
		w.Spec.Node, w.Spec.Generation, w.Spec.Channel, w.Spec.Labels = "spare", 0, launch.Channel{}, nil
		w.Spec.Hostname = "spare"
		s.wanted = append(s.wanted, &wantedSpares{Spares: w, cfg: l.configured(w.Spec)})
	}
	s.wake.Wake()
	return nil
}

// Parked implements launch.Parker.
func (l *Launcher) Parked(context.Context) ([]launch.Parked, error) {
	s := l.spares
	s.mu.Lock()
	defer s.mu.Unlock()
	now := l.cfg.Clock.Now()
	kinds := map[string][]int{}
	out := make([]launch.Parked, len(s.wanted))
	for i, w := range s.wanted {
		out[i] = launch.Parked{Owner: w.Owner, Wanted: w.Count, Why: w.why}
		if w.key == "" {
			continue
		}
		kinds[w.key] = append(kinds[w.key], i)
		if x, ok := s.losses[w.key]; ok && w.why == "" && now.Before(x.retry) {
			out[i].Why = x.why
		}
	}
	for key, list := range kinds {
		ready, memory := 0, int64(0)
		for _, v := range l.sparesNow() {
			if v.kind() == key && v.parked.Load() {
				ready++
				memory += v.room()
			}
		}
		shares := make([]launch.Parked, 0, len(list))
		for _, i := range list {
			shares = append(shares, out[i])
		}
		launch.Share(shares, ready, memory)
		for k, i := range list {
			out[i] = shares[k]
			if out[i].Ready == out[i].Wanted {
				out[i].Why = ""
			}
		}
	}
	return out, nil
}

// kind is the key of the template that a spare lies on.
func (v *vm) kind() string { return strings.TrimPrefix(filepath.Base(v.cfg.Template), templatePrefix) }

// sparesNow are those that are nobody's and that nobody is about to end or give away.
func (l *Launcher) sparesNow() (out []*vm) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.vms {
		if v.spare && !v.claimed {
			out = append(out, v)
		}
	}
	return out
}

// loop makes the spares what they shall be.
func (s *spares) loop() {
	select {
	case <-s.l.prepared:
	case <-s.l.ctx.Done():
		return
	}
	for s.rest(s.step()) {
	}
}

// rest waits until next, if that is a time, or a wake; false at the end.
func (s *spares) rest(next time.Time) bool {
	var again <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(max(time.Millisecond, next.Sub(s.l.cfg.Clock.Now())))
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-s.wake.C():
	case <-again:
	case <-s.l.ctx.Done():
		return false
	}
	return true
}

// step ends what is too much and begins at most one; next is when it is worth
// another look without a wake.
func (s *spares) step() (next time.Time) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	if !s.told || s.over || s.l.prepareErr != nil {
		s.mu.Unlock()
		return next
	}
	wanted := append([]*wantedSpares(nil), s.wanted...)
	for _, w := range wanted {
		if w.key == "" && w.why == "" {
			w.key, w.why = s.kindOf(w.cfg)
		}
	}
	s.mu.Unlock()

	missing := map[string]int{}
	for _, w := range wanted {
		if w.key != "" {
			missing[w.key] += w.Count
		}
	}
	for _, v := range s.l.sparesNow() {
		if !v.alive() {
			s.lost(v)
			continue
		}
		if missing[v.kind()]--; missing[v.kind()] < 0 {
			s.end(v)
		}
	}
	for _, w := range wanted {
		if w.key == "" || missing[w.key] < 1 {
			continue
		}
		if at, waits := s.rests(w.key); waits {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		// Whoever starts says so when it has, and wakes this.
		if s.l.starting() {
			return next
		}
		dir, why := s.l.templates.forSpare(w.key, w.cfg)
		if dir != "" {
			if err := s.begin(dir, w.cfg); err != nil {
				s.l.cfg.Log.Info("no spare is made", "owner", w.Owner, "why", err)
				why = "There is no room: " + err.Error() + "."
			}
		}
		s.explain(w, why)
		if why == "" {
			return next
		}
	}
	return next
}

// kindOf is the key of a kind, or why no spare of it is made.
func (s *spares) kindOf(cfg vmrun.Config) (key, why string) {
	if s.l.templates.cfg.Off {
		return "", "Clones are turned off on this host."
	}
	if why := vmrun.Unclonable(cfg.Spec); why != "" {
		return "", why
	}
	key, err := vmrun.TemplateKey(s.l.hosted(cfg))
	if err != nil {
		return "", err.Error()
	}
	return key, ""
}

func (s *spares) explain(w *wantedSpares, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.why = why
}

func (s *spares) rests(key string) (until time.Time, rests bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.losses[key]
	return x.retry, s.l.cfg.Clock.Now().Before(x.retry)
}

// lost ends a spare that has died. One that never waited is not made again at once.
func (s *spares) lost(v *vm) {
	st, err := vmrun.LoadStatus(v.dir)
	why := "A spare has ended."
	if err == nil && st.Err != nil {
		why = "A spare has ended: " + st.Err.Message
	}
	s.l.cfg.Log.Warn("a spare has ended", "spare", v.key, "why", why)
	if !v.parked.Load() {
		s.mu.Lock()
		x := s.losses[v.kind()]
		x.patient = min(max(2*x.patient, spareRetry), maxRetry)
		x.why, x.retry = why, s.l.cfg.Clock.Now().Add(x.patient)
		s.losses[v.kind()] = x
		s.mu.Unlock()
		s.l.templates.distrust(v.cfg.Template)
	}
	s.end(v)
}

// end ends a spare unless a node has got it meanwhile.
func (s *spares) end(v *vm) {
	if s.claim(v) {
		s.endClaimed(v)
	}
}

// endClaimed says whether it has ended; one that has not may be tried again.
func (s *spares) endClaimed(v *vm) bool {
	err := s.l.destroy(context.WithoutCancel(s.l.ctx), v)
	if err == nil {
		return true
	}
	s.l.cfg.Log.Warn("a spare was not ended", "spare", v.key, "err", err)
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	v.claimed = false
	return false
}

// claim gives a spare to the caller alone.
func (s *spares) claim(v *vm) bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if v.claimed || s.l.vms[v.key] != v {
		return false
	}
	v.claimed = true
	return true
}

// begin starts a spare if a node of its kind would fit as well.
func (s *spares) begin(template string, cfg vmrun.Config) error {
	l := s.l
	cfg.Template, cfg.Park = template, true
	l.mu.Lock()
	key := ""
	for n := 1; ; n++ {
		key = fmt.Sprintf("%s%d", sparePrefix, n)
		// The folder may be a node's by now.
		if _, err := os.Lstat(filepath.Join(l.cfg.Dir, key)); l.vms[key] == nil && errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	l.mu.Unlock()
	cfg.Spec.Node, cfg.Spec.Hostname = millpond.NodeID(key[1:]), key[1:]
	v := newVM(l.ctx, key, filepath.Join(l.cfg.Dir, key), cfg)
	v.spare = true
	attempt := v.enqueue()
	if err := l.admit(key, v); err != nil {
		v.cancel()
		return err
	}
	if err := l.write(v); err != nil {
		v.cancel()
		l.forget(key)
		return errors.Join(err, os.RemoveAll(v.dir))
	}
	l.begin(v, attempt)
	return nil
}

// seen looks at what a spare's supervisor has written.
func (s *spares) seen(v *vm, st launch.Status) {
	if st.Phase != vmrun.Parked || v.parked.Load() {
		return
	}
	h, err := vmrun.LoadHandle(v.dir)
	if err == nil {
		v.resident.Store(residentMiB(h.Supervisor, h.QEMU))
	}
	v.parked.Store(true)
	s.mu.Lock()
	delete(s.losses, v.kind())
	s.mu.Unlock()
	s.l.cfg.Log.Info("a spare waits for a node", "spare", v.key, "memoryMiB", v.resident.Load())
}

// residentMiB is what processes have of their own in the host's memory: a spare's
// QEMU shares the rest with its template. At least 1.
func residentMiB(ids ...process.ID) int64 {
	kib := int64(0)
	for _, id := range ids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id.PID))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			var n int64
			if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &n); err == nil {
				kib += n
			}
		}
	}
	return max(1, kib>>10)
}

// take gives a spare of a kind to a node, or nil.
func (s *spares) take(cfg vmrun.Config) *vm {
	select {
	case <-s.l.prepared:
	default:
		return nil
	}
	if s.l.prepareErr != nil {
		return nil
	}
	all := s.l.sparesNow()
	if len(all) == 0 {
		return nil
	}
	key, _ := s.kindOf(cfg)
	for _, v := range all {
		if key != "" && v.kind() == key && v.parked.Load() && v.alive() && s.claim(v) {
			return v
		}
	}
	return nil
}

// yield ends one spare for a node that finds no room; false if none could be ended.
func (s *spares) yield() bool {
	for _, v := range s.l.sparesNow() {
		if !s.claim(v) {
			continue
		}
		s.l.cfg.Log.Info("a spare gives way to a node", "spare", v.key)
		if s.endClaimed(v) {
			return true
		}
	}
	return false
}

// finish ends all spares for good.
func (s *spares) finish() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for _, v := range s.l.sparesNow() {
		s.end(v)
	}
}

// adopt makes a spare the machine of a node. The configuration that names the node
// is the promise: from then on it is the node's, whatever becomes of this server.
// again says that the spare had died, so that another one may do.
func (l *Launcher) adopt(key string, sp *vm, cfg vmrun.Config) (again bool, err error) {
	cfg.Template, cfg.Network = sp.cfg.Template, sp.cfg.Network
	host := l.hosted(vmrun.Config{})
	cfg.Accel, cfg.AgentDisk, cfg.ImageSocket = host.Accel, host.AgentDisk, host.ImageSocket
	v := newVM(l.ctx, key, sp.dir, cfg)
	attached, err := v.attach()
	if attached {
		err = l.admitInstead(key, v, sp)
	} else {
		err = errors.Join(errSpareDied, err)
		l.cfg.Log.Warn("a spare has ended", "spare", sp.key, "err", err)
	}
	if err != nil {
		// It is ended, whether it has died or the host has no room for it as a node.
		v.cancel()
		if v.proc != nil {
			v.proc.Close()
		}
		return l.spares.endClaimed(sp) && !attached, err
	}
	sp.cancel()
	l.follow(v)
	if err := v.cfg.Save(v.dir); err != nil {
		return false, errors.Join(&launch.HostError{Step: "write the VM's folder", Err: err}, l.destroy(context.WithoutCancel(l.ctx), v))
	}
	l.loops.Go(func() { l.become(v) })
	l.cfg.Log.Info("VM is a spare", "node", string(cfg.Spec.Node), "generation", cfg.Spec.Generation, "spare", sp.key)
	l.changed.Wake()
	return false, nil
}

var errSpareDied = errors.New("the spare died before a node had it")

// become has the supervisor of a spare look at its new configuration. A machine that
// cannot is started anew in its place.
func (l *Launcher) become(v *vm) {
	defer l.spares.wake.Wake()
	_, err := vmrun.Call(v.ctx, v.dir, vmrun.Request{Op: vmrun.OpAdopt})
	if err == nil || v.ctx.Err() != nil {
		return
	}
	l.cfg.Log.Warn("a spare did not become a node's machine; another is started", "node", string(v.cfg.Spec.Node), "err", err)
	unlock, lerr := l.lock(v.ctx, v.key)
	if lerr != nil {
		return
	}
	defer unlock()
	if l.find(v.key) != v {
		return
	}
	l.startAnew(v)
}

// startAnew starts a VM from nothing in its folder. The caller holds the node's lock.
func (l *Launcher) startAnew(v *vm) {
	attempt := v.enqueue()
	err := l.empty(v)
	if err == nil {
		l.begin(v, attempt)
	} else if v.ctx.Err() == nil {
		l.cfg.Log.Error("the VM was not started", "node", string(v.cfg.Spec.Node), "err", err)
		l.notStarted(v, attempt, err)
	}
}

// empty ends what runs in a VM's folder and removes what it wrote to.
func (l *Launcher) empty(v *vm) error {
	ctx, cancel := context.WithTimeout(v.ctx, killLimit)
	defer cancel()
	if err := v.kill(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	v.cfg.Template, v.cfg.Cold = "", ""
	v.mu.Unlock()
	if err := os.RemoveAll(vmrun.DiskFolder(v.dir)); err != nil {
		return err
	}
	return l.write(v)
}

// takeOverSpare finds a spare of an earlier server, or a node's machine that was one.
func (l *Launcher) takeOverSpare(key, dir string) error {
	cfg, err := vmrun.LoadConfig(dir)
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	if node := cfg.Spec.Node.Key(); !cfg.Park && nodeName.MatchString(node) {
		if other := l.find(node); other == nil || other.cfg.Spec.Generation < cfg.Spec.Generation {
			return l.takeOverVM(node, dir)
		}
	}
	v := newVM(l.ctx, key, dir, cfg)
	v.spare = true
	attached, err := v.attach()
	if err != nil {
		return err
	}
	if !attached || !cfg.Park {
		return l.templates.discard(l.ctx, dir)
	}
	l.mu.Lock()
	l.vms[key] = v
	l.mu.Unlock()
	if err := l.watch.add(dir); err != nil {
		return err
	}
	if st, err := vmrun.LoadStatus(dir); err == nil {
		l.spares.seen(v, st)
	}
	l.follow(v)
	return nil
}
