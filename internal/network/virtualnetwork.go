package network

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// PutVirtualNetwork creates a network or replaces its description; subnets that
// are left out are deleted, which what uses them prevents.
func (s *Service) PutVirtualNetwork(ctx context.Context, caller millpond.Caller, v *millpond.VirtualNetwork) (out *millpond.VirtualNetwork, created bool, err error) {
	if err := s.CheckVirtualNetwork(ctx, caller, v); err != nil {
		return nil, false, err
	}
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		if v.ID, v.Location, err = s.resources.Admit(tx, v.ID, v.Location); err != nil {
			return err
		}
		old, err := previous[millpond.VirtualNetwork](tx, v.ID)
		if err != nil {
			return err
		}
		v.UniqueID, v.ETag = uuid.NewString(), newETag()
		if old != nil {
			v.UniqueID = old.UniqueID
			if err := s.keepUsed(tx, old, v); err != nil {
				return err
			}
		}
		for i := range v.Subnets {
			v.Subnets[i].ETag = v.ETag
			if err := s.admitSecurityGroup(tx, v.Subnets[i].SecurityGroup, v.Location, v.ID); err != nil {
				return err
			}
		}
		out = v
		created, err = put(tx, v, old)
		return err
	})
	return out, created, err
}

// CheckVirtualNetwork is the part of the validation that needs no other row.
func (s *Service) CheckVirtualNetwork(ctx context.Context, caller millpond.Caller, v *millpond.VirtualNetwork) error {
	if err := CheckName(v.ID.Name()); err != nil {
		return err
	}
	if err := checkSpace(v); err != nil {
		return err
	}
	for i := range v.Subnets {
		if err := s.mayJoinSecurityGroup(ctx, caller, v.Subnets[i].SecurityGroup, v.ID); err != nil {
			return err
		}
	}
	return nil
}

// checkSpace is pure: prefixes and subnets fit together.
func checkSpace(v *millpond.VirtualNetwork) error {
	if len(v.Prefixes) == 0 {
		return invalid("InvalidRequestFormat", "properties.addressSpace.addressPrefixes", "The virtual network %s has no address space. Give at least one prefix, for example 10.0.0.0/16.", v.ID.Name())
	}
	var space []netip.Prefix
	for i, text := range v.Prefixes {
		p, err := parsePrefix(text, "properties.addressSpace.addressPrefixes")
		if err != nil {
			return err
		}
		for _, q := range space {
			if p.Overlaps(q) {
				return invalid("VnetAddressSpaceOverlaps", "properties.addressSpace.addressPrefixes", "The address prefixes %s and %s of virtual network %s overlap.", q, p, v.ID.Name())
			}
		}
		v.Prefixes[i] = p.String()
		space = append(space, p)
	}
	for _, d := range v.DNSServers {
		if _, err := netip.ParseAddr(d); err != nil {
			return invalid("InvalidDnsServerAddress", "properties.dhcpOptions.dnsServers", "The DNS server %q is not an IP address.", d)
		}
	}
	names := map[string]bool{}
	var taken []netip.Prefix
	for i := range v.Subnets {
		sub := &v.Subnets[i]
		if err := CheckName(sub.Name); err != nil {
			return err
		}
		if low := strings.ToLower(sub.Name); names[low] {
			return invalid("InvalidRequestFormat", "properties.subnets", "Additional details: the subnet %s is given twice.", sub.Name)
		} else {
			names[low] = true
		}
		if sub.Prefix == "" {
			return invalid("NoAddressPrefixOrPoolProvided", "properties.subnets", "Subnet %s has no address prefix. Give one inside %s.", sub.Name, strings.Join(v.Prefixes, ", "))
		}
		p, err := parsePrefix(sub.Prefix, "properties.subnets")
		if err != nil {
			return err
		}
		if p.Bits() > 29 {
			return invalid("SubnetPrefixTooSmall", "properties.subnets", "The prefix %s of subnet %s leaves no address for a machine: four and the last are reserved. Use /29 or wider.", p, sub.Name)
		}
		inside := false
		for _, q := range space {
			inside = inside || q.Contains(p.Addr()) && q.Bits() <= p.Bits()
		}
		if !inside {
			return invalid("NetcfgSubnetRangeOutsideVnet", "properties.subnets", "Subnet '%s' is not valid because its IP address range is outside the IP address range of virtual network '%s' (%s).", sub.Name, v.ID.Name(), strings.Join(v.Prefixes, ", "))
		}
		for j, q := range taken {
			if p.Overlaps(q) {
				return invalid("NetcfgSubnetRangesOverlap", "properties.subnets", "Subnet '%s' is not valid because its IP address range overlaps with that of an existing subnet '%s' in virtual network '%s'.", sub.Name, v.Subnets[j].Name, v.ID.Name())
			}
		}
		sub.Prefix = p.String()
		taken = append(taken, p)
	}
	return nil
}

// keepUsed refuses to drop or move a subnet that interfaces or pools stand in.
func (s *Service) keepUsed(tx *sqlite.Tx, old, now *millpond.VirtualNetwork) error {
	used, err := s.usesOf(tx, old.ID.Subscription)
	if err != nil {
		return err
	}
	pools, err := poolsIn(tx)
	if err != nil {
		return err
	}
	for _, o := range old.Subnets {
		key := old.ID.Child("subnets", o.Name).Key()
		users := append(used.subnet[key], pools[key]...)
		if len(users) == 0 {
			continue
		}
		n := subnetOf(now, o.Name)
		if n == nil {
			return inUse("InUseSubnetCannotBeDeleted", "Subnet %s is in use by %s and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.", o.Name, users[0])
		}
		if n.Prefix != o.Prefix {
			return inUse("InUsePrefixCannotBeDeleted", "IpPrefix %s on Subnet %s has active allocations, for example %s, and cannot be deleted.", o.Prefix, o.Name, users[0])
		}
	}
	return nil
}

func inUse(code, format string, args ...any) error {
	return millpond.Errorf(millpond.Invalid, code, format, args...)
}

func subnetOf(v *millpond.VirtualNetwork, name string) *millpond.Subnet {
	for i := range v.Subnets {
		if strings.EqualFold(v.Subnets[i].Name, name) {
			return &v.Subnets[i]
		}
	}
	return nil
}

// VirtualNetwork returns one network.
func (s *Service) VirtualNetwork(ctx context.Context, id millpond.ResourceID) (*millpond.VirtualNetwork, error) {
	return view[millpond.VirtualNetwork](ctx, s, id)
}

// VirtualNetworks lists networks by key.
func (s *Service) VirtualNetworks(ctx context.Context, q sqlite.Query) ([]*millpond.VirtualNetwork, error) {
	return list[millpond.VirtualNetwork](ctx, s, millpond.TypeVirtualNetwork, q)
}

// DeleteVirtualNetwork deletes a network with its subnets; false if it was not
// there.
func (s *Service) DeleteVirtualNetwork(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		v, err := previous[millpond.VirtualNetwork](tx, id)
		if v == nil || err != nil {
			return err
		}
		found = true
		if err := s.keepUsed(tx, v, &millpond.VirtualNetwork{}); err != nil {
			return err
		}
		return tx.DeleteResource(id.Key())
	})
	return found, err
}

// PutSubnet creates or replaces one subnet of a network.
func (s *Service) PutSubnet(ctx context.Context, caller millpond.Caller, id millpond.ResourceID, sub millpond.Subnet) (out *millpond.VirtualNetwork, created bool, err error) {
	parent, _ := id.Parent()
	if err := s.mayJoinSecurityGroup(ctx, caller, sub.SecurityGroup, parent); err != nil {
		return nil, false, err
	}
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		admitted, err := s.admitWithin(tx, parent)
		if err != nil {
			return err
		}
		v, err := s.parentNetwork(tx, admitted)
		if err != nil {
			return err
		}
		now := *v
		now.Subnets = append([]millpond.Subnet(nil), v.Subnets...)
		now.ETag = newETag()
		sub.ETag = now.ETag
		if at := subnetOf(&now, sub.Name); at != nil {
			sub.Name = at.Name
			*at = sub
		} else {
			now.Subnets, created = append(now.Subnets, sub), true
		}
		if err := checkSpace(&now); err != nil {
			return err
		}
		if err := s.keepUsed(tx, v, &now); err != nil {
			return err
		}
		if err := s.admitSecurityGroup(tx, sub.SecurityGroup, v.Location, v.ID); err != nil {
			return err
		}
		out = &now
		return tx.Put(&now)
	})
	return out, created, err
}

// admitWithin admits a change of what is in a resource: it names no region, and
// the resource may be in another one than its group.
func (s *Service) admitWithin(tx *sqlite.Tx, id millpond.ResourceID) (millpond.ResourceID, error) {
	location := ""
	switch old, err := tx.Resource(id.Key()); {
	case err == nil:
		location = old.Location
	case !errors.Is(err, sqlite.ErrNoRow):
		return id, err
	}
	id, _, err := s.resources.Admit(tx, id, location)
	return id, err
}

func (s *Service) parentNetwork(tx *sqlite.Tx, id millpond.ResourceID) (*millpond.VirtualNetwork, error) {
	v, err := previous[millpond.VirtualNetwork](tx, id)
	if err == nil && v == nil {
		return nil, millpond.Errorf(millpond.NotFound, "ParentResourceNotFound", "Can not perform requested operation on nested resource. Parent resource '%s' not found. Create it first: az network vnet create -g %s -n %s", id.Name(), id.Group, id.Name())
	}
	return v, err
}

// DeleteSubnet deletes one subnet; false if it was not there.
func (s *Service) DeleteSubnet(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	parent, _ := id.Parent()
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		v, err := previous[millpond.VirtualNetwork](tx, parent)
		if v == nil || err != nil || subnetOf(v, id.Name()) == nil {
			return err
		}
		found = true
		now := *v
		now.Subnets, now.ETag = nil, newETag()
		for _, o := range v.Subnets {
			if !strings.EqualFold(o.Name, id.Name()) {
				now.Subnets = append(now.Subnets, o)
			}
		}
		if err := s.keepUsed(tx, v, &now); err != nil {
			return err
		}
		return tx.Put(&now)
	})
	return found, err
}

// AddressAvailable says whether a machine may get an address in a network, and
// proposes up to five others when it may not.
func (s *Service) AddressAvailable(ctx context.Context, id millpond.ResourceID, address string) (available bool, others []string, err error) {
	a, err := netip.ParseAddr(address)
	if err != nil || !a.Is4() {
		return false, nil, invalid("InvalidIPAddressFormat", "ipAddress", "The value '%s' of ipAddress is not an IPv4 address.", address)
	}
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		v, err := get[millpond.VirtualNetwork](s, tx, id)
		if err != nil {
			return err
		}
		used, err := s.usesOf(tx, id.Subscription)
		if err != nil {
			return err
		}
		for _, sub := range v.Subnets {
			p := netip.MustParsePrefix(sub.Prefix)
			taken := used.addresses[v.ID.Child("subnets", sub.Name).Key()]
			available = available || Usable(p, a) && taken[a] == ""
			for x := range free(p, func(x netip.Addr) bool { return taken[x] != "" }) {
				if len(others) == 5 {
					break
				}
				others = append(others, x.String())
			}
		}
		return nil
	})
	if available {
		others = nil
	}
	return available, others, err
}
