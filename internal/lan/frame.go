package lan

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

// group says that a frame for it is for many.
func (m MAC) group() bool { return m[0]&1 != 0 }

// name is the file of the socket that takes frames for it.
func (m MAC) name() string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 17)
	for i, x := range m {
		if i > 0 {
			b = append(b, '-')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return string(b)
}

// ParseMAC reads six pairs of hexadecimal digits with colons or hyphens between.
func ParseMAC(text string) (m MAC, ok bool) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(text) != 17 {
		return m, false
	}
	return MAC(hw), true
}

// whither is where a frame goes.
type whither int

const (
	nowhere   whither = iota
	toGateway         // the way out and its services
	toPeer            // the machine with the frame's destination address
	toAll             // every other machine of the network
)

// The parts of frames that are looked at (RFC 894, 826, 791, 768).
const (
	headerSize  = 14
	typeIPv4    = 0x0800
	typeARP     = 0x0806
	arpSize     = 28
	protocolUDP = 17
	portDHCP    = 67
	ipv4Size    = 20
)

// route decides about a frame that a machine sends. As in Azure there is IPv4 and
// the ARP for it, and nothing is for many but the question who has an address. A
// machine may speak only with its own addresses, own and address. The gateway of
// each machine is its own, so that what is asked of a gateway goes to nobody else:
// the others' would answer as well.
func route(frame []byte, own MAC, address, gateway, dns netip.Addr) (whither, MAC) {
	if len(frame) < headerSize {
		return nowhere, MAC{}
	}
	to, from := MAC(frame[0:6]), MAC(frame[6:12])
	if from != own {
		return nowhere, MAC{}
	}
	// The addresses of libslirp's own hosts begin so.
	if !to.group() && to[0] == 0x52 && to[1] == 0x55 {
		return toGateway, to
	}
	body := frame[headerSize:]
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case typeARP:
		if len(body) < arpSize {
			return nowhere, to
		}
		if asked := netip.AddrFrom4([4]byte(body[24:28])); asked == gateway || asked == dns {
			return toGateway, to
		}
		// One that looks for an address of its own has none yet.
		if by := netip.AddrFrom4([4]byte(body[14:18])); MAC(body[8:14]) != own || by != address && !by.IsUnspecified() {
			return nowhere, to
		}
		if to.group() {
			return toAll, to
		}
		return toPeer, to
	case typeIPv4:
		if len(body) < ipv4Size {
			return nowhere, to
		}
		if !to.group() {
			if netip.AddrFrom4([4]byte(body[12:16])) != address {
				return nowhere, to
			}
			return toPeer, to
		}
		length := int(body[0]&15) * 4
		if body[9] == protocolUDP && len(body) >= length+4 && binary.BigEndian.Uint16(body[length+2:]) == portDHCP {
			return toGateway, to
		}
	}
	return nowhere, to
}

// admits says whether a machine takes a frame that another sent.
func admits(frame []byte, own MAC) bool {
	if len(frame) < headerSize {
		return false
	}
	to, from := MAC(frame[0:6]), MAC(frame[6:12])
	return from != own && !from.group() && (to == own || to.group())
}
