package nodeproto

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"time"
)

// resend is how long Open waits for an answer before it asks again. The guest
// answers in milliseconds once its agent runs; bytes can be lost while it
// restarts.
const resend = 2 * time.Second

// Host is the supervisor's end of the port. It is safe for concurrent use.
type Host struct {
	port *port
	// acked is closed when the current session's RESET-ACK has come; the
	// port's lock guards it.
	acked chan struct{}
	// born is the birth that Birth waits for; the port's lock guards it.
	born *birth
}

// NewHost runs the port over rw, such as the connection to QEMU's socket. It
// owns rw and closes it when it ends.
func NewHost(rw io.ReadWriteCloser) *Host {
	h := &Host{port: newPort(rw)}
	h.port.handle = h.frame
	h.port.start()
	return h
}

// Open ends the session that may run and starts a new one. It returns when the
// agent has answered, which includes waiting for the guest to boot; the bound
// is ctx. An error is ctx's, the port's, or ErrReset when another Open came.
func (h *Host) Open(ctx context.Context) (net.Conn, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	p := h.port
	s := newSession(p, binary.BigEndian.Uint64(id[:])|1, window)
	acked := make(chan struct{})
	p.mu.Lock()
	if p.err != nil {
		defer p.mu.Unlock()
		return nil, p.err
	}
	old := p.current
	p.current, p.reset, p.gone, h.acked = s, s, 0, acked
	p.mu.Unlock()
	if old != nil {
		old.end(ErrReset, ErrReset, false)
	}
	p.wake()

	again := time.NewTicker(resend)
	defer again.Stop()
	for {
		select {
		case <-acked:
			return s, nil
		case <-p.done:
			return nil, p.failure()
		case <-ctx.Done():
			s.Close()
			return nil, ctx.Err()
		case <-again.C:
			if !h.ask(s) {
				return nil, ErrReset
			}
		}
	}
}

// ask sends s's RESET again; false when s is no longer the current session.
func (h *Host) ask(s *session) bool {
	p := h.port
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != s {
		return false
	}
	select {
	case <-h.acked:
	default:
		p.reset, p.synced = s, false
		p.wake()
	}
	return true
}

func (h *Host) frame(f frame) {
	switch f.kind {
	case frameAck:
		h.ack(f.session)
	case frameUp:
		h.restarted()
	case frameBorn, frameWhole:
		h.answered(f)
	default:
		h.port.deliver(f)
	}
}

func (h *Host) ack(id uint64) {
	p := h.port
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil || p.current.id != id {
		return
	}
	p.reset, p.synced = nil, true
	select {
	case <-h.acked:
	default:
		close(h.acked)
	}
}

// restarted ends a session that the last agent had, or asks the new agent at
// once for the session that Open waits for. What the last one had put off at a
// birth is lost with it.
func (h *Host) restarted() {
	p := h.port
	p.mu.Lock()
	if b := h.born; b != nil && b.answered {
		b.done(ErrRestarted)
	}
	// The last agent may have read a part of a frame, or written one.
	p.synced = false
	s := p.current
	if s == nil {
		p.mu.Unlock()
		return
	}
	select {
	case <-h.acked:
		p.mu.Unlock()
		p.drop(s, ErrRestarted, false)
	default:
		p.reset = s
		p.wake()
		p.mu.Unlock()
	}
}

// Done is closed when the port has ended; Err then says why.
func (h *Host) Done() <-chan struct{} { return h.port.done }

// Err is why the port has ended, nil while it runs.
func (h *Host) Err() error { return h.port.failure() }

// Close ends the session and the port and waits for the port's loops.
func (h *Host) Close() error {
	h.port.fail(net.ErrClosed)
	h.port.loops.Wait()
	return nil
}
