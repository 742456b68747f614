package nodeproto

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A birth is the one exchange that needs no session: the supervisor tells a machine
// that was copied who it is, and gets an answer. It is a frame each way and nothing
// else, because under emulation each piece of code that a new machine runs for the
// first time has to be translated; HTTP/2 and what is below it take more than all
// that a birth does.

// birth is what a Host waits for.
type birth struct {
	id     uint64
	answer chan []byte // takes one
	whole  chan error  // takes one
	// answered: the answer has come; the port's lock guards it.
	answered bool
}

// done says how what was put off has ended; only the first time counts.
func (b *birth) done(err error) {
	select {
	case b.whole <- err:
	default:
	}
}

// Birth sends q, of at most MaxBirth bytes, and returns the guest's answer. whole gets
// nil when the guest has done what it had put off, or why it could not: ErrRestarted,
// if its agent restarts before. Birth is called once. The error is ctx's or the port's.
func (h *Host) Birth(ctx context.Context, q []byte) (answer []byte, whole <-chan error, err error) {
	if len(q) > MaxBirth {
		return nil, nil, fmt.Errorf("nodeproto: a birth has %d bytes; at most %d are possible", len(q), MaxBirth)
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, nil, err
	}
	b := &birth{id: binary.BigEndian.Uint64(id[:]) | 1, answer: make(chan []byte, 1), whole: make(chan error, 1)}
	p := h.port
	p.mu.Lock()
	h.born = b
	p.mu.Unlock()
	again := time.NewTicker(resend)
	defer again.Stop()
	for {
		p.send(frame{kind: frameBirth, session: b.id, payload: q})
		select {
		case a := <-b.answer:
			return a, b.whole, nil
		case <-p.done:
			return nil, nil, p.failure()
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-again.C:
		}
	}
}

// answered takes what the guest says of a birth; it never waits.
func (h *Host) answered(f frame) {
	h.port.mu.Lock()
	defer h.port.mu.Unlock()
	b := h.born
	if b == nil || b.id != f.session {
		return
	}
	if f.kind == frameWhole {
		var err error
		if len(f.payload) > 0 {
			err = errors.New(string(f.payload))
		}
		b.done(err)
		return
	}
	b.answered, h.port.synced = true, true
	select {
	case b.answer <- slices.Clone(f.payload):
	default: // asked twice, answered twice
	}
}

// MaxBirth bounds the question and the answer of a birth, in bytes.
const MaxBirth = maxPayload

// Birth is how an agent answers: at once with answer, and then, when that is sent,
// with what rest does, nil for nothing, whose error is told too. It is not called
// again for the same birth.
type Birth func(q []byte) (answer []byte, rest func() error)

// bear answers a BIRTH once, and says the same again to who asks again.
func (g *Guest) bear(f frame) {
	p := g.port
	p.mu.Lock()
	defer p.mu.Unlock()
	if g.birth == nil {
		return
	}
	if g.bornOf == f.session {
		if g.born != nil {
			p.put(frame{kind: frameBorn, session: f.session, payload: g.born})
		}
		return
	}
	g.bornOf, g.born = f.session, nil
	q := slices.Clone(f.payload)
	go func() {
		answer, rest := g.birth(q)
		// To the host an UP behind the answer is another agent's.
		select {
		case <-p.announced:
		case <-p.done:
			return
		}
		p.mu.Lock()
		if g.bornOf != f.session {
			p.mu.Unlock()
			return
		}
		g.born = answer
		p.mu.Unlock()
		// From here and not by the loop: what comes behind it takes the processor.
		if p.write(frame{kind: frameBorn, session: f.session, payload: answer}) != nil {
			return
		}
		whole := frame{kind: frameWhole, session: f.session}
		if rest != nil {
			if err := rest(); err != nil {
				whole.payload = []byte(err.Error())
				whole.payload = whole.payload[:min(len(whole.payload), MaxBirth)]
			}
		}
		p.send(whole)
	}()
}

// send has the loop send a frame of a birth.
func (p *port) send(f frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(f)
}

// put is send with the lock held.
func (p *port) put(f frame) {
	p.birth = append(slices.DeleteFunc(p.birth, func(o frame) bool { return o.kind == f.kind }), f)
	p.wake()
}
