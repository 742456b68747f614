package network

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// Place is where a machine is in a virtual network.
type Place struct {
	// LAN names the network: machines with the same one reach each other.
	LAN     string
	Prefix  netip.Prefix // of the subnet
	Address netip.Addr
	// Filters are the rules of the security groups that stand before it.
	Filters launch.Filters
}

// lan names a virtual network. One that is made again under the same name is
// another.
func lan(v *millpond.VirtualNetwork) string { return "network " + v.ID.Key() + " " + v.UniqueID }

// groups are the rules of security groups, given by id; an empty id is none.
func (s *Service) groups(tx *sqlite.Tx, ids ...string) (out [][]millpond.SecurityRule, err error) {
	for _, text := range ids {
		id, ok := millpond.ParseResourceID(text)
		if !ok {
			continue
		}
		g, err := get[millpond.SecurityGroup](s, tx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, g.Rules)
	}
	return out, nil
}

// filters are what groups let through between machines.
func filters(groups [][]millpond.SecurityRule) (out launch.Filters) {
	for _, rules := range groups {
		if list := filter(rules); list != nil {
			out = append(out, list)
		}
	}
	return out
}

// AdmitSubnet checks a subnet that a pool names, for the caller and the Batch
// account, and returns its id as it is written in its network. What the pool may
// not use is an error of the property subnetId.
func (s *Service) AdmitSubnet(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, text string) (string, error) {
	refuse := func(format string, args ...any) error {
		return millpond.InvalidProperty("subnetId", text, fmt.Sprintf(format, args...))
	}
	id, ok := millpond.ParseResourceID(text)
	if !ok || !id.Is(millpond.TypeSubnet) {
		return "", refuse("It is not the id of a subnet: /subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{network}/subnets/{subnet}.")
	}
	if !strings.EqualFold(id.Subscription, acct.Subscription) {
		return "", refuse("The virtual network must be in the subscription of the Batch account, %s.", acct.Subscription)
	}
	parent, _ := id.Parent()
	var v *millpond.VirtualNetwork
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		v, err = previous[millpond.VirtualNetwork](tx, parent)
		return err
	})
	if err != nil {
		return "", err
	}
	// Before anybody is told whether it is there.
	if caller.Method == millpond.AuthSharedKey {
		return "", millpond.Errorf(millpond.Forbidden, "AuthenticationFailed",
			"Server failed to authenticate the request. A pool in a subnet needs Microsoft Entra authentication, because the caller's rights on the subnet are checked: az batch account login -g %s -n %s (without --shared-key-auth).", acct.ID.Group, acct.Name).
			With("AuthenticationErrorDetail", "The specified type of authentication SharedKey is not allowed when external resources of type Network are linked.")
	}
	if err := s.mayJoin(ctx, caller, id); err != nil {
		return "", err
	}
	if v == nil || subnetOf(v, id.Name()) == nil {
		return "", refuse("The specified subnet is not found. Create it first: az network vnet subnet create -g %s --vnet-name %s -n %s --address-prefixes …", id.Group, parent.Name(), id.Name())
	}
	if !strings.EqualFold(v.Location, acct.Region) {
		return "", refuse("The virtual network %s is in the region %s; it must be in that of the Batch account, %s.", v.ID.Name(), v.Location, acct.Region)
	}
	return v.ID.Child("subnets", subnetOf(v, id.Name()).Name).String(), nil
}

// subnet reads a subnet of a pool with its network.
func (s *Service) subnet(tx *sqlite.Tx, text string) (*millpond.VirtualNetwork, *millpond.Subnet, error) {
	id, _ := millpond.ParseResourceID(text)
	parent, _ := id.Parent()
	v, err := previous[millpond.VirtualNetwork](tx, parent)
	if err != nil {
		return nil, nil, err
	}
	if v == nil || subnetOf(v, id.Name()) == nil {
		return nil, nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The subnet %s of the pool does not exist any more.", text)
	}
	return v, subnetOf(v, id.Name()), nil
}

// occupied reads what is needed to give addresses in a subnet of a pool: its key,
// its prefix, and who has which address.
func (s *Service) occupied(tx *sqlite.Tx, subnet string) (key string, prefix netip.Prefix, by map[netip.Addr]string, err error) {
	v, sub, err := s.subnet(tx, subnet)
	if err != nil {
		return "", prefix, nil, err
	}
	used, err := s.usesOf(tx, v.ID.Subscription)
	if err != nil {
		return "", prefix, nil, err
	}
	key = v.ID.Child("subnets", sub.Name).Key()
	return key, netip.MustParsePrefix(sub.Prefix), used.addresses[key], nil
}

// FreeAddresses is how many more machines fit into a subnet.
func (s *Service) FreeAddresses(tx *sqlite.Tx, subnet string) (int, error) {
	_, prefix, taken, err := s.occupied(tx, subnet)
	if err != nil {
		return 0, err
	}
	return max(0, capacity(prefix)-len(taken)), nil
}

// GiveAddresses gives new nodes of a pool addresses in a subnet, inside the
// transaction that writes their rows, with which they end. given is how many of
// them got one before the subnet was full.
func (s *Service) GiveAddresses(tx *sqlite.Tx, subnet string, acct millpond.BatchAccount, pool millpond.PoolID, nodes []millpond.NodeID) (given int, err error) {
	key, prefix, taken, err := s.occupied(tx, subnet)
	if err != nil {
		return 0, err
	}
	owner := acct.ID.Child("pools", string(pool)).String()
	for a := range free(prefix, func(a netip.Addr) bool { return taken[a] != "" }) {
		if given == len(nodes) {
			break
		}
		if err := tx.InsertSubnetAddress(sqlite.SubnetAddress{Subnet: key, Address: a.String(), Node: nodes[given], Pool: owner}); err != nil {
			return given, err
		}
		given++
	}
	return given, nil
}

// NodePlace is where a node of a pool in a subnet is; ok is false for one of a
// pool in no subnet.
func (s *Service) NodePlace(tx *sqlite.Tx, node millpond.NodeID) (p Place, ok bool, err error) {
	have, ok, err := tx.NodeAddress(node)
	if err != nil || !ok {
		return p, false, err
	}
	v, sub, err := s.subnet(tx, have.Subnet)
	if err != nil {
		return p, false, err
	}
	p = Place{LAN: lan(v), Prefix: netip.MustParsePrefix(sub.Prefix)}
	if p.Address, err = netip.ParseAddr(have.Address); err != nil {
		return p, false, err
	}
	groups, err := s.groups(tx, sub.SecurityGroup)
	p.Filters = filters(groups)
	return p, err == nil, err
}

// poolsIn lists the pools of all accounts that are in subnets, by the subnets' keys:
// without these, nodes would have nowhere to be.
func poolsIn(tx *sqlite.Tx) (map[string][]string, error) {
	pools, err := tx.AllPools()
	if err != nil {
		return nil, err
	}
	in := map[string][]string{}
	for _, p := range pools {
		if p.Spec.Subnet != "" {
			k := strings.ToLower(p.Spec.Subnet)
			in[k] = append(in[k], "pool "+string(p.Spec.ID)+" of Batch account "+string(p.Account))
		}
	}
	return in, nil
}
