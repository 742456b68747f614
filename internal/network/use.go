package network

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Uses is who holds what in a subscription. It is computed from the rows of
// those who hold, never stored.
type Uses struct {
	// subnet: key of a subnet → ids of IP configurations and nodes in it.
	subnet map[string][]string
	// public: key of a public address → id of the IP configuration.
	public map[string]string
	// group: key of a security group → ids of interfaces and of subnets.
	groupInterfaces, groupSubnets map[string][]string
	// addresses: key of a subnet → address → id of the IP configuration or node.
	addresses map[string]map[netip.Addr]string
}

// Subnet lists the ids of the IP configurations in a subnet.
func (u *Uses) Subnet(id millpond.ResourceID) []string { return u.subnet[id.Key()] }

// Public is the id of the IP configuration that has a public address.
func (u *Uses) Public(id millpond.ResourceID) string { return u.public[id.Key()] }

// SecurityGroup lists the ids of the interfaces and subnets under a group.
func (u *Uses) SecurityGroup(id millpond.ResourceID) (interfaces, subnets []string) {
	return u.groupInterfaces[id.Key()], u.groupSubnets[id.Key()]
}

// Uses computes who holds what in a subscription.
func (s *Service) Uses(ctx context.Context, subscription string) (u *Uses, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		u, err = s.usesOf(tx, subscription)
		return err
	})
	return u, err
}

func (s *Service) usesOf(tx *sqlite.Tx, subscription string) (*Uses, error) {
	u := &Uses{subnet: map[string][]string{}, public: map[string]string{}, groupInterfaces: map[string][]string{}, groupSubnets: map[string][]string{},
		addresses: map[string]map[netip.Addr]string{}}
	cards, err := sqlite.List[millpond.NetworkInterface](tx, sqlite.Query{Type: millpond.TypeInterface, Subscription: subscription})
	if err != nil {
		return nil, err
	}
	for _, n := range cards {
		if n.SecurityGroup != "" {
			k := strings.ToLower(n.SecurityGroup)
			u.groupInterfaces[k] = append(u.groupInterfaces[k], n.ID.String())
		}
		for _, c := range n.Configs {
			id := n.ID.Child("ipConfigurations", c.Name).String()
			u.stands(strings.ToLower(c.Subnet), c.Address, id)
			if c.PublicAddress != "" {
				u.public[strings.ToLower(c.PublicAddress)] = id
			}
		}
	}
	nodes, err := tx.SubnetAddresses(subscription)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		u.stands(n.Subnet, n.Address, n.Pool+"/nodes/"+string(n.Node))
	}
	nets, err := sqlite.List[millpond.VirtualNetwork](tx, sqlite.Query{Type: millpond.TypeVirtualNetwork, Subscription: subscription})
	if err != nil {
		return nil, err
	}
	for _, v := range nets {
		for _, sub := range v.Subnets {
			if sub.SecurityGroup != "" {
				k := strings.ToLower(sub.SecurityGroup)
				u.groupSubnets[k] = append(u.groupSubnets[k], v.ID.Child("subnets", sub.Name).String())
			}
		}
	}
	return u, nil
}

// stands notes that an IP configuration or node is in a subnet, given by its key.
func (u *Uses) stands(subnet, address, id string) {
	u.subnet[subnet] = append(u.subnet[subnet], id)
	if a, err := netip.ParseAddr(address); err == nil {
		if u.addresses[subnet] == nil {
			u.addresses[subnet] = map[netip.Addr]string{}
		}
		u.addresses[subnet][a] = id
	}
}

// mayJoin checks the right to use a resource that a body names.
func (s *Service) mayJoin(ctx context.Context, caller millpond.Caller, id millpond.ResourceID) error {
	return s.auth.Authorize(ctx, caller, id.Type()+"/join/action", id.String())
}

func (s *Service) mayJoinSecurityGroup(ctx context.Context, caller millpond.Caller, group string, by millpond.ResourceID) error {
	if group == "" {
		return nil
	}
	id, err := reference(group, millpond.TypeSecurityGroup, "networkSecurityGroup.id", by)
	if err != nil {
		return err
	}
	return s.mayJoin(ctx, caller, id)
}

// admitSecurityGroup checks that a group that is named is there, in the region.
func (s *Service) admitSecurityGroup(tx *sqlite.Tx, group, location string, by millpond.ResourceID) error {
	if group == "" {
		return nil
	}
	id, _ := millpond.ParseResourceID(group)
	return admitReference(tx, id, location, by)
}

func admitReference(tx *sqlite.Tx, id millpond.ResourceID, location string, by millpond.ResourceID) error {
	r, err := tx.Resource(id.Key())
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && r.Location != location {
		return noReference(id, by)
	}
	return err
}
