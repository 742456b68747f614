package lan

import (
	"net/netip"
	"testing"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// segment is a packet from 10.7.0.5:40000 to 10.7.0.4:80, or the other way round.
func segment(t testing.TB, protocol byte, back bool, flags byte) packet {
	t.Helper()
	from, to := "10.7.0.5", "10.7.0.4"
	payload := make([]byte, 20)
	payload[0], payload[1], payload[3], payload[tcpFlags] = 0x9c, 0x40, 80, flags
	if protocol == protocolICMP {
		payload[0] = flags
	}
	if back {
		from, to = to, from
		payload[0], payload[1], payload[2], payload[3] = payload[2], payload[3], payload[0], payload[1]
		if protocol == protocolICMP {
			payload[0] = flags
		}
	}
	q, ok := parsePacket(packetFrame(MAC{2}, MAC{4}, from, to, protocol, payload))
	if !ok {
		t.Fatal("no packet")
	}
	return q
}

func TestFilter(t *testing.T) {
	at := time.Unix(1000, 0)
	deny := launch.Rule{Deny: true}
	from := func(p string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(p)} }
	port := func(n uint16) []launch.PortRange { return []launch.PortRange{{From: n, To: n}} }
	syn, udp, ping := segment(t, protocolTCP, false, flagSYN), segment(t, protocolUDP, false, 0), segment(t, protocolICMP, false, icmpRequest)
	for _, c := range []struct {
		name            string
		rules           launch.Filters
		tcp, udp, pings bool
	}{
		{"none", nil, true, true, true},
		{"all denied", launch.Filters{{deny}}, false, false, false},
		{"a list that says nothing", launch.Filters{{}}, true, true, true},
		{"the first decides", launch.Filters{{{}, deny}}, true, true, true},
		{"each list is asked", launch.Filters{{{}}, {deny}}, false, false, false},
		{"a port", launch.Filters{{{Protocol: protocolTCP, Ports: port(80)}, deny}}, true, false, false},
		{"another port", launch.Filters{{{Ports: port(81)}, deny}}, false, false, false},
		{"ports match no ICMP", launch.Filters{{{Deny: true, Ports: []launch.PortRange{{From: 0, To: 65535}}}}}, false, false, true},
		{"a source port", launch.Filters{{{Deny: true, SourcePorts: port(40000)}}}, false, false, true},
		{"a source", launch.Filters{{{Deny: true, Sources: from("10.7.0.5/32")}}}, false, false, false},
		{"another source", launch.Filters{{{Deny: true, Sources: from("10.7.1.0/24")}}}, true, true, true},
		{"a destination", launch.Filters{{{Deny: true, Destinations: from("10.7.0.4/32")}}}, false, false, false},
		{"another destination", launch.Filters{{{Deny: true, Destinations: from("10.7.0.5/32")}}}, true, true, true},
	} {
		f := &filter{rules: c.rules}
		if a, b, d := f.admits(syn, at), f.admits(udp, at), f.admits(ping, at); a != c.tcp || b != c.udp || d != c.pings {
			t.Errorf("%s: TCP %v, UDP %v, ICMP %v", c.name, a, b, d)
		}
	}

	// What the machine began is answered, for a while.
	f := &filter{rules: launch.Filters{{deny}}}
	if !f.admits(segment(t, protocolTCP, false, flagSYN|flagACK), at) || !f.admits(segment(t, protocolTCP, false, flagACK), at) {
		t.Error("the answer to a connection does not pass")
	}
	f.sent(segment(t, protocolUDP, true, 0), at)
	if !f.admits(udp, at.Add(idle)) || f.admits(udp, at.Add(idle+1)) {
		t.Error("UDP: an answer passes within its time and not later")
	}
	f.sent(segment(t, protocolICMP, true, icmpRequest), at)
	if !f.admits(segment(t, protocolICMP, false, 0), at) || f.admits(ping, at) {
		t.Error("ICMP: an answer passes, and a question does not")
	}
	if short := syn; true {
		short.payload = short.payload[:tcpFlags]
		if f.admits(short, at) {
			t.Error("a segment without flags passes")
		}
	}
	for i := range mostFlows * 2 {
		q := segment(t, protocolUDP, true, 0)
		q.payload[0], q.payload[1] = byte(i>>8), byte(i)
		q.dst = netip.AddrFrom4([4]byte{10, 7, byte(i >> 16), byte(i >> 8)})
		f.sent(q, at)
	}
	if len(f.flows) > mostFlows {
		t.Errorf("%d conversations are remembered", len(f.flows))
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(packetFrame(MAC{}, MAC{}, "10.0.0.1", "10.0.0.2", protocolTCP, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, ok := parsePacket(b)
		if !ok {
			return
		}
		x := &filter{rules: launch.Filters{{{Ports: []launch.PortRange{{From: 1, To: 2}}}, {Deny: true}}}}
		x.admits(q, time.Time{})
		x.sent(q, time.Time{})
	})
}
