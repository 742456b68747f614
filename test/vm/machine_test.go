//go:build e2e

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// base builds a base image into the server's own folder, where Marketplace
// references find it.
func base(t *testing.T, s *lab.Server, name string) {
	t.Helper()
	if r := s.RunBin("image", "build", name, "--data", s.Data, "--cache", filepath.Join(s.Root, ".cache", "images")); r.Code != 0 {
		t.Fatalf("image build %s: %s%s", name, r.Stdout, r.Stderr)
	}
}

// key makes a key pair and returns the private key's file and the public key.
func key(t *testing.T, dir string) (file, public string) {
	t.Helper()
	file = filepath.Join(dir, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(b))
}

// ssh runs ssh or scp as a user would, with the printed address.
func ssh(t *testing.T, program, key string, args ...string) string {
	t.Helper()
	all := append([]string{"-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"}, args...)
	out, err := exec.Command(program, all...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestAMachinesLife takes a machine from the tiny image through what needs no
// Debian: scripts, stop and start, a server that is killed under it, deletion.
func TestAMachinesLife(t *testing.T) {
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
			"osDisk":         map[string]any{"createOption": "FromImage", "deleteOption": "Delete"},
			"dataDisks":      []any{map[string]any{"lun": 4, "createOption": "Empty", "diskSizeGB": 1}},
		},
		"osProfile": map[string]any{"computerName": "t1", "adminUsername": "azureuser", "linuxConfiguration": map[string]any{"disablePasswordAuthentication": true,
			"ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": public}}}}},
	}})
	run := func(script string) string {
		a := s.Post(vm+"/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{script}})
		var out struct {
			Value []struct{ Code, Message string }
		}
		if err := a.JSON(&out); err != nil || len(out.Value) != 1 || out.Value[0].Code != "ProvisioningState/succeeded" {
			t.Fatalf("run command %q: %v %s", script, err, a.Body)
		}
		return out.Value[0].Message
	}
	if out := run("hostname; id -u; grep azureuser /etc/passwd; cat /home/azureuser/.ssh/authorized_keys; cat /sys/block/sda/size"); !strings.Contains(out, "t1\n0\nazureuser:") || !strings.Contains(out, public) || !strings.Contains(out, "2097152") {
		t.Errorf("in the machine: %s", out)
	}
	run("echo kept > /kept; sync")
	s.Kill()
	s.Serve()
	if out := run("cat /kept"); !strings.Contains(out, "kept") {
		t.Errorf("after the server was killed: %s", out)
	}
	s.Post(vm+"/deallocate", nil)
	view := s.Do(s.Admin(), lab.ARM, "GET", vm+"/instanceView?api-version=2024-07-01", nil)
	if !strings.Contains(string(view.Body), "PowerState/deallocated") {
		t.Errorf("deallocated: %s", view.Body)
	}
	s.Post(vm+"/start", nil)
	if out := run("cat /kept; hostname"); !strings.Contains(out, "kept\nt1") {
		t.Errorf("after deallocate and start: %s", out)
	}
	if a := s.Do(s.Admin(), lab.ARM, "DELETE", vm+"?api-version=2024-07-01", nil); a.Status != 202 {
		t.Fatalf("delete: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, 2*time.Minute, "the machine gone", func() (bool, string) {
		a := s.Do(s.Admin(), lab.ARM, "GET", vm+"?api-version=2024-07-01", nil)
		return a.Status == 404, string(a.Body)
	})
	disks := s.Do(s.Admin(), lab.ARM, "GET", group+"/providers/Microsoft.Compute/disks?api-version=2024-03-02", nil)
	if strings.Count(string(disks.Body), `"diskState":"Unattached"`) != 1 || strings.Contains(string(disks.Body), "OsDisk") {
		t.Errorf("disks left: %s", disks.Body)
	}
	if left := s.Descendants("vm-run"); len(left) > 0 {
		t.Errorf("supervisors left: %v", left)
	}
}

// TestTheDocumentsPreparation is the document's preparation chapter with the
// current az: one life of one Debian machine, from az vm create to a pool whose
// node sees what was put in by hand.
func TestTheDocumentsPreparation(t *testing.T) {
	s := lab.Start(t)
	base(t, s, "debian-12")
	file, _ := key(t, s.Data)
	s.Az("group", "create", "-n", "lab", "-l", "westus2")
	if said := s.AzRefused("vm", "create", "-g", "lab", "-n", "no", "--image", "contoso-software:licensed-linux:standard:latest", "--admin-username", "azureuser", "--ssh-key-values", file+".pub"); !strings.Contains(said, "standard") || !strings.Contains(said, "purchase plan") {
		t.Errorf("an image with a purchase plan: %s", said)
	}
	var vm struct{ PublicIPAddress, PrivateIPAddress, PowerState string }
	s.AzJSON(&vm, "vm", "create", "-g", "lab", "-n", "prep", "--image", "Debian12", "--size", "Standard_B1s", "--admin-username", "azureuser",
		"--ssh-key-values", file+".pub", "--public-ip-sku", "Standard", "--data-disk-sizes-gb", "1")
	if !strings.HasPrefix(vm.PublicIPAddress, "127.") || vm.PowerState != "VM running" {
		t.Fatalf("az vm create printed %+v", vm)
	}
	at := "azureuser@" + vm.PublicIPAddress
	tool := filepath.Join(s.Data, "mytool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho \"mytool on $(hostname)\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ssh(t, "scp", file, tool, at+":/tmp/mytool")
	out := ssh(t, "ssh", file, at, `set -e; sudo install -m 755 /tmp/mytool /usr/local/bin/mytool
sudo mkfs.ext4 -q -L appdata /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_millpond-data-0
sudo mkdir /data; echo 'LABEL=appdata /data ext4 defaults,nofail 0 2' | sudo tee -a /etc/fstab >/dev/null
sudo mount /data; echo 'put in by hand' | sudo tee /data/input.txt >/dev/null
cat /etc/machine-id; ip -4 -o addr; mytool`)
	if !strings.Contains(out, vm.PrivateIPAddress+"/24") || !strings.Contains(out, "mytool on prep") {
		t.Errorf("in the machine: %s", out)
	}
	id, _, _ := strings.Cut(out, "\n")
	if said := s.AzRefused("image", "create", "-g", "lab", "-n", "early", "--source", "prep"); !strings.Contains(said, "waagent -deprovision") {
		t.Errorf("an image before its time: %s", said)
	}
	// What an extension leaves makes an image that the check refuses, until it is taken off.
	on := []string{"-g", "lab", "--vm-name", "prep"}
	s.Az(append([]string{"vm", "extension", "set", "--publisher", "Microsoft.Azure.Extensions", "-n", "CustomScript", "--version", "2.1",
		"--settings", `{"commandToExecute": "echo by an extension of $(hostname) > /opt/extended"}`}, on...)...)
	if said := s.Az(append([]string{"vm", "extension", "show", "-n", "CustomScript", "--query", "provisioningState"}, on...)...); !strings.Contains(said, "Succeeded") {
		t.Errorf("az vm extension show: %s", said)
	}
	if said := s.Az("vm", "run-command", "invoke", "-g", "lab", "-n", "prep", "--command-id", "RunShellScript", "--scripts", "cat /opt/extended; id -un"); !strings.Contains(said, `by an extension of prep\nroot`) {
		t.Errorf("az vm run-command invoke: %s", said)
	}
	osDisk := strings.TrimSpace(s.Az("vm", "show", "-g", "lab", "-n", "prep", "--query", "storageProfile.osDisk.managedDisk.id", "-o", "tsv"))
	var extended struct{ ID string }
	s.AzJSON(&extended, "snapshot", "create", "-g", "lab", "-n", "extended", "--source", osDisk)
	if r := s.RunBin("image", "check", "--data", s.Data, extended.ID); r.Code == 0 || !strings.Contains(r.Stdout, "ExtensionsInstalled") || !strings.Contains(r.Stdout, "Microsoft.Azure.Extensions.CustomScript-2.1.0") {
		t.Errorf("the check of a machine with an extension: exit code %d %s%s", r.Code, r.Stdout, r.Stderr)
	}
	s.Az(append([]string{"vm", "extension", "delete", "-n", "CustomScript"}, on...)...)
	ssh(t, "ssh", file, at, "sudo waagent -deprovision+user -force")
	s.Az("vm", "deallocate", "-g", "lab", "-n", "prep")
	s.Az("vm", "generalize", "-g", "lab", "-n", "prep")
	s.Az("image", "create", "-g", "lab", "-n", "prepared", "--source", "prep", "--hyper-v-generation", "V1")
	s.Az("sig", "create", "-g", "lab", "--gallery-name", "gallery")
	s.Az("sig", "image-definition", "create", "-g", "lab", "--gallery-name", "gallery", "--gallery-image-definition", "prepared", "--publisher", "lab", "--offer", "prepared", "--sku", "1",
		"--os-type", "Linux", "--os-state", "Generalized", "--hyper-v-generation", "V1")
	var version struct{ ID string }
	s.AzJSON(&version, "sig", "image-version", "create", "-g", "lab", "--gallery-name", "gallery", "--gallery-image-definition", "prepared", "--gallery-image-version", "1.0.0", "--managed-image", "prepared")
	s.Az("batch", "account", "create", "-n", "labbatch", "-g", "lab", "-l", "westus2")
	s.Az("batch", "account", "login", "-n", "labbatch", "-g", "lab")
	s.Az("batch", "pool", "create", "--id", "pool", "--vm-size", "Standard_B1s", "--target-dedicated-nodes", "1", "--image", version.ID, "--node-agent-sku-id", "batch.node.debian 12")
	s.Az("batch", "job", "create", "--id", "job", "--pool-id", "pool")
	s.Az("batch", "task", "create", "--job-id", "job", "--task-id", "task", "--command-line", "/bin/sh -c 'mytool; cat /data/input.txt; cat /etc/machine-id; ls /home; lsblk -n -o NAME,HCTL,MOUNTPOINT'")
	lab.Wait(t, 8*time.Minute, "the task's end", func() (bool, string) {
		state := strings.TrimSpace(s.Az("batch", "task", "show", "--job-id", "job", "--task-id", "task", "--query", "state", "-o", "tsv"))
		time.Sleep(5 * time.Second)
		return state == "completed", fmt.Sprintf("%s; nodes: %s", state, s.Az("batch", "node", "list", "--pool-id", "pool", "--query", "[].[state,errors]", "-o", "json"))
	})
	got := filepath.Join(s.Data, "stdout.txt")
	s.Az("batch", "task", "file", "download", "--job-id", "job", "--task-id", "task", "--file-path", "stdout.txt", "--destination", got)
	b, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !strings.Contains(text, "mytool on tvm") || !strings.Contains(text, "put in by hand") || !strings.Contains(text, "0:0:0:0") || !strings.Contains(text, "/data") {
		t.Errorf("on the node: %s", text)
	}
	if strings.Contains(text, id) || strings.Contains(text, "azureuser") {
		t.Errorf("the node has something of the machine's own: %s", text)
	}
}
