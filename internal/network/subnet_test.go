package network_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

// gate lets only some callers join.
type gate struct{}

func (gate) Authorize(_ context.Context, c millpond.Caller, action, scope string) error {
	if c.Object == "stranger" {
		return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "%s on %s", action, scope)
	}
	return nil
}

func TestPoolsInSubnets(t *testing.T) {
	ctx := t.Context()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "db"), clock.System{})
	check(t, err)
	defer db.Close()
	res := resource.New(resource.Options{DB: db, Clock: clock.System{}, Regions: []millpond.Region{{Name: "westus2"}, {Name: "eastus"}}})
	check(t, res.EnsureSubscription(ctx, millpond.Subscription{ID: "s", Tenant: "t"}, true))
	_, _, err = res.PutGroup(ctx, millpond.Group{Subscription: "s", Name: "rg", Location: "westus2"})
	check(t, err)
	net := network.New(db, res, gate{})
	put := func(name, location string, subnets ...millpond.Subnet) *millpond.VirtualNetwork {
		t.Helper()
		v := &millpond.VirtualNetwork{Prefixes: []string{"10.0.0.0/16"}, Subnets: subnets}
		v.ID, v.Location = at(millpond.TypeVirtualNetwork, name), location
		out, _, err := net.PutVirtualNetwork(ctx, millpond.Caller{}, v)
		check(t, err)
		return out
	}
	group := &millpond.SecurityGroup{Rules: []millpond.SecurityRule{{Name: "r", Protocol: "Tcp", Access: "Deny", Direction: "Inbound", Priority: 100,
		Sources: []string{"*"}, SourcePorts: []string{"*"}, Destinations: []string{"*"}, Ports: []string{"80"}}}}
	group.ID = at(millpond.TypeSecurityGroup, "g")
	_, _, err = net.PutSecurityGroup(ctx, group)
	check(t, err)
	v := put("v", "westus2", millpond.Subnet{Name: "Nodes", Prefix: "10.0.1.0/29", SecurityGroup: group.ID.String()}, millpond.Subnet{Name: "other", Prefix: "10.0.2.0/24"})
	put("far", "eastus", millpond.Subnet{Name: "nodes", Prefix: "10.0.1.0/24"})
	acct := millpond.BatchAccount{ID: at("Microsoft.Batch/batchAccounts", "acct"), Name: "acct", Subscription: "s", Region: "westus2"}
	good := v.ID.Child("subnets", "Nodes")

	for _, c := range []struct {
		name, id, code, part string
		caller               millpond.Caller
	}{
		{"no id", "/subnet", "InvalidPropertyValue", "not the id", millpond.Caller{}},
		{"no subnet", v.ID.String(), "InvalidPropertyValue", "not the id", millpond.Caller{}},
		{"another subscription", strings.Replace(good.String(), "/s/", "/other/", 1), "InvalidPropertyValue", "subscription", millpond.Caller{}},
		{"no network", at(millpond.TypeVirtualNetwork, "none").Child("subnets", "x").String(), "InvalidPropertyValue", "not found", millpond.Caller{}},
		{"not in the network", v.ID.Child("subnets", "x").String(), "InvalidPropertyValue", "not found", millpond.Caller{}},
		{"another region", at(millpond.TypeVirtualNetwork, "far").Child("subnets", "nodes").String(), "InvalidPropertyValue", "region", millpond.Caller{}},
		{"a shared key", good.String(), "AuthenticationFailed", "az batch account login", millpond.Caller{Method: millpond.AuthSharedKey}},
		{"without the right", good.String(), "AuthorizationFailed", "subnets/join/action", millpond.Caller{Object: "stranger"}},
	} {
		_, err := net.AdmitSubnet(ctx, c.caller, acct, c.id)
		if e := millpond.AsError(err); err == nil || e.Code != c.code || !strings.Contains(e.Message, c.part) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	got, err := net.AdmitSubnet(ctx, millpond.Caller{}, acct, strings.ToUpper(good.String()))
	if err != nil || got != good.String() {
		t.Fatalf("%q %v", got, err)
	}

	pool := millpond.Pool{Account: "acct", Spec: millpond.PoolSpec{ID: "p", Subnet: good.String()}, State: millpond.PoolActive, Allocation: millpond.AllocationSteady}
	card := &millpond.NetworkInterface{Configs: []millpond.IPConfig{{Name: "c", Subnet: good.String()}}}
	card.ID = at(millpond.TypeInterface, "nic")
	_, _, err = net.PutInterface(ctx, millpond.Caller{}, card)
	check(t, err)
	// A /29 has three addresses; one is the card's.
	check(t, db.Update(ctx, func(tx *sqlite.Tx) error {
		check(t, tx.InsertPool(pool))
		var ids []millpond.NodeID
		for i := range 3 {
			ids = append(ids, millpond.NodeID(fmt.Sprint("n", i)))
		}
		free, err := net.FreeAddresses(tx, good.String())
		check(t, err)
		given, err := net.GiveAddresses(tx, good.String(), acct, "p", ids)
		check(t, err)
		if free != 2 || given != 2 {
			t.Errorf("%d addresses are free, %d were given", free, given)
		}
		for _, id := range ids[:given] {
			check(t, tx.InsertNode(millpond.Node{Account: "acct", Pool: "p", ID: id, Generation: 1, State: millpond.NodeCreating}))
		}
		left, err := net.FreeAddresses(tx, good.String())
		if left != 0 || err != nil {
			t.Errorf("%d addresses are left, %v", left, err)
		}
		return nil
	}))
	check(t, db.View(ctx, func(tx *sqlite.Tx) error {
		p, ok, err := net.NodePlace(tx, "n1")
		if !ok || err != nil || p.Address.String() != "10.0.1.6" || p.Prefix.String() != "10.0.1.0/29" || len(p.Filters) != 1 {
			t.Errorf("%+v %v %v", p, ok, err)
		}
		c, err := net.CardTx(tx, card.ID)
		if err != nil || c.LAN != p.LAN || len(c.Filters) != 1 || c.Private.String() != "10.0.1.4" {
			t.Errorf("the card %+v, %v", c, err)
		}
		if _, ok, err := net.NodePlace(tx, "n2"); ok || err != nil {
			t.Errorf("a node without an address has one: %v", err)
		}
		return nil
	}))
	code := func(err error, want string) {
		t.Helper()
		if err == nil || millpond.AsError(err).Code != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	full := &millpond.NetworkInterface{Configs: []millpond.IPConfig{{Name: "c", Subnet: good.String()}}}
	full.ID = at(millpond.TypeInterface, "nic2")
	_, _, err = net.PutInterface(ctx, millpond.Caller{}, full)
	code(err, "SubnetIsFull")

	// The subnet is in use as long as there are nodes, and then as long as there is the pool.
	_, err = net.DeleteInterface(ctx, card.ID)
	check(t, err)
	_, err = net.DeleteSubnet(ctx, good)
	code(err, "InUseSubnetCannotBeDeleted")
	_, err = net.DeleteVirtualNetwork(ctx, v.ID)
	code(err, "InUseSubnetCannotBeDeleted")
	_, _, err = net.PutSubnet(ctx, millpond.Caller{}, good, millpond.Subnet{Name: "Nodes", Prefix: "10.0.3.0/24"})
	code(err, "InUsePrefixCannotBeDeleted")
	check(t, db.Update(ctx, func(tx *sqlite.Tx) error { return errors.Join(tx.DeleteNode("n0"), tx.DeleteNode("n1")) }))
	_, err = net.DeleteSubnet(ctx, good)
	code(err, "InUseSubnetCannotBeDeleted")
	check(t, db.Update(ctx, func(tx *sqlite.Tx) error { return tx.DeletePool("acct", "p") }))
	if found, err := net.DeleteSubnet(ctx, good); !found || err != nil {
		t.Errorf("%v %v", found, err)
	}
}
