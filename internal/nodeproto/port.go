package nodeproto

import (
	"io"
	"sync"
)

// port is what both ends of the port share: one loop that reads and never
// waits for anything but the port, and one that writes control frames. The
// reading loop never writes: two peers that both wait to write would stop each
// other for good.
type port struct {
	rw io.ReadWriteCloser
	// handle gets every frame, in order, from the reading loop.
	handle func(frame)

	writing sync.Mutex // held while a frame's bytes are written
	out     []byte

	mu      sync.Mutex
	current *session
	reset   *session // host: RESET is to be sent
	ack     *session // guest: RESET-ACK is to be sent
	up      bool     // guest: UP is to be sent
	// announced is closed when UP is sent; nil at the host.
	announced chan struct{}
	gone      uint64  // CLOSE of this session is to be sent, 0 for none
	birth     []frame // what is to be sent of a birth: at most one of a kind
	// synced says that the peer is known to find the next frame: it needs no padding.
	synced bool
	err    error

	wakeup chan struct{}
	done   chan struct{}
	loops  sync.WaitGroup
}

func newPort(rw io.ReadWriteCloser) *port {
	return &port{rw: rw, wakeup: make(chan struct{}, 1), done: make(chan struct{})}
}

func (p *port) start() {
	p.loops.Add(2)
	go func() { defer p.loops.Done(); p.readLoop() }()
	go func() { defer p.loops.Done(); p.controlLoop() }()
}

func (p *port) readLoop() {
	d := newDecoder(p.rw)
	for {
		f, err := d.next()
		if err != nil {
			p.fail(err)
			return
		}
		p.handle(f)
	}
}

func (p *port) controlLoop() {
	for {
		select {
		case <-p.done:
			return
		case <-p.wakeup:
		}
		for {
			f, pad, after, ok := p.nextControl()
			if !ok {
				break
			}
			if err := p.writePadded(f, pad); err != nil {
				return
			}
			if after != nil {
				after()
			}
		}
	}
}

// nextControl takes one control frame that is due. Newer state replaces older,
// so what waits is bounded however long the port takes nothing.
func (p *port) nextControl() (f frame, pad bool, after func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.up:
		p.up = false
		return frame{kind: frameUp}, false, func() { close(p.announced) }, true
	case p.gone != 0:
		id := p.gone
		p.gone = 0
		return frame{kind: frameClose, session: id}, false, nil, true
	case len(p.birth) > 0:
		f := p.birth[0]
		p.birth = p.birth[1:]
		return f, false, nil, true
	case p.reset != nil:
		s := p.reset
		p.reset = nil
		return frame{kind: frameReset, session: s.id}, !p.synced, nil, true
	case p.ack != nil:
		s, pad := p.ack, !p.synced
		p.ack, p.synced = nil, true
		// The session may send only now, so that nothing overtakes the answer.
		return frame{kind: frameAck, session: s.id}, pad, func() { s.allow() }, true
	case p.current != nil:
		if n := p.current.takeGrant(); n > 0 {
			return frame{kind: frameWindow, session: p.current.id, arg: uint32(n)}, false, nil, true
		}
	}
	return frame{}, false, nil, false
}

func (p *port) write(f frame) error { return p.writePadded(f, false) }

func (p *port) writePadded(f frame, pad bool) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	select {
	case <-p.done:
		return p.failure()
	default:
	}
	p.out = appendFrame(p.out[:0], f)
	if pad {
		p.out = append(p.out, padding...)
	}
	if _, err := p.rw.Write(p.out); err != nil {
		p.fail(err)
		return err
	}
	return nil
}

func (p *port) wake() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// closed is called once by a session that its owner has closed.
func (p *port) closed(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != s {
		return // its successor's RESET says it all
	}
	p.current = nil
	p.gone = s.id
	if p.reset == s {
		p.reset = nil
	}
	if p.ack == s {
		p.ack = nil
	}
	p.wake()
}

// drop ends the current session if it is s. tell is for what the peer does not know:
// something was lost on the port.
func (p *port) drop(s *session, err error, tell bool) {
	p.mu.Lock()
	if tell {
		p.synced = false
	}
	if p.current == s {
		p.current = nil
		if tell {
			p.gone = s.id
			p.wake()
		}
	}
	p.mu.Unlock()
	s.end(err, err, err == io.EOF)
}

func (p *port) session() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// deliver handles the frames that both ends treat alike.
func (p *port) deliver(f frame) {
	s := p.session()
	if s == nil || s.id != f.session {
		return
	}
	switch f.kind {
	case frameData:
		if err := s.receive(f); err != nil {
			p.drop(s, err, true)
		}
	case frameWindow:
		s.addCredit(int(f.arg))
	case frameClose:
		p.drop(s, io.EOF, false)
	}
}

func (p *port) fail(err error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return
	}
	p.err = err
	s := p.current
	p.current = nil
	close(p.done)
	p.mu.Unlock()
	if s != nil {
		s.end(err, err, true)
	}
	p.rw.Close()
}

func (p *port) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// allow gives a session of the guest its first credit.
func (s *session) allow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sendSeq == 0 && s.credit == 0 {
		s.credit = window
		s.changed.Broadcast()
	}
}
