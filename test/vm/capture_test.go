//go:build e2e

package vm

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestASnapshotOfARunningMachine sees that a capture trims first: what was
// written and deleted is not in it, and the machine goes on afterwards.
func TestASnapshotOfARunningMachine(t *testing.T) {
	s := lab.Start(t)
	base(t, s, "tiny")
	group := "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/lab"
	s.Put(group, map[string]any{"location": "westus2"})
	vm := group + "/providers/Microsoft.Compute/virtualMachines/t1"
	_, public := key(t, s.Data)
	s.Put(vm, map[string]any{"location": "westus2", "properties": map[string]any{
		"hardwareProfile": map[string]any{"vmSize": "Standard_B1ls"},
		"storageProfile": map[string]any{
			"imageReference": map[string]any{"publisher": "millpond", "offer": "base", "sku": "tiny", "version": "latest"},
			"osDisk":         map[string]any{"createOption": "FromImage", "name": "os"},
			"dataDisks":      []any{map[string]any{"lun": 0, "createOption": "Empty", "diskSizeGB": 1, "name": "data"}},
		},
		"osProfile": map[string]any{"computerName": "t1", "adminUsername": "azureuser", "linuxConfiguration": map[string]any{"disablePasswordAuthentication": true,
			"ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": public}}}}},
	}})
	run := func(script string) string {
		t.Helper()
		a := s.Post(vm+"/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{script}})
		var out struct {
			Value []struct{ Code, Message string }
		}
		if err := a.JSON(&out); err != nil || len(out.Value) != 1 || out.Value[0].Code != "ProvisioningState/succeeded" {
			t.Fatalf("run command %q: %v %s", script, err, a.Body)
		}
		return out.Value[0].Message
	}
	snapshot := func(name, disk string) {
		t.Helper()
		s.Put(group+"/providers/Microsoft.Compute/snapshots/"+name, map[string]any{"location": "westus2", "properties": map[string]any{
			"incremental": true, "creationData": map[string]any{"createOption": "Copy", "sourceResourceId": group + "/providers/Microsoft.Compute/disks/" + disk}}})
	}
	stored := func() (n int64) {
		err := filepath.WalkDir(filepath.Join(s.Data, "stores"), func(_ string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if fi, err := e.Info(); err == nil {
					n += fi.Size()
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Log(run("df /; mount | grep ' / '"))
	snapshot("first", "os")
	before := stored()
	if before == 0 {
		t.Fatal("nothing is stored")
	}
	t.Log(run("dd if=/dev/urandom of=/big bs=1M count=64 2>&1 && sync && rm /big && sync; df / | tail -1"))
	snapshot("second", "os")
	grown := stored() - before
	t.Logf("the snapshot after 64 MiB were written and deleted added %.1f MiB", float64(grown)/(1<<20))
	if grown > 8<<20 {
		t.Errorf("it added %d bytes", grown)
	}
	if out := run("echo goes on > /on && sync && cat /on"); !strings.Contains(out, "goes on") {
		t.Errorf("afterwards: %s", out)
	}
	snapshot("data", "data")
	log := s.Log()
	if strings.Count(log, "a guest holds still") < 3 || strings.Contains(log, "as after a power cut") || strings.Contains(log, "while its guest wrote again") {
		t.Errorf("the server's log does not say that the guest was held still")
	}
}
