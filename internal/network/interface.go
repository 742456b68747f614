package network

import (
	"context"
	"net/netip"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// CheckInterface is the part of the validation that needs no other row: names,
// exactly one primary configuration, ids of the right types, and the rights to
// use what is named.
func (s *Service) CheckInterface(ctx context.Context, caller millpond.Caller, n *millpond.NetworkInterface) error {
	if err := CheckName(n.ID.Name()); err != nil {
		return err
	}
	if len(n.Configs) == 0 {
		return invalid("NetworkInterfaceMustHaveIpConfigurations", "properties.ipConfigurations", "Network interface %s must have one or more IP configurations.", n.ID)
	}
	if err := s.mayJoinSecurityGroup(ctx, caller, n.SecurityGroup, n.ID); err != nil {
		return err
	}
	for _, d := range n.DNSServers {
		if _, err := netip.ParseAddr(d); err != nil {
			return invalid("InvalidDnsServerAddress", "properties.dnsSettings.dnsServers", "The DNS server %q is not an IP address.", d)
		}
	}
	primaries, names := 0, map[string]bool{}
	for i := range n.Configs {
		c := &n.Configs[i]
		if c.Name == "" {
			return invalid("InvalidRequestFormat", "properties.ipConfigurations", "IP configuration %d of network interface %s has no name.", i, n.ID.Name())
		}
		if low := strings.ToLower(c.Name); names[low] {
			return invalid("InvalidRequestFormat", "properties.ipConfigurations", "The IP configuration %s is given twice.", c.Name)
		} else {
			names[low] = true
		}
		if c.Primary {
			primaries++
		}
		if c.Subnet == "" {
			return invalid("SubnetIsRequired", "properties.ipConfigurations", "Subnet reference is required for ipconfiguration %s.", n.ID.Child("ipConfigurations", c.Name))
		}
		subnet, err := reference(c.Subnet, millpond.TypeSubnet, "properties.ipConfigurations.properties.subnet.id", n.ID)
		if err != nil {
			return err
		}
		if err := s.mayJoin(ctx, caller, subnet); err != nil {
			return err
		}
		if c.Static && c.Address == "" {
			return invalid("PrivateIPAddressNotProvided", "properties.ipConfigurations.properties.privateIPAddress", "IP configuration %s is static and names no privateIPAddress. Give one, or use the allocation method Dynamic.", c.Name)
		}
		if c.PublicAddress != "" {
			public, err := reference(c.PublicAddress, millpond.TypePublicAddress, "properties.ipConfigurations.properties.publicIPAddress.id", n.ID)
			if err != nil {
				return err
			}
			if err := s.mayJoin(ctx, caller, public); err != nil {
				return err
			}
		}
	}
	switch {
	case primaries == 0 && len(n.Configs) == 1:
		n.Configs[0].Primary = true
	case primaries != 1:
		return invalid("MultiplePrimaryIpConfigurations", "properties.ipConfigurations", "Network interface %s must have exactly one primary IP configuration; it has %d.", n.ID, primaries)
	}
	return nil
}

// PutInterface creates a network interface or replaces its description. A
// dynamic address is kept over a PUT as long as the subnet stays.
func (s *Service) PutInterface(ctx context.Context, caller millpond.Caller, n *millpond.NetworkInterface) (out *millpond.NetworkInterface, created bool, err error) {
	if err := s.CheckInterface(ctx, caller, n); err != nil {
		return nil, false, err
	}
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		if n.ID, n.Location, err = s.resources.Admit(tx, n.ID, n.Location); err != nil {
			return err
		}
		old, err := previous[millpond.NetworkInterface](tx, n.ID)
		if err != nil {
			return err
		}
		n.UniqueID, n.ETag = uuid.NewString(), newETag()
		if old != nil {
			n.UniqueID, n.MAC, n.Machine, n.Primary = old.UniqueID, old.MAC, old.Machine, old.Primary
		} else if n.MAC, err = s.newMAC(tx, n.ID); err != nil {
			return err
		}
		if err := s.admitSecurityGroup(tx, n.SecurityGroup, n.Location, n.ID); err != nil {
			return err
		}
		used, err := s.usesOf(tx, n.ID.Subscription)
		if err != nil {
			return err
		}
		network := ""
		for i := range n.Configs {
			c := &n.Configs[i]
			c.ETag = n.ETag
			subnet, err := s.admitConfig(tx, used, n, old, c)
			if err != nil {
				return err
			}
			parent, _ := subnet.Parent()
			if network != "" && network != parent.Key() {
				return invalid("NicsIpConfigurationsMustBeInSameVnet", "properties.ipConfigurations", "The IP configurations of network interface %s stand in different virtual networks. Put them into one.", n.ID)
			}
			network = parent.Key()
		}
		out = n
		created, err = put(tx, n, old)
		return err
	})
	return out, created, err
}

func (s *Service) newMAC(tx *sqlite.Tx, id millpond.ResourceID) (string, error) {
	all, err := sqlite.List[millpond.NetworkInterface](tx, sqlite.Query{Type: millpond.TypeInterface})
	taken := map[string]bool{}
	for _, o := range all {
		taken[o.MAC] = true
	}
	return macOf(id.Key(), func(m string) bool { return taken[m] }), err
}

// admitConfig resolves one configuration's references and gives it its address.
func (s *Service) admitConfig(tx *sqlite.Tx, used *Uses, n, old *millpond.NetworkInterface, c *millpond.IPConfig) (millpond.ResourceID, error) {
	id, _ := millpond.ParseResourceID(c.Subnet)
	parent, _ := id.Parent()
	v, err := previous[millpond.VirtualNetwork](tx, parent)
	if err != nil {
		return id, err
	}
	if v == nil || v.Location != n.Location {
		return id, noReference(id, n.ID)
	}
	sub := subnetOf(v, id.Name())
	if sub == nil {
		return id, noReference(id, n.ID)
	}
	id = v.ID.Child("subnets", sub.Name)
	c.Subnet = id.String()
	self := n.ID.Child("ipConfigurations", c.Name).Key()
	prefix := netip.MustParsePrefix(sub.Prefix)
	mine := map[string]bool{}
	for _, o := range n.Configs {
		if o.Name != c.Name && strings.EqualFold(o.Subnet, c.Subnet) {
			mine[o.Address] = true
		}
	}
	taken := func(a netip.Addr) bool {
		by := used.addresses[id.Key()][a]
		// A configuration that this PUT drops gives its address back.
		foreign := by != "" && !strings.HasPrefix(strings.ToLower(by), n.ID.Key()+"/")
		return foreign || mine[a.String()]
	}
	if !c.Static {
		c.Address = ""
		if old != nil {
			for _, o := range old.Configs {
				if strings.EqualFold(o.Name, c.Name) && strings.EqualFold(o.Subnet, c.Subnet) {
					c.Address = o.Address
				}
			}
		}
		if a, err := netip.ParseAddr(c.Address); err != nil || !Usable(prefix, a) || mine[c.Address] {
			free, ok := nextFree(prefix, taken)
			if !ok {
				return id, invalid("SubnetIsFull", "properties.ipConfigurations", "Subnet %s with address prefix %s does not have enough capacity for 1 IP addresses; it holds %d.", sub.Name, sub.Prefix, capacity(prefix))
			}
			c.Address = free.String()
		}
	} else {
		a, err := netip.ParseAddr(c.Address)
		const target = "properties.ipConfigurations.properties.privateIPAddress"
		switch {
		case err != nil || !a.Is4():
			return id, invalid("InvalidIPAddressFormat", target, "The private IP address %q is not an IPv4 address.", c.Address)
		case !prefix.Contains(a):
			return id, invalid("PrivateIPAddressNotInSubnet", target, "Private static IP address %s does not belong to the range of subnet prefix %s.", a, prefix)
		case !Usable(prefix, a):
			return id, invalid("PrivateIPAddressInReservedRange", target, "Private IP address %s is in the reserved range of subnet prefix %s: the first four addresses and the last.", a, prefix)
		case taken(a):
			by := used.addresses[id.Key()][a]
			if by == "" {
				by = n.ID.String()
			}
			return id, invalid("PrivateIPAddressIsAllocated", target, "IP configuration %s is using the private IP address %s which is already allocated to resource %s.", self, a, by)
		}
		c.Address = a.String()
	}
	if c.PublicAddress == "" {
		return id, nil
	}
	public, _ := millpond.ParseResourceID(c.PublicAddress)
	r, err := previous[millpond.PublicAddress](tx, public)
	if err != nil {
		return id, err
	}
	if r == nil || r.Location != n.Location {
		return id, noReference(public, n.ID)
	}
	c.PublicAddress = r.ID.String()
	by := used.Public(r.ID)
	if by != "" && !strings.HasPrefix(strings.ToLower(by), n.ID.Key()+"/") {
		return id, inUse("PublicIPAddressInUse", "Resource %s is referencing public IP address %s that is already allocated to resource %s.", n.ID.Child("ipConfigurations", c.Name), r.ID, by)
	}
	for _, o := range n.Configs {
		if o.Name != c.Name && strings.EqualFold(o.PublicAddress, c.PublicAddress) {
			return id, inUse("PublicIPAddressInUse", "The IP configurations %s and %s name the same public IP address %s.", o.Name, c.Name, r.ID)
		}
	}
	return id, nil
}

// Interface returns one network interface.
func (s *Service) Interface(ctx context.Context, id millpond.ResourceID) (*millpond.NetworkInterface, error) {
	return view[millpond.NetworkInterface](ctx, s, id)
}

// Interfaces lists network interfaces by key.
func (s *Service) Interfaces(ctx context.Context, q sqlite.Query) ([]*millpond.NetworkInterface, error) {
	return list[millpond.NetworkInterface](ctx, s, millpond.TypeInterface, q)
}

// DeleteInterface deletes a network interface; false if it was not there.
func (s *Service) DeleteInterface(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		n, err := previous[millpond.NetworkInterface](tx, id)
		if n == nil || err != nil {
			return err
		}
		found = true
		if n.Machine != "" {
			return inUse("NicInUse", "Network Interface %s is used by existing resource %s. In order to delete the network interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic.", n.ID, n.Machine)
		}
		return tx.DeleteResource(id.Key())
	})
	return found, err
}
