package node

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// This file is pure: the addresses and ports of nodes follow from their pool
// and their number within it.

const (
	// firstHost is a node's place in its pool's network less its number; those
	// below are the gateway's, the name server's and reserved, as in Azure.
	firstHost = 3
	// mostAddresses is the last number that has an address in its pool's network;
	// mostNumbers the last that has a port of its own for its login. Numbers that are
	// free are used again from there on, which costs a look at all of the pool's.
	mostAddresses = 400
	mostNumbers   = 65535 - loginPorts
	// loginPorts is the frontend port of SSH less the node's number. Azure's pools
	// have it there as well.
	loginPorts = 50000
	sshPort    = 22
)

// poolSum is a number that no two pools share but by chance.
func poolSum(p millpond.Pool) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "millpond pool %s/%s %d", p.Account.Key(), p.Spec.ID.Key(), p.Created.UnixMicro()))
}

// poolNetwork is the network of a pool's nodes, one of the 2048 of 10.80.0.0/12.
// Two pools that have the same one do not meet: each is a network of its own.
func poolNetwork(p millpond.Pool) netip.Prefix {
	sum := poolSum(p)
	n := binary.BigEndian.Uint16(sum[:2]) % 2048
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(80 + n>>7), byte(n<<1) & 0xfe, 0}), 23)
}

// publicAddress is the loopback address of a pool, below those of virtual
// machines (127.64.0.0).
func publicAddress(p millpond.Pool) netip.Addr {
	sum := poolSum(p)
	return netip.AddrFrom4([4]byte{127, 1 + sum[2]%63, sum[3], 1 + sum[4]%254})
}

// endpoints are a node's inbound endpoints. Azure names each after its pool with
// the node's index.
func endpoints(p millpond.Pool, n millpond.Node) (out []millpond.Endpoint) {
	for _, in := range p.Spec.Inbound {
		port := in.From + n.Number - 1
		if n.Number < 1 || port > in.To || !in.Admits() {
			continue
		}
		out = append(out, millpond.Endpoint{Name: fmt.Sprintf("%s.%d", in.Name, n.Number-1), UDP: in.UDP, Frontend: netip.AddrPortFrom(publicAddress(p), uint16(port)), Backend: in.Backend})
	}
	return out
}

// most is the last number that a node of a pool is given while others are free.
func most(p millpond.Pool) int {
	if p.Spec.InterNode {
		return mostAddresses
	}
	return mostNumbers
}

// login is where SSH of a node can be reached: at the endpoint that the pool has
// for it, or at the one that every node has whose number is not too high; nowhere
// for those of a private pool.
func login(p millpond.Pool, n millpond.Node) netip.AddrPort {
	for _, e := range endpoints(p, n) {
		if e.Backend == sshPort && !e.UDP {
			return e.Frontend
		}
	}
	if n.Number > mostNumbers || p.Spec.Private {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(publicAddress(p), uint16(loginPorts+n.Number))
}

// card is the network card of a node's machine, which has its number, endpoints
// and login.
func card(p millpond.Pool, n millpond.Node) *launch.Card {
	c := &launch.Card{}
	switch at := n.Place; {
	case at != nil:
		a := at.Address.As4()
		c.Network, c.Address, c.LAN = at.Subnet, at.Address, at.LAN
		c.MAC = fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])
	case p.Spec.InterNode:
		c.Network = poolNetwork(p)
		a := c.Network.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(firstHost+n.Number))
		c.Address = netip.AddrFrom4(a)
		c.MAC = fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])
		c.LAN = fmt.Sprintf("pool %s/%s %d", p.Account.Key(), p.Spec.ID.Key(), p.Created.UnixMicro())
	}
	if n.Login.IsValid() {
		c.Ports = append(c.Ports, launch.Port{Host: n.Login, Guest: sshPort})
	}
	for _, e := range n.Endpoints {
		if e.Frontend != n.Login {
			c.Ports = append(c.Ports, launch.Port{Host: e.Frontend, Guest: uint16(e.Backend), UDP: e.UDP})
		}
	}
	return c
}
