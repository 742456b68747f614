package lan

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// question is a frame that asks a name server.
func question(t testing.TB, from MAC, src, server, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packetFrame(MAC{0x52, 0x55, 10, 80, 0, 1}, from, src, server, protocolUDP, append([]byte{0x30, 0x39, 0, portDNS, 0, byte(udpSize + len(b)), 0, 0}, b...))
}

func packetFrame(to, from MAC, src, dst string, protocol byte, payload []byte) []byte {
	ip := make([]byte, ipv4Size)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(ipv4Size+len(payload)), 64, protocol
	a, b := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(ip[12:], a[:])
	copy(ip[16:], b[:])
	seal(ip)
	return frame(to, from, typeIPv4, string(append(ip, payload...)))
}

// said reads a reply: its code and the answer.
func said(t *testing.T, frame []byte) (dnsmessage.RCode, string) {
	t.Helper()
	q, ok := parsePacket(frame)
	if !ok || sum(0, q.header) != 0xffff || q.protocol != protocolUDP {
		t.Fatalf("the reply %x is no packet", frame)
	}
	if check := sum(uint32(sum(protocolUDP, q.header[12:20]))+uint32(len(q.payload)), q.payload); check != 0xffff {
		t.Errorf("the checksum of the reply is off: %x", check)
	}
	var m dnsmessage.Message
	if err := m.Unpack(q.payload[udpSize:]); err != nil || m.ID != 77 || !m.Response || len(m.Questions) != 1 {
		t.Fatalf("%+v %v", m, err)
	}
	if len(m.Answers) == 0 {
		return m.RCode, ""
	}
	switch r := m.Answers[0].Body.(type) {
	case *dnsmessage.AResource:
		return m.RCode, netip.AddrFrom4(r.A).String()
	case *dnsmessage.PTRResource:
		return m.RCode, r.PTR.String()
	}
	return m.RCode, m.GoString()
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	a, _ := boot(t, dir, 1), boot(t, dir, 2)
	ask := func(name string, kind dnsmessage.Type) []byte {
		t.Helper()
		if _, err := a.card.Write(question(t, a.mac, "10.80.0.4", "10.80.0.2", name, kind)); err != nil {
			t.Fatal(err)
		}
		return heard(a.card, 200*time.Millisecond)
	}
	for _, c := range []struct {
		name   string
		kind   dnsmessage.Type
		code   dnsmessage.RCode
		answer string
	}{
		{"host-2.", dnsmessage.TypeA, 0, "10.80.0.5"},
		{"HOST-2.internal.CloudApp.net.", dnsmessage.TypeA, 0, "10.80.0.5"},
		{"host-1.", dnsmessage.TypeA, 0, "10.80.0.4"}, // itself
		{"host-2.", dnsmessage.TypeAAAA, 0, ""},
		{"host-9.internal.cloudapp.net.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"5.0.80.10.in-addr.arpa.", dnsmessage.TypePTR, 0, "host-2.internal.cloudapp.net."},
	} {
		reply := ask(c.name, c.kind)
		if reply == nil {
			t.Errorf("%s %v: no reply", c.name, c.kind)
			continue
		}
		if code, answer := said(t, reply); code != c.code || answer != c.answer {
			t.Errorf("%s %v: %v %q", c.name, c.kind, code, answer)
		}
		if MAC(reply[0:6]) != a.mac {
			t.Errorf("%s: the reply is for %x", c.name, reply[0:6])
		}
	}
	// What is outside goes to the host's resolver.
	for _, name := range []string{"example.org.", "host-9.", "9.0.80.10.in-addr.arpa."} {
		if reply := ask(name, dnsmessage.TypeA); reply != nil {
			t.Errorf("%s: %x", name, reply)
		}
		if heard(a.out, 5*time.Second) == nil {
			t.Errorf("%s did not go out", name)
		}
	}
	// Who comes is found at once.
	boot(t, dir, 9)
	if reply := ask("host-9.", dnsmessage.TypeA); reply == nil {
		t.Error("a machine that has just come is not found")
	} else if _, answer := said(t, reply); answer != "10.80.0.12" {
		t.Errorf("the new machine is at %q", answer)
	}
}

// TestSubnets sends a packet to a machine of another subnet by way of the gateway.
func TestSubnets(t *testing.T) {
	dir := t.TempDir()
	a, b := boot(t, dir, 1), boot(t, dir, 2)
	gateway := MAC{0x52, 0x55, 10, 80, 0, 1}
	sent := packetFrame(gateway, a.mac, "10.80.0.4", "10.80.0.5", protocolUDP, []byte("12345678x"))
	if _, err := a.card.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := heard(b.card, 5*time.Second)
	q, ok := parsePacket(got)
	if !ok || MAC(got[0:6]) != b.mac || MAC(got[6:12]) != a.mac || q.header[8] != 63 || sum(0, q.header) != 0xffff || !bytes.Equal(q.payload, []byte("12345678x")) {
		t.Fatalf("the other heard %x", got)
	}
	outside := packetFrame(gateway, a.mac, "10.80.0.4", "192.0.2.1", protocolUDP, []byte("12345678"))
	if _, err := a.card.Write(outside); err != nil {
		t.Fatal(err)
	}
	if got := heard(a.out, 5*time.Second); !bytes.Equal(got, outside) {
		t.Errorf("out went %x", got)
	}
}

func FuzzResolve(f *testing.F) {
	own := MAC{0x52, 0x54, 0, 0, 0, 1}
	h := &hosts{byName: map[string]host{"host-1": {own, netip.MustParseAddr("10.80.0.4"), "host-1"}}, byAddress: map[netip.Addr]host{}}
	f.Add(question(f, own, "10.80.0.4", "10.80.0.2", "host-1.", dnsmessage.TypeA)[headerSize+ipv4Size+udpSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, _ := resolve(b, "internal.cloudapp.net", h)
		if reply == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil || !m.Response {
			t.Errorf("%x: %v", reply, err)
		}
	})
}

func FuzzParsePacket(f *testing.F) {
	f.Add(packetFrame(MAC{}, MAC{}, "10.0.0.1", "10.0.0.2", 6, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parsePacket(b); ok && len(p.header)+len(p.payload) > len(b)-headerSize {
			t.Error("more than there is")
		}
	})
}

func FuzzParseHost(f *testing.F) {
	f.Add("10.0.0.4 a\n")
	f.Fuzz(func(t *testing.T, s string) {
		if h, ok := parseHost(MAC{}, s); ok && !h.address.Is4() {
			t.Errorf("%q is at %v", s, h.address)
		}
	})
}
