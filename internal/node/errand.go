package node

import (
	"context"
	"sync"
)

// work is what goes on for a session beside its reader, until the session ends.
type work struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	over bool
	err  error // the first failure
}

func newWork(ctx context.Context) *work {
	w := &work{}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w
}

// start runs fn on a goroutine of its own, whose error ends the session; false,
// and nothing is run, once it has ended.
func (w *work) start(fn func(context.Context) error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return false
	}
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		if err := fn(w.ctx); err != nil {
			w.fail(err)
		}
	}()
	return true
}

func (w *work) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.cancel()
}

// end ends everything and waits. It returns what failed first, if that was before.
func (w *work) end() error {
	w.mu.Lock()
	err := w.err
	w.over = true
	w.cancel()
	w.mu.Unlock()
	w.wg.Wait()
	return err
}

// errand is something that a session does each time it is waked, once at a time.
// It has no goroutine while there is nothing to do: those of a large pool's
// sessions, nearly all at rest, took more memory than everything else of them.
type errand struct {
	mu              sync.Mutex
	work            *work // nil until begin
	do              func(context.Context) error
	wanted, running bool
}

// begin has do run when waked, and at once if that was before.
func (e *errand) begin(w *work, do func(context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.work, e.do = w, do
	if e.wanted {
		e.wanted = false
		e.running = w.start(e.run)
	}
}

// Wake asks for one more run; it never blocks.
func (e *errand) Wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running || e.work == nil {
		e.wanted = true
		return
	}
	e.running = e.work.start(e.run)
}

func (e *errand) run(ctx context.Context) error {
	for {
		if err := e.do(ctx); err != nil {
			return err // the session ends, and nothing runs again
		}
		e.mu.Lock()
		if !e.wanted || ctx.Err() != nil {
			e.running = false
			e.mu.Unlock()
			return nil
		}
		e.wanted = false
		e.mu.Unlock()
	}
}

// aside runs fn on a goroutine of its own and waits for it. The database wants a
// deep stack, which the goroutine that a session keeps would keep as well: 32 KiB
// for each node.
func aside(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	return <-done
}
