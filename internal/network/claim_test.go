package network_test

import (
	"context"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

type everything struct{}

func (everything) Authorize(context.Context, millpond.Caller, string, string) error { return nil }

func at(typ, name string) millpond.ResourceID {
	id, _ := millpond.ParseResourceID("/subscriptions/s/resourceGroups/rg/providers/" + typ + "/" + name)
	return id
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestClaims: an interface belongs to one machine at a time, cannot be deleted
// while it does, and is free again after the machine has gone.
func TestClaims(t *testing.T) {
	ctx := t.Context()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "db"), clock.System{})
	check(t, err)
	defer db.Close()
	res := resource.New(resource.Options{DB: db, Clock: clock.System{}, Regions: []millpond.Region{{Name: "westus2"}}})
	check(t, res.EnsureSubscription(ctx, millpond.Subscription{ID: "s", Tenant: "t"}, true))
	_, _, err = res.PutGroup(ctx, millpond.Group{Subscription: "s", Name: "rg", Location: "westus2"})
	check(t, err)
	net := network.New(db, res, everything{})
	v := &millpond.VirtualNetwork{Prefixes: []string{"10.0.0.0/16"}, Subnets: []millpond.Subnet{{Name: "sub", Prefix: "10.0.0.0/24"}}}
	v.ID = at(millpond.TypeVirtualNetwork, "v")
	_, _, err = net.PutVirtualNetwork(ctx, millpond.Caller{}, v)
	check(t, err)
	var cards []millpond.ResourceID
	for _, name := range []string{"a", "b"} {
		n := &millpond.NetworkInterface{Configs: []millpond.IPConfig{{Name: "c", Subnet: v.ID.Child("subnets", "sub").String()}}}
		n.ID = at(millpond.TypeInterface, name)
		_, _, err = net.PutInterface(ctx, millpond.Caller{}, n)
		check(t, err)
		cards = append(cards, n.ID)
	}
	vm, other := at("Microsoft.Compute/virtualMachines", "vm"), at("Microsoft.Compute/virtualMachines", "other")
	claim := func(machine millpond.ResourceID, location string, ids ...millpond.ResourceID) error {
		return db.Update(ctx, func(tx *sqlite.Tx) error { return net.Claim(tx, machine, location, ids) })
	}
	code := func(err error, want string) {
		t.Helper()
		if err == nil || millpond.AsError(err).Code != want {
			t.Fatalf("%v, want %s", err, want)
		}
	}
	check(t, claim(vm, "westus2", cards...))
	check(t, claim(vm, "westus2", cards...))
	code(claim(other, "westus2", cards[0]), "NicInUse")
	code(claim(other, "westus2", at(millpond.TypeInterface, "none")), "InvalidResourceReference")
	code(claim(other, "eastus", cards[0]), "InvalidResourceReference")
	_, err = net.DeleteInterface(ctx, cards[0])
	code(err, "NicInUse")
	a, err := net.Interface(ctx, cards[0])
	check(t, err)
	b, err := net.Interface(ctx, cards[1])
	check(t, err)
	if !a.Primary || b.Primary || a.Machine != vm.String() || a.MAC == b.MAC {
		t.Fatal(a, b)
	}
	// A PUT of the interface keeps its machine; a claim of fewer frees the rest.
	_, _, err = net.PutInterface(ctx, millpond.Caller{}, &millpond.NetworkInterface{Resource: millpond.Resource{ID: cards[0]}, Configs: a.Configs})
	check(t, err)
	check(t, claim(vm, "westus2", cards[0]))
	check(t, claim(other, "westus2", cards[1]))
	check(t, db.Update(ctx, func(tx *sqlite.Tx) error { return net.Release(tx, vm) }))
	if c, err := net.Card(ctx, cards[0]); err != nil || c.Machine != "" || c.Public.IsValid() || len(c.TCP) != 0 {
		t.Fatal(c, err)
	}
	found, err := net.DeleteInterface(ctx, cards[0])
	if !found || err != nil {
		t.Fatal(found, err)
	}
}
