package resource_test

import (
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/sqlite"
)

// machine is a report of a disk that boots by BIOS, with extensions or without.
func machine(extensions ...string) *inspect.Report {
	return &inspect.Report{Size: 1 << 30, Table: "gpt", BIOS: true, Partitions: []inspect.Partition{{Number: 1, Free: -1}}, CloudInit: true,
		OS:     inspect.OS{Family: "Linux", ID: "ubuntu", VersionID: "16.04", PrettyName: "Ubuntu 16.04", Partition: 1},
		System: &inspect.System{Architecture: "x64", MachineID: true, Extensions: extensions}}
}

func TestPreflightOfVersionsAndPools(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.report = machine("/var/lib/waagent/Microsoft.X-1.0")

	// Without a policy nothing is asked of an image.
	if op := w.publish("1.0.0"); op.Status != millpond.OperationSucceeded {
		t.Fatalf("%+v", op)
	}
	// A policy that comes later holds for what is there already.
	w.preflight = gallery.PolicyRefuse
	w.restart()
	_, err := w.resolve(admin, acct, def+"/versions/1.0.0", ubuntu)
	w.refused("a pool", err, millpond.Invalid, "InvalidPropertyValue", "ExtensionsInstalled")
	if fs := w.version("1.0.0").Preflight.Findings; len(fs) != 2 {
		t.Errorf("the findings are not kept: %v", fs)
	}
	// A new version of it fails, and says why and what to do.
	op := w.publish("1.0.1")
	if op.Status != millpond.OperationFailed || op.Code != "ImagePreflightFailed" || !strings.Contains(op.Message, "az vm extension delete") {
		t.Errorf("%+v", op)
	}
	if v := w.version("1.0.1"); v.State != millpond.StateFailed || len(v.Preflight.Of(millpond.SeverityError)) != 1 {
		t.Errorf("%s %+v", v.State, v.Preflight)
	}
	// Warnings refuse nothing, and reach the pool.
	w.report = machine()
	if op := w.publish("1.0.2"); op.Status != millpond.OperationSucceeded {
		t.Fatalf("%+v", op)
	}
	boot, err := w.resolve(admin, acct, def+"/versions/1.0.2", ubuntu)
	if err != nil || len(boot.Findings) != 1 || boot.Findings[0].Code != "MachineIDKept" {
		t.Errorf("%+v, %v", boot.Findings, err)
	}
	// The policy that warns lets errors pass as warnings.
	w.preflight, w.report = gallery.PolicyWarn, machine("/var/lib/waagent/Microsoft.X-1.0")
	w.restart()
	boot, err = w.resolve(admin, acct, def+"/versions/1.0.0", ubuntu)
	if err != nil || len(boot.Findings) != 2 {
		t.Errorf("%+v, %v", boot.Findings, err)
	}
	// What older rules found is looked at again.
	w.ok(w.db.Update(w.ctx, func(tx *sqlite.Tx) error {
		v, err := sqlite.Load[millpond.ImageVersion](tx, id(def+"/versions/1.0.2").Key())
		if err != nil {
			return err
		}
		v.Preflight.Rules = 0
		return tx.Put(v)
	}))
	if _, err = w.resolve(admin, acct, def+"/versions/1.0.2", ubuntu); err != nil {
		t.Error(err)
	}
	if got := w.version("1.0.2").Preflight; got.Rules != inspect.Rules || len(got.Findings) != 2 {
		t.Errorf("%+v", got)
	}
	warned, err := w.gal.Warned(w.ctx)
	if err != nil || len(warned) != 3 {
		t.Errorf("%d warned, %v", len(warned), err)
	}
}

func TestCheckOfResources(t *testing.T) {
	w := newWorld(t)
	w.report = machine("/var/lib/waagent/Microsoft.X-1.0")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.publish("1.0.0")
	before := w.holds("westus2-0")
	for what, want := range map[string]int{mc + "/disks/os": 1, def + "/versions/1.0.0": 2} {
		c, err := w.gal.Check(w.ctx, id(what))
		if err != nil || len(c.Findings) != want {
			t.Errorf("%s: %+v, %v", what, c.Findings, err)
		}
	}
	if got := w.holds("westus2-0"); got != before {
		t.Errorf("a check left %d contents behind", got-before)
	}
	for what, kind := range map[string]millpond.Kind{mc + "/disks/none": millpond.NotFound, def: millpond.Invalid} {
		if _, err := w.gal.Check(w.ctx, id(what)); millpond.KindOf(err) != kind {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestEndOfLifePolicy(t *testing.T) {
	w := newWorld(t)
	acct := w.account("acct")
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	past := w.clock.Now().Add(time.Hour)
	_, op, err := w.putVersion(gallery.VersionSpec{ID: id(def + "/versions/1.0.0"), OSDisk: &gallery.DiskSource{ID: mc + "/disks/os"}, EndOfLife: &past})
	w.ok(err)
	w.ended(op)
	for _, c := range []struct {
		policy          gallery.Policy
		refused, warned bool
	}{{"", false, false}, {gallery.PolicyAllow, false, false}, {gallery.PolicyWarn, false, true}, {gallery.PolicyRefuse, true, false}} {
		w.endOfLife = c.policy
		w.restart()
		for _, late := range []time.Duration{0, 2 * time.Hour} {
			w.clock.advance(late)
			boot, err := w.resolve(admin, acct, def+"/versions/1.0.0", ubuntu)
			if late > 0 && c.refused {
				w.refused("past its end", err, millpond.Invalid, "InvalidPropertyValue", "PastEndOfLife")
				continue
			}
			if err != nil || (len(boot.Findings) > 0) != (late > 0 && c.warned) {
				t.Errorf("%q, %s later: %v, %v", c.policy, late, boot.Findings, err)
			}
			w.clock.advance(-late)
		}
	}
}
