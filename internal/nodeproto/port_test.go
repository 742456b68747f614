package nodeproto

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// device behaves as QEMU's virtio-serial port: bytes of a host that has gone
// are still read by the guest, what the guest writes waits for the next host.
type device struct {
	toGuest, toHost *queue
}

func newDevice() *device { return &device{newQueue(100 << 10), newQueue(30 << 10)} }

func (d *device) guest() io.ReadWriteCloser { return &end{in: d.toGuest, out: d.toHost} }

// host attaches a host; its Close cuts it off, maybe inside of a frame.
func (d *device) host() *end { return &end{in: d.toHost, out: d.toGuest} }

type end struct {
	in, out *queue
	mu      sync.Mutex
	closed  bool
}

func (e *end) isClosed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

func (e *end) Read(b []byte) (int, error)  { return e.in.read(b, e.isClosed) }
func (e *end) Write(b []byte) (int, error) { return e.out.write(b, e.isClosed) }
func (e *end) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.in.cond.Broadcast()
	e.out.cond.Broadcast()
	return nil
}

type queue struct {
	mu   sync.Mutex
	cond *sync.Cond
	b    []byte
	max  int
}

func newQueue(max int) *queue {
	q := &queue{max: max}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *queue) read(b []byte, closed func() bool) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.b) == 0 {
		if closed() {
			return 0, io.EOF
		}
		q.cond.Wait()
	}
	if closed() {
		return 0, io.EOF
	}
	n := copy(b, q.b)
	q.b = q.b[n:]
	q.cond.Broadcast()
	return n, nil
}

func (q *queue) write(b []byte, closed func() bool) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	done := 0
	for done < len(b) {
		if closed() {
			return done, io.ErrClosedPipe
		}
		if room := q.max - len(q.b); room > 0 {
			n := min(room, len(b)-done)
			q.b = append(q.b, b[done:done+n]...)
			done += n
			q.cond.Broadcast()
			continue
		}
		q.cond.Wait()
	}
	return done, nil
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// echo answers every session with what it got.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

func roundTrip(t *testing.T, c net.Conn, n int) {
	t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	go c.Write(data)
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("echo of %d bytes: %v", n, err)
	}
	if sha256.Sum256(got) != sha256.Sum256(data) {
		t.Fatalf("echo of %d bytes differs", n)
	}
}

func TestSessionCarriesBytes(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	go echo(g)
	h := NewHost(d.host())
	defer h.Close()
	for _, n := range []int{1, 100, maxPayload + 1, 5 << 20} {
		c, err := h.Open(within(t))
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, n)
		c.Close()
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("write after Close: %v", err)
		}
	}
}

func TestHostsComeAndGoInsideFrames(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	go echo(g)
	for i := range 30 {
		e := d.host()
		h := NewHost(e)
		c, err := h.Open(within(t))
		if err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		roundTrip(t, c, 100<<10)
		go func() { // leave both directions full
			for {
				if _, err := c.Write(make([]byte, 200<<10)); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		h.Close()
	}
}

func TestResetGetsThroughToOneWhoDoesNotRead(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	h := NewHost(d.host())
	defer h.Close()
	for range 3 {
		c, err := h.Open(within(t))
		if err != nil {
			t.Fatal(err)
		}
		gc, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		// Nobody reads; both write until credit is gone.
		ended := make(chan error, 2)
		for _, w := range []net.Conn{c, gc} {
			go func() {
				var err error
				for err == nil {
					_, err = w.Write(make([]byte, 1<<20))
				}
				ended <- err
			}()
		}
		for _, w := range []*session{c.(*session), gc.(*session)} {
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				w.mu.Lock()
				credit := w.credit
				w.mu.Unlock()
				if credit == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("credit is never used up")
				}
			}
		}
		next, err := h.Open(within(t))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, ErrReset) {
				t.Fatalf("a replaced session ended with %v", err)
			}
		}
		next.Close()
		g.Accept()
	}
}

func TestAgentRestartEndsSession(t *testing.T) {
	d := newDevice()
	e := d.guest()
	g := NewGuest(e, nil)
	go echo(g)
	h := NewHost(d.host())
	defer h.Close()
	c, err := h.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 1000)
	g.Close()
	g.port.loops.Wait()
	g = NewGuest(d.guest(), nil)
	defer g.Close()
	go echo(g)
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrRestarted) {
		t.Fatalf("read after the restart: %v, want ErrRestarted", err)
	}
	c, err = h.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 1000)
}

func TestOpenWaitsForTheAgent(t *testing.T) {
	d := newDevice()
	h := NewHost(d.host())
	defer h.Close()
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := h.Open(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Open without an agent: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		c, err := h.Open(within(t))
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		got <- err
	}()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	go echo(g)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestLostFrameEndsSession(t *testing.T) {
	p := newPort(struct {
		io.Reader
		io.Writer
		io.Closer
	}{bytes.NewReader(nil), io.Discard, io.NopCloser(nil)})
	s := newSession(p, 5, window)
	p.current = s
	p.deliver(frame{kind: frameData, session: 5, arg: 0, payload: []byte("a")})
	p.deliver(frame{kind: frameData, session: 9, arg: 1, payload: []byte("of another session")})
	p.deliver(frame{kind: frameData, session: 5, arg: 2, payload: []byte("c")})
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Fatalf("read: %v, want ErrLost", err)
	}
	if p.gone != 5 {
		t.Fatal("the peer is not told")
	}
}

func TestDeadlines(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	h := NewHost(d.host())
	defer h.Close()
	c, err := h.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	var ne net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("read: %v, want a timeout", err)
	}
	c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Write(make([]byte, 4<<20)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("write: %v, want a timeout", err)
	}
}

func BenchmarkSession(b *testing.B) {
	d := &device{newQueue(256 << 10), newQueue(256 << 10)}
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	h := NewHost(d.host())
	defer h.Close()
	c, err := h.Open(within(b))
	if err != nil {
		b.Fatal(err)
	}
	gc, err := g.Accept()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := gc.Write(buf); err != nil {
				return
			}
		}
		gc.Close()
	}()
	io.Copy(io.Discard, c)
}

// counted counts what a host writes.
type counted struct {
	*end
	mu sync.Mutex
	n  int
}

func (c *counted) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.n += len(b)
	c.mu.Unlock()
	return c.end.Write(b)
}

func (c *counted) taken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = 0
	return n
}

func TestOnlyWhoMayBeOutOfStepIsPadded(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	go echo(g)
	e := &counted{end: d.host()}
	h := NewHost(e)
	defer h.Close()
	open := func(what string, padded bool) {
		t.Helper()
		e.taken()
		c, err := h.Open(within(t))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := e.taken(); n >= len(padding) != padded {
			t.Errorf("%s: %d bytes were written for a session; padded %v is wanted", what, n, padded)
		}
		roundTrip(t, c, 1000)
	}
	open("the first session of a host", true)
	open("the next", false)
	open("and the next", false)
	g.Close()
	g.port.loops.Wait()
	g = NewGuest(d.guest(), nil)
	defer g.Close()
	go echo(g)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		h.port.mu.Lock()
		told := !h.port.synced
		h.port.mu.Unlock()
		if told {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the host is not told that the agent has restarted")
		}
	}
	open("after the agent's restart", true)
	open("the next one", false)
}

// A guest that waits for the rest of a frame takes a RESET without padding for that;
// the repeated one gets through.
func TestASessionOpensForAGuestOutOfStep(t *testing.T) {
	d := newDevice()
	g := NewGuest(d.guest(), nil)
	defer g.Close()
	go echo(g)
	e := d.host()
	h := NewHost(e)
	defer h.Close()
	c, err := h.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 1000)
	half := appendFrame(nil, frame{kind: frameData, session: 1, payload: make([]byte, maxPayload)})
	if _, err := e.Write(half[:100]); err != nil {
		t.Fatal(err)
	}
	if c, err = h.Open(within(t)); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 1000)
}
