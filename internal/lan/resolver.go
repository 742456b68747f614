package lan

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	portDNS = 53
	udpSize = 8
	// lifetime of an answer, in seconds: a name may be another machine's soon.
	lifetime = 5
)

// answer is the reply to a question for a machine of the network, which the packet
// of a frame asks of the name server; nil for what somebody else has to answer.
func (p *Port) answer(frame []byte, q packet) []byte {
	if q.protocol != protocolUDP || !q.first || q.dst != p.cfg.DNS || len(q.payload) < udpSize || binary.BigEndian.Uint16(q.payload[2:]) != portDNS {
		return nil
	}
	message, known := resolve(q.payload[udpSize:], p.cfg.Domain, p.known())
	if !known {
		// Who has just come is found as well: what says that a name does not exist
		// may be remembered for long.
		message, _ = resolve(q.payload[udpSize:], p.cfg.Domain, p.anew())
	}
	if message == nil {
		return nil
	}
	reply := make([]byte, headerSize+ipv4Size+udpSize, headerSize+ipv4Size+udpSize+len(message))
	copy(reply[0:6], frame[6:12])
	copy(reply[6:12], frame[0:6])
	binary.BigEndian.PutUint16(reply[12:], typeIPv4)
	ip := reply[headerSize:]
	ip[0], ip[8], ip[9] = 0x45, 64, protocolUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Size+udpSize+len(message)))
	copy(ip[12:16], q.header[16:20])
	copy(ip[16:20], q.header[12:16])
	seal(ip[:ipv4Size])
	udp := ip[ipv4Size:]
	copy(udp[0:2], q.payload[2:4])
	copy(udp[2:4], q.payload[0:2])
	binary.BigEndian.PutUint16(udp[4:], uint16(udpSize+len(message)))
	reply = append(reply, message...)
	// The checksum covers the addresses and the length too.
	ip = reply[headerSize:]
	check := sum(uint32(sum(protocolUDP, ip[12:20]))+uint32(udpSize+len(message)), ip[ipv4Size:])
	if check = ^check; check == 0 {
		check = 0xffff // 0 means none
	}
	binary.BigEndian.PutUint16(ip[ipv4Size+6:], check)
	return reply
}

// resolve answers one question about the hosts of a network, bare or in domain.
// What could be the name of something outside is nil: the question goes on to the
// host's resolver. known is false when a host that is not among them could be meant.
func resolve(question []byte, domain string, h *hosts) (reply []byte, known bool) {
	var parser dnsmessage.Parser
	head, err := parser.Start(question)
	if err != nil || head.Response || head.OpCode != 0 {
		return nil, true
	}
	asked, err := parser.AllQuestions()
	if err != nil || len(asked) != 1 || asked[0].Class != dnsmessage.ClassINET {
		return nil, true
	}
	q := asked[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	var resource dnsmessage.ResourceBody
	code, known := dnsmessage.RCodeSuccess, true
	if address, ok := reverse(name); ok {
		x, ok := h.byAddress[address]
		if !ok || x.name == "" {
			return nil, true
		}
		if full, err := dnsmessage.NewName(x.name + "." + domain + "."); err == nil && q.Type == dnsmessage.TypePTR {
			resource = &dnsmessage.PTRResource{PTR: full}
		}
	} else {
		short, ours := strings.CutSuffix(name, "."+domain)
		switch x, ok := h.byName[short]; {
		case ok && q.Type == dnsmessage.TypeA:
			resource = &dnsmessage.AResource{A: x.address.As4()}
		case ok: // it has nothing else
		case ours:
			code, known = dnsmessage.RCodeNameError, false
		default:
			return nil, strings.Contains(name, ".")
		}
	}
	m := dnsmessage.Message{Questions: asked, Header: dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true, RCode: code}}
	if resource != nil {
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: lifetime}, Body: resource}}
	}
	b, err := m.Pack()
	if err != nil {
		return nil, true
	}
	return b, known
}

// reverse is the address that a name under in-addr.arpa asks about.
func reverse(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(digits, ".")
	slices.Reverse(parts)
	var a [4]byte
	if len(parts) != len(a) {
		return netip.Addr{}, false
	}
	for i, s := range parts {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		a[i] = byte(n)
	}
	return netip.AddrFrom4(a), true
}
