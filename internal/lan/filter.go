package lan

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"millpond.dev/millpond/internal/launch"
)

// The protocols of IP whose headers are looked at, and the parts of these.
const (
	protocolICMP = 1
	protocolTCP  = 6
	tcpFlags     = 13 // where they are
	flagSYN      = 0x02
	flagACK      = 0x10
	icmpRequest  = 8
)

const (
	// idle is how long the answer to a packet without a connection is waited for,
	// as in Azure.
	idle = 4 * time.Minute
	// mostFlows bounds what is remembered of a machine that speaks to everybody.
	mostFlows = 16 << 10
)

// flow is a conversation as the machine sees it; ports only for UDP.
type flow struct {
	protocol    byte
	remote      netip.Addr
	local, port uint16
}

// filter decides which packets of others a machine takes.
type filter struct {
	mu    sync.Mutex
	rules launch.Filters
	// flows are what the machine began, with when it last sent. TCP needs none:
	// its first segment is told by its flags, and without that no other counts.
	flows map[flow]time.Time
}

// Filter replaces the rules; what is under way is judged by the new ones.
func (p *Port) Filter(rules launch.Filters) {
	p.filter.mu.Lock()
	defer p.filter.mu.Unlock()
	p.filter.rules = rules
}

// sent notes a packet that the machine sends to another.
func (f *filter) sent(q packet, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rules) == 0 || q.protocol == protocolTCP || !q.first {
		return
	}
	if q.protocol == protocolICMP && (len(q.payload) == 0 || q.payload[0] != icmpRequest) {
		return // an answer begins nothing
	}
	if len(f.flows) >= mostFlows {
		for k, at := range f.flows {
			if now.Sub(at) > idle {
				delete(f.flows, k)
			}
		}
		if len(f.flows) >= mostFlows {
			clear(f.flows)
		}
	}
	if f.flows == nil {
		f.flows = map[flow]time.Time{}
	}
	source, destination := q.ports()
	f.flows[flow{q.protocol, q.dst, source, destination}] = now
}

// admits says whether the machine takes a packet of another.
func (f *filter) admits(q packet, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rules) == 0 {
		return true
	}
	if !q.first {
		return true // worth nothing without the first, which is judged
	}
	source, destination := q.ports()
	switch q.protocol {
	case protocolTCP:
		if len(q.payload) <= tcpFlags {
			return false // cut so short that nobody can tell what it is
		}
		if q.payload[tcpFlags]&(flagSYN|flagACK) != flagSYN {
			return true // not the first of a connection
		}
	case protocolUDP:
		if len(q.payload) < udpSize {
			return false
		}
		fallthrough
	default:
		if at, begun := f.flows[flow{q.protocol, q.src, destination, source}]; begun && now.Sub(at) <= idle && !(q.protocol == protocolICMP && len(q.payload) > 0 && q.payload[0] == icmpRequest) {
			return true
		}
	}
	for _, list := range f.rules {
		for _, r := range list {
			if matches(r, q, source, destination) {
				if r.Deny {
					return false
				}
				break
			}
		}
	}
	return true
}

// ports are a packet's source and destination ports; 0 where it has none.
func (q packet) ports() (source, destination uint16) {
	if q.protocol != protocolTCP && q.protocol != protocolUDP || !q.first || len(q.payload) < 4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(q.payload), binary.BigEndian.Uint16(q.payload[2:])
}

func matches(r launch.Rule, q packet, source, destination uint16) bool {
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	ported := q.protocol == protocolTCP || q.protocol == protocolUDP
	through := func(list []launch.PortRange, port uint16) bool {
		return len(list) == 0 || ported && slices.ContainsFunc(list, func(x launch.PortRange) bool { return x.From <= port && port <= x.To })
	}
	return (r.Protocol == 0 || r.Protocol == q.protocol) && in(r.Sources, q.src) && in(r.Destinations, q.dst) &&
		through(r.SourcePorts, source) && through(r.Ports, destination)
}
