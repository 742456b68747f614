package armapi_test

import (
	"fmt"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/wake"
)

const mn = rg + "/providers/Microsoft.Network"

func list(o object, path ...string) []any {
	l, _ := at(o, path...).([]any)
	return l
}

// furnishNetwork makes a network, a group, an address and an interface, as az vm
// create does, with its nulls.
func (w *world) furnishNetwork() {
	w.do("PUT", mn+"/virtualNetworks/net", `{"location":"West US 2","tags":{},"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"sub","properties":{"addressPrefix":"10.0.0.0/24"}}]}}`, 201)
	w.do("PUT", mn+"/networkSecurityGroups/nsg", `{"location":"westus2","properties":{"securityRules":[{"name":"default-allow-ssh","properties":{"protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"22","sourceAddressPrefix":"*","destinationAddressPrefix":"*","access":"Allow","priority":1000,"direction":"Inbound"}}]}}`, 201)
	w.do("PUT", mn+"/publicIPAddresses/ip", `{"location":"westus2","sku":{"name":"Standard"},"properties":{"publicIPAllocationMethod":null,"dnsSettings":{"domainNameLabel":"my-vm"}}}`, 201)
	w.do("PUT", mn+"/networkInterfaces/nic", `{"location":"westus2","properties":{"ipConfigurations":[{"name":"ipconfignic","properties":{"privateIPAllocationMethod":"Dynamic","subnet":{"id":"`+mn+`/virtualnetworks/NET/subnets/SUB"},"publicIPAddress":{"id":"`+mn+`/publicIPAddresses/ip"}}}],"networkSecurityGroup":{"id":"`+mn+`/networkSecurityGroups/nsg"}}}`, 201)
}

func TestNetworkOfAMachine(t *testing.T) {
	w := newWorld(t)
	w.furnishNetwork()
	signal := wake.New()
	w.net.Notify(signal)

	nic := w.do("GET", mn+"/networkinterfaces/NIC?$expand=ipConfigurations/publicIPAddress", "", 200)
	config := list(nic, "properties", "ipConfigurations")[0].(object)
	if at(config, "properties", "privateIPAddress") != "10.0.0.4" || at(config, "properties", "primary") != true {
		t.Fatal(config)
	}
	public := at(config, "properties", "publicIPAddress", "properties", "ipAddress").(string)
	if !strings.HasPrefix(public, "127.") || at(config, "properties", "publicIPAddress", "properties", "dnsSettings", "fqdn") != "my-vm.westus2.cloudapp.azure.com" {
		t.Fatal(config)
	}
	if got := at(config, "properties", "subnet", "id"); got != mn+"/virtualNetworks/net/subnets/sub" {
		t.Fatal("the reference is not shown as the subnet is called:", got)
	}
	id, _ := millpond.ParseResourceID(at(nic, "id").(string))
	card, err := w.net.Card(t.Context(), id)
	check(t, err)
	want := fmt.Sprint("10.0.0.4 10.0.0.0/24 10.0.0.1 ", public, " [{22 22}] [] ", strings.ToLower(strings.ReplaceAll(at(nic, "properties", "macAddress").(string), "-", ":")))
	if got := fmt.Sprint(card.Private, card.Prefix, card.Gateway, card.Public, card.TCP, card.UDP, card.MAC); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Fatalf("card %s, want %s", got, want)
	}

	// A rule that is added opens a port at once, and whoever forwards is told.
	w.do("PUT", mn+"/networkSecurityGroups/nsg/securityRules/web", `{"properties":{"protocol":"*","sourcePortRange":"*","destinationPortRanges":["80","443"],"sourceAddressPrefix":"*","destinationAddressPrefix":"*","access":"Allow","priority":1010,"direction":"Inbound"}}`, 201)
	select {
	case <-signal.C():
	default:
		t.Error("nobody was told of the new rule")
	}
	card, err = w.net.Card(t.Context(), id)
	check(t, err)
	if got := fmt.Sprint(network.Forwards(card.TCP), network.Forwards(card.UDP)); got != "[22 80 443] [80 443]" {
		t.Fatal(got)
	}
	// The subnet's group closes what the card's opens.
	w.do("PUT", mn+"/networkSecurityGroups/closed", `{"location":"westus2"}`, 201)
	w.do("PUT", mn+"/virtualNetworks/net/subnets/sub", `{"properties":{"addressPrefix":"10.0.0.0/24","networkSecurityGroup":{"id":"`+mn+`/networkSecurityGroups/closed"}}}`, 200)
	if card, err = w.net.Card(t.Context(), id); err != nil || len(card.TCP) != 0 {
		t.Fatal(card.TCP, err)
	}
	w.do("DELETE", mn+"/networkSecurityGroups/nsg/securityRules/WEB", "", 200)
	w.do("DELETE", mn+"/networkSecurityGroups/nsg/securityRules/web", "", 204)

	// What others hold cannot go.
	for path, code := range map[string]string{"/virtualNetworks/net": "InUseSubnetCannotBeDeleted", "/virtualNetworks/net/subnets/sub": "InUseSubnetCannotBeDeleted",
		"/publicIPAddresses/ip": "PublicIPAddressCannotBeDeleted", "/networkSecurityGroups/nsg": "InUseNetworkSecurityGroupCannotBeDeleted", "/networkSecurityGroups/closed": "InUseNetworkSecurityGroupCannotBeDeleted"} {
		w.code(code, w.do("DELETE", mn+path, "", 400))
	}
	w.code("InUseSubnetCannotBeDeleted", w.do("PUT", mn+"/virtualNetworks/net", `{"location":"westus2","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[]}}`, 400))
	if got := list(w.do("GET", mn+"/virtualNetworks/net/subnets", "", 200), "value"); len(got) != 1 || len(list(got[0].(object), "properties", "ipConfigurations")) != 1 {
		t.Fatal(got)
	}
	if got := list(w.do("GET", mn+"/networkSecurityGroups/nsg", "", 200), "properties", "networkInterfaces"); len(got) != 1 {
		t.Fatal(got)
	}

	// az resource show, tags, and the group with all that is in it.
	w.do("PATCH", mn+"/networkInterfaces/nic", `{"tags":{"a":"b"}}`, 200)
	if got := at(w.do("GET", mn+"/networkInterfaces/nic", "", 200), "tags", "a"); got != "b" {
		t.Fatal(got)
	}
	_, h := w.as("admin", "DELETE", rg, "", 202)
	if st := w.wait(h.Get("Azure-AsyncOperation")); st["status"] != "Succeeded" {
		t.Fatal(st)
	}
}

func TestNetworkRefusals(t *testing.T) {
	w := newWorld(t)
	w.furnishNetwork()
	nic := func(config string) string {
		return `{"location":"westus2","properties":{"ipConfigurations":[{"name":"c","properties":{"subnet":{"id":"` + mn + `/virtualNetworks/net/subnets/sub"}` + config + `}}]}}`
	}
	vnet := func(space, subnet string) string {
		return `{"location":"westus2","properties":{"addressSpace":{"addressPrefixes":["` + space + `"]},"subnets":[{"name":"a","properties":{"addressPrefix":"` + subnet + `"}},{"name":"b","properties":{"addressPrefix":"10.9.1.0/24"}}]}}`
	}
	for _, c := range []struct{ name, path, body, code string }{
		{"address outside", "/networkInterfaces/n", nic(`,"privateIPAllocationMethod":"Static","privateIPAddress":"10.0.1.4"`), "PrivateIPAddressNotInSubnet"},
		{"reserved address", "/networkInterfaces/n", nic(`,"privateIPAllocationMethod":"Static","privateIPAddress":"10.0.0.3"`), "PrivateIPAddressInReservedRange"},
		{"address of another", "/networkInterfaces/n", nic(`,"privateIPAllocationMethod":"static","privateIPAddress":"10.0.0.4"`), "PrivateIPAddressIsAllocated"},
		{"public address of another", "/networkInterfaces/n", nic(`,"publicIPAddress":{"id":"` + mn + `/publicIPAddresses/ip"}`), "PublicIPAddressInUse"},
		{"no subnet", "/networkInterfaces/n", strings.Replace(nic(""), "subnets/sub", "subnets/none", 1), "InvalidResourceReference"},
		{"not a subnet", "/networkInterfaces/n", strings.Replace(nic(""), "/subnets/sub", "", 1), "LinkedInvalidPropertyId"},
		{"no configuration", "/networkInterfaces/n", `{"location":"westus2"}`, "NetworkInterfaceMustHaveIpConfigurations"},
		{"forwarding", "/networkInterfaces/n", strings.Replace(nic(""), `"ipConfigurations"`, `"enableIPForwarding":true,"ipConfigurations"`, 1), "NotSupported"},
		{"other region", "/networkInterfaces/n", strings.Replace(nic(""), "westus2", "eastus", 1), "InvalidResourceReference"},
		{"bad name", "/networkInterfaces/-n", nic(""), "InvalidResourceName"},
		{"subnet outside", "/virtualNetworks/v", vnet("10.9.0.0/16", "10.8.0.0/24"), "NetcfgSubnetRangeOutsideVnet"},
		{"subnets overlap", "/virtualNetworks/v", vnet("10.9.0.0/16", "10.9.0.0/16"), "NetcfgSubnetRangesOverlap"},
		{"not canonical", "/virtualNetworks/v", vnet("10.9.1.0/16", "10.9.2.0/24"), "InvalidCIDRNotation"},
		{"no CIDR", "/virtualNetworks/v", vnet("10.9.1.0", "10.9.2.0/24"), "InvalidAddressPrefixFormat"},
		{"IPv6", "/virtualNetworks/v", vnet("fd00::/64", "10.9.2.0/24"), "NotSupported"},
		{"label in use", "/publicIPAddresses/p", `{"location":"westus2","properties":{"dnsSettings":{"domainNameLabel":"my-vm"}}}`, "DnsRecordInUse"},
		{"bad label", "/publicIPAddresses/p", `{"location":"westus2","properties":{"dnsSettings":{"domainNameLabel":"My"}}}`, "InvalidDomainNameLabel"},
		{"dynamic standard", "/publicIPAddresses/p", `{"location":"westus2","sku":{"name":"standard"},"properties":{"publicIPAllocationMethod":"dynamic"}}`, "StandardSkuPublicIPAddressesMustBeStatic"},
		{"same priority", "/networkSecurityGroups/nsg/securityRules/r", `{"properties":{"protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"1","sourceAddressPrefix":"*","destinationAddressPrefix":"*","access":"Allow","priority":1000,"direction":"Inbound"}}`, "SecurityRuleConflict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.code(c.code, w.do("PUT", mn+c.path, c.body, 400))
		})
	}
	w.t = t
	// What is in a network or security group is where that is, which need not be the group's region.
	w.do("PUT", mn+"/virtualNetworks/away", `{"location":"eastus","properties":{"addressSpace":{"addressPrefixes":["10.9.0.0/16"]}}}`, 201)
	w.do("PUT", mn+"/virtualNetworks/away/subnets/s", `{"properties":{"addressPrefix":"10.9.0.0/24"}}`, 201)
	w.do("PUT", mn+"/networkSecurityGroups/away", `{"location":"eastus"}`, 201)
	w.do("PUT", mn+"/networkSecurityGroups/away/securityRules/r", `{"properties":{"protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"1","sourceAddressPrefix":"*","destinationAddressPrefix":"*","access":"Allow","priority":1000,"direction":"Inbound"}}`, 201)
	w.code("ParentResourceNotFound", w.do("PUT", mn+"/virtualNetworks/none/subnets/s", `{"properties":{"addressPrefix":"10.0.0.0/24"}}`, 404))
	w.rights.deny["bob Microsoft.Network/virtualNetworks/subnets/join/action"] = true
	out, _ := w.as("bob", "PUT", mn+"/networkInterfaces/n", nic(""), 403)
	w.code("AuthorizationFailed", out)
	if got := w.do("GET", mn+"/virtualNetworks/net/CheckIPAddressAvailability?ipAddress=10.0.0.4", "", 200); got["available"] != false || len(list(got, "availableIPAddresses")) != 5 {
		t.Fatal(got)
	}
	// A full subnet says so; an address that was freed is given again.
	w.do("PUT", mn+"/virtualNetworks/net/subnets/small", `{"properties":{"addressPrefix":"10.0.8.0/29"}}`, 201)
	small := strings.Replace(nic(""), "subnets/sub", "subnets/small", 1)
	for i := range 3 {
		w.do("PUT", fmt.Sprintf("%s/networkInterfaces/s%d", mn, i), small, 201)
	}
	w.code("SubnetIsFull", w.do("PUT", mn+"/networkInterfaces/s3", small, 400))
	w.do("DELETE", mn+"/networkInterfaces/s1", "", 200)
	got := w.do("PUT", mn+"/networkInterfaces/s3", small, 201)
	if a := at(list(got, "properties", "ipConfigurations")[0].(object), "properties", "privateIPAddress"); a != "10.0.8.5" {
		t.Fatal(a)
	}
}
