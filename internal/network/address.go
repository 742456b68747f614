package network

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	millpond "millpond.dev/millpond"
)

// This file is pure: arithmetic on addresses.

// parsePrefix reads an IPv4 CIDR and wants it canonical, as Azure does.
func parsePrefix(text, target string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil {
		return p, invalid("InvalidAddressPrefixFormat", target, "Address prefix %s of %s is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.", text, target)
	}
	if !p.Addr().Is4() {
		return p, unsupported(target, "The address prefix %s is not IPv4. Only IPv4 networks are supported.", text)
	}
	if p.Masked() != p {
		return p, invalid("InvalidCIDRNotation", target, "The address prefix %s in %s has an invalid CIDR notation. For the given prefix length, the address prefix should be %s.", text, target, p.Masked())
	}
	return p, nil
}

func unsupported(target, format string, args ...any) *millpond.Error {
	e := millpond.Errorf(millpond.Unsupported, "NotSupported", format, args...)
	e.Target = target
	return e
}

func toUint(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func fromUint(u uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], u)
	return netip.AddrFrom4(b)
}

func last(p netip.Prefix) netip.Addr {
	return fromUint(toUint(p.Addr()) | uint32(1<<(32-p.Bits())-1))
}

// Gateway is the first host address of a subnet, as in Azure.
func Gateway(p netip.Prefix) netip.Addr { return p.Addr().Next() }

// Usable says whether an address of a subnet may be given to a machine: Azure
// keeps the first four and the last.
func Usable(p netip.Prefix, a netip.Addr) bool {
	return p.Contains(a) && toUint(a)-toUint(p.Addr()) >= 4 && a != last(p)
}

// free are the usable addresses of a subnet that are not taken, the lowest first.
func free(p netip.Prefix, taken func(netip.Addr) bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for u := uint64(toUint(p.Addr())) + 4; u < uint64(toUint(last(p))); u++ {
			if a := fromUint(uint32(u)); !taken(a) && !yield(a) {
				return
			}
		}
	}
}

// nextFree is the first of free.
func nextFree(p netip.Prefix, taken func(netip.Addr) bool) (netip.Addr, bool) {
	for a := range free(p, taken) {
		return a, true
	}
	return netip.Addr{}, false
}

// capacity is how many machines fit into a subnet.
func capacity(p netip.Prefix) int { return max(0, 1<<(32-p.Bits())-5) }

// loopback chooses a public address out of 127.64.0.0/10 by the resource's key,
// so that a resource that is made again under the same name gets the same
// address if nobody else has it. Nodes of pools use 127.0.0.0/10. The last
// byte is never 0 or 255.
func loopback(key string, taken func(string) bool) (string, error) {
	sum := sha256.Sum256([]byte(key))
	const space = 64 * 256 * 254
	at := binary.BigEndian.Uint64(sum[:8]) % space
	for range space {
		a := fmt.Sprintf("127.%d.%d.%d", 64+at/(256*254), at/254%256, 1+at%254)
		if !taken(a) {
			return a, nil
		}
		at = (at + 1) % space
	}
	return "", millpond.Errorf(millpond.Conflict, "PublicIPCountLimitReached", "There is no free public address. Delete one that is not used.")
}

// macOf derives a card's address from its key: stable, locally unique, with
// Azure's vendor prefix.
func macOf(key string, taken func(string) bool) string {
	for i := 0; ; i++ {
		sum := sha256.Sum256([]byte(fmt.Sprintf("%s#%d", key, i)))
		m := fmt.Sprintf("00-0D-3A-%02X-%02X-%02X", sum[0], sum[1], sum[2])
		if !taken(m) {
			return m
		}
	}
}
