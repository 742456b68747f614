package compute

import (
	"context"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

// A disk whose bytes go through private endpoints only names its disk access,
// gives no URL, and keeps the disk access from being deleted.
func TestPrivateAccess(t *testing.T) {
	s, ctx := testServiceIn(t, "westus2", "eastus"), context.Background()
	at := func(typ, name string) millpond.ResourceID {
		id, ok := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/" + typ + "/" + name)
		if !ok {
			t.Fatal(typ)
		}
		return id
	}
	near, far := at(millpond.TypeDiskAccess, "near"), at(millpond.TypeDiskAccess, "far")
	for id, region := range map[string]string{near.String(): "westus2", far.String(): "eastus"} {
		p, _ := millpond.ParseResourceID(id)
		if _, err := s.PutPlacement(ctx, &millpond.Placement{Resource: millpond.Resource{ID: p, Location: region}}); err != nil {
			t.Fatal(err)
		}
	}
	id := at(millpond.TypeDisk, "d")
	put := func(network, access string) error {
		_, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Creation: millpond.CreationData{Option: millpond.CreateEmpty},
			Network: network, Public: "Enabled", AccessID: access}, SizeGB: 1})
		if err == nil {
			s.start(ctx, id)
			s.Wait()
		}
		return err
	}
	patch := func(d millpond.Disk) error {
		d.ID = id
		_, _, err := s.PutDisk(ctx, millpond.Caller{}, Change{Disk: d, Patch: true})
		return err
	}
	refused := func(what string, err error, kind millpond.Kind, says string) {
		t.Helper()
		if millpond.KindOf(err) != kind || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("without a disk access", put("AllowPrivate", ""), millpond.Invalid, "az disk-access create")
	refused("not private", put("AllowAll", near.String()), millpond.Invalid, "AllowPrivate")
	refused("another region", put("AllowPrivate", far.String()), millpond.Invalid, "eastus")
	refused("none such", put("AllowPrivate", near.String()+"x"), millpond.NotFound, "nearx")
	refused("another type", put("AllowPrivate", id.String()), millpond.Invalid, "diskAccesses")
	if _, err := s.Disk(ctx, id); millpond.KindOf(err) != millpond.NotFound {
		t.Fatalf("what was refused left a disk: %v", err)
	}
	if err := put("AllowPrivate", strings.ToUpper(near.String())); err != nil {
		t.Fatal(err)
	}
	d, err := s.Disk(ctx, id)
	if err != nil || d.AccessID != near.String() {
		t.Fatalf("%+v, %v", d, err)
	}
	grant := func() (Access, error) { return s.Grant(ctx, id, false, time.Hour) }
	_, err = grant()
	refused("a URL", err, millpond.Forbidden, "private endpoints")
	_, err = s.DeleteKept(ctx, near)
	refused("deleting the disk access", err, millpond.Conflict, "'d'")

	if err := patch(millpond.Disk{Network: "AllowAll"}); err != nil {
		t.Fatal(err)
	}
	a, err := grant()
	if err != nil {
		t.Fatal(err)
	}
	if err := patch(millpond.Disk{Public: "Disabled"}); err != nil {
		t.Fatal(err)
	}
	_, err = s.OpenBlob(ctx, a)
	refused("a URL from before", err, millpond.Forbidden, "--public-network-access Enabled")
	if found, err := s.DeleteKept(ctx, near); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}
