package nodeproto

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is how many bytes may be under way in a session and direction. A
// receiver buffers at most this much, so the loop that reads the port never
// waits for a reader of a session, and a RESET always gets through.
const window = 512 << 10

var (
	// ErrReset ends a session that a newer one has replaced.
	ErrReset = errors.New("nodeproto: a newer session has replaced this one")
	// ErrRestarted ends a session whose agent has restarted.
	ErrRestarted = errors.New("nodeproto: the agent has restarted")
	// ErrLost ends a session in which a frame was lost or damaged.
	ErrLost = errors.New("nodeproto: bytes of the session were lost on the port")
)

// session is one session as a net.Conn. Deadlines and Close do not interrupt a
// write that the port itself has begun and does not take.
type session struct {
	id   uint64
	port *port

	mu      sync.Mutex
	changed sync.Cond
	in      [][]byte // received, not read
	inBytes int
	recvSeq uint32
	grant   int // bytes read, not yet granted to the peer again
	credit  int // bytes that may be sent
	sendSeq uint32
	readErr error // after in is empty; nil while the peer may send
	sendErr error
	// started is set by the first DATA: a repeated RESET is stale after it.
	started bool
	rd, wd  deadline

	writing sync.Mutex // keeps concurrent Writes whole
}

func newSession(p *port, id uint64, credit int) *session {
	s := &session{id: id, port: p, credit: credit}
	s.changed.L = &s.mu
	return s
}

func (s *session) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 {
		if s.readErr != nil {
			return 0, s.readErr
		}
		if s.rd.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		if len(b) == 0 {
			return 0, nil
		}
		s.changed.Wait()
	}
	n := 0
	for n < len(b) && len(s.in) > 0 {
		c := copy(b[n:], s.in[0])
		n += c
		if s.in[0] = s.in[0][c:]; len(s.in[0]) == 0 {
			s.in[0] = nil
			s.in = s.in[1:]
		}
	}
	s.inBytes -= n
	s.grant += n
	if s.grant >= window/4 && s.readErr == nil {
		s.port.wake()
	}
	return n, nil
}

func (s *session) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	done := 0
	for done < len(b) {
		n, seq, err := s.take(len(b) - done)
		if err != nil {
			return done, err
		}
		f := frame{kind: frameData, session: s.id, arg: seq, payload: b[done : done+n]}
		if err := s.port.write(f); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// take waits for credit and takes up to want bytes of it and a number.
func (s *session) take(want int) (n int, seq uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.sendErr != nil:
			return 0, 0, s.sendErr
		case s.wd.passed():
			return 0, 0, os.ErrDeadlineExceeded
		case s.credit > 0:
			n = min(want, s.credit, maxPayload)
			s.credit -= n
			seq = s.sendSeq
			s.sendSeq++
			return n, seq, nil
		}
		s.changed.Wait()
	}
}

// receive takes a DATA frame from the port's loop; it never waits.
func (s *session) receive(f frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	if s.readErr != nil {
		return nil
	}
	if f.arg != s.recvSeq || s.inBytes+len(f.payload) > window {
		return ErrLost
	}
	s.recvSeq++
	if len(f.payload) > 0 {
		s.in = append(s.in, append([]byte(nil), f.payload...))
		s.inBytes += len(f.payload)
		s.changed.Broadcast()
	}
	return nil
}

func (s *session) addCredit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	s.credit = min(s.credit+n, window)
	s.changed.Broadcast()
}

// takeGrant is what the port's writer shall grant to the peer now.
func (s *session) takeGrant() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grant < window/4 || s.readErr != nil {
		return 0
	}
	n := s.grant
	s.grant = 0
	return n
}

// end ends both directions. keep leaves what was received to be read first.
func (s *session) end(read, send error, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil {
		s.readErr = read
	}
	if s.sendErr == nil {
		s.sendErr = send
	}
	if !keep {
		s.in, s.inBytes = nil, 0
	}
	s.changed.Broadcast()
}

// Close ends the session on both sides. It does not wait for the peer.
func (s *session) Close() error {
	s.mu.Lock()
	closed := s.sendErr != nil && s.readErr != nil
	s.mu.Unlock()
	s.end(net.ErrClosed, net.ErrClosed, false)
	if !closed {
		s.port.closed(s)
	}
	return nil
}

func (s *session) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rd.set(t, s.broadcast)
	s.wd.set(t, s.broadcast)
	s.changed.Broadcast()
	return nil
}

func (s *session) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rd.set(t, s.broadcast)
	s.changed.Broadcast()
	return nil
}

func (s *session) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wd.set(t, s.broadcast)
	s.changed.Broadcast()
	return nil
}

func (s *session) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *session) LocalAddr() net.Addr  { return portAddr{} }
func (s *session) RemoteAddr() net.Addr { return portAddr{} }

// portAddr is the address of both ends: the port has no others.
type portAddr struct{}

func (portAddr) Network() string { return "virtio-serial" }
func (portAddr) String() string  { return PortName }

// PortName is the name of the virtio-serial port that carries the channel.
const PortName = "org.millpond.agent.0"

// deadline is one of a connection's deadlines; its owner's lock guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(t time.Time, fire func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), fire)
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

var _ net.Conn = (*session)(nil)
var _ io.ReadWriteCloser = (*session)(nil)
