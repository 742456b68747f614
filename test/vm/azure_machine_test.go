//go:build e2e

package vm

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// azure is a lab with a network whose interface has a public address and a group
// without rules.
type azure struct {
	*lab.Lab
	t   *testing.T
	net string
}

func newAzure(t *testing.T, l *lab.Lab) *azure {
	a := &azure{l, t, l.Group + "/providers/Microsoft.Network"}
	a.put(a.net+"/networkSecurityGroups/nsg", map[string]any{})
	a.put(a.net+"/virtualNetworks/net", map[string]any{"addressSpace": map[string]any{"addressPrefixes": []string{"10.7.0.0/16"}},
		"subnets": []any{map[string]any{"name": "default", "properties": map[string]any{"addressPrefix": "10.7.0.0/24"}}}})
	a.put(a.net+"/publicIPAddresses/ip", map[string]any{"publicIPAllocationMethod": "Static"})
	a.put(a.net+"/networkInterfaces/nic", map[string]any{"networkSecurityGroup": ref(a.net + "/networkSecurityGroups/nsg"),
		"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": ref(a.net + "/virtualNetworks/net/subnets/default"), "publicIPAddress": ref(a.net + "/publicIPAddresses/ip")}}}})
	return a
}

func ref(id string) map[string]any { return map[string]any{"id": id} }

func (a *azure) vm(name string) string { return a.Compute() + "/virtualMachines/" + name }

// card is a machine's network profile.
func (a *azure) card() map[string]any {
	return map[string]any{"networkInterfaces": []any{ref(a.net + "/networkInterfaces/nic")}}
}

// put makes a resource; a machine may take long until its agent has its user.
func (a *azure) put(id string, properties map[string]any) {
	a.t.Helper()
	a.change("PUT", id, properties)
}

func (a *azure) change(method, id string, properties map[string]any) {
	a.t.Helper()
	const version = "?api-version=2024-07-01"
	if r := a.Do(a.Admin(), lab.ARM, method, id+version, map[string]any{"location": a.Region, "properties": properties}); r.Status >= 300 {
		a.t.Fatalf("%s %s: %d %s", method, id, r.Status, r.Body)
	}
	lab.Wait(a.t, 6*time.Minute, method+" "+id, func() (bool, string) {
		r := a.Do(a.Admin(), lab.ARM, "GET", id+version, nil)
		if strings.Contains(string(r.Body), `"provisioningState":"Failed"`) {
			a.t.Fatalf("%s %s: %s", method, id, r.Body)
		}
		return strings.Contains(string(r.Body), `"provisioningState":"Succeeded"`), string(r.Body)
	})
}

func (a *azure) remove(id string) {
	a.t.Helper()
	if r := a.Do(a.Admin(), lab.ARM, "DELETE", id+"?api-version=2024-07-01", nil); r.Status >= 300 {
		a.t.Fatalf("DELETE %s: %d %s", id, r.Status, r.Body)
	}
}

// run runs a script in a machine by action.
func (a *azure) run(vm, script string) string {
	a.t.Helper()
	r := a.Post(vm+"/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{script}})
	var out struct {
		Value []struct{ Code, Message string }
	}
	if err := r.JSON(&out); err != nil || len(out.Value) != 1 || out.Value[0].Code != "ProvisioningState/succeeded" {
		a.t.Fatalf("run command %q: %v %s", script, err, r.Body)
	}
	return out.Value[0].Message
}

// address is the public one.
func (a *azure) address() string {
	a.t.Helper()
	var ip struct {
		Properties struct{ IPAddress string }
	}
	if err := a.Do(a.Admin(), lab.ARM, "GET", a.net+"/publicIPAddresses/ip?api-version=2024-03-01", nil).JSON(&ip); err != nil || ip.Properties.IPAddress == "" {
		a.t.Fatalf("the public address: %v %+v", err, ip)
	}
	return ip.Properties.IPAddress
}

// allow lets TCP to a port in.
func (a *azure) allow(port string) (rule string) {
	a.t.Helper()
	rule = a.net + "/networkSecurityGroups/nsg/securityRules/port" + port
	a.put(rule, map[string]any{"priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "*", "sourcePortRange": "*",
		"destinationAddressPrefix": "*", "destinationPortRange": port})
	return rule
}

func (a *azure) open(port string) bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(a.address(), port), time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// TestAMachineAndItsChanges takes a machine, made from a gallery version, through what
// is changed while it is there: a port of its security group, data disks while it
// runs, its size; then it is published as it is, and its disk boots another machine.
func TestAMachineAndItsChanges(t *testing.T) {
	s := lab.Start(t)
	a := newAzure(t, s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1"))
	vm := a.vm("m1")
	_, public := key(t, s.Data)
	a.put(vm, map[string]any{
		"hardwareProfile": map[string]any{"vmSize": "Standard_B1s"},
		"storageProfile":  map[string]any{"imageReference": ref(a.Version), "osDisk": map[string]any{"createOption": "FromImage", "name": "m1os", "deleteOption": "Detach"}},
		"osProfile": map[string]any{"computerName": "m1", "adminUsername": "azureuser", "linuxConfiguration": map[string]any{"disablePasswordAuthentication": true,
			"ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": public}}}}},
		"networkProfile": a.card(),
	})

	// A port opens and closes with a rule of the running machine's group.
	if a.open("8080") {
		t.Error("port 8080 is open without a rule")
	}
	rule := a.allow("8080")
	lab.Wait(t, time.Minute, "port 8080 open", func() (bool, string) { return a.open("8080"), a.address() })
	a.remove(rule)
	lab.Wait(t, time.Minute, "port 8080 closed", func() (bool, string) { return !a.open("8080"), a.address() })

	// A data disk comes and goes under the running system; a refused change takes nothing.
	a.put(a.Compute()+"/disks/extra", map[string]any{"diskSizeGB": 1, "creationData": map[string]any{"createOption": "Empty"}})
	disks := func(list ...any) map[string]any {
		return map[string]any{"storageProfile": map[string]any{"dataDisks": append([]any{}, list...)}}
	}
	a.change("PATCH", vm, disks(map[string]any{"lun": 5, "createOption": "Attach", "managedDisk": ref(a.Compute() + "/disks/extra")}))
	if out := a.run(vm, "cd /sys/block; ls -d sd?/device/scsi_disk/*:5; echo mark > /dev/sda; head -c 4 /dev/sda"); !strings.Contains(out, "0:0:0:5") && !strings.Contains(out, ":5") || !strings.Contains(out, "mark") {
		t.Errorf("the disk at LUN 5: %s", out)
	}
	bad := disks()
	bad["hardwareProfile"] = map[string]any{"vmSize": "Standard_Nope"}
	if r := s.Do(s.Admin(), lab.ARM, "PATCH", vm+"?api-version=2024-07-01", map[string]any{"properties": bad}); r.Status < 400 {
		t.Errorf("a wrong size: %d %s", r.Status, r.Body)
	}
	if out := a.run(vm, "head -c 4 /dev/sda"); !strings.Contains(out, "mark") {
		t.Errorf("after a refused change: %s", out)
	}
	a.change("PATCH", vm, disks())
	if out := a.run(vm, "ls /sys/block"); strings.Contains(out, "sda") {
		t.Errorf("after detach: %s", out)
	}

	// A managed run command, with a parameter.
	s.Put(vm+"/runCommands/rc", map[string]any{"location": a.Region, "properties": map[string]any{
		"source": map[string]any{"script": "echo \"said $WORD\" | tee /said; sync"}, "parameters": []any{map[string]any{"name": "WORD", "value": "hello"}}}})
	lab.Wait(t, time.Minute, "the run command's end", func() (bool, string) {
		r := a.Do(a.Admin(), lab.ARM, "GET", vm+"/runCommands/rc?api-version=2024-07-01&$expand=instanceView", nil)
		return strings.Contains(string(r.Body), "said hello"), string(r.Body)
	})

	// A larger size restarts it with two processors.
	const look = "echo cpus=$(grep -c ^processor /proc/cpuinfo) boot=$(cat /proc/sys/kernel/random/boot_id) id=$(cat /etc/machine-id)."
	var cpus [2]string
	var boots, ids [2]string
	for i, size := range []string{"Standard_B1s", "Standard_B2s"} {
		if i > 0 {
			a.change("PATCH", vm, map[string]any{"hardwareProfile": map[string]any{"vmSize": size}})
		}
		for _, f := range strings.Fields(a.run(vm, look)) {
			switch k, v, _ := strings.Cut(f, "="); k {
			case "cpus":
				cpus[i] = v
			case "boot":
				boots[i] = v
			case "id":
				ids[i] = v
			}
		}
	}
	if cpus[0] != "1" || cpus[1] != "2" || boots[0] == boots[1] || ids[0] != ids[1] || ids[0] == "" {
		t.Errorf("before and after the resize: %v %v %v", cpus, boots, ids)
	}

	// A version straight from the machine, and a machine from that: specialized.
	a.Define("special", "Specialized", "V1")
	version := a.Compute() + "/galleries/labgallery/images/special/versions/1.0.0"
	a.put(version, map[string]any{"publishingProfile": map[string]any{"targetRegions": []any{map[string]any{"name": a.Region}}},
		"storageProfile": map[string]any{"source": map[string]any{"virtualMachineId": vm}}})
	a.put(a.vm("m2"), map[string]any{"hardwareProfile": map[string]any{"vmSize": "Standard_B1s"},
		"storageProfile": map[string]any{"imageReference": ref(version), "osDisk": map[string]any{"createOption": "FromImage", "deleteOption": "Delete"}}})
	if out := a.run(a.vm("m2"), "cat /said; grep azureuser /etc/passwd"); !strings.Contains(out, "said hello\nazureuser:") {
		t.Errorf("the machine from the specialized version: %s", out)
	}

	// The first one goes, its disk stays and boots another.
	a.remove(a.vm("m2"))
	a.remove(vm)
	lab.Wait(t, 2*time.Minute, "the disk free", func() (bool, string) {
		r := a.Do(a.Admin(), lab.ARM, "GET", a.Compute()+"/disks/m1os?api-version=2024-03-02", nil)
		return strings.Contains(string(r.Body), `"diskState":"Unattached"`), string(r.Body)
	})
	a.put(a.vm("m3"), map[string]any{"hardwareProfile": map[string]any{"vmSize": "Standard_B1s"},
		"storageProfile": map[string]any{"osDisk": map[string]any{"createOption": "Attach", "osType": "Linux", "managedDisk": ref(a.Compute() + "/disks/m1os")}}})
	if out := a.run(a.vm("m3"), "cat /said; echo id=$(cat /etc/machine-id)."); !strings.Contains(out, "said hello\nid="+ids[0]) {
		t.Errorf("the machine on the attached disk: %s", out)
	}
}

// TestDebianByPassword: a Debian machine lets its user in by the password, cloud-init
// has done what the custom data says, and a data disk has Azure's name.
func TestDebianByPassword(t *testing.T) {
	s := lab.Start(t)
	a := newAzure(t, s.Furnish(s.DebianVHD(), "V1"))
	const password = "Mill-pond-1"
	a.allow("22")
	a.put(a.vm("m1"), map[string]any{
		"hardwareProfile": map[string]any{"vmSize": "Standard_B1s"},
		"storageProfile": map[string]any{"imageReference": ref(a.Version), "osDisk": map[string]any{"createOption": "FromImage", "deleteOption": "Delete"},
			"dataDisks": []any{map[string]any{"lun": 5, "createOption": "Empty", "diskSizeGB": 1}}},
		"osProfile": map[string]any{"computerName": "m1", "adminUsername": "azureuser", "adminPassword": password,
			"customData": base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho custom > /custom\n"))},
		"networkProfile": a.card(),
	})
	ask := filepath.Join(s.Data, "ask")
	if err := os.WriteFile(ask, []byte("#!/bin/sh\necho "+password+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	login := func(command string) (string, error) {
		cmd := exec.Command("ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60",
			"-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", "azureuser@"+a.address(), command)
		cmd.Env = append(os.Environ(), "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	// The last stage of cloud-init, which runs scripts, ends after the user is made.
	lab.Wait(t, 4*time.Minute, "the custom data's script", func() (bool, string) {
		out, err := login("hostname; cat /custom")
		return err == nil && out == "m1\ncustom\n", fmt.Sprintf("%v %q", err, out)
	})
	if out, err := login("readlink -f /dev/disk/azure/scsi1/lun5; lsblk -dno SIZE /dev/disk/azure/data/by-lun/5"); err != nil || !strings.HasPrefix(out, "/dev/sd") || !strings.Contains(out, "1G") {
		t.Errorf("the disk at LUN 5: %v %q", err, out)
	}
}
