package resource_test

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/sqlite"
)

// TestWhatMachinesAndDisksMayBeMadeOf holds machines and disks to the rules that
// pools are held to.
func TestWhatMachinesAndDisksMayBeMadeOf(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	past := w.clock.Now().Add(time.Hour)
	version := id(def + "/versions/1.0.0")
	_, op, err := w.putVersion(gallery.VersionSpec{ID: version, OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, EndOfLife: &past})
	w.ok(err)
	w.ended(op)
	boots := gallery.Use{SKUs: []string{"Premium_LRS"}, Boots: true}
	disk := gallery.Use{SKUs: []string{"Standard_LRS"}}
	use := func(u gallery.Use) ([]millpond.Finding, error) { return w.gal.Usable(w.ctx, version, u) }

	// The end of life, by every policy.
	w.clock.advance(2 * time.Hour)
	for _, c := range []struct {
		policy          gallery.Policy
		refused, warned bool
	}{{gallery.PolicyAllow, false, false}, {gallery.PolicyWarn, false, true}, {gallery.PolicyRefuse, true, false}} {
		w.endOfLife = c.policy
		w.restart()
		for _, u := range []gallery.Use{boots, disk} {
			found, err := use(u)
			if c.refused {
				w.refused("past its end", err, millpond.Invalid, "InvalidParameter", "PastEndOfLife")
			} else if err != nil || (len(found) > 0) != c.warned {
				t.Errorf("%s: %v, %v", c.policy, found, err)
			}
		}
	}
	w.clock.advance(-2 * time.Hour)

	// Preflight is for what boots.
	bad := *machine()
	bad.BIOS, bad.UEFI = false, false
	w.report = &bad
	// The last one stays for the rest.
	for _, policy := range []gallery.Policy{gallery.PolicyRefuse, gallery.PolicyWarn} {
		refused := policy == gallery.PolicyRefuse
		w.preflight = policy
		w.restart()
		if _, err := use(disk); err != nil {
			t.Errorf("%s: a disk is refused: %v", policy, err)
		}
		found, err := use(boots)
		if refused {
			w.refused("an image that does not boot", err, millpond.Invalid, "ImagePreflightFailed", "cannot become a machine")
		} else if err != nil || len(found) == 0 {
			t.Errorf("%s: %v, %v", policy, found, err)
		}
	}

	// What the definition says.
	edit := func(change func(d *millpond.ImageDefinition)) {
		w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
			d, err := sqlite.Load[millpond.ImageDefinition](tx, id(def).Key())
			if err != nil {
				return err
			}
			change(d)
			return tx.Put(d)
		}))
	}
	edit(func(d *millpond.ImageDefinition) { d.DisallowedDisks = []string{"Standard_LRS"} })
	if _, err := use(boots); err != nil {
		t.Errorf("another type: %v", err)
	}
	_, err = use(disk)
	w.refused("a disallowed type", err, millpond.Invalid, "InvalidParameter", "disallows disks of type Standard_LRS")
	_, _, err = w.newDisk("copy", millpond.Disk{SKU: "standard_lrs", Creation: millpond.CreationData{Option: millpond.CreateFromImage, ImageID: version.String()}}, 0)
	w.refused("a disk of a disallowed type", err, millpond.Invalid, "InvalidParameter", "disallows disks of type Standard_LRS")
	_, _, err = w.newDisk("copy", millpond.Disk{SKU: "Premium_LRS", Creation: millpond.CreationData{Option: millpond.CreateFromImage, ImageID: version.String()}}, 0)
	w.ok(err)
	edit(func(d *millpond.ImageDefinition) {
		d.Plan = &millpond.PurchasePlan{Name: "pro", Publisher: "p", Product: "x"}
	})
	_, err = use(boots)
	w.refused("a purchase plan", err, millpond.Invalid, "InvalidParameter", "purchase plan 'pro'")
}

// TestAMachineAsTheSource publishes the disks of virtual machines.
func TestAMachineAsTheSource(t *testing.T) {
	w := newWorld(t)
	w.define("general", "Linux", "Generalized")
	w.define("special", "Linux", "Specialized")
	vm := func(name string, generalized bool) string {
		w.upload(name+"-os", 1)
		w.upload(name+"-data", 2)
		v := &millpond.VirtualMachine{VMID: name, Power: millpond.VMRunning, OSType: "Linux", HyperV: "V1", Generalized: generalized,
			OSDisk:    millpond.VMDisk{ID: mc + "/disks/" + name + "-os", Option: millpond.CreateAttach, Caching: "ReadWrite"},
			DataDisks: []millpond.VMDisk{{LUN: 3, ID: mc + "/disks/" + name + "-data", Option: millpond.CreateAttach}}}
		v.ID, v.Location, v.Resource.State = id(mc+"/virtualMachines/"+name), "westus2", millpond.StateSucceeded
		w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error { return tx.Put(v) }))
		return v.ID.String()
	}
	live, sealed := vm("live", false), vm("sealed", true)
	publish := func(definition, source string) (gallery.Published, *millpond.Operation, error) {
		return w.putVersion(gallery.VersionSpec{ID: id(mc + "/galleries/gal/images/" + definition + "/versions/1.0.0"), SourceID: source})
	}
	_, _, err := publish("general", live)
	w.refused("a machine that is not generalized", err, millpond.Conflict, "OperationNotAllowed", "az vm generalize")
	_, _, err = publish("special", sealed)
	w.refused("a generalized machine", err, millpond.Invalid, "InvalidParameter", "osState Generalized")
	_, _, err = publish("special", mc+"/virtualMachines/none")
	w.refused("no machine", err, millpond.NotFound, "ResourceNotFound", "none")
	for definition, source := range map[string]string{"general": sealed, "special": live} {
		_, op, err := publish(definition, source)
		w.ok(err)
		if o := w.ended(op); o.Status != millpond.OperationSucceeded {
			t.Fatalf("%s: %+v", definition, o)
		}
		p, err := w.gal.Version(w.ctx, id(mc+"/galleries/gal/images/"+definition+"/versions/1.0.0"))
		w.ok(err)
		if p.SourceID != source || p.OSDisk.Content == "" || p.OSDisk.Caching != "ReadWrite" || len(p.DataDisks) != 1 || p.DataDisks[0].LUN != 3 || p.DataDisks[0].Content == p.OSDisk.Content {
			t.Errorf("%s: %+v", definition, p.ImageVersion)
		}
		// Clients send back what they read.
		if _, _, err := publish(definition, source); err != nil {
			t.Errorf("the same again: %v", err)
		}
		_, _, err = publish(definition, mc+"/virtualMachines/other")
		w.refused("another source", err, millpond.Conflict, "PropertyChangeNotAllowed", "source")
	}
}
