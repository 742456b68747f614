package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// memory is a Device of bytes in memory that can be told to fail and to block.
type memory struct {
	mu       sync.Mutex
	data     []byte
	readOnly bool
	fail     error
	flushes  int
	punches  int
	// gate, if not nil, is received from by every ReadAt.
	gate chan struct{}
	// busy and most count the ReadAt under way.
	busy, most int
}

func (m *memory) Size() int64    { return int64(len(m.data)) }
func (m *memory) ReadOnly() bool { return m.readOnly }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	m.busy++
	m.most = max(m.most, m.busy)
	m.mu.Unlock()
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy--
	if m.fail != nil {
		return 0, m.fail
	}
	return copy(p, m.data[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	return copy(m.data[off:], p), nil
}

func (m *memory) Trim(off, n int64) error { return m.Clear(off, n, true) }

func (m *memory) Clear(off, n int64, punch bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if punch {
		m.punches++
	}
	clear(m.data[off : off+n])
	return m.fail
}

func (m *memory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushes++
	return m.fail
}

func (m *memory) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// now is a copy of the bytes.
func (m *memory) now() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data)
}

// shelf is Exports over a map.
type shelf struct {
	mu       sync.Mutex
	devices  map[string]Device
	open     int
	openedIn int
}

func (s *shelf) Open(_ context.Context, name string) (Device, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "busy" {
		return nil, nil, Refuse("it is being repaired")
	}
	if name == "secret" {
		return nil, nil, errors.New("the password is 1234")
	}
	d := s.devices[name]
	if d == nil {
		return nil, nil, Unknown("there is no such export")
	}
	s.open++
	s.openedIn++
	return d, func() { s.mu.Lock(); s.open--; s.mu.Unlock() }, nil
}

func (s *shelf) Names() []string { return []string{"disk"} }

func newTestServer(exports Exports) *Server {
	return NewServer(Config{Exports: exports, Log: slog.New(slog.DiscardHandler)})
}

// serve runs a server on a unix socket until the test ends.
func serve(t *testing.T, s *Server) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
	})
	return socket
}

// client speaks the protocol as literally as the tests need.
type client struct {
	t *testing.T
	net.Conn
}

func dial(t *testing.T, socket string) *client {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	cl := &client{t, c}
	hello := cl.read(18)
	if string(hello[:8]) != "NBDMAGIC" || string(hello[8:16]) != "IHAVEOPT" {
		t.Fatalf("hello %q", hello)
	}
	cl.send(uint32(3))
	return cl
}

func (c *client) send(values ...any) {
	c.t.Helper()
	var b bytes.Buffer
	for _, v := range values {
		switch v := v.(type) {
		case string:
			b.WriteString(v)
		case []byte:
			b.Write(v)
		default:
			_ = binary.Write(&b, binary.BigEndian, v)
		}
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *client) option(opt uint32, data []byte) {
	c.t.Helper()
	c.send("IHAVEOPT", opt, uint32(len(data)), data)
}

// optionReply returns the kind and data of one reply.
func (c *client) optionReply(opt uint32) (uint32, []byte) {
	c.t.Helper()
	h := c.read(20)
	if m := binary.BigEndian.Uint64(h); m != magicOptReply {
		c.t.Fatalf("reply magic %#x", m)
	}
	if got := binary.BigEndian.Uint32(h[8:]); got != opt {
		c.t.Fatalf("a reply to option %d, asked %d", got, opt)
	}
	return binary.BigEndian.Uint32(h[12:]), c.read(int(binary.BigEndian.Uint32(h[16:])))
}

func exportData(name string, infos ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

// goTo chooses an export and returns size and flags.
func (c *client) goTo(opt uint32, name string) (size uint64, flags uint16) {
	c.t.Helper()
	c.option(opt, exportData(name, infoBlockSize))
	for {
		kind, data := c.optionReply(opt)
		switch {
		case kind == repAck:
			return size, flags
		case kind == repInfo && binary.BigEndian.Uint16(data) == infoExport:
			size, flags = binary.BigEndian.Uint64(data[2:]), binary.BigEndian.Uint16(data[10:])
		case kind == repInfo:
			if lo, hi := binary.BigEndian.Uint32(data[2:]), binary.BigEndian.Uint32(data[10:]); lo != minBlock || hi != maxBlock {
				c.t.Errorf("block sizes %d to %d", lo, hi)
			}
		default:
			c.t.Fatalf("reply %#x %q", kind, data)
		}
	}
}

func (c *client) request(flags, cmd uint16, cookie, off uint64, length uint32, payload []byte) {
	c.t.Helper()
	c.send(uint32(magicRequest), flags, cmd, cookie, off, length, payload)
}

func (c *client) answer() (Errno, uint64) {
	c.t.Helper()
	h := c.read(replyLen)
	if m := binary.BigEndian.Uint32(h); m != magicReply {
		c.t.Fatalf("answer magic %#x", m)
	}
	return Errno(binary.BigEndian.Uint32(h[4:])), binary.BigEndian.Uint64(h[8:])
}

// do is a request and its answer.
func (c *client) do(flags, cmd uint16, off uint64, length uint32, payload []byte) Errno {
	c.t.Helper()
	c.request(flags, cmd, 7, off, length, payload)
	errno, cookie := c.answer()
	if cookie != 7 {
		c.t.Fatalf("cookie %d", cookie)
	}
	return errno
}

func TestNegotiation(t *testing.T) {
	exports := &shelf{devices: map[string]Device{"disk": &memory{data: make([]byte, 5<<20)}, "ro": &memory{data: make([]byte, 512), readOnly: true}}}
	socket := serve(t, newTestServer(exports))
	c := dial(t, socket)

	c.option(optList, nil)
	if kind, data := c.optionReply(optList); kind != repServer || string(data[4:]) != "disk" {
		t.Errorf("list: %#x %q", kind, data)
	}
	if kind, _ := c.optionReply(optList); kind != repAck {
		t.Errorf("list ends with %#x", kind)
	}
	for _, refused := range []struct {
		opt  uint32
		data []byte
		want uint32
	}{
		{optList, []byte{1}, repErrInvalid},
		{8, nil, repErrUnsup},
		{5, nil, repErrUnsup},
		{optGo, []byte{0}, repErrInvalid},
		{optGo, append(exportData("disk"), 9), repErrInvalid},
		{optInfo, exportData("missing"), repErrUnknown},
		{optGo, exportData("busy"), repErrPolicy},
		{optGo, make([]byte, maxOption+1), repErrTooBig},
	} {
		c.option(refused.opt, refused.data)
		if kind, text := c.optionReply(refused.opt); kind != refused.want {
			t.Errorf("option %d: %#x %q, want %#x", refused.opt, kind, text, refused.want)
		}
	}
	c.option(optGo, exportData("secret"))
	if kind, text := c.optionReply(optGo); kind != repErrPolicy || bytes.Contains(text, []byte("1234")) {
		t.Errorf("a private error is told: %#x %q", kind, text)
	}
	if size, flags := c.goTo(optInfo, "ro"); size != 512 || flags != flagHasFlags|flagReadOnly|flagSendFlush|flagMultiConn {
		t.Errorf("info of ro: %d %#x", size, flags)
	}
	if size, flags := c.goTo(optGo, "disk"); size != 5<<20 || flags&flagReadOnly != 0 || flags&flagSendZeroes == 0 {
		t.Errorf("go to disk: %d %#x", size, flags)
	}
	if errno := c.do(0, cmdRead, 0, 512, nil); errno != 0 {
		t.Fatal(errno)
	}
	c.read(512)
	c.request(0, cmdDisconnect, 1, 0, 0, nil)
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after DISC: %d, %v", n, err)
	}
	// The connection closes before the device is given back.
	for range 2000 {
		exports.mu.Lock()
		open := exports.open
		exports.mu.Unlock()
		if open == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	exports.mu.Lock()
	defer exports.mu.Unlock()
	if exports.open != 0 || exports.openedIn != 2 {
		t.Errorf("%d of %d devices still lent", exports.open, exports.openedIn)
	}
}

func TestExportNameAndAbort(t *testing.T) {
	socket := serve(t, newTestServer(&shelf{devices: map[string]Device{"disk": &memory{data: []byte("0123456789abcdef")}}}))
	c := dial(t, socket)
	c.option(optExportName, []byte("disk"))
	if b := c.read(10); binary.BigEndian.Uint64(b) != 16 {
		t.Errorf("size %x", b)
	}
	if errno := c.do(0, cmdRead, 3, 4, nil); errno != 0 || string(c.read(4)) != "3456" {
		t.Error("the read after EXPORT_NAME is wrong")
	}
	missing := dial(t, socket)
	missing.option(optExportName, []byte("missing"))
	if _, err := missing.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a missing export by EXPORT_NAME: %v", err)
	}
	aborted := dial(t, socket)
	aborted.option(optAbort, nil)
	if kind, _ := aborted.optionReply(optAbort); kind != repAck {
		t.Errorf("abort: %#x", kind)
	}
}

func TestRequests(t *testing.T) {
	dev := &memory{data: make([]byte, 1<<20)}
	socket := serve(t, newTestServer(&shelf{devices: map[string]Device{"disk": dev}}))
	c := dial(t, socket)
	c.goTo(optGo, "disk")
	payload := bytes.Repeat([]byte("x"), 1000)
	if errno := c.do(cmdFlagFUA, cmdWrite, 5, 1000, payload); errno != 0 {
		t.Fatal(errno)
	}
	if dev.flushes != 1 {
		t.Errorf("a write with FUA flushed %d times", dev.flushes)
	}
	if errno := c.do(0, cmdRead, 5, 1000, nil); errno != 0 || !bytes.Equal(c.read(1000), payload) {
		t.Error("what was written is not read")
	}
	if errno := c.do(cmdFlagNoHole, cmdWriteZeroes, 5, 500, nil); errno != 0 || dev.punches != 0 {
		t.Errorf("WRITE_ZEROES without a hole: %v, %d punched", errno, dev.punches)
	}
	if errno := c.do(0, cmdTrim, 505, 500, nil); errno != 0 || dev.punches != 1 {
		t.Errorf("TRIM: %v, %d punched", errno, dev.punches)
	}
	if errno := c.do(0, cmdFlush, 0, 0, nil); errno != 0 || dev.flushes != 2 {
		t.Errorf("FLUSH: %v, %d flushes", errno, dev.flushes)
	}
	for _, bad := range []struct {
		name       string
		flags, cmd uint16
		off        uint64
		length     uint32
		want       Errno
	}{
		{"read past the end", 0, cmdRead, 1<<20 - 1, 2, EINVAL},
		{"read from nowhere", 0, cmdRead, 1 << 63, 1, EINVAL},
		{"write past the end", 0, cmdWrite, 1 << 20, 4, ENOSPC},
		{"zeroes past the end", 0, cmdWriteZeroes, 1, 1 << 20, ENOSPC},
		{"trim past the end", 0, cmdTrim, 1, 1 << 20, EINVAL},
		{"an unknown command", 0, 77, 0, 0, EINVAL},
		{"an unknown flag", 1 << 9, cmdRead, 0, 1, EINVAL},
	} {
		var data []byte
		if bad.cmd == cmdWrite {
			data = make([]byte, bad.length)
		}
		if errno := c.do(bad.flags, bad.cmd, bad.off, bad.length, data); errno != bad.want {
			t.Errorf("%s: %v, want %v", bad.name, errno, bad.want)
		}
	}
	for err, want := range map[error]Errno{errors.New("broken"): EIO, syscall.ENOSPC: ENOSPC, ErrReadOnly: EPERM, EINVAL: EINVAL} {
		dev.setFail(err)
		if errno := c.do(0, cmdRead, 0, 4096, nil); errno != want {
			t.Errorf("%v is told as %v, want %v", err, errno, want)
		}
		if errno := c.do(0, cmdWrite, 0, 4, []byte("abcd")); errno != want {
			t.Errorf("%v of a write is told as %v, want %v", err, errno, want)
		}
	}
}

func TestReadOnly(t *testing.T) {
	dev := &memory{data: make([]byte, 1<<20), readOnly: true}
	c := dial(t, serve(t, newTestServer(&shelf{devices: map[string]Device{"disk": dev}})))
	c.goTo(optGo, "disk")
	for _, cmd := range []uint16{cmdWrite, cmdTrim, cmdWriteZeroes} {
		var data []byte
		if cmd == cmdWrite {
			data = make([]byte, 8)
		}
		if errno := c.do(0, cmd, 0, 8, data); errno != EPERM {
			t.Errorf("command %d on a read-only device: %v", cmd, errno)
		}
	}
}

// Requests run at the same time and are answered when each is done; the bounds
// on memory hold back what does not fit.
func TestConcurrencyAndMemory(t *testing.T) {
	dev := &memory{data: make([]byte, 64<<20), gate: make(chan struct{})}
	s := NewServer(Config{Exports: &shelf{devices: map[string]Device{"disk": dev}}, Log: slog.New(slog.DiscardHandler), ConnMemory: 4 << 20, InFlight: 8})
	c := dial(t, serve(t, s))
	c.goTo(optGo, "disk")
	const n, size = 16, 1 << 20
	go func() {
		for i := range uint64(n) {
			c.request(0, cmdRead, i, i*size, size, nil)
		}
	}()
	wait := func(want int) {
		t.Helper()
		for range 2000 {
			dev.mu.Lock()
			busy := dev.busy
			dev.mu.Unlock()
			if busy == want {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("never %d reads at once", want)
	}
	wait(4) // 4 MiB of answers
	close(dev.gate)
	seen := map[uint64]bool{}
	for range n {
		errno, cookie := c.answer()
		if errno != 0 || seen[cookie] {
			t.Fatalf("answer %d: %v", cookie, errno)
		}
		seen[cookie] = true
		c.read(size)
	}
	if dev.most != 4 {
		t.Errorf("%d reads of 1 MiB at once under a bound of 4 MiB", dev.most)
	}
}

// prompt is a memory device that answers at once where it says so.
type prompt struct{ *memory }

func (p prompt) Prompt(off, n int64) bool { return off >= 1<<20 }

// A prompt read is answered while others wait.
func TestPromptReads(t *testing.T) {
	dev := prompt{&memory{data: make([]byte, 4<<20), gate: make(chan struct{}, 1)}}
	c := dial(t, serve(t, newTestServer(&shelf{devices: map[string]Device{"disk": dev}})))
	c.goTo(optGo, "disk")
	dev.data[2<<20] = 9
	c.request(0, cmdRead, 1, 0, 512, nil) // waits at the gate
	for range 2000 {
		dev.mu.Lock()
		busy := dev.busy
		dev.mu.Unlock()
		if busy == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.request(0, cmdRead, 2, 2<<20, 512, nil)
	dev.gate <- struct{}{}
	dev.gate <- struct{}{}
	got := map[uint64]byte{}
	for range 2 {
		errno, cookie := c.answer()
		if errno != 0 {
			t.Fatal(errno)
		}
		got[cookie] = c.read(512)[0]
	}
	if got[1] != 0 || got[2] != 9 {
		t.Errorf("%v", got)
	}
}

// A request that is larger than the bound is served alone, and small ones are
// bounded by number.
func TestLargeRequestPasses(t *testing.T) {
	dev := &memory{data: make([]byte, 64<<20)}
	s := NewServer(Config{Exports: &shelf{devices: map[string]Device{"disk": dev}}, Log: slog.New(slog.DiscardHandler), ConnMemory: 1 << 20, Memory: 2 << 20})
	c := dial(t, serve(t, s))
	c.goTo(optGo, "disk")
	if errno := c.do(0, cmdRead, 0, maxPayload, nil); errno != 0 {
		t.Fatal(errno)
	}
	c.read(maxPayload)
	if errno := c.do(0, cmdRead, 0, maxPayload+1, nil); errno != EINVAL {
		t.Errorf("a read of more than 32 MiB: %v", errno)
	}
}
