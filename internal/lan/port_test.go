package lan

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (here, there *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

// machine is a port with what QEMU would have of it.
type machine struct {
	mac       MAC
	card, out *net.UnixConn
	end       func()
}

func boot(t *testing.T, dir string, n byte) *machine {
	t.Helper()
	m := &machine{mac: MAC{0x52, 0x54, 0, 0, 0, n}}
	p, err := Open(Config{Dir: dir, MAC: m.mac, Gateway: netip.MustParseAddr("10.80.0.1"), DNS: netip.MustParseAddr("10.80.0.2"),
		Address: netip.AddrFrom4([4]byte{10, 80, 0, 3 + n}), Name: fmt.Sprintf("Host-%d", n), Domain: "internal.cloudapp.net"})
	if err != nil {
		t.Fatal(err)
	}
	var guest, out *net.UnixConn
	guest, m.card = pair(t)
	out, m.out = pair(t)
	p.Carry(guest, out)
	ended := false
	m.end = func() {
		if ended {
			return
		}
		ended = true
		guest.Close()
		out.Close()
		if err := p.Close(true); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(m.end)
	return m
}

func frame(to, from MAC, kind uint16, body string) []byte {
	b := append(append([]byte{}, to[:]...), from[:]...)
	return append(append(b, byte(kind>>8), byte(kind)), body...)
}

func heard(c *net.UnixConn, bound time.Duration) []byte {
	buf := make([]byte, maxFrame)
	_ = c.SetReadDeadline(time.Now().Add(bound))
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

var everyone = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arp asks who has an address.
func arp(by MAC, address string) string {
	a := netip.MustParseAddr(address).As4()
	return strings.Repeat("\x00", 8) + string(by[:]) + strings.Repeat("\x00", 10) + string(a[:])
}

func TestFramesGoWhereTheyBelong(t *testing.T) {
	// A path that is longer than a socket's name may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30), "lan")
	a, b, c := boot(t, dir, 1), boot(t, dir, 2), boot(t, dir, 3)
	other := boot(t, filepath.Join(filepath.Dir(dir), "other"), 2)
	dhcp := "\x45" + strings.Repeat("\x00", 8) + "\x11" + strings.Repeat("\x00", 12) + "\x00\x43" + strings.Repeat("\x00", 8)
	gateway := MAC{0x52, 0x55, 10, 80, 0, 1}
	for _, x := range []struct {
		name  string
		frame []byte
		to    map[*net.UnixConn]bool
	}{
		{"to a peer", packetFrame(b.mac, a.mac, "10.80.0.4", "10.80.0.5", 6, []byte("hello")), map[*net.UnixConn]bool{b.card: true}},
		{"to nobody", packetFrame(MAC{2, 0, 0, 0, 0, 9}, a.mac, "10.80.0.4", "10.80.0.9", 6, []byte("hello")), nil},
		{"from another's IP address", packetFrame(b.mac, a.mac, "10.80.0.6", "10.80.0.5", 6, []byte("hello")), nil},
		{"no IPv4", frame(b.mac, a.mac, 0x86dd, strings.Repeat("6", 60)), nil},
		{"to many", packetFrame(everyone, a.mac, "10.80.0.4", "255.255.255.255", protocolUDP, []byte("hello")), nil},
		{"another's ARP", frame(everyone, a.mac, typeARP, arp(b.mac, "10.80.0.9")), nil},
		{"to the gateway", frame(gateway, a.mac, typeIPv4, "hello"), map[*net.UnixConn]bool{a.out: true}},
		{"with another's address", packetFrame(b.mac, c.mac, "10.80.0.4", "10.80.0.5", 6, []byte("hello")), nil},
		{"who is a peer", frame(everyone, a.mac, typeARP, arp(a.mac, "10.80.0.9")), map[*net.UnixConn]bool{b.card: true, c.card: true}},
		{"who is the gateway", frame(everyone, a.mac, typeARP, arp(a.mac, "10.80.0.1")), map[*net.UnixConn]bool{a.out: true}},
		{"who is the name server", frame(everyone, a.mac, typeARP, arp(a.mac, "10.80.0.2")), map[*net.UnixConn]bool{a.out: true}},
		{"DHCP", frame(everyone, a.mac, typeIPv4, dhcp), map[*net.UnixConn]bool{a.out: true}},
		{"too short", []byte("short"), nil},
	} {
		if _, err := a.card.Write(x.frame); err != nil {
			t.Fatal(err)
		}
		for _, conn := range []*net.UnixConn{a.card, a.out, b.card, b.out, c.card, c.out, other.card, other.out} {
			bound := 20 * time.Millisecond
			if x.to[conn] {
				bound = 10 * time.Second
			}
			if got := heard(conn, bound); bytes.Equal(got, x.frame) != x.to[conn] || got != nil && !x.to[conn] {
				t.Errorf("%s: heard %x", x.name, got)
			}
		}
	}
	answer := frame(a.mac, gateway, typeIPv4, "answer")
	if _, err := a.out.Write(answer); err != nil {
		t.Fatal(err)
	}
	if got := heard(a.card, 10*time.Second); !bytes.Equal(got, answer) {
		t.Errorf("of the gateway's answer the machine heard %x", got)
	}
}

// TestOneDies ends one machine of three, and has it come again.
func TestOneDies(t *testing.T) {
	dir := t.TempDir()
	a, b, c := boot(t, dir, 1), boot(t, dir, 2), boot(t, dir, 3)
	b.end()
	if left, _ := os.ReadDir(dir); len(left) != 4 {
		t.Errorf("left: %v", left)
	}
	send := func(to MAC) {
		t.Helper()
		if _, err := a.card.Write(packetFrame(to, a.mac, "10.80.0.4", "10.80.0.5", 6, []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	send(b.mac)
	send(c.mac)
	if heard(c.card, 10*time.Second) == nil {
		t.Error("the third machine is not reached any more")
	}
	// A supervisor that was killed leaves its socket.
	if err := os.WriteFile(filepath.Join(dir, b.mac.name()), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b = boot(t, dir, 2)
	send(b.mac)
	if heard(b.card, 10*time.Second) == nil {
		t.Error("the machine that came again is not reached")
	}
}

// TestABurst sends more than any queue holds to a machine that listens, and to
// one that does not, which must not keep the first from hearing.
func TestABurst(t *testing.T) {
	dir := t.TempDir()
	a, b, deaf := boot(t, dir, 1), boot(t, dir, 2), boot(t, dir, 3)
	const count = 2000
	go func() {
		for i := range count {
			_, _ = a.card.Write(packetFrame(deaf.mac, a.mac, "10.80.0.4", "10.80.0.6", 6, []byte("x")))
			_, _ = a.card.Write(packetFrame(b.mac, a.mac, "10.80.0.4", "10.80.0.5", 6, fmt.Append(nil, i)))
		}
	}()
	n := 0
	for n < count && heard(b.card, 5*time.Second) != nil {
		n++
	}
	// On a busy machine the reader itself may be held up for longer than a frame
	// waits; if every frame waited for the deaf one, it would not be a tenth.
	if n < count/2 {
		t.Errorf("heard %d of %d frames", n, count)
	}
}

func FuzzRoute(f *testing.F) {
	own := MAC{0x52, 0x54, 0, 0, 0, 1}
	f.Add(frame(everyone, own, typeARP, arp(own, "10.80.0.1")))
	f.Add(frame(everyone, own, typeIPv4, "\x4f"))
	f.Add(packetFrame(MAC{2}, own, "10.80.0.4", "10.80.0.5", 6, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		where, to := route(b, own, netip.MustParseAddr("10.80.0.4"), netip.MustParseAddr("10.80.0.1"), netip.MustParseAddr("10.80.0.2"))
		if where != nowhere && MAC(b[6:12]) != own {
			t.Error("a machine spoke with another's address")
		}
		if where == toPeer && (to.group() || to != MAC(b[0:6])) {
			t.Errorf("to %v", to)
		}
		admits(b, own)
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add("52-54-00-aa-bb-cc")
	f.Fuzz(func(t *testing.T, s string) {
		if m, ok := ParseMAC(s); ok && !strings.EqualFold(m.name(), strings.ReplaceAll(s, ":", "-")) {
			t.Errorf("%q became %q", s, m.name())
		}
	})
}

// A place that could not be taken wholly is not half there.
func TestOpenUndone(t *testing.T) {
	dir, m := t.TempDir(), MAC{0x52, 0x54, 0, 0, 0, 1}
	// What stands where the machine's name should be cannot be replaced by a file.
	if err := os.MkdirAll(filepath.Join(dir, m.name()+hostSuffix, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if p, err := Open(Config{Dir: dir, MAC: m, Address: netip.MustParseAddr("10.80.0.4")}); err == nil {
		p.Close(false)
		t.Fatal("no error")
	}
	if _, err := os.Lstat(filepath.Join(dir, m.name())); !os.IsNotExist(err) {
		t.Error("the socket is left behind:", err)
	}
}
