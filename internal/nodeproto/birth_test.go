package nodeproto

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// TestBirth: one answer for one question, what is put off comes behind it, and then
// sessions go on as ever.
func TestBirth(t *testing.T) {
	d := newDevice()
	put := make(chan error)
	var births atomic.Int32
	g := NewGuest(d.guest(), func(q []byte) ([]byte, func() error) {
		births.Add(1)
		return append([]byte("born: "), q...), func() error { return <-put }
	})
	defer g.Close()
	go echo(g)
	h := NewHost(d.host())
	defer h.Close()
	a, whole, err := h.Birth(within(t), []byte("who"))
	if err != nil || string(a) != "born: who" {
		t.Fatalf("answer %q, %v", a, err)
	}
	select {
	case <-whole:
		t.Error("whole before what was put off is done")
	default:
	}
	c, err := h.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 100<<10)
	put <- errors.New("no card")
	select {
	case err := <-whole:
		if err == nil || err.Error() != "no card" {
			t.Errorf("what could not be done is told as %v", err)
		}
	case <-within(t).Done():
		t.Fatal("it is not said that the guest is whole")
	}
	roundTrip(t, c, 100)
	if n := births.Load(); n != 1 {
		t.Errorf("born %d times", n)
	}
}

// TestBirthAskedAgain: a question that is repeated is answered again, and acted upon
// once.
func TestBirthAskedAgain(t *testing.T) {
	d := newDevice()
	begun, let := make(chan struct{}, 9), make(chan struct{})
	g := NewGuest(d.guest(), func([]byte) ([]byte, func() error) {
		begun <- struct{}{}
		<-let
		return []byte("yes"), nil
	})
	defer g.Close()
	e := d.host()
	defer e.Close()
	ask := appendFrame(nil, frame{kind: frameBirth, session: 7, payload: []byte("q")})
	answers := newDecoder(e)
	next := func() frame {
		for {
			f, err := answers.next()
			if err != nil {
				t.Fatal(err)
			}
			if f.kind != frameUp {
				return f
			}
		}
	}
	for range 3 {
		if _, err := e.Write(ask); err != nil {
			t.Fatal(err)
		}
	}
	<-begun
	close(let)
	if f := next(); f.kind != frameBorn || f.session != 7 || string(f.payload) != "yes" {
		t.Fatalf("the answer is %+v", f)
	}
	if f := next(); f.kind != frameWhole || f.session != 7 {
		t.Fatalf("behind the answer comes %+v", f)
	}
	if _, err := e.Write(ask); err != nil {
		t.Fatal(err)
	}
	if f := next(); f.kind != frameBorn || string(f.payload) != "yes" {
		t.Fatalf("asked again it says %+v", f)
	}
	if len(begun) > 0 {
		t.Error("born twice")
	}
}

// TestBirthOfAnAgentThatRestarts: what was put off is lost with the agent that has
// answered, and the host is told.
func TestBirthOfAnAgentThatRestarts(t *testing.T) {
	d := newDevice()
	let := make(chan struct{})
	defer close(let)
	g := NewGuest(d.guest(), func([]byte) ([]byte, func() error) { return []byte("yes"), func() error { <-let; return nil } })
	h := NewHost(d.host())
	defer h.Close()
	_, whole, err := h.Birth(within(t), []byte("who"))
	if err != nil {
		t.Fatal(err)
	}
	g.Close()
	g = NewGuest(d.guest(), nil)
	defer g.Close()
	select {
	case err := <-whole:
		if !errors.Is(err, ErrRestarted) {
			t.Errorf("the end is told as %v", err)
		}
	case <-within(t).Done():
		t.Fatal("it is not said that the agent has restarted")
	}
}

// TestBirthOfNobody: who does not answer is asked until the context ends, and a
// question that is too long is not put.
func TestBirthOfNobody(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	h := NewHost(d.host())
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := h.Birth(ctx, []byte("who")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answered, and the error is %v", err)
	}
	if _, _, err := h.Birth(t.Context(), bytes.Repeat([]byte{1}, MaxBirth+1)); err == nil {
		t.Error("a question of more than MaxBirth bytes was put")
	}
}
