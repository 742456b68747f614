//go:build e2e

package az

import (
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// computeCommands are commands of az for disks, snapshots, images, locks and
// machines, in an order in which they work. Those for what is not supported must say so.
// A | is a space within a word.
func computeCommands() []row {
	return []row{
		{line: "disk create -g {g} -n data --size-gb 1 --sku Standard_LRS --tags a=b", want: `"diskSizeGB": 1`},
		{line: "disk create -g {g} -n os --size-gb 1 --os-type Linux --hyper-v-generation V1", want: `"hyperVGeneration": "V1"`},
		{line: "disk create -g {g} -n big --size-gb 99999", no: "InvalidParameter"},
		{line: "disk list -g {g} --query [].name", want: `"data"`},
		{line: "disk show -g {g} -n data --query diskState", want: "Unattached"},
		{line: "disk update -g {g} -n data --size-gb 2", want: `"diskSizeGB": 2`},
		{line: "disk update -g {g} -n data --size-gb 1", no: "2"},
		{line: "disk update -g {g} -n data --set tags.c=d", want: `"c": "d"`},
		{line: "disk wait -g {g} -n data --created", want: ""},
		{line: "disk grant-access -g {g} -n data --duration-in-seconds 600", want: "accessSAS"},
		{line: "disk delete -g {g} -n data --yes", no: "access"},
		{line: "disk revoke-access -g {g} -n data", want: ""},
		{line: "disk-encryption-set list -g {g}", want: "[]"},
		{line: "disk-access create -g {g} -n da", want: `"Succeeded"`},
		{line: "disk-access list -g {g} --query [].name", want: `"da"`},
		{line: "disk-access update -g {g} -n da --tags a=b", want: `"a": "b"`},
		{line: "disk-access delete -g {g} -n da", want: ""},
		{line: "ppg create -g {g} -n near --type Standard --tags a=b", want: `"proximityPlacementGroupType": "Standard"`},
		{line: "ppg show -g {g} -n near --query tags.a", want: "b"},
		{line: "ppg list -g {g} --query [].name", want: `"near"`},
		{line: "ppg delete -g {g} -n near", want: ""},
		{line: "vm availability-set create -g {g} -n set --platform-fault-domain-count 2", want: `"platformFaultDomainCount": 2`},
		{line: "vm availability-set create -g {g} -n bad --platform-fault-domain-count 7", no: "1 to 3"},
		{line: "vm availability-set list-sizes -g {g} -n set --query [].name", want: "Standard_D2s_v3"},
		{line: "vm availability-set delete -g {g} -n set", want: ""},
		{line: "sshkey list -g {g}", want: "[]"},
		{line: "snapshot create -g {g} -n full --source os", want: `"Succeeded"`},
		{line: "snapshot create -g {g} -n inc --source os --incremental true", want: `"incremental": true`},
		{line: "snapshot create -g {g} -n away --source inc -l eastus --incremental true --copy-start true", want: `"eastus"`},
		{line: "snapshot wait -g {g} -n away --created", want: ""},
		{line: "snapshot list -g {g} --query [].name", want: `"inc"`},
		{line: "snapshot show -g {g} -n full --query hyperVGeneration", want: "V1"},
		{line: "snapshot update -g {g} -n full --set tags.k=v", want: `"k": "v"`},
		{line: "snapshot grant-access -g {g} -n full --duration-in-seconds 600", want: "accessSAS"},
		{line: "snapshot revoke-access -g {g} -n full", want: ""},
		{line: "disk create -g {g} -n again --source full", want: `"Copy"`},
		{line: "image create -g {g} -n img --source os --os-type Linux --data-disk-sources data", want: `"lun": 0`},
		{line: "image create -g {g} -n none --source /subscriptions/{sub}/resourceGroups/{g}/providers/Microsoft.Compute/disks/none --os-type Linux", no: "none"},
		{line: "image list -g {g} --query [].name", want: `"img"`},
		{line: "image show -g {g} -n img --query hyperVGeneration", want: "V1"},
		{line: "image update -g {g} -n img --tags a=b", want: `"a": "b"`},
		{line: "image builder list -g {g}", no: "not supported"},
		{line: "lock create --lock-type CanNotDelete -n keep -g {g} --resource img --resource-type Microsoft.Compute/images", want: "CanNotDelete"},
		{line: "image delete -g {g} -n img", no: "ScopeLocked"},
		{line: "lock delete -n keep -g {g} --resource img --resource-type Microsoft.Compute/images", want: ""},
		{line: "lock create --lock-type ReadOnly -n all -g {g}", want: "ReadOnly"},
		{line: "disk update -g {g} -n data --set tags.x=y", no: "ScopeLocked"},
		{line: "lock delete -n all -g {g}", want: ""},

		{line: "vm list-sizes -l westus2 --query [].name", want: "Standard_"},
		{line: "vm list-skus -l westus2 --query [].name", want: ""},
		{line: "vm list-usage -l westus2", want: ""},
		{line: "vm image list --all --query [].urn", want: ":"},
		{line: "vm image list-publishers -l westus2 --query [].name", want: "ebian"},
		{line: "vm image list-offers -l westus2 -p debian --query [].name", want: "debian-12"},
		{line: "vm image list-skus -l westus2 -p debian -f debian-12 --query [].name", want: "12"},
		{line: "vm image show -l westus2 --urn debian:debian-12:12:latest", want: "osDiskImage"},
		{line: "vm image show -l westus2 --urn debian:debian-12:12-gen2:latest --query hyperVGeneration", want: "V2"},
		{line: "vm create -g {g} -n m --attach-os-disk os --os-type Linux --size Standard_A1_v2", want: "VM|running"},
		{line: "vm list -g {g} --query [].name", want: `"m"`},
		{line: "vm show -g {g} -n m -d --query powerState", want: "VM|running"},
		{line: "vm get-instance-view -g {g} -n m --query instanceView.statuses[].code", want: "PowerState/running"},
		{line: "vm list-ip-addresses -g {g} -n m", want: "virtualMachine"},
		{line: "disk delete -g {g} -n os --yes", no: "attached"},
		{line: "vm disk attach -g {g} --vm-name m -n data --lun 3", want: ""},
		{line: "vm show -g {g} -n m --query storageProfile.dataDisks[].lun", want: "3"},
		{line: "vm disk detach -g {g} --vm-name m -n data", want: ""},
		{line: "vm stop -g {g} -n m --skip-shutdown", want: ""},
		{line: "vm start -g {g} -n m", want: ""},
		{line: "vm restart -g {g} -n m", want: ""},
		{line: "vm update -g {g} -n m --set tags.a=b", want: `"a": "b"`},
		{line: "vm nic list -g {g} --vm-name m", want: "networkInterfaces"},
		{line: "vm list-vm-resize-options -g {g} -n m --query [].name", want: "Standard_"},
		{line: "vm extension set -g {g} --vm-name m --publisher Microsoft.Azure.Extensions -n CustomScript --version 2.1 --settings {\"commandToExecute\":\"echo|set|up\"}", want: `"provisioningState": "Succeeded"`},
		{line: "vm extension show -g {g} --vm-name m -n CustomScript --query typePropertiesType", want: "CustomScript"},
		{line: "vm extension list -g {g} --vm-name m --query [].name", want: `"CustomScript"`},
		{line: "vm extension delete -g {g} --vm-name m -n CustomScript", want: ""},
		{line: "vm extension list -g {g} --vm-name m", want: "[]"},
		{line: "vm extension set -g {g} --vm-name m --publisher Microsoft.Azure.Extensions -n CustomScript --version 2.1 --settings {\"commandToExecute\":\"exit|3\"}", no: "exit status=3"},
		{line: "vm extension delete -g {g} --vm-name m -n CustomScript", want: ""},
		{line: "vm extension set -g {g} --vm-name m --publisher Microsoft.Azure.KeyVault -n KeyVaultForLinux --version 2.0", no: "not available here"},
		{line: "vm extension image list -l westus2 -p Microsoft.Azure.Extensions --query [].name", want: "CustomScript"},
		{line: "vm run-command invoke -g {g} -n m --command-id RunShellScript --scripts echo|from|$who --parameters who=az", want: "from az"},
		{line: "vm run-command invoke -g {g} -n m --command-id RunPowerShellScript --scripts dir", no: "RunShellScript"},
		{line: "vm user update -g {g} -n m -u ada -p Word-for-Ada-1", want: "VMAccessForLinux"},
		{line: "vm user delete -g {g} -n m -u ada", want: ""},
		{line: "vm extension list -g {g} --vm-name m --query [].name", want: "enablevmaccess"},
		{line: "vm run-command list -g {g} --vm-name m", want: "[]"},
		{line: "vm run-command create -g {g} --vm-name m --name greet --script true --run-as-user ada --parameters who=me", want: `"runAsUser": "ada"`},
		{line: "vm run-command update -g {g} --vm-name m --name greet --script false --timeout-in-seconds 60", want: `"script": "false"`},
		{line: "vm run-command show -g {g} --vm-name m --name greet --query parameters[0].value", want: "me"},
		{line: "vm run-command delete -g {g} --vm-name m --name greet --yes", want: ""},
		{line: "vm deallocate -g {g} -n m", want: ""},
		{line: "vm resize -g {g} -n m --size Standard_A2_v2", want: "Standard_A2_v2"},
		{line: "vm redeploy -g {g} -n m", no: "not"},
		{line: "vm identity assign -g {g} -n m", no: "not supported"},
		{line: "vm availability-set list -g {g}", want: "[]"},
		{line: "vm generalize -g {g} -n m", no: "specialized disk"},
		{line: "image create -g {g} -n ofm --source m", no: "not generalized"},
		{line: "vm delete -g {g} -n m --yes", want: ""},
		{line: "image delete -g {g} -n img", want: ""},
		{line: "snapshot delete -g {g} -n full", want: ""},
		{line: "disk delete -g {g} -n data --yes", want: ""},
	}
}

// TestComputeCommands runs them by the current az against a server whose machines are made up.
func TestComputeCommands(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	s.Put("/subscriptions/"+s.Creds.SubscriptionID+"/resourceGroups/comp", map[string]any{"location": "westus2"})
	az, _ := openAz(t, s, filepath.Join(filepath.Dir(s.AzPath()), "python"))
	for _, c := range computeCommands() {
		words := strings.Fields(strings.NewReplacer("{g}", "comp", "{sub}", s.Creds.SubscriptionID).Replace(c.line))
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "|", " ")
		}
		want := strings.ReplaceAll(c.want, "|", " ")
		r := az.run(words)
		said := r.Stdout + r.Stderr
		switch {
		case c.no != "" && (r.Code == 0 || !strings.Contains(said, c.no)):
			t.Errorf("az %s: exit code %d, wanted a refusal with %q:\n%s", c.line, r.Code, c.no, said)
		case c.no == "" && (r.Code != 0 || !strings.Contains(r.Stdout, want)):
			t.Errorf("az %s: exit code %d, wanted %q:\n%s", c.line, r.Code, want, said)
		}
	}
}
