package resource_test

import (
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
)

const otherTenant = "33333333-3333-3333-3333-333333333333"

// permit sets a gallery's sharing permission.
func (w *world) permit(permissions string, info *millpond.CommunityInfo) error {
	_, err := w.gal.PatchGallery(w.ctx, id(mc+"/galleries/gal"), gallery.Patch{Permissions: permissions, Community: info})
	return err
}

func TestSharingOfGalleries(t *testing.T) {
	w := newWorld(t)
	w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.publish("1.0.0")
	g := id(mc + "/galleries/gal")
	foreign, err := w.res.CreateSubscription(w.ctx, otherTenant, "foreign")
	w.ok(err)
	// An account of another tenant, in which the caller has no right on the image.
	acct := millpond.BatchAccount{Name: "far", Subscription: foreign.ID, Tenant: otherTenant, Region: "westus2"}
	w.rights["stranger Microsoft.Compute/galleries/images/versions/read"] = true
	stranger := admin
	stranger.Object, stranger.Tenant = "stranger", otherTenant
	shared := func(ref millpond.ImageReference) (millpond.BootImage, error) {
		return w.gal.ResolveForPool(w.ctx, stranger, acct, ref, ubuntu)
	}
	unique := sub + "-GAL"
	path := "/sharedGalleries/" + unique + "/images/def/versions/latest"

	_, err = w.gal.Share(w.ctx, g, gallery.ShareAdd, []string{foreign.ID}, nil)
	w.refused("sharing a private gallery", err, millpond.Conflict, "OperationNotAllowed", "--permissions Groups")
	_, err = shared(millpond.ImageReference{SharedID: path})
	w.refused("not shared", err, millpond.Invalid, "InvalidPropertyValue", "az sig share add")
	w.ok(w.permit(millpond.GalleryGroups, nil))
	_, err = w.gal.Share(w.ctx, g, gallery.ShareAdd, []string{"nonsense"}, nil)
	w.refused("a bad id", err, millpond.Invalid, "InvalidParameter", "nonsense")
	_, err = w.gal.Share(w.ctx, g, gallery.ShareAdd, nil, nil)
	w.refused("nobody", err, millpond.Invalid, "InvalidParameter", "--subscription-ids")
	for _, with := range []struct{ subs, tenants []string }{{[]string{strings.ToUpper(foreign.ID)}, nil}, {nil, []string{otherTenant}}} {
		_, err = w.gal.Share(w.ctx, g, gallery.ShareAdd, with.subs, with.tenants)
		w.ok(err)
		boot, err := shared(millpond.ImageReference{SharedID: path})
		if err != nil || boot.VersionID != def[:strings.Index(def, "/galleries")]+"/galleries/Gal/images/def/versions/1.0.0" || boot.Reference != "/SharedGalleries/"+unique+"/Images/def/Versions/1.0.0" {
			t.Errorf("%+v: %+v, %v", with, boot, err)
		}
		all, err := w.gal.SharedGalleries(w.ctx, gallery.Viewer{Subscription: foreign.ID, Tenant: otherTenant}, with.tenants != nil)
		if err != nil || len(all) != 1 {
			t.Errorf("%+v: %d galleries are listed, %v", with, len(all), err)
		}
		if err := w.permit(millpond.GalleryPrivate, nil); millpond.AsError(err).Code != "PropertyChangeNotAllowed" {
			t.Errorf("a shared gallery was made private: %v", err)
		}
		_, err = w.gal.Share(w.ctx, g, gallery.ShareRemove, with.subs, with.tenants)
		w.ok(err)
		_, err = shared(millpond.ImageReference{SharedID: path})
		w.refused("not shared any more", err, millpond.Invalid, "InvalidPropertyValue", "not found")
	}
	_, err = w.gal.Share(w.ctx, g, gallery.ShareAdd, []string{foreign.ID}, nil)
	w.ok(err)

	// A key has no principal; other refusals do not show where the image lies.
	key := stranger
	key.Method = millpond.AuthSharedKey
	_, err = w.gal.ResolveForPool(w.ctx, key, acct, millpond.ImageReference{SharedID: path}, ubuntu)
	w.refused("shared key", err, millpond.Forbidden, "AuthenticationFailed", "az batch account login")
	east := acct
	east.Region = "eastus"
	_, err = w.gal.ResolveForPool(w.ctx, stranger, east, millpond.ImageReference{SharedID: strings.Replace(path, "latest", "1.0.0", 1)}, ubuntu)
	w.refused("no replica", err, millpond.Invalid, "InvalidPropertyValue", "not available in eastus")
	if e := millpond.AsError(err); strings.Contains(e.Message, "resourceGroups") {
		t.Errorf("the owner's id is told: %s", e.Message)
	}
	for _, ref := range []millpond.ImageReference{{SharedID: "/x"}, {CommunityID: path}, {SharedID: path, CommunityID: path}, {SharedID: path, Publisher: "p"},
		{SharedID: "/sharedGalleries/" + unique + "/images/def/versions/9.0.0"}, {SharedID: "/sharedGalleries/none/images/def"}, {SharedID: "/sharedGalleries/" + unique + "/images/none"}} {
		_, err := shared(ref)
		w.refused(ref.SharedID+ref.CommunityID, err, millpond.Invalid, "InvalidPropertyValue", "")
	}

	// Reset makes it private again; then it can be a community gallery.
	_, err = w.gal.Share(w.ctx, g, gallery.ShareReset, nil, nil)
	w.ok(err)
	w.refused("without information", w.permit(millpond.GalleryCommunity, nil), millpond.Invalid, "InvalidParameter", "--publisher-uri")
	w.refused("a bad prefix", w.permit(millpond.GalleryCommunity, &millpond.CommunityInfo{PublisherURI: "u", PublisherContact: "c", EULA: "e", Prefix: "x-y"}), millpond.Invalid, "InvalidParameter", "5 to 16")
	w.ok(w.permit(millpond.GalleryCommunity, &millpond.CommunityInfo{PublisherURI: "u", PublisherContact: "c", EULA: "e", Prefix: "contoso"}))
	if all, err := w.gal.CommunityGalleries(w.ctx); err != nil || len(all) != 0 {
		t.Errorf("a gallery is public before it was enabled: %v, %v", all, err)
	}
	gal, err := w.gal.Share(w.ctx, g, gallery.ShareEnableCommunity, nil, nil)
	w.ok(err)
	public := gal.PublicName()
	if !strings.HasPrefix(public, "contoso-") {
		t.Errorf("public name %q", public)
	}
	boot, err := shared(millpond.ImageReference{CommunityID: "/communityGalleries/" + public + "/images/def"})
	if err != nil || boot.Reference != "/CommunityGalleries/"+public+"/Images/def/Versions/1.0.0" {
		t.Errorf("%+v, %v", boot, err)
	}
	_, err = w.gal.Share(w.ctx, g, gallery.ShareReset, nil, nil)
	w.ok(err)
	_, err = shared(millpond.ImageReference{CommunityID: "/communityGalleries/" + public + "/images/def"})
	w.refused("not public any more", err, millpond.Invalid, "InvalidPropertyValue", "az sig list-community")
}

func TestAPurchasePlanIsNoBase(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.publish("1.0.0")
	d, err := w.gal.Definition(w.ctx, id(def))
	w.ok(err)
	d.Plan = &millpond.PurchasePlan{Name: "gold", Publisher: "acme", Product: "anvil"}
	_, _, err = w.gal.PutDefinition(w.ctx, d)
	w.ok(err)
	_, err = w.resolve(admin, acct, def+"/versions/1.0.0", ubuntu)
	w.refused("a plan", err, millpond.Invalid, "InvalidPropertyValue", "purchase plan 'gold' (publisher 'acme', product 'anvil')")
}

// A pool from a managed image is for api-versions that had it, and gets copies.
func TestPoolsFromManagedImages(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	put := func(name, state string) string {
		t.Helper()
		_, _, op, err := w.comp.PutImage(w.ctx, admin, &millpond.ManagedImage{Resource: millpond.Resource{ID: id(mc + "/images/" + name), Location: "westus2"}, OSType: "Linux", OSState: state, HyperV: "V1",
			OSDisk: millpond.ImageDisk{DiskID: mc + "/disks/os"}})
		w.ok(err)
		if op != nil {
			w.ended(op)
		}
		return mc + "/images/" + name
	}
	img, special := put("img", "Generalized"), put("special", "Specialized")
	resolve := func(c millpond.Caller, a millpond.BatchAccount, ref, sku string) (millpond.BootImage, error) {
		return w.gal.ResolveForPool(w.ctx, c, a, millpond.ImageReference{ResourceID: ref, AllowManaged: true}, sku)
	}
	_, err := w.resolve(admin, acct, img, ubuntu)
	w.refused("a new api-version", err, millpond.Invalid, "InvalidPropertyValue", "2020-03-01.11.0")
	boot, err := resolve(admin, acct, img, ubuntu)
	if err != nil || !boot.OSDisk.FullCopy || boot.OSDisk.Content == "" {
		t.Fatalf("%+v, %v", boot, err)
	}
	chosen, err := w.gal.ChooseReplicas(w.ctx, acct, boot, "n1")
	if err != nil || len(chosen.OSDisk.Stores) != 1 || chosen.OSDisk.Stores[0].Name != "westus2-0" || !chosen.OSDisk.FullCopy {
		t.Errorf("%+v, %v", chosen, err)
	}
	far := acct
	far.Region = "eastus"
	elsewhere := acct
	elsewhere.Subscription = "55555555-5555-5555-5555-555555555555"
	key := admin
	key.Method = millpond.AuthSharedKey
	w.rights["reader Microsoft.Compute/images/read"] = true
	reader := admin
	reader.Object = "reader"
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
		{"other region", admin, far, img, ubuntu, millpond.Invalid, "InvalidPropertyValue", "az sig image-version create --managed-image"},
		{"other subscription", admin, elsewhere, img, ubuntu, millpond.Invalid, "InvalidPropertyValue", "gallery version"},
		{"shared key", key, acct, img, ubuntu, millpond.Forbidden, "AuthenticationFailed", "Entra"},
		{"no right", reader, acct, img, ubuntu, millpond.Forbidden, "InsufficientAccountPermissions", "--role \"Reader\" --scope " + img},
		{"specialized", admin, acct, special, ubuntu, millpond.Invalid, "InvalidPropertyValue", "generalized"},
		{"not there", admin, acct, mc + "/images/none", ubuntu, millpond.Invalid, "InvalidPropertyValue", "az image list"},
		{"other agent", admin, acct, img, "batch.node.el 9", millpond.Invalid, "InvalidPropertyValue", "ubuntu 16.04"},
	} {
		_, err := resolve(c.caller, c.acct, c.ref, c.sku)
		w.refused(c.what, err, c.kind, c.code, c.says)
	}
	// Preflight, for machines and for pools.
	w.preflight, w.report = gallery.PolicyRefuse, machine("/var/lib/waagent/Microsoft.X-1.0")
	w.restart()
	_, err = w.gal.UsableImage(w.ctx, id(img))
	w.refused("a machine", err, millpond.Invalid, "ImagePreflightFailed", "az vm extension delete")
	_, err = resolve(admin, acct, img, ubuntu)
	w.refused("a pool", err, millpond.Invalid, "InvalidPropertyValue", "az vm extension delete")
	w.report = machine()
	if found, err := w.gal.UsableImage(w.ctx, id(img)); err != nil || len(found) != 1 || found[0].Code != "MachineIDKept" {
		t.Errorf("what only warns: %+v, %v", found, err)
	}
	w.preflight = gallery.PolicyAllow
	w.restart()
	if found, err := w.gal.UsableImage(w.ctx, id(img)); err != nil || found != nil {
		t.Errorf("without a policy: %+v, %v", found, err)
	}
	if _, err := w.comp.DeleteImage(w.ctx, id(img)); err != nil {
		t.Fatal(err)
	}
	_, err = w.gal.ChooseReplicas(w.ctx, acct, boot, "n1")
	w.refused("deleted", err, millpond.NotFound, "AllocationFailed", "was deleted")
}

func FuzzParseReference(f *testing.F) {
	f.Add("/SharedGalleries/a/Images/b/Versions/latest")
	f.Add("communitygalleries/x/images/y")
	f.Fuzz(func(t *testing.T, s string) {
		if r, ok := gallery.ParseReference(s); ok {
			if again, ok := gallery.ParseReference(r.String()); !ok || again != r {
				t.Errorf("%q: %+v, %+v", s, r, again)
			}
		}
	})
}
