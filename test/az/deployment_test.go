//go:build e2e

package az

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

const deploymentTemplate = `{ // az sends comments as they are
 "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#", "contentVersion": "1.0.0.0",
 "parameters": {"name": {"type": "string"}, "pw": {"type": "securestring"}, "count": {"type": "int", "defaultValue": 2}},
 "variables": {"prefix": "[toLower(parameters('name'))]"},
 "resources": [
  {"type": "Microsoft.Network/publicIPAddresses", "apiVersion": "2023-09-01", "name": "[format('{0}-{1}', variables('prefix'), copyIndex())]", "location": "[resourceGroup().location]",
   "copy": {"name": "ips", "count": "[parameters('count')]"}, "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}},
  {"type": "Microsoft.Network/virtualNetworks", "apiVersion": "2023-09-01", "name": "tv", "location": "[resourceGroup().location]", "dependsOn": ["ips"],
   "properties": {"addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}},
   "resources": [{"type": "subnets", "apiVersion": "2023-09-01", "name": "a", "dependsOn": ["[resourceId('Microsoft.Network/virtualNetworks','tv')]"], "properties": {"addressPrefix": "10.9.1.0/24"}}]}],
 "outputs": {"ip": {"type": "string", "value": "[reference(resourceId('Microsoft.Network/publicIPAddresses', concat(variables('prefix'),'-0'))).ipAddress]"}}}`

// TestDeploymentsAndNetworks is the current az on templates and networks.
func TestDeploymentsAndNetworks(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	file := func(name, text string) string {
		path := filepath.Join(s.Data, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.json", deploymentTemplate)
	late := file("late.json", strings.Replace(deploymentTemplate, "10.9.1.0", "10.8.1.0", 1))
	bad := file("bad.json", strings.Replace(deploymentTemplate, "toLower", "nosuch", 1))
	has := func(out string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(out, p) {
				t.Errorf("%q is not in %s", p, out)
			}
		}
		if strings.Contains(out, "Traceback") {
			t.Errorf("az broke: %s", out)
		}
	}
	s.Az("group", "create", "-n", "lab", "-l", "westus2")

	// Networks.
	s.Az("network", "vnet", "create", "-g", "lab", "-n", "net", "--address-prefixes", "10.1.0.0/16", "--subnet-name", "sub", "--subnet-prefixes", "10.1.0.0/24")
	s.Az("network", "vnet", "subnet", "create", "-g", "lab", "--vnet-name", "net", "-n", "two", "--address-prefixes", "10.1.1.0/24")
	s.Az("network", "nsg", "create", "-g", "lab", "-n", "nsg")
	s.Az("network", "nsg", "rule", "create", "-g", "lab", "--nsg-name", "nsg", "-n", "web", "--priority", "200", "--destination-port-ranges", "80", "443")
	s.Az("network", "nsg", "rule", "update", "-g", "lab", "--nsg-name", "nsg", "-n", "web", "--priority", "210")
	has(s.Az("network", "public-ip", "create", "-g", "lab", "-n", "ip", "--dns-name", "mylabel"), `"127.`, "mylabel.westus2.cloudapp.azure.com")
	has(s.Az("network", "nic", "create", "-g", "lab", "-n", "nic", "--vnet-name", "net", "--subnet", "sub", "--network-security-group", "nsg", "--public-ip-address", "ip"), "10.1.0.4", "00-0D-3A-")
	s.Az("network", "nic", "ip-config", "update", "-g", "lab", "--nic-name", "nic", "-n", "ipconfig1", "--private-ip-address", "10.1.0.9")
	has(s.Az("network", "nic", "show", "-g", "lab", "-n", "nic"), "10.1.0.9", "Static")
	has(s.Az("network", "vnet", "list", "-g", "lab", "-o", "table"), "net")
	s.Az("network", "vnet", "update", "-g", "lab", "-n", "net", "--set", "tags.a=b")
	has(s.AzRefused("network", "public-ip", "delete", "-g", "lab", "-n", "ip"), "PublicIPAddressCannotBeDeleted")
	has(s.AzRefused("network", "vnet", "subnet", "delete", "-g", "lab", "--vnet-name", "net", "-n", "sub"), "InUseSubnetCannotBeDeleted")
	has(s.AzRefused("network", "nsg", "rule", "create", "-g", "lab", "--nsg-name", "nsg", "-n", "out", "--priority", "300", "--direction", "Outbound", "--access", "Deny"), "would not hold")
	has(s.Az("resource", "list", "-g", "lab", "-o", "table"), "Microsoft.Network/networkInterfaces")
	has(s.Az("resource", "show", "-g", "lab", "-n", "nic", "--resource-type", "Microsoft.Network/networkInterfaces"), "macAddress")

	// Deployments.
	parameters := []string{"-p", "name=X", "pw=geheim"}
	group := func(verb, name, file string, more ...string) []string {
		return append(append([]string{"deployment", "group", verb, "-g", "lab", "-n", name, "-f", file}, parameters...), more...)
	}
	has(s.Az(group("validate", "d", good)...), "Succeeded")
	out := s.Az(group("create", "d", good)...)
	has(out, `"Succeeded"`, `"127.`, "SecureString")
	if strings.Contains(out, "geheim") {
		t.Errorf("the secret is shown: %s", out)
	}
	has(s.Az("deployment", "operation", "group", "list", "-g", "lab", "-n", "d"), "tv/a")
	has(s.AzRefused(group("create", "late", late)...), "NetcfgSubnetRangeOutsideVnet")
	has(s.AzRefused(group("create", "bad", bad)...), "InvalidTemplate", "nosuch", "variables.prefix")
	has(s.AzRefused(group("validate", "bad", bad)...), "InvalidTemplate")
	has(s.AzRefused(group("what-if", "d", good)...), "not supported")
	has(s.AzRefused("group", "export", "-n", "lab"), "not supported")
	has(s.Az("deployment", "group", "list", "-g", "lab", "-o", "table"), "Succeeded", "Failed")
	has(s.Az("deployment", "group", "export", "-g", "lab", "-n", "d"), "toLower")
	s.Az("deployment", "group", "delete", "-g", "lab", "-n", "d")
	has(s.AzRefused("deployment", "group", "show", "-g", "lab", "-n", "d"), "DeploymentNotFound")

	// A subscription, and the group with everything in it.
	sub := file("sub.json", `{"$schema":"https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#","contentVersion":"1.0.0.0","resources":[{"type":"Microsoft.Resources/resourceGroups","apiVersion":"2021-04-01","name":"made","location":"westus2"}]}`)
	s.Az("deployment", "sub", "create", "-l", "westus2", "-n", "s", "-f", sub)
	has(s.Az("group", "show", "-n", "made"), "westus2")
	s.Az("network", "nsg", "rule", "delete", "-g", "lab", "--nsg-name", "nsg", "-n", "web")
	s.Az("group", "delete", "-n", "lab", "--yes")

	// Debian's az, whose network and deployment commands work here.
	s.OldAz("group", "create", "-n", "old", "-l", "westus2")
	has(s.OldAz("deployment", "group", "create", "-g", "old", "-n", "d", "-f", good, "-p", "name=X", "pw=y"), `"Succeeded"`, `"127.`)
	s.OldAz("group", "delete", "-n", "old", "--yes")
}
