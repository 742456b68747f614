package armapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

const md = rg + "/providers/Microsoft.Resources/deployments"

const schema = `"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0"`

// vmNetwork is the network part of what az vm create deploys.
const vmNetwork = `{` + schema + `,"parameters":{"adminPassword":{"type":"securestring"},"port":{"type":"string","defaultValue":"22"}},"variables":{"prefix":"vm"},"resources":[
	{"type":"Microsoft.Network/networkInterfaces","name":"vmVMNic","apiVersion":"2015-06-15","location":"westus2","tags":{},"dependsOn":["Microsoft.Network/virtualNetworks/vmVNET","Microsoft.Network/networkSecurityGroups/vmNSG","Microsoft.Network/publicIpAddresses/vmPublicIP"],
	 "properties":{"ipConfigurations":[{"name":"ipconfigvm","properties":{"privateIPAllocationMethod":"Dynamic","subnet":{"id":"` + mn + `/virtualNetworks/vmVNET/subnets/vmSubnet"},"publicIPAddress":{"id":"[resourceId('Microsoft.Network/publicIPAddresses','vmPublicIP')]"}}}],"networkSecurityGroup":{"id":"` + mn + `/networkSecurityGroups/vmNSG"}}},
	{"name":"vmVNET","type":"Microsoft.Network/virtualNetworks","location":"[resourceGroup().location]","apiVersion":"2015-06-15","dependsOn":[],"tags":{},"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"vmSubnet","properties":{"addressPrefix":"10.0.0.0/24"}}]}},
	{"type":"Microsoft.Network/networkSecurityGroups","name":"[concat(variables('prefix'),'NSG')]","apiVersion":"2015-06-15","location":"westus2","tags":{},"dependsOn":[],"properties":{"securityRules":[{"name":"default-allow-ssh","properties":{"protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"[parameters('port')]","sourceAddressPrefix":"*","destinationAddressPrefix":"*","access":"Allow","priority":1000,"direction":"Inbound"}}]}},
	{"apiVersion":"2022-01-01","type":"Microsoft.Network/publicIPAddresses","name":"vmPublicIP","location":"westus2","tags":{},"dependsOn":[],"properties":{"publicIPAllocationMethod":null},"sku":{"name":"Standard"}}],
	"outputs":{"address":{"type":"string","value":"[reference('vmVMNic').ipConfigurations[0].properties.privateIPAddress]"},"public":{"type":"string","value":"[reference(resourceId('Microsoft.Network/publicIPAddresses','vmPublicIP')).ipAddress]"}}}`

func properties(template, parameters string) string {
	return `{"properties":{"mode":"incremental","template":` + template + `,"parameters":` + parameters + `}}`
}

// deploy puts a deployment and waits for its end.
func (w *world) deploy(path, body string) object {
	w.t.Helper()
	_, h := w.as("admin", "PUT", path, body, 201)
	return w.wait(h.Get("Azure-AsyncOperation"))
}

// wait polls until InProgress ends; a deployment says Running.
func (w *world) ended(path string) object {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if d, _ := w.as("admin", "GET", path, "", 200); at(d, "properties", "provisioningState") != "Running" {
			return d
		}
	}
	w.t.Fatalf("%s did not end", path)
	return nil
}

func TestDeployment(t *testing.T) {
	w := newWorld(t)
	const secret = "pa55w0rd-of-the-test"
	body := properties(vmNetwork, `{"adminPassword":{"value":"`+secret+`"}}`)
	valid := w.do("POST", md+"/check/validate", body, 200)
	if got := list(valid, "properties", "validatedResources"); len(got) != 4 || at(valid, "properties", "provisioningState") != "Succeeded" {
		t.Fatal(valid)
	}
	w.do("GET", md+"/check", "", 404)
	if got := list(w.do("GET", rg+"/resources", "", 200), "value"); len(got) != 0 {
		t.Fatal("the validation made something:", got)
	}

	w.as("admin", "PUT", md+"/vm_deploy", body, 201)
	d := w.ended(md + "/vm_deploy")
	if at(d, "properties", "provisioningState") != "Succeeded" || at(d, "properties", "outputs", "address", "value") != "10.0.0.4" || !strings.HasPrefix(fmt.Sprint(at(d, "properties", "outputs", "public", "value")), "127.") {
		t.Fatal(d)
	}
	if len(list(d, "properties", "outputResources")) != 4 || len(list(d, "properties", "dependencies")) != 1 || at(d, "properties", "correlationId") == nil {
		t.Fatal(d)
	}
	ops := list(w.do("GET", rg+"/deployments/vm_deploy/operations", "", 200), "value")
	if len(ops) != 4 {
		t.Fatal(ops)
	}
	one := ops[0].(object)
	w.do("GET", md+"/vm_deploy/operations/"+one["operationId"].(string), "", 200)
	for _, path := range []string{md + "/vm_deploy", md, md + "/vm_deploy/operations"} {
		got := w.do("GET", path, "", 200)
		text, _ := json.Marshal(got)
		if strings.Contains(string(text), secret) {
			t.Fatalf("%s shows the secret: %s", path, text)
		}
	}
	if got := at(w.do("POST", md+"/vm_deploy/exportTemplate", "", 200), "template", "contentVersion"); got != "1.0.0.0" {
		t.Fatal(got)
	}
	w.do("HEAD", md+"/vm_deploy", "", 204)
	// The same again changes nothing and is an update.
	w.as("admin", "PUT", md+"/vm_deploy", body, 200)
	w.ended(md + "/vm_deploy")
	w.do("DELETE", md+"/vm_deploy", "", 204)
	w.do("GET", md+"/vm_deploy", "", 404)
	w.do("GET", mn+"/networkInterfaces/vmVMNic", "", 200)
	_, h := w.as("admin", "DELETE", rg, "", 202)
	if st := w.wait(h.Get("Azure-AsyncOperation")); st["status"] != "Succeeded" {
		t.Fatal(st)
	}
}

func TestDeploymentFailures(t *testing.T) {
	w := newWorld(t)
	resource := func(typ, name, rest string) string {
		return `{"type":"` + typ + `","name":"` + name + `","apiVersion":"2024-01-01","location":"westus2"` + rest + `}`
	}
	template := func(resources ...string) string {
		return properties(`{`+schema+`,"resources":[`+strings.Join(resources, ",")+`]}`, `{}`)
	}
	// What is refused before anything is done.
	for _, c := range []struct{ name, body, code, part string }{
		{"an unknown type", template(resource("Microsoft.Web/sites", "s", "")), "InvalidTemplateDeployment", "Microsoft.Web/sites"},
		{"an unknown region", template(strings.Replace(resource("Microsoft.Network/publicIPAddresses", "p", ""), "westus2", "mars", 1)), "InvalidTemplateDeployment", "mars"},
		{"a bad body", template(resource("Microsoft.Network/virtualNetworks", "v", `,"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0"]}}`)), "InvalidTemplateDeployment", "InvalidAddressPrefixFormat"},
		{"a feature that is not supported", template(resource("Microsoft.Network/networkInterfaces", "n", `,"properties":{"enableIPForwarding":true}`)), "InvalidTemplateDeployment", "enableIPForwarding"},
		{"a machine of a size that is not there", template(resource("Microsoft.Compute/virtualMachines", "m", `,"properties":{"hardwareProfile":{"vmSize":"Nosuch"}}`)), "InvalidTemplateDeployment", "Nosuch"},
		{"no template", `{"properties":{"mode":"Incremental"}}`, "InvalidDeployment", ""},
		{"a link", `{"properties":{"mode":"Incremental","templateLink":{"uri":"https://x/t.json"}}}`, "NotSupported", "--template-file"},
		{"complete", strings.Replace(template(), "incremental", "Complete", 1), "NotSupported", "Incremental"},
		{"a function that is not there", template(resource("Microsoft.Network/publicIPAddresses", "[nosuch('p')]", "")), "InvalidTemplate", "nosuch"},
		{"two of them", template(resource("Microsoft.Web/sites", "s", ""), resource("Microsoft.Sql/servers", "t", "")), "InvalidTemplateDeployment", "Microsoft.Sql"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			for _, send := range [][2]string{{"PUT", md + "/d"}, {"POST", md + "/d/validate"}} {
				out := w.do(send[0], send[1], c.body, 400)
				w.code(c.code, out)
				if text, _ := json.Marshal(out); !strings.Contains(string(text), c.part) {
					t.Errorf("%s does not name %q", text, c.part)
				}
			}
		})
	}
	w.t = t
	w.code("NotImplemented", w.do("POST", md+"/d/whatIf", template(), 200))
	// az sends a member without quotes and the template's file as it is.
	w.do("POST", md+"/d/validate", `{"properties": {"parameters": {}, "mode": "Incremental", template:{ // mine
		'$schema': "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#", "contentVersion": "1.0.0.0", "resources": [],}}}`, 200)
	w.code("DeploymentNotFound", w.do("GET", md+"/none", "", 404))
	w.code("ResourceGroupNotFound", w.do("PUT", strings.Replace(md, "/rg/", "/none/", 1)+"/d", template(), 404))
	w.code("InvalidDeploymentName", w.do("PUT", md+"/a%20b", template(), 400))

	// What fails on the way: the cause is told, what hangs on it is not begun.
	st := w.deploy(md+"/late", template(
		resource("Microsoft.Network/publicIPAddresses", "good", ""),
		resource("Microsoft.Network/networkInterfaces", "bad", `,"properties":{"ipConfigurations":[{"name":"c","properties":{"subnet":{"id":"`+mn+`/virtualNetworks/none/subnets/s"}}}]}`),
		resource("Microsoft.Network/publicIPAddresses", "never", `,"dependsOn":["bad"]`)))
	if st["status"] == "Running" {
		w.ended(md + "/late")
	}
	d := w.ended(md + "/late")
	cause := list(d, "properties", "error", "details")
	if at(d, "properties", "provisioningState") != "Failed" || at(d, "properties", "error", "code") != "DeploymentFailed" || len(cause) != 1 || at(cause[0].(object), "code") != "InvalidResourceReference" {
		t.Fatal(d)
	}
	w.do("GET", mn+"/publicIPAddresses/good", "", 200)
	w.do("GET", mn+"/publicIPAddresses/never", "", 404)
	if got := len(list(w.do("GET", md+"/late/operations", "", 200), "value")); got != 2 {
		t.Fatal(got)
	}
	if got := list(w.do("GET", md+"?$filter=provisioningState%20eq%20'Failed'", "", 200), "value"); len(got) != 1 {
		t.Fatal(got)
	}

	// The deployment has the rights of its caller and no others.
	w.rights.deny["bob Microsoft.Network/publicIPAddresses/write"] = true
	out, _ := w.as("bob", "PUT", md+"/bobs", template(resource("Microsoft.Network/publicIPAddresses", "bobs", "")), 403)
	w.code("AuthorizationFailed", out)
}

func TestNestedDeploymentAndSubscription(t *testing.T) {
	w := newWorld(t)
	inner := `{` + schema + `,"parameters":{"name":{"type":"string"}},"resources":[{"type":"Microsoft.Network/publicIPAddresses","name":"[parameters('name')]","apiVersion":"2024-01-01","location":"[resourceGroup().location]"}],"outputs":{"name":{"type":"string","value":"[parameters('name')]"}}}`
	nested := func(name, scope, rest string) string {
		return `{"type":"Microsoft.Resources/deployments","apiVersion":"2021-04-01","name":"` + name + `"` + rest + `,"properties":{"mode":"Incremental","expressionEvaluationOptions":{"scope":"` + scope + `"},"parameters":{"name":{"value":"[concat('ip-','` + name + `')]"}},"template":` + inner + `}}`
	}
	w.as("admin", "PUT", md+"/outer", properties(`{`+schema+`,"resources":[`+nested("in", "inner", "")+`],"outputs":{"name":{"type":"string","value":"[reference('in').outputs.name.value]"}}}`, `{}`), 201)
	d := w.ended(md + "/outer")
	if at(d, "properties", "outputs", "name", "value") != "ip-in" {
		t.Fatal(d)
	}
	w.do("GET", mn+"/publicIPAddresses/ip-in", "", 200)
	w.do("GET", md+"/in", "", 200)

	// At a subscription: a group, and a deployment into it.
	const sd = "/subscriptions/" + sub + "/providers/Microsoft.Resources/deployments"
	template := `{"$schema":"https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#","contentVersion":"1.0.0.0","resources":[
		{"type":"Microsoft.Resources/resourceGroups","apiVersion":"2021-04-01","name":"made","location":"eastus"},` + nested("into", "inner", `,"resourceGroup":"rg","dependsOn":["made"]`) + `]}`
	w.as("admin", "PUT", sd+"/s", `{"location":"westus2","properties":{"mode":"Incremental","template":`+template+`}}`, 201)
	if d := w.ended(sd + "/s"); at(d, "properties", "provisioningState") != "Succeeded" {
		t.Fatal(d)
	}
	w.do("GET", strings.Replace(rg, "/rg", "/made", 1), "", 200)
	w.do("GET", mn+"/publicIPAddresses/ip-into", "", 200)
	if got := len(list(w.do("GET", sd, "", 200), "value")); got != 1 {
		t.Fatal(got)
	}
	w.code("LocationRequired", w.do("PUT", sd+"/t", `{"properties":{"mode":"Incremental","template":`+template+`}}`, 400))
}

// TestDeploymentIsCancelled cancels a deployment that waits for a disk's upload.
func TestDeploymentIsCancelled(t *testing.T) {
	w := newWorld(t)
	resources := `{"type":"Microsoft.Resources/deployments","apiVersion":"2021-04-01","name":"a","properties":{"mode":"Incremental","template":{` + schema + `,"resources":[]}}}`
	for i := range 60 {
		resources += fmt.Sprintf(`,{"type":"Microsoft.Network/publicIPAddresses","name":"p%d","apiVersion":"1234-01-01","location":"westus2","dependsOn":["%s"]}`, i, map[bool]string{true: "a", false: fmt.Sprintf("p%d", i-1)}[i == 0])
	}
	w.as("admin", "PUT", md+"/long", properties(`{`+schema+`,"resources":[`+resources+`]}`, `{}`), 201)
	out, _ := w.as("admin", "PUT", md+"/long", properties(`{`+schema+`,"resources":[]}`, `{}`), 409)
	w.code("DeploymentActive", out)
	w.code("DeploymentActive", w.do("DELETE", md+"/long", "", 409))
	w.do("POST", md+"/long/cancel", "", 204)
	if d := w.ended(md + "/long"); at(d, "properties", "provisioningState") != "Canceled" {
		t.Fatal(d)
	}
	w.code("DeploymentCannotBeCancelled", w.do("POST", md+"/long/cancel", "", 409))
	w.do("GET", mn+"/publicIPAddresses/p59", "", 404)
}
