package lan

import (
	"encoding/binary"
	"net/netip"
)

// packet is an IPv4 packet inside a frame. Its slices are parts of the frame.
type packet struct {
	header   []byte
	protocol byte
	src, dst netip.Addr
	// first: it is whole or the first fragment, so that payload begins with the
	// header of its protocol.
	first   bool
	payload []byte
}

// parsePacket reads the packet of a frame; false for anything but sound IPv4.
func parsePacket(frame []byte) (p packet, ok bool) {
	if len(frame) < headerSize+ipv4Size || binary.BigEndian.Uint16(frame[12:14]) != typeIPv4 {
		return p, false
	}
	b := frame[headerSize:]
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	// A frame is longer than its packet when that is short.
	if b[0]>>4 != 4 || header < ipv4Size || total < header || total > len(b) {
		return p, false
	}
	return packet{header: b[:header], protocol: b[9], src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])),
		first: binary.BigEndian.Uint16(b[6:])&0x1fff == 0, payload: b[header:total]}, true
}

// onward is where a frame's packet goes that a machine handed to its gateway and
// that is for a machine of another subnet of the same network. The frame is changed
// as a router does it: it gets the other's address and lives one step less.
func (p *Port) onward(frame []byte, q packet) (MAC, bool) {
	if q.src != p.cfg.Address {
		return MAC{}, false
	}
	to, ok := p.known().byAddress[q.dst]
	if !ok || to.mac == p.cfg.MAC || q.header[8] <= 1 {
		return MAC{}, false
	}
	q.header[8]--
	seal(q.header)
	copy(frame[0:6], to.mac[:])
	return to.mac, true
}

// seal puts the checksum into an IPv4 header.
func seal(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^sum(0, header))
}

// sum is the one's complement sum of RFC 1071, begun with start.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}
