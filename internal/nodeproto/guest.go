package nodeproto

import (
	"io"
	"net"
)

// Guest is the agent's end of the port: a net.Listener whose connections are
// the sessions. A new session ends the one before.
type Guest struct {
	port     *port
	sessions chan *session
	// refused is the last session that this agent did not know and has told so.
	refused uint64
	// birth answers a BIRTH, bornOf is the last one's number, born its answer, nil
	// until it is given; the port's lock guards both.
	birth  Birth
	bornOf uint64
	born   []byte
}

// NewGuest runs the port over rw and owns it. rw's Read must wait while no
// host is connected; an error of rw, io.EOF included, ends the Guest. birth is nil
// for a machine that is no copy.
func NewGuest(rw io.ReadWriteCloser, birth Birth) *Guest {
	g := &Guest{port: newPort(rw), sessions: make(chan *session, 1), birth: birth}
	g.port.handle = g.frame
	g.port.up, g.port.announced = true, make(chan struct{})
	g.port.wake()
	g.port.start()
	return g
}

// Accept returns the next session. Sessions that were replaced before anybody
// accepted them are left out.
func (g *Guest) Accept() (net.Conn, error) {
	select {
	case s := <-g.sessions:
		return s, nil
	case <-g.port.done:
		return nil, net.ErrClosed
	}
}

func (g *Guest) frame(f frame) {
	if f.kind == frameReset {
		g.reset(f.session)
		return
	}
	if f.kind == frameBirth {
		g.bear(f)
		return
	}
	s := g.port.session()
	if f.kind == frameData && (s == nil || s.id != f.session) {
		g.refuse(f.session)
		return
	}
	g.port.deliver(f)
}

func (g *Guest) reset(id uint64) {
	p := g.port
	p.mu.Lock()
	old := p.current
	if old != nil && old.id == id {
		old.mu.Lock()
		again := !old.started
		old.mu.Unlock()
		if again { // the host asked twice, or did not get the answer
			p.ack, p.synced = old, false
			p.wake()
		}
		p.mu.Unlock()
		return
	}
	s := newSession(p, id, 0)
	p.current, p.ack, p.gone = s, s, 0
	p.wake()
	p.mu.Unlock()
	if old != nil {
		old.end(ErrReset, ErrReset, false)
	}
	// Only this loop sends, so after taking out what waits there is room.
	select {
	case <-g.sessions:
	default:
	}
	g.sessions <- s
}

// refuse tells the host, once, that this agent does not know its session: the
// agent has restarted, or has closed it.
func (g *Guest) refuse(id uint64) {
	if id == g.refused || id == 0 {
		return
	}
	g.refused = id
	g.port.mu.Lock()
	defer g.port.mu.Unlock()
	g.port.gone = id
	g.port.wake()
}

// Addr is the port's name.
func (g *Guest) Addr() net.Addr { return portAddr{} }

// Close ends the port. It does not wait for a read that the device holds.
func (g *Guest) Close() error {
	g.port.fail(net.ErrClosed)
	return nil
}

var _ net.Listener = (*Guest)(nil)
