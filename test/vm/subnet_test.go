//go:build e2e

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestVirtualNetwork has a virtual machine and the nodes of two pools in one
// virtual network reach each other by address and by name, over its subnets, as
// far as the machine's security group lets them.
func TestVirtualNetwork(t *testing.T) {
	s := lab.Start(t)
	a := newAzure(t, s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1"))
	subnet := a.net + "/virtualNetworks/net/subnets/nodes"
	a.put(subnet, map[string]any{"addressPrefix": "10.7.1.0/24"})
	_, public := key(t, s.Data)
	a.put(a.vm("m1"), map[string]any{
		"hardwareProfile": map[string]any{"vmSize": "Standard_B1s"},
		"storageProfile":  map[string]any{"imageReference": ref(a.Version), "osDisk": map[string]any{"createOption": "FromImage", "deleteOption": "Delete"}},
		"osProfile": map[string]any{"computerName": "head", "adminUsername": "azureuser", "linuxConfiguration": map[string]any{"disablePasswordAuthentication": true,
			"ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": public}}}}},
		"networkProfile": a.card(),
	})
	for p, in := range map[string]string{"near": a.net + "/virtualNetworks/net/subnets/default", "far": subnet} {
		body := a.PoolBody(p, 1)
		body["taskSlotsPerNode"] = 2
		body["networkConfiguration"] = map[string]any{"subnetId": in}
		a.AddPool(body, 5*time.Minute)
	}
	near, far := a.Nodes("near")[0], a.Nodes("far")[0]
	if near.IPAddress != "10.7.0.5" || far.IPAddress != "10.7.1.4" {
		t.Fatalf("the nodes are at %s and %s", near.IPAddress, far.IPAddress)
	}

	// From the VM to the nodes, from the nodes to it and to each other.
	ping := "for a in %s; do ping -c 3 -w 8 $a >/dev/null && echo $a; done; true"
	want := []string{near.IPAddress, far.IPAddress, hostName(near), hostName(far) + ".internal.cloudapp.net"}
	if out := a.run(a.vm("m1"), fmt.Sprintf(ping, strings.Join(want, " "))); !strings.Contains(out, strings.Join(want, "\n")) {
		t.Errorf("the machine reaches %q", out)
	}
	task := func(id, script string) map[string]any {
		return with(with(shell(id, script), "constraints", map[string]any{"maxWallClockTime": "PT10M"}), "userIdentity", admin)
	}
	a.AddJob("listener", "near", task("t", "for p in 8080 8081; do nc -ll -p $p -e echo heard & done; wait"))
	ask := "for p in 8080 8081; do nc -w 4 " + near.IPAddress + " $p </dev/null; done; true"
	jobs := 0
	said := func(pool, script string) string {
		t.Helper()
		jobs++
		id := fmt.Sprint("ask", jobs)
		a.AddJob(id, pool, task("t", script))
		a.WaitTasks(id, 90*time.Second)
		return a.Stdout(id, "t")
	}
	both := "10.7.0.4\nhead\n"
	if got := said("near", fmt.Sprintf(ping, "10.7.0.4 head "+far.IPAddress)); got != both+far.IPAddress+"\n" {
		t.Errorf("the near node reaches %q", got)
	}
	lab.Wait(t, time.Minute, "the far node reaches the others", func() (bool, string) {
		got := said("far", fmt.Sprintf(ping, "10.7.0.4 head "+hostName(near))+"; "+ask) // the listener may still be starting
		return got == both+hostName(near)+"\nheard\nheard\n", got
	})

	// A rule of the group of the VM's card keeps the far subnet's ICMP out, and one of
	// the near node's subnet a port, both at once. What the VM itself asks is answered.
	deny := func(group, protocol, port string) {
		a.put(a.net+"/networkSecurityGroups/"+group+"/securityRules/no", map[string]any{"priority": 200, "direction": "Inbound", "access": "Deny", "protocol": protocol,
			"sourceAddressPrefix": "10.7.1.0/24", "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": port})
	}
	a.put(a.net+"/networkSecurityGroups/second", map[string]any{})
	a.put(a.net+"/virtualNetworks/net/subnets/default", map[string]any{"addressPrefix": "10.7.0.0/24", "networkSecurityGroup": ref(a.net + "/networkSecurityGroups/second")})
	deny("nsg", "Icmp", "*")
	deny("second", "Tcp", "8081")
	lab.Wait(t, 90*time.Second, "the rules hold", func() (bool, string) {
		got := said("far", "ping -c 1 -w 3 head >/dev/null && echo pinged; "+ask)
		return got == "heard\n", got
	})
	if got := said("near", fmt.Sprintf(ping, "head")+"; "+ask); got != "head\nheard\nheard\n" {
		t.Errorf("the near node reaches %q", got)
	}
	if out := a.run(a.vm("m1"), fmt.Sprintf(ping, far.IPAddress)); !strings.Contains(out, far.IPAddress) {
		t.Errorf("the answer to the machine's own question is kept from it: %q", out)
	}
}
