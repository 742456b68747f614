package network

import (
	"context"
	"net/netip"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// Card is what a network interface comes to for whoever runs the machine.
type Card struct {
	ID      millpond.ResourceID
	MAC     string // 00:0d:3a:xx:xx:xx
	Private netip.Addr
	Prefix  netip.Prefix // of the subnet
	Gateway netip.Addr   // first address of the subnet
	DNS     []netip.Addr // of the card or its network; nil: the host's
	// Public is the loopback address under which the machine is reached from
	// the host; the zero Addr without one.
	Public netip.Addr
	FQDN   string
	// TCP and UDP are the ports that the security groups open to the host; they
	// are empty without a public address. Forwards turns them into single ports.
	TCP, UDP []PortRange
	// Machine is the id of the machine that holds the card, or empty.
	Machine string
	// LAN and Filters are those of its place in the virtual network.
	LAN     string
	Filters launch.Filters
}

// Card reads an interface and everything that it hangs on, now. Ask again when
// the signal given to Notify wakes.
func (s *Service) Card(ctx context.Context, id millpond.ResourceID) (c Card, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		c, err = s.CardTx(tx, id)
		return err
	})
	return c, err
}

// CardTx is Card inside a caller's transaction.
func (s *Service) CardTx(tx *sqlite.Tx, id millpond.ResourceID) (Card, error) {
	n, err := get[millpond.NetworkInterface](s, tx, id)
	if err != nil {
		return Card{}, err
	}
	c := Card{ID: n.ID, MAC: strings.ToLower(strings.ReplaceAll(n.MAC, "-", ":")), Machine: n.Machine}
	config := n.Configs[0]
	for _, o := range n.Configs {
		if o.Primary {
			config = o
		}
	}
	if c.Private, err = netip.ParseAddr(config.Address); err != nil {
		return c, err
	}
	subnet, _ := millpond.ParseResourceID(config.Subnet)
	parent, _ := subnet.Parent()
	v, err := get[millpond.VirtualNetwork](s, tx, parent)
	if err != nil {
		return c, err
	}
	sub := subnetOf(v, subnet.Name())
	if sub == nil {
		return c, noReference(subnet, n.ID)
	}
	if c.Prefix, err = netip.ParsePrefix(sub.Prefix); err != nil {
		return c, err
	}
	c.Gateway = Gateway(c.Prefix)
	dns := n.DNSServers
	if len(dns) == 0 {
		dns = v.DNSServers
	}
	for _, d := range dns {
		if a, err := netip.ParseAddr(d); err == nil {
			c.DNS = append(c.DNS, a)
		}
	}
	c.LAN = lan(v)
	groups, err := s.groups(tx, sub.SecurityGroup, n.SecurityGroup)
	if err != nil {
		return c, err
	}
	c.Filters = filters(groups)
	if config.PublicAddress == "" {
		return c, nil
	}
	publicID, _ := millpond.ParseResourceID(config.PublicAddress)
	public, err := get[millpond.PublicAddress](s, tx, publicID)
	if err != nil {
		return c, err
	}
	if c.Public, err = netip.ParseAddr(public.Address); err != nil {
		return c, err
	}
	c.FQDN = FQDN(public)
	c.TCP, c.UDP = open(groups, c.Private, public.SKU == "Standard")
	return c, nil
}

// open intersects the groups of the card and of its subnet. Without any group a
// Basic address is open and a Standard one closed, as in Azure.
func open(groups [][]millpond.SecurityRule, private netip.Addr, closed bool) (tcp, udp []PortRange) {
	if len(groups) == 0 && closed {
		return nil, nil
	}
	tcp, udp = []PortRange{{1, 65535}}, []PortRange{{1, 65535}}
	for _, rules := range groups {
		tcp, udp = both(tcp, Open(rules, "Tcp", private)), both(udp, Open(rules, "Udp", private))
	}
	return tcp, udp
}

// Claim gives interfaces to a machine inside the transaction that writes the
// machine's row, and takes those away that it held and that are not named. The
// first is the primary one. An interface of another machine is refused with
// Azure's words.
func (s *Service) Claim(tx *sqlite.Tx, machine millpond.ResourceID, location string, cards []millpond.ResourceID) error {
	wanted := map[string]bool{}
	for i, id := range cards {
		n, err := previous[millpond.NetworkInterface](tx, id)
		if err != nil {
			return err
		}
		if n == nil || n.Location != location {
			return noReference(id, machine)
		}
		if n.Machine != "" && !strings.EqualFold(n.Machine, machine.String()) {
			return millpond.Errorf(millpond.Conflict, "NicInUse", "Network Interface %s is used by existing resource %s. Use another network interface for %s.", n.ID, n.Machine, machine)
		}
		wanted[n.ID.Key()] = true
		n.Machine, n.Primary = machine.String(), i == 0
		if err := tx.Put(n); err != nil {
			return err
		}
	}
	return s.release(tx, machine, wanted)
}

// Release takes all interfaces away from a machine, inside the transaction that
// deletes its row.
func (s *Service) Release(tx *sqlite.Tx, machine millpond.ResourceID) error {
	return s.release(tx, machine, nil)
}

func (s *Service) release(tx *sqlite.Tx, machine millpond.ResourceID, but map[string]bool) error {
	all, err := sqlite.List[millpond.NetworkInterface](tx, sqlite.Query{Type: millpond.TypeInterface, Subscription: machine.Subscription})
	if err != nil {
		return err
	}
	for _, n := range all {
		if !strings.EqualFold(n.Machine, machine.String()) || but[n.ID.Key()] {
			continue
		}
		n.Machine, n.Primary = "", false
		if err := tx.Put(n); err != nil {
			return err
		}
	}
	return nil
}
