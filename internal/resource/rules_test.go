package resource_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/sqlite"
)

const ubuntu = "batch.node.ubuntu 16.04"

func (w *world) account(name string) millpond.BatchAccount {
	w.Helper()
	_, err := w.acc.Put(w.ctx, account.Change{ID: id(group + "/providers/Microsoft.Batch/batchAccounts/" + name), Location: "westus2"})
	w.ok(err)
	a, err := w.acc.Lookup(w.ctx, millpond.AccountName(name))
	w.ok(err)
	return a
}

func (w *world) resolve(c millpond.Caller, a millpond.BatchAccount, ref, sku string) (millpond.BootImage, error) {
	return w.gal.ResolveForPool(w.ctx, c, a, millpond.ImageReference{ResourceID: ref}, sku)
}

func TestEveryRefusalOfAPoolsImage(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.define("spec", "Linux", "Specialized")
	w.publish("1.0.0", millpond.TargetRegion{Name: "westus2"}, millpond.TargetRegion{Name: "northeurope"})
	v := def + "/versions/1.0.0"
	_, op, err := w.putVersion(gallery.VersionSpec{ID: id(mc + "/galleries/gal/images/spec/versions/1.0.0"), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}})
	w.ok(err)
	w.ended(op)
	foreign, err := w.res.CreateSubscription(w.ctx, "33333333-3333-3333-3333-333333333333", "foreign")
	w.ok(err)
	other, err := w.res.CreateSubscription(w.ctx, tenant, "other")
	w.ok(err)
	in := func(s millpond.Subscription) string { return strings.Replace(v, sub, s.ID, 1) }
	w.rights["reader Microsoft.Compute/galleries/images/versions/read"] = true
	reader, key := admin, millpond.Caller{Method: millpond.AuthSharedKey, Account: "acct"}
	reader.Object = "reader"
	far := acct
	far.Region = "eastus"
	for _, c := range []struct {
		what   string
		caller millpond.Caller
		acct   millpond.BatchAccount
		ref    string
		sku    string
		kind   millpond.Kind
		code   string
		says   string
	}{
		{"shared key", key, acct, v, ubuntu, millpond.Forbidden, "AuthenticationFailed", "az batch account login"},
		{"shared key, definition", key, acct, def, ubuntu, millpond.Forbidden, "AuthenticationFailed", "Entra"},
		{"no right", reader, acct, v, ubuntu, millpond.Forbidden, "InsufficientAccountPermissions", `--role "Compute Gallery Image Reader" --scope ` + mc + "/galleries/gal"},
		{"no right, not there", reader, acct, def + "/versions/8.0.0", ubuntu, millpond.Forbidden, "InsufficientAccountPermissions", ""},
		{"other tenant", admin, acct, in(foreign), ubuntu, millpond.Forbidden, "LinkedAuthorizationFailed", "same tenant"},
		{"not registered", admin, acct, in(other), ubuntu, millpond.Conflict, "MissingSubscriptionRegistration", "az provider register --namespace Microsoft.Batch --subscription " + other.ID},
		{"no subscription", admin, acct, strings.Replace(v, sub, "44444444-4444-4444-4444-444444444444", 1), ubuntu, millpond.Invalid, "InvalidPropertyValue", "no subscription"},
		{"no replica in the region", admin, far, v, ubuntu, millpond.Invalid, "InvalidPropertyValue", "not available in eastus"},
		{"no latest in the region", admin, far, def, ubuntu, millpond.Invalid, "InvalidPropertyValue", "no version that is replicated to eastus"},
		{"specialized", admin, acct, mc + "/galleries/gal/images/spec/versions/1.0.0", ubuntu, millpond.Invalid, "InvalidPropertyValue", "generalized"},
		{"other release", admin, acct, v, "batch.node.ubuntu 18.04", millpond.Invalid, "InvalidPropertyValue", `Use --node-agent-sku-id "batch.node.ubuntu 16.04"`},
		{"other family", admin, acct, v, "batch.node.el 9", millpond.Invalid, "InvalidPropertyValue", "Ubuntu 16.04"},
		{"other OS type", admin, acct, v, "batch.node.windows amd64", millpond.Invalid, "InvalidPropertyValue", "is not for the operating system"},
		{"unknown agent", admin, acct, v, "batch.node.beos", millpond.Invalid, "InvalidPropertyValue", "Use one of: batch.node.ubuntu 16.04"},
		{"no version", admin, acct, def + "/versions/8.0.0", ubuntu, millpond.Invalid, "InvalidPropertyValue", "az sig image-version list"},
		{"no definition", admin, acct, mc + "/galleries/gal/images/none", ubuntu, millpond.Invalid, "InvalidPropertyValue", "not found"},
		{"managed image", admin, acct, mc + "/images/i", ubuntu, millpond.Invalid, "InvalidPropertyValue", "az sig image-version create"},
		{"a gallery", admin, acct, mc + "/galleries/gal", ubuntu, millpond.Invalid, "InvalidPropertyValue", "The form is"},
	} {
		_, err := w.resolve(c.caller, c.acct, c.ref, c.sku)
		w.refused(c.what, err, c.kind, c.code, c.says)
	}
	for _, ref := range []millpond.ImageReference{{ResourceID: v, Publisher: "p"}, {ResourceID: v, Version: "latest"}, {Publisher: "canonical"}, {}} {
		_, err := w.gal.ResolveForPool(w.ctx, admin, acct, ref, ubuntu)
		w.refused(fmt.Sprintf("%+v", ref), err, millpond.Invalid, "InvalidPropertyValue", "")
	}
	// Registered, the other subscription's image is only not there.
	_, err = w.res.SetRegistered(w.ctx, other.ID, "microsoft.batch", true)
	w.ok(err)
	_, err = w.resolve(admin, acct, in(other), ubuntu)
	w.refused("registered", err, millpond.Invalid, "InvalidPropertyValue", "not found")
	// A version that is being deleted is gone for new pools.
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
		x, err := sqlite.Load[millpond.ImageVersion](tx, id(v).Key())
		if err != nil {
			return err
		}
		x.State = millpond.StateDeleting
		return tx.Put(x)
	}))
	_, err = w.resolve(admin, acct, v, ubuntu)
	w.refused("being deleted", err, millpond.Invalid, "InvalidPropertyValue", "not found")
}

func TestAVersionIsUsableWithItsFirstReplica(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	entered, resume := w.stores["westus2-1"].block()
	far, resumeFar := w.stores["eastus-0"].block()
	v := def + "/versions/1.0.0"
	_, op, err := w.putVersion(gallery.VersionSpec{ID: id(v), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, Targets: []millpond.TargetRegion{{Name: "westus2", Replicas: 2}, {Name: "eastus"}}})
	w.ok(err)
	w.waitFor("the second replica", entered)
	w.waitFor("the other region", far)
	boot, err := w.resolve(admin, acct, v, ubuntu)
	if err != nil || boot.Replicas != 1 {
		t.Errorf("with one replica of two: %+v, %v", boot, err)
	}
	if boot, err = w.gal.ChooseReplicas(w.ctx, acct, boot, "n1"); err != nil || len(boot.OSDisk.Stores) != 1 || boot.OSDisk.Stores[0].Name != "westus2-0" {
		t.Errorf("the node reads %v, %v", boot.OSDisk.Stores, err)
	}
	if latest, err := w.resolve(admin, acct, def, ubuntu); err != nil || latest.VersionID != boot.VersionID {
		t.Errorf("latest: %+v, %v", latest, err)
	}
	abroad := acct
	abroad.Region = "eastus"
	_, err = w.resolve(admin, abroad, v, ubuntu)
	w.refused("still replicating", err, millpond.Invalid, "InvalidPropertyValue", "still replicating to eastus (")
	resume()
	resumeFar()
	w.ended(op)
	for _, a := range []millpond.BatchAccount{acct, abroad} {
		if _, err := w.resolve(admin, a, v, ubuntu); err != nil {
			t.Error(err)
		}
	}
	w.stores["northeurope-0"].failing(millpond.Errorf(millpond.Unavailable, "StoreFull", "No space."))
	_, op, err = w.putVersion(gallery.VersionSpec{ID: id(v), Targets: []millpond.TargetRegion{{Name: "westus2"}, {Name: "northeurope"}}})
	w.ok(err)
	w.ended(op)
	abroad.Region = "northeurope"
	_, err = w.resolve(admin, abroad, v, ubuntu)
	w.refused("failed there", err, millpond.Invalid, "InvalidPropertyValue", "No space.")
	if _, err := w.resolve(admin, acct, v, ubuntu); err != nil {
		t.Errorf("the home region does not suffer: %v", err)
	}
}

func TestLatest(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	yes := true
	home := millpond.TargetRegion{Name: "westus2"}
	w.publish("1.9.0", home, millpond.TargetRegion{Name: "eastus"})
	w.publish("1.10.0", home)
	w.publish("2.0.0", millpond.TargetRegion{Name: "westus2", ExcludeFromLatest: true}, millpond.TargetRegion{Name: "eastus"})
	w.publish("3.0.0", home, millpond.TargetRegion{Name: "eastus"})
	_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/3.0.0"), ExcludeFromLatest: &yes})
	w.ok(err)
	if op != nil {
		w.ended(op)
	}
	for region, want := range map[string]string{"westus2": "1.10.0", "eastus": "2.0.0"} {
		a := acct
		a.Region = region
		boot, err := w.resolve(admin, a, def, ubuntu)
		if err != nil || !strings.HasSuffix(boot.VersionID, "/"+want) {
			t.Errorf("latest in %s: %s, %v; want %s", region, boot.VersionID, err, want)
		}
	}
	// A disk from the definition is one from its latest version, also when the
	// location is left to the group, and asking again changes nothing.
	for i := range 2 {
		d, _, err := w.comp.PutDisk(w.ctx, admin, fromImage())
		if err != nil || !strings.HasSuffix(d.Creation.ImageID, "/1.10.0") || d.OSType != "Linux" {
			t.Fatalf("disk from the definition: %+v, %v", d, err)
		}
		w.publish(fmt.Sprintf("4.0.%d", i), home)
	}
}

func fromImage() compute.Change {
	return compute.Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id(mc + "/disks/from")}, Creation: millpond.CreationData{Option: millpond.CreateFromImage, ImageID: def}}}
}

func TestWhatNobodyCouldReadIsTakenOnTrust(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	for i, c := range []struct {
		release millpond.OSRelease
		sku     string
		ok      bool
	}{
		{millpond.OSRelease{}, ubuntu, true},
		{millpond.OSRelease{}, "batch.node.windows amd64", false},
		{millpond.OSRelease{OSType: "Linux"}, "batch.node.debian 12", true},
		{millpond.OSRelease{OSType: "Windows"}, ubuntu, false},
		{millpond.OSRelease{OSType: "Windows"}, "batch.node.windows amd64", false}, // the definition says Linux
		{millpond.OSRelease{OSType: "Linux", ID: "debian"}, "batch.node.debian 12", true},
		{millpond.OSRelease{OSType: "Linux", ID: "fedora", Version: "40"}, ubuntu, false},
		{millpond.OSRelease{OSType: "Linux", ID: "rocky", Version: "9.4"}, "batch.node.el 9", true},
		{millpond.OSRelease{OSType: "Linux", ID: "millpond-tiny", Version: "1"}, ubuntu, false},
	} {
		w.release = c.release
		number := fmt.Sprintf("1.0.%d", i)
		w.publish(number)
		if _, err := w.resolve(admin, acct, def+"/versions/"+number, c.sku); (err == nil) != c.ok {
			t.Errorf("%+v with %s: %v", c.release, c.sku, err)
		}
	}
}

func TestMarketplaceReferences(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	resolve := func(ref, sku string) (millpond.BootImage, error) {
		p := strings.Split(ref, ":")
		return w.gal.ResolveForPool(w.ctx, millpond.Caller{Method: millpond.AuthSharedKey}, acct, millpond.ImageReference{Publisher: p[0], Offer: p[1], SKU: p[2], Version: "latest"}, sku)
	}
	for _, c := range []struct{ ref, sku, says string }{
		{"Canonical:UbuntuServer:16.04-LTS", ubuntu, "millpond image build tiny --os-release ubuntu-16.04"},
		{"debian:debian-12:12", "batch.node.debian 12", "millpond image build debian-12"},
		{"debian:debian-13:13", "batch.node.debian 13", "publish an image of it as a gallery version"},
		{"canonical:0001-com-ubuntu-server-focal:20_04-lts", ubuntu, "supported-images list"},
		{"microsoftwindowsserver:windowsserver:2022-datacenter", "batch.node.windows amd64", "publish an image"},
	} {
		_, err := resolve(c.ref, c.sku)
		w.refused(c.ref, err, millpond.Invalid, "InvalidPropertyValue", c.says)
	}
	w.base = []gallery.BaseImage{
		{Name: "tiny", Path: "/base/tiny.raw", Size: 1 << 20, HyperV: "V1", Release: millpond.OSRelease{OSType: "Linux", ID: "ubuntu", Version: "16.04"}},
		{Name: "alma", Path: "/base/alma.raw", Size: 1 << 20, HyperV: "V1", Release: millpond.OSRelease{OSType: "Linux", ID: "almalinux", Version: "9.4"}},
	}
	for ref, want := range map[string][2]string{
		"Canonical:UbuntuServer:16.04-LTS":       {ubuntu, "/base/tiny.raw"},
		"almalinux:almalinux-x86_64:9-gen2":      {"batch.node.el 9", "/base/alma.raw"},
		"almalinux:almalinux-x86_64:9-something": {"batch.node.el 9", "/base/alma.raw"},
	} {
		boot, err := resolve(ref, want[0])
		if err == nil {
			boot, err = w.gal.ChooseReplicas(w.ctx, acct, boot, "n1")
		}
		if err != nil || boot.OSDisk.Backing != want[1] {
			t.Errorf("%s: %+v, %v", ref, boot, err)
		}
	}
	images, err := w.gal.SupportedImages(w.ctx)
	w.ok(err)
	for _, i := range images {
		want := i.NodeAgentSKU == ubuntu || i.NodeAgentSKU == "batch.node.el 9"
		if i.Verified != want {
			t.Errorf("%s is verified: %v", i.NodeAgentSKU, i.Verified)
		}
	}
	boot, err := resolve("canonical:ubuntuserver:16.04-lts", ubuntu)
	w.ok(err)
	w.base = nil
	_, err = w.gal.ChooseReplicas(w.ctx, acct, boot, "n1")
	w.refused("a base image that has gone", err, millpond.NotFound, "AllocationFailed", "Build it again")
}

func TestDeletions(t *testing.T) {
	w := newWorld(t)
	w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.publish("1.0.0")
	_, err := w.gal.DeleteGallery(w.ctx, id(mc+"/galleries/gal"))
	w.refused("gallery with definitions", err, millpond.Conflict, "CannotDeleteResource", "1 image definitions")
	_, err = w.gal.DeleteDefinition(w.ctx, id(strings.ToUpper(def)))
	w.refused("definition with versions", err, millpond.Conflict, "CannotDeleteResource", "1 image versions")
	// Ids in any letters find it; it keeps its own.
	if d, err := w.gal.Definition(w.ctx, id(strings.ToUpper(def))); err != nil || d.ID.String() != mc+"/galleries/Gal/images/def" {
		t.Errorf("definition %+v, %v", d, err)
	}
	// What cannot be deleted keeps its group.
	_, err = w.comp.Grant(w.ctx, id(mc+"/disks/os"), false, time.Hour)
	w.ok(err)
	op, err := w.res.DeleteGroup(w.ctx, group)
	w.ok(err)
	if o := w.ended(&op); o.Status != millpond.OperationFailed || !strings.Contains(o.Message, "az disk revoke-access") {
		t.Errorf("operation %+v", o)
	}
	w.ok(w.comp.Revoke(w.ctx, id(mc+"/disks/os")))
	w.group("rg") // usable again
	// The rest of it waits for the account's pools, through a crash.
	w.account("other")
	w.setPools(millpond.Errorf(millpond.Conflict, "Conflict", "1 pool is being deleted"))
	op, err = w.res.DeleteGroup(w.ctx, strings.ToUpper(group))
	w.ok(err)
	_, _, err = w.newDisk("late", millpond.Disk{Creation: millpond.CreationData{Option: millpond.CreateEmpty}}, 1)
	w.refused("create in a group that is being deleted", err, millpond.Conflict, "ResourceGroupBeingDeleted", "")
	_, err = w.acc.Lookup(w.ctx, "other")
	w.until("the account is closed", func() bool {
		_, err = w.acc.Lookup(w.ctx, "other")
		return err != nil
	})
	w.restart()
	w.setPools(nil)
	if o := w.ended(&op); o.Status != millpond.OperationSucceeded {
		t.Errorf("operation %+v", o)
	}
	_, err = w.res.Group(w.ctx, group)
	w.refused("after the end", err, millpond.NotFound, "ResourceGroupNotFound", "")
	for name := range w.stores {
		if n := w.holds(name); n != 0 {
			t.Errorf("%s keeps %d contents", name, n)
		}
	}
	if files, _ := w.disks.List(); len(files) != 0 {
		t.Errorf("disk files %v", files)
	}
}

func TestAccounts(t *testing.T) {
	w := newWorld(t)
	a := w.account("acct")
	at := id(group + "/providers/Microsoft.Batch/batchAccounts/acct")
	w.group("rg2")
	_, err := w.acc.Put(w.ctx, account.Change{ID: id(strings.Replace(at.String(), "/rg/", "/rg2/", 1)), Location: "eastus"})
	w.refused("the name elsewhere", err, millpond.Conflict, "AccountAlreadyExists", "already in use")
	w.refused("the name is asked for", w.acc.CheckName(w.ctx, "acct"), millpond.Conflict, "AccountAlreadyExists", "")
	_, err = w.acc.Put(w.ctx, account.Change{ID: id(group + "/providers/Microsoft.Batch/batchAccounts/Not-Valid"), Location: "eastus"})
	w.refused("bad name", err, millpond.Invalid, "AccountNameInvalid", "lower-case")
	// Keys take effect at once, whoever looks at the same time.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			_, _ = w.acc.Lookup(w.ctx, "ACCT")
		}
	}()
	for range 20 {
		before, err := w.acc.Lookup(w.ctx, "acct")
		w.ok(err)
		made, err := w.acc.RegenerateKey(w.ctx, at, "primary")
		w.ok(err)
		now, err := w.acc.Lookup(w.ctx, "acct")
		w.ok(err)
		if now.PrimaryKey != made.Primary || now.PrimaryKey == before.PrimaryKey || now.SecondaryKey != a.SecondaryKey {
			t.Fatal("the old key is still looked up")
		}
	}
	<-done
	_, err = w.acc.RegenerateKey(w.ctx, at, "third")
	w.refused("third key", err, millpond.Invalid, "InvalidPropertyValue", "Primary or Secondary")
	_, err = w.acc.Put(w.ctx, account.Change{ID: at, Modes: []string{"AAD"}, Patch: true})
	w.ok(err)
	if b, err := w.acc.Lookup(w.ctx, "acct"); err != nil || b.SharedKeyAllowed {
		t.Errorf("shared keys are still allowed: %v", err)
	}
	_, err = w.acc.Keys(w.ctx, at)
	w.refused("keys", err, millpond.Conflict, "InvalidRequestBody", "allowedAuthenticationModes")
	// Deletion waits for what the account holds, and is one operation however
	// often it is asked for.
	w.setPools(millpond.Errorf(millpond.Conflict, "Conflict", "1 pool"))
	op, err := w.acc.Delete(w.ctx, at)
	w.ok(err)
	again, err := w.acc.Delete(w.ctx, at)
	w.ok(err)
	if again == nil || again.ID != op.ID {
		t.Errorf("a second deletion is %+v, the first %+v", again, op)
	}
	_, err = w.acc.Lookup(w.ctx, "acct")
	w.refused("closed at once", err, millpond.NotFound, "AccountNotFound", "")
	w.refused("the name is still taken", w.acc.CheckName(w.ctx, "acct"), millpond.Conflict, "AccountAlreadyExists", "")
	_, err = w.acc.Put(w.ctx, account.Change{ID: at, Location: "westus2"})
	w.refused("created again too soon", err, millpond.Conflict, "Conflict", "being deleted")
	w.restart()
	if o, err := w.res.Operation(w.ctx, sub, op.ID); err != nil || o.Done() {
		t.Errorf("operation %+v, %v", o, err)
	}
	w.setPools(nil)
	if o := w.ended(op); o.Status != millpond.OperationSucceeded {
		t.Errorf("operation %+v", o)
	}
	if op, err := w.acc.Delete(w.ctx, at); op != nil || err != nil {
		t.Errorf("deletion of nothing: %+v, %v", op, err)
	}
	w.account("acct")
}
