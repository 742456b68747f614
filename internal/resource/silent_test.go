package resource_test

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
)

// TestASilentStoreHoldsNobodyUp: while a store does not answer, versions are published
// to the others, what another store lost is copied again, and nodes are told of the
// replicas that answer.
func TestASilentStoreHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	w.upload("os", 1)
	w.define("def", "Linux", "Generalized")
	w.publish("1.0.0", millpond.TargetRegion{Name: "westus2", Replicas: 2}, millpond.TargetRegion{Name: "eastus"})
	content := w.version("1.0.0").OSDisk.Content
	w.silent = map[string]bool{"westus2-1": true}
	w.ok(w.stores["eastus-0"].Delete(w.ctx, image.ContentID(content)))
	w.restart()

	begin := time.Now()
	if o := w.publish("2.0.0", millpond.TargetRegion{Name: "westus2"}); o.Status != millpond.OperationSucceeded {
		t.Errorf("%+v", o)
	}
	w.until("what the other store lost is back", func() bool {
		_, err := w.stores["eastus-0"].Stat(w.ctx, image.ContentID(content))
		return err == nil
	})
	acct := w.account("acct")
	boot, err := w.resolve(admin, acct, def+"/versions/1.0.0", "batch.node.ubuntu 16.04")
	w.ok(err)
	for _, node := range []millpond.NodeID{"n1", "n2", "n3", "n4"} {
		chosen, err := w.gal.ChooseReplicas(w.ctx, acct, boot, node)
		w.ok(err)
		if s := chosen.OSDisk.Stores; len(s) != 1 || s[0].Name != "westus2-0" {
			t.Errorf("%s reads from %+v", node, s)
		}
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("a silent store held the others up for %s", took)
	}
}
