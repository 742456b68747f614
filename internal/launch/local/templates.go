package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/process"
	"millpond.dev/millpond/internal/vmrun"
)

// templatePrefix marks the folders of templates. They lie beside those of VMs, so
// that a relative name in one of their disks means the same to a clone.
const templatePrefix = ".template-"

const (
	// worthwhile is how many VMs of a kind have to boot by themselves before a
	// template of it is made: an image that one machine runs once is none.
	worthwhile = 2
	// makeLimit bounds the making of a template.
	makeLimit = 15 * time.Minute
	// retryAfter is how long a kind that gave no template boots by itself; it
	// doubles each time.
	retryAfter = 10 * time.Minute
	maxRetry   = 24 * time.Hour
	// maxLosses is how many clones may not come to life before their template goes.
	maxLosses = 2
)

// Templates says how the host keeps machines that clones are made of.
type Templates struct {
	// Off has every VM boot by itself.
	Off bool
	// MaxMiB bounds what templates take on the disk, those in use included; 0 means
	// 8 GiB. MaxAge is how long one that nobody uses stays; 0 means two weeks.
	MaxMiB int64
	MaxAge time.Duration
}

// templates are the machines of this host that clones are made of: one of each
// kind, which vmrun.TemplateKey names. The life of one:
//
//	none ──► wanted ──► making ──► ready ──► none (evicted, distrusted)
//	 ▲                    │
//	 └────── failed ◄─────┘
//
// It is made once, whoever asks. The first VMs of a kind boot by themselves and
// wait for nothing; its template is made when the host has nothing else to start.
// When more of them come than the host can boot at a time, it is made at once, and
// these wait for it: a copy comes sooner than a boot behind others.
type templates struct {
	l   *Launcher
	cfg Templates
	// turn is had by whoever makes one.
	turn chan struct{}
	// ctx ends with the making, at the latest with the launcher.
	ctx context.Context
	end context.CancelFunc

	mu    sync.Mutex
	known map[string]*template
}

type template struct {
	key, dir string
	// boots are VMs of the kind that boot by themselves for want of a template.
	boots int
	// wanted: to be made when the host is quiet.
	wanted bool
	// made is closed when the making has ended; nil while none is under way.
	made chan struct{}
	cfg  vmrun.Config
	// ready: the folder has a template; checked: by this process.
	ready, checked bool
	losses         int
	// failed is why there is none; another is made after retry.
	failed  string
	retry   time.Time
	patient time.Duration
}

func newTemplates(l *Launcher, cfg Templates) *templates {
	if cfg.MaxMiB <= 0 {
		cfg.MaxMiB = 8 << 10
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 14 * 24 * time.Hour
	}
	t := &templates{l: l, cfg: cfg, turn: make(chan struct{}, 1), known: map[string]*template{}}
	t.ctx, t.end = context.WithCancel(l.ctx)
	return t
}

// EndMaking implements launch.Keeper: it returns when no template is being made any
// more and the spares have ended. VMs that waited for a template boot.
func (l *Launcher) EndMaking() {
	l.spares.finish()
	t := l.templates
	t.end()
	// A killed process is gone in a moment.
	select {
	case t.turn <- struct{}{}:
		<-t.turn
	case <-l.ctx.Done():
	}
}

// takeOver finds the templates of an earlier server. What was being made is made
// anew: nobody waits for it any more.
func (t *templates) takeOver(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(t.l.cfg.Dir, templatePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		key := strings.TrimPrefix(filepath.Base(dir), templatePrefix)
		if _, err := vmrun.LoadTemplate(dir); err != nil {
			if err := t.discard(ctx, dir); err != nil {
				return err
			}
			continue
		}
		t.known[key] = &template{key: key, dir: dir, ready: true}
	}
	return nil
}

// discard ends what runs in a template's folder and removes it.
func (t *templates) discard(ctx context.Context, dir string) error {
	h, err := vmrun.LoadHandle(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	for _, id := range []process.ID{h.Supervisor, h.QEMU} {
		if err := process.Kill(ctx, id); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// forVM is the folder of the template that v is to be a clone of, or why it boots
// by itself. It may wait for the template.
func (t *templates) forVM(ctx context.Context, cfg vmrun.Config) (dir, cold string, err error) {
	if t.cfg.Off {
		return "", "Clones are turned off on this host.", nil
	}
	if why := vmrun.Unclonable(cfg.Spec); why != "" {
		return "", why, nil
	}
	key, err := vmrun.TemplateKey(cfg)
	if err != nil {
		return "", "", err
	}
	for {
		dir, cold, wait := t.look(ctx, key, cfg)
		if wait == nil {
			return dir, cold, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return "", "", ctx.Err()
		}
	}
}

// of is the template of a kind, known from now on. The caller holds mu.
func (t *templates) of(key string) *template {
	e := t.known[key]
	if e == nil {
		e = &template{key: key, dir: filepath.Join(t.l.cfg.Dir, templatePrefix+key)}
		t.known[key] = e
	}
	return e
}

// look is one attempt of forVM; wait is closed when it is worth another.
func (t *templates) look(ctx context.Context, key string, cfg vmrun.Config) (dir, cold string, wait <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.of(key)
	now := t.l.cfg.Clock.Now()
	switch {
	case e.ready && e.checked:
		if err := vmrun.TouchTemplate(e.dir, now); err != nil {
			e.ready, e.checked = false, false
			return "", "Its template has gone: " + err.Error() + ".", nil
		}
		e.boots = 0
		return e.dir, "", nil
	case e.made != nil && e.boots >= t.l.cfg.ConcurrentStarts:
		return "", "", e.made
	case e.made != nil:
		e.boots++
		return "", "Its template is being made.", nil
	case e.ready:
		e.made = make(chan struct{})
		t.l.loops.Go(func() { t.check(e) })
		return "", "", e.made
	case e.failed != "" && now.Before(e.retry):
		return "", e.failed, nil
	case e.boots >= t.l.cfg.ConcurrentStarts && e.boots >= worthwhile && t.ctx.Err() == nil:
		t.begin(e, cfg, false)
		return "", "", e.made
	}
	e.boots++
	e.cfg = cfg
	e.wanted = e.wanted || e.boots >= worthwhile
	return "", "There is no template of it yet.", nil
}

// forSpare is the folder of a kind's template, or why there is none yet: one is made
// when the host is quiet, however few have booted.
func (t *templates) forSpare(key string, cfg vmrun.Config) (dir, why string) {
	defer t.quiet()
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.of(key)
	now := t.l.cfg.Clock.Now()
	switch {
	case e.ready && e.checked:
		if err := vmrun.TouchTemplate(e.dir, now); err == nil {
			return e.dir, ""
		}
		e.ready, e.checked = false, false
	case e.made != nil:
		return "", "Its template is being made."
	case e.ready:
		e.made = make(chan struct{})
		t.l.loops.Go(func() { t.check(e); t.l.spares.wake.Wake() })
		return "", "Its template is being checked."
	case e.failed != "" && now.Before(e.retry):
		return "", e.failed
	}
	e.cfg, e.wanted = cfg, true
	return "", "Its template is made when the host is quiet."
}

// begin makes a template; t.mu is held.
func (t *templates) begin(e *template, cfg vmrun.Config, behind bool) {
	e.made, e.cfg, e.wanted = make(chan struct{}), cfg, false
	t.l.loops.Go(func() { t.make(e, behind) })
}

// quiet is called when a VM's status has changed: once nothing is starting, what
// is wanted is made, one after the other.
func (t *templates) quiet() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next *template
	for _, e := range t.known {
		if e.made != nil {
			return
		}
		if e.wanted && (next == nil || e.key < next.key) {
			next = e
		}
	}
	if next != nil && t.ctx.Err() == nil && !t.l.starting() {
		t.begin(next, next.cfg, true)
	}
}

// starting says that a VM is on its way to its agent's first word.
func (l *Launcher) starting() bool {
	for _, v := range l.all() {
		if !v.alive() {
			continue
		}
		st, err := vmrun.LoadStatus(v.dir)
		if err == nil && (st.Phase == launch.Preparing || st.Phase == launch.Running && st.Heard.IsZero() || st.Phase == vmrun.Parked && !v.spare) {
			return true
		}
	}
	return false
}

// check reads a template that an earlier process has made.
func (t *templates) check(e *template) {
	tpl, err := vmrun.LoadTemplate(e.dir)
	if err == nil {
		err = tpl.Verify(t.l.ctx, e.dir)
	}
	if err != nil && t.l.ctx.Err() == nil {
		t.l.cfg.Log.Error("a template is not usable any more; another is made", "template", e.key, "err", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.ready, e.checked = err == nil, err == nil
	close(e.made)
	e.made = nil
}

// make boots a machine of the kind and keeps it. behind gives way to all else.
func (t *templates) make(e *template, behind bool) {
	begin := t.l.cfg.Clock.Now()
	err := t.produce(e, behind)
	t.mu.Lock()
	now := t.l.cfg.Clock.Now()
	if err == nil {
		e.ready, e.checked, e.failed, e.patient, e.losses = true, true, "", 0, 0
		t.l.cfg.Log.Info("template made", "template", e.key, "took", now.Sub(begin))
	} else {
		e.patient = min(max(2*e.patient, retryAfter), maxRetry)
		e.failed, e.retry = "No template could be made of it: "+err.Error()+".", now.Add(e.patient)
	}
	close(e.made)
	e.made = nil
	t.mu.Unlock()
	if err != nil && t.ctx.Err() == nil {
		t.l.cfg.Log.Error("no template was made; machines of its kind boot by themselves", "template", e.key, "err", err, "again", e.retry)
	}
	t.evict()
	t.l.keepImages(t.l.ctx)
	t.l.spares.wake.Wake()
	t.quiet()
}

func (t *templates) produce(e *template, behind bool) error {
	ctx, cancel := context.WithTimeout(t.ctx, makeLimit)
	defer cancel()
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := t.l.Capacity(ctx)
	if err != nil {
		return err
	}
	if c.UsedMemoryMiB+int64(e.cfg.MemoryMiB) > c.MemoryMiB {
		return fmt.Errorf("the host has no memory left for it (%d MiB)", e.cfg.MemoryMiB)
	}
	if err := t.l.provide(ctx, e.cfg.Spec); err != nil {
		return err
	}
	if err := t.discard(ctx, e.dir); err != nil {
		return err
	}
	cfg := t.l.hosted(e.cfg)
	cfg.Template, cfg.Cold, cfg.Freeze = "", "", true
	cfg.Spec.Node, cfg.Spec.Generation, cfg.Spec.Hostname = "template", 0, "template"
	cfg.Spec.Labels, cfg.Spec.Channel = nil, launch.Channel{}
	cfg.Spec.Card = nil // its ports are those of one node
	if err := cfg.Save(e.dir); err != nil {
		return err
	}
	err = t.run(ctx, e.dir, behind)
	if _, lerr := vmrun.LoadTemplate(e.dir); lerr == nil {
		return nil
	}
	st, serr := vmrun.LoadStatus(e.dir)
	if err == nil && serr == nil && st.Err != nil {
		err = st.Err
	}
	if err == nil {
		err = errors.New("its supervisor ended without a word")
	}
	return errors.Join(err, t.discard(context.WithoutCancel(ctx), e.dir))
}

// run runs the supervisor of a template to its end. Unlike a VM's it does not
// outlive the launcher.
func (t *templates) run(ctx context.Context, dir string, behind bool) error {
	log, err := os.OpenFile(vmrun.SupervisorLog(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append(append([]string(nil), t.l.cfg.Supervisor[1:]...), "--dir", dir)
	cmd := exec.CommandContext(ctx, t.l.cfg.Supervisor[0], args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if behind {
		// All its threads: QEMU inherits it from the one that starts it.
		if err := unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, 10); err != nil {
			t.l.cfg.Log.Warn("a template is not made behind other work", "err", err)
		}
	}
	return cmd.Wait()
}

// distrust is called when a clone has not come to life.
func (t *templates) distrust(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.known {
		if e.dir != dir || !e.ready {
			continue
		}
		if e.losses++; e.losses >= maxLosses {
			e.patient = min(max(2*e.patient, retryAfter), maxRetry)
			e.ready, e.checked, e.failed, e.retry = false, false, "Clones of its template did not come to life.", t.l.cfg.Clock.Now().Add(e.patient)
		}
	}
}

// evict removes templates that no VM lies on: those that nobody has used for long,
// that are distrusted, and the least used until the rest fits.
func (t *templates) evict() {
	t.mu.Lock()
	defer t.mu.Unlock()
	used := t.l.templatesInUse()
	type candidate struct {
		e    *template
		last time.Time
		size int64
	}
	var all []candidate
	total := int64(0)
	now := t.l.cfg.Clock.Now()
	for _, e := range t.known {
		if e.made != nil {
			continue
		}
		tpl, err := vmrun.LoadTemplate(e.dir)
		if err != nil {
			continue
		}
		last, err := vmrun.LastUse(e.dir)
		if err != nil {
			continue
		}
		total += tpl.Bytes
		if !used[e.dir] {
			all = append(all, candidate{e, last, tpl.Bytes})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].last.Before(all[j].last) })
	for _, c := range all {
		if c.e.ready && now.Sub(c.last) < t.cfg.MaxAge && total <= t.cfg.MaxMiB<<20 {
			continue
		}
		if err := os.RemoveAll(c.e.dir); err != nil {
			t.l.cfg.Log.Warn("a template was not removed", "template", c.e.key, "err", err)
			continue
		}
		total -= c.size
		c.e.ready, c.e.checked = false, false
		t.l.cfg.Log.Info("template removed", "template", c.e.key, "lastUse", c.last)
	}
}

// templatesInUse are the folders that disks of VMs lie on.
func (l *Launcher) templatesInUse() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := map[string]bool{}
	for _, v := range l.vms {
		v.mu.Lock()
		used[v.cfg.Template] = true
		v.mu.Unlock()
	}
	return used
}

// specs are those of the machines that are being made into templates.
func (t *templates) specs() []launch.Spec {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []launch.Spec
	for _, e := range t.known {
		if e.made != nil && !e.ready {
			out = append(out, e.cfg.Spec)
		}
	}
	return out
}
