package imagehost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/process"
)

// RunnerConfig is what a Runner is made from; all members are required.
type RunnerConfig struct {
	// Dir is the image host's folder.
	Dir string
	// Command starts an image host on Dir that writes a line to descriptor 3 when
	// it is ready.
	Command []string
	// Version and CacheBytes are what the process shall have; one with others is
	// replaced.
	Version    string
	CacheBytes int64
	Log        *slog.Logger
}

const (
	// startLimit bounds the time from the process's start to its ready line.
	startLimit = 20 * time.Second
	// askInterval is how often a running process is asked whether it is well, and
	// askLimit how long the answer may take; after askTries it is ended.
	askInterval = 15 * time.Second
	askLimit    = 5 * time.Second
	askTries    = 3
	// endLimit is how long a process may take to end when told.
	endLimit = 10 * time.Second
	// crashPause is the pause after a process that did not live long.
	crashPause = 2 * time.Second
)

// Runner sees that the folder has an image host. Between servers nobody does:
// machines wait for the next one as long as their reconnect delay.
type Runner struct {
	cfg    RunnerConfig
	client *Client
	ctx    context.Context
	cancel context.CancelFunc
	loop   sync.WaitGroup
	kick   chan struct{}

	// mu is held while a process is started or replaced.
	mu sync.Mutex
	// wanted is set by an earlier process's handle or the first Ensure, and cleared
	// by Stop.
	wanted bool
}

// NewRunner makes a Runner. In a folder that has had an image host it is started in
// the background, so that the first machine need not wait for it; else nothing is
// started until Ensure.
func NewRunner(cfg RunnerConfig) (*Runner, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	r := &Runner{cfg: cfg, client: NewClient(dir), kick: make(chan struct{}, 1)}
	if h, err := LoadHandle(dir); err == nil {
		r.wanted = h != Handle{}
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.loop.Go(r.watch)
	return r, nil
}

// Close ends the watching; the image host lives on.
func (r *Runner) Close() error {
	r.cancel()
	r.loop.Wait()
	return nil
}

// Client talks to the image host.
func (r *Runner) Client() *Client { return r.client }

// Socket is the NBD socket.
func (r *Runner) Socket() string { return Socket(r.cfg.Dir) }

// Ensure returns when the image host of this build answers.
func (r *Runner) Ensure(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = true
	_, err := r.ensure(ctx)
	select {
	case r.kick <- struct{}{}:
	default:
	}
	return err
}

// ensure is Ensure with r.mu.
func (r *Runner) ensure(ctx context.Context) (process.ID, error) {
	askCtx, cancel := context.WithTimeout(ctx, askLimit)
	h, err := r.client.Health(askCtx)
	cancel()
	switch {
	case err == nil && h.Version == r.cfg.Version && h.CacheBytes == r.cfg.CacheBytes:
		return h.Process, nil
	case err == nil:
		r.cfg.Log.Info("the image host is replaced", "version", h.Version, "by", r.cfg.Version)
		if err := r.end(ctx, h.Process); err != nil {
			return process.ID{}, err
		}
	case ctx.Err() != nil:
		return process.ID{}, ctx.Err()
	default:
		// Nobody answers; a process that hangs must not keep the folder.
		handle, err := LoadHandle(r.cfg.Dir)
		if err != nil {
			r.cfg.Log.Warn("the image host's handle cannot be read", "err", err)
		} else if err := r.kill(ctx, handle.Process); err != nil {
			return process.ID{}, err
		}
	}
	return r.start(ctx)
}

// end asks a process to stop and waits until it has. The machines' connections
// break and are made anew with the next process.
func (r *Runner) end(ctx context.Context, id process.ID) error {
	p, err := process.Find(id)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if err := r.client.Stop(ctx, true); err != nil && !gone(err) {
		r.cfg.Log.Warn("the image host did not take the order to end", "err", err)
	}
	if p.Wait(ctx) == nil {
		return nil
	}
	return r.kill(context.WithoutCancel(ctx), id)
}

// kill ends a process by force.
func (r *Runner) kill(ctx context.Context, id process.ID) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if err := process.Kill(ctx, id); err != nil {
		return fmt.Errorf("end the image host: %w", err)
	}
	return nil
}

// start starts a process, detached: it has a session of its own and outlives us.
func (r *Runner) start(ctx context.Context) (process.ID, error) {
	log, err := os.OpenFile(filepath.Join(r.cfg.Dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return process.ID{}, err
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return process.ID{}, err
	}
	defer ready.Close()
	cmd := exec.Command(r.cfg.Command[0], r.cfg.Command[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return process.ID{}, fmt.Errorf("start the image host: %w", err)
	}
	id, err := process.Of(cmd.Process.Pid)
	// Not joined at Close: the child outlives us, and its zombie must be collected
	// as long as this process lives.
	go cmd.Wait()
	if err != nil && !errors.Is(err, process.ErrGone) {
		return id, err
	}
	limit, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	stop := context.AfterFunc(limit, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil || line != "ready\n" {
		if limit.Err() != nil {
			if err := r.kill(context.WithoutCancel(ctx), id); err != nil {
				r.cfg.Log.Error("an image host that did not become ready was not ended", "err", err)
			}
			return id, fmt.Errorf("the image host was not ready within %s; its log is %s", startLimit, log.Name())
		}
		return id, fmt.Errorf("the image host ended at once: %s", lastLine(log.Name()))
	}
	r.cfg.Log.Info("the image host was started", "pid", id.PID)
	return id, nil
}

// lastLine is the end of a log, for an error's text.
func lastLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// watch starts the image host again when it has ended, and ends one that hangs,
// as long as it is wanted.
func (r *Runner) watch() {
	for r.ctx.Err() == nil {
		r.mu.Lock()
		wanted := r.wanted
		var id process.ID
		var err error
		if wanted {
			id, err = r.ensure(r.ctx)
		}
		r.mu.Unlock()
		begun := time.Now()
		switch {
		case !wanted:
			select {
			case <-r.kick:
			case <-r.ctx.Done():
			}
			continue
		case err != nil && r.ctx.Err() == nil:
			r.cfg.Log.Error("there is no image host", "err", err)
		case err == nil:
			r.follow(id)
		}
		if r.ctx.Err() != nil || time.Since(begun) > crashPause {
			continue
		}
		select {
		case <-time.After(crashPause):
		case <-r.ctx.Done():
		}
	}
}

// follow returns when the process has ended or does not answer any more.
func (r *Runner) follow(id process.ID) {
	p, err := process.Find(id)
	if err != nil {
		return
	}
	defer p.Close()
	for failed := 0; failed < askTries; {
		waitCtx, cancel := context.WithTimeout(r.ctx, askInterval)
		err := p.Wait(waitCtx)
		cancel()
		if err == nil || r.ctx.Err() != nil {
			if err == nil {
				r.cfg.Log.Info("the image host has ended", "pid", id.PID)
			}
			return
		}
		askCtx, cancel := context.WithTimeout(r.ctx, askLimit)
		_, err = r.client.Health(askCtx)
		cancel()
		if failed++; err == nil {
			failed = 0
		}
	}
	r.cfg.Log.Error("the image host does not answer and is ended", "pid", id.PID)
	if err := r.kill(r.ctx, id); err != nil {
		r.cfg.Log.Error("the image host was not ended", "err", err)
	}
}

// Provide has contents served; it starts the image host if need be.
func (r *Runner) Provide(ctx context.Context, exports []Export) error {
	if len(exports) == 0 {
		return nil
	}
	if err := r.Ensure(ctx); err != nil {
		return err
	}
	for _, e := range exports {
		if _, err := r.client.Register(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// Keep ends the exports that used does not name; one that a machine reads goes
// with the machine. A disk that nobody serves is free for the server to open.
func (r *Runner) Keep(ctx context.Context, used map[string]bool) error {
	list, err := r.client.Exports(ctx)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		if !used[e.Name] {
			errs = append(errs, r.client.Unregister(ctx, e.Name))
		}
	}
	return errors.Join(errs...)
}

// Stop ends the image host if no machine reads through it, and leaves it
// otherwise.
func (r *Runner) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = false
	h, err := r.client.Health(ctx)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := process.Find(h.Process)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	// The connection of a machine that has just ended may be there for a moment.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for patience := time.Now().Add(stopPatience); ; {
		err := r.client.Stop(ctx, false)
		if err == nil {
			return p.Wait(ctx)
		}
		if millpond.KindOf(err) != millpond.Conflict {
			return err
		}
		if time.Now().After(patience) {
			r.wanted = true
			return nil
		}
		<-tick.C
	}
}

// stopPatience is how long Stop waits for machines to let go of their disks.
const stopPatience = 2 * time.Second
