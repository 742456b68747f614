package main

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/datadir"
)

// armBodies are bodies that routes of the Resource Manager take, or nearly: what
// they refer to need not exist. The first word of a route's name finds its own.
func armBodies() map[string]string {
	const (
		compute = "/subscriptions/SUB/resourceGroups/g/providers/Microsoft.Compute"
		network = "/subscriptions/SUB/resourceGroups/g/providers/Microsoft.Network"
	)
	return map[string]string{
		"Alias":                     `{"properties":{"displayName":"Another","workload":"Production","billingScope":"/x"}}`,
		"ResourceGroups":            `{"location":"West US 2","tags":{"a":"b"},"properties":{}}`,
		"Tags":                      `{"operation":"Merge","properties":{"tags":{"a":"b"}}}`,
		"Disks":                     `{"location":"West US 2","tags":{"a":"b"},"zones":["1"],"sku":{"name":"Premium_LRS"},"properties":{"osType":"Linux","hyperVGeneration":"V2","diskSizeGB":2,"creationData":{"createOption":"Empty"},"encryption":{"type":"EncryptionAtRestWithPlatformKey"},"networkAccessPolicy":"AllowAll"}}`,
		"Snapshots":                 `{"location":"West US 2","sku":{"name":"Standard_LRS"},"properties":{"incremental":true,"diskSizeGB":2,"creationData":{"createOption":"Copy","sourceResourceId":"` + compute + `/disks/disk"}}}`,
		"Images":                    `{"location":"West US 2","properties":{"hyperVGeneration":"V1","storageProfile":{"zoneResilient":false,"osDisk":{"osType":"Linux","osState":"Generalized","caching":"ReadWrite","snapshot":{"id":"` + compute + `/snapshots/disk"}},"dataDisks":[{"lun":1,"managedDisk":{"id":"` + compute + `/disks/disk"}}]}}}`,
		"Galleries":                 `{"location":"West US 2","tags":{},"properties":{"description":"d","sharingProfile":{"permissions":"Groups"},"softDeletePolicy":{"isSoftDeleteEnabled":false}}}`,
		"GalleryImages":             `{"location":"West US 2","properties":{"osType":"Linux","osState":"Generalized","hyperVGeneration":"V1","architecture":"x64","endOfLifeDate":"2030-01-01T00:00:00Z","identifier":{"publisher":"p","offer":"o","sku":"s"},"recommended":{"vCPUs":{"min":1,"max":4},"memory":{"min":1,"max":16}},"disallowed":{"diskTypes":["Standard_LRS"]},"features":[{"name":"IsAcceleratedNetworkSupported","value":"True"}]}}`,
		"GalleryImageVersions":      `{"location":"West US 2","properties":{"publishingProfile":{"replicaCount":1,"excludeFromLatest":false,"endOfLifeDate":"2030-01-01T00:00:00Z","replicationMode":"Full","storageAccountType":"Standard_LRS","targetRegions":[{"name":"West US 2","regionalReplicaCount":1,"storageAccountType":"Standard_LRS"}]},"storageProfile":{"osDiskImage":{"hostCaching":"ReadOnly","source":{"id":"` + compute + `/disks/disk"}},"dataDiskImages":[{"lun":1,"source":{"id":"` + compute + `/disks/disk"}}]},"safetyProfile":{"allowDeletionOfReplicatedLocations":true}}}`,
		"GallerySharingProfile":     `{"operationType":"Add","groups":[{"type":"Subscriptions","ids":["SUB"]}]}`,
		"ResourceGraph":             `{"query":"communitygalleryresources | where type == 'x'","subscriptions":["SUB"]}`,
		"BatchAccount":              `{"location":"West US 2","tags":{"a":"b"},"identity":{"type":"None"},"keyName":"Primary","properties":{"publicNetworkAccess":"Enabled","poolAllocationMode":"BatchService","allowedAuthenticationModes":["AAD","SharedKey"],"encryption":{"keySource":"Microsoft.Batch"}}}`,
		"Location":                  `{"name":"another","type":"Microsoft.Batch/batchAccounts"}`,
		"Pool":                      `{"identity":{"type":"None"},"tags":{"a":"b"},"properties":{"displayName":"d","vmSize":"STANDARD_D2S_V3","interNodeCommunication":"Enabled","taskSlotsPerNode":2,"taskSchedulingPolicy":{"nodeFillType":"Pack"},"metadata":[{"name":"a","value":"b"}],"scaleSettings":{"fixedScale":{"targetDedicatedNodes":0,"targetLowPriorityNodes":0,"resizeTimeout":"PT15M","nodeDeallocationOption":"Requeue"}},"deploymentConfiguration":{"virtualMachineConfiguration":{"nodeAgentSkuId":"batch.node.debian 12","imageReference":{"publisher":"debian","offer":"debian-12","sku":"12","version":"latest"}}},"startTask":{"commandLine":"/bin/true","maxTaskRetryCount":1,"waitForSuccess":true,"environmentSettings":[{"name":"a","value":"b"}],"userIdentity":{"autoUser":{"elevationLevel":"Admin","scope":"Pool"}},"resourceFiles":[{"httpUrl":"https://example.org/x","filePath":"x"}]},"userAccounts":[{"name":"u","password":"p","elevationLevel":"Admin","linuxUserConfiguration":{"uid":2000,"gid":2000}}],"networkConfiguration":{"publicIPAddressConfiguration":{"provision":"NoPublicIPAddresses"}},"applicationPackages":[]}}`,
		"StorageAccounts":           `{"name":"onemore","type":"Microsoft.Storage/storageAccounts","keyName":"key1","location":"West US 2","kind":"StorageV2","sku":{"name":"Standard_LRS"},"tags":{"a":"b"},"properties":{"accessTier":"Hot","supportsHttpsTrafficOnly":true,"minimumTlsVersion":"TLS1_2"}}`,
		"Application":               `{"properties":{"displayName":"d","allowUpdates":true,"defaultVersion":"1.0"}}`,
		"ApplicationPackage":        `{"format":"zip","properties":{}}`,
		"Certificate":               `{"properties":{"thumbprintAlgorithm":"sha1","thumbprint":"00","format":"Cer","data":"MIIC","password":"x"}}`,
		"VirtualNetworks":           `{"location":"West US 2","tags":{"a":"b"},"properties":{"addressSpace":{"addressPrefixes":["10.9.0.0/16"]},"dhcpOptions":{"dnsServers":[]},"subnets":[{"name":"one","properties":{"addressPrefix":"10.9.1.0/24","networkSecurityGroup":null}}]}}`,
		"PublicIPAddresses":         `{"location":"West US 2","tags":{"a":"b"},"sku":{"name":"Standard","tier":"Regional"},"zones":["1"],"properties":{"publicIPAllocationMethod":"Static","publicIPAddressVersion":"IPv4","idleTimeoutInMinutes":4,"dnsSettings":{"domainNameLabel":"label"}}}`,
		"NetworkInterfaces":         `{"location":"West US 2","tags":{"a":"b"},"properties":{"enableAcceleratedNetworking":false,"networkSecurityGroup":{"id":"` + network + `/networkSecurityGroups/disk"},"ipConfigurations":[{"name":"one","properties":{"primary":true,"privateIPAllocationMethod":"Dynamic","subnet":{"id":"` + network + `/virtualNetworks/disk/subnets/one"},"publicIPAddress":{"id":"` + network + `/publicIPAddresses/disk"}}}]}}`,
		"NetworkSecurityGroups":     `{"location":"West US 2","tags":{"a":"b"},"properties":{"securityRules":[{"name":"ssh","properties":{"protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"22","sourceAddressPrefix":"*","destinationAddressPrefix":"*","access":"Allow","priority":1000,"direction":"Inbound"}}]}}`,
		"Subnets":                   `{"properties":{"addressPrefix":"10.9.2.0/24","networkSecurityGroup":{"id":"` + network + `/networkSecurityGroups/disk"},"serviceEndpoints":[]}}`,
		"SecurityRules":             `{"properties":{"description":"d","protocol":"Tcp","sourcePortRange":"*","destinationPortRanges":["22","80-90"],"sourceAddressPrefixes":["10.0.0.0/8"],"destinationAddressPrefix":"*","access":"Deny","priority":1100,"direction":"Outbound"}}`,
		"UserAssignedIdentities":    `{"location":"West US 2","tags":{"a":"b"}}`,
		"AvailabilitySets":          `{"location":"West US 2","tags":{"a":"b"},"sku":{"name":"Aligned"},"properties":{"platformFaultDomainCount":2,"platformUpdateDomainCount":5,"virtualMachines":[]}}`,
		"ProximityPlacementGroups":  `{"location":"West US 2","tags":{"a":"b"},"zones":["1"],"properties":{"proximityPlacementGroupType":"Standard","intent":{"vmSizes":["Standard_D2s_v3"]}}}`,
		"DiskAccesses":              `{"location":"West US 2","tags":{"a":"b"},"properties":{}}`,
		"SshPublicKeys":             `{"location":"West US 2","tags":{"a":"b"},"properties":{"publicKey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGsh2mJw3Yw4Yc7bQ7O7i5bCq3v4y7rV7T8n9t6cQz1B x"}}`,
		"Deployments":               `{"location":"West US 2","properties":{"mode":"Incremental","parameters":{"n":{"value":"x"}},"template":{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","parameters":{"n":{"type":"string"}},"variables":{"v":"[concat(parameters('n'),'y')]"},"resources":[{"type":"Microsoft.Network/publicIPAddresses","apiVersion":"2022-01-01","name":"[variables('v')]","location":"westus2","dependsOn":[],"properties":{}}],"outputs":{"o":{"type":"string","value":"[variables('v')]"}}}}}`,
		"VirtualMachines":           `{"location":"West US 2","tags":{"a":"b"},"commandId":"RunShellScript","script":["true"],"parameters":[{"name":"a","value":"b"}],"dataDisksToAttach":[{"diskId":"` + compute + `/disks/disk","lun":3}],"properties":{"hardwareProfile":{"vmSize":"Standard_B1ls"},"storageProfile":{"imageReference":{"publisher":"debian","offer":"debian-12","sku":"12","version":"latest"},"osDisk":{"createOption":"FromImage","name":"os","caching":"ReadWrite","diskSizeGB":30,"managedDisk":{"storageAccountType":"Standard_LRS"}},"dataDisks":[{"lun":0,"createOption":"Empty","diskSizeGB":1}]},"osProfile":{"computerName":"c","adminUsername":"u","linuxConfiguration":{"disablePasswordAuthentication":true,"ssh":{"publicKeys":[{"path":"/home/u/.ssh/authorized_keys","keyData":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGsh2mJw3Yw4Yc7bQ7O7i5bCq3v4y7rV7T8n9t6cQz1B x"}]}}},"networkProfile":{"networkInterfaces":[{"id":"` + network + `/networkInterfaces/disk","properties":{"primary":true}}]}}}`,
		"VirtualMachineExtensions":  `{"location":"West US 2","properties":{"publisher":"Microsoft.Azure.Extensions","type":"CustomScript","typeHandlerVersion":"2.1","autoUpgradeMinorVersion":true,"settings":{"commandToExecute":"true"},"protectedSettings":{}}}`,
		"VirtualMachineRunCommands": `{"location":"West US 2","properties":{"source":{"script":"true"},"parameters":[{"name":"a","value":"b"}],"runAsUser":"u","timeoutInSeconds":60,"asyncExecution":false}}`,
		"RoleAssignments":           `{"properties":{"roleDefinitionId":"/subscriptions/SUB/providers/Microsoft.Authorization/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c","principalId":"` + noGUID + `","principalType":"ServicePrincipal"}}`,
		"RoleDefinitions":           `{"properties":{"roleName":"mine","description":"d","type":"CustomRole","assignableScopes":["/subscriptions/SUB"],"permissions":[{"actions":["*/read"],"notActions":[],"dataActions":[],"notDataActions":[]}]}}`,
		"ManagementLocks":           `{"properties":{"level":"CanNotDelete","notes":"n"}}`,
		"access":                    `{"access":"Read","durationInSeconds":60}`,
	}
}

// armDoor sends bodies to the routes of the Resource Manager and looks at what the
// database has afterwards. No loop runs: only requests change anything.
type armDoor struct {
	*door
	as     http.Header
	routes []azwire.Route
	// db is one connection, by which it is seen that others have written.
	db *sql.DB
}

func newARMDoor(t testing.TB) *armDoor {
	data := datadir.Dir(t.TempDir())
	d := &armDoor{door: newDoorAt(t, data)}
	d.still()
	d.as = bearer(d.token(d.admin, armName))
	for _, list := range [][]azwire.Route{d.s.edges.arm.Routes(), d.s.edges.authorization.Routes()} {
		for _, r := range list {
			if takesBody := r.Method == "PUT" || r.Method == "PATCH" || r.Method == "POST"; takesBody && r.Refused == "" {
				d.routes = append(d.routes, r)
			}
		}
	}
	var err error
	d.db, err = sql.Open("sqlite", "file:"+data.Database()+"?mode=ro")
	check(t, err)
	d.db.SetMaxOpenConns(1)
	t.Cleanup(func() { check(t, d.db.Close()) })
	return d
}

// target is a route's address with names of what there is.
func (d *armDoor) target(r azwire.Route) string {
	path := r.Path
	if !strings.HasPrefix(path, "/subscriptions") && !strings.HasPrefix(path, "/providers/Microsoft.Subscription") && !strings.HasPrefix(path, "/providers/Microsoft.ResourceGraph") {
		path = "/subscriptions/{sub}" + path // of the edge for rights
	}
	name := "disk"
	switch {
	case strings.Contains(path, "/batchAccounts/"):
		name = mainAcct
	case strings.Contains(path, "/storageAccounts/"):
		name = "authstore"
	}
	values := map[string]string{"sub": d.admin.SubscriptionID, "rg": "g", "name": name, "loc": region, "ns": "Microsoft.Compute", "type": "disks", "type2": "parts", "name2": "one", "type3": "bolts", "name3": "b", "alias": "another",
		"gallery": "gallery", "image": "image", "version": "1.0.0", "vm": "vm", "pool": "pool", "app": "app", "cert": "sha1-00", "id": noGUID, "rest": "disks/disk"}
	path = parameter.ReplaceAllStringFunc(path, func(p string) string { return values[strings.Trim(p, "{.}")] })
	return armName + path + "?api-version=2024-03-02"
}

// body is a good one for a route.
func (d *armDoor) body(r azwire.Route) string {
	noun, verb, _ := strings.Cut(r.Name, "_")
	if verb == "GrantAccess" {
		noun = "access"
	}
	return strings.ReplaceAll(armBodies()[noun], "SUB", d.admin.SubscriptionID)
}

// written changes with each commit of the service.
func (d *armDoor) written(t testing.TB) (version int64) {
	t.Helper()
	check(t, d.db.QueryRow("PRAGMA data_version").Scan(&version))
	return version
}

// try sends a body to a route and sees that the answer is none of a failure of the
// service, and that a refusal has an error in Azure's shape and has changed nothing.
func (d *armDoor) try(t testing.TB, r azwire.Route, body string) int {
	t.Helper()
	before := d.written(t)
	a := d.send(r.Method, d.target(r), d.as, body)
	if a.Code >= 500 {
		t.Errorf("%s %s with %q: %d %s", r.Name, r.Method, body, a.Code, a.Body)
	}
	if a.Code < 400 {
		return a.Code
	}
	var e struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.Body.Bytes(), &e); err != nil || e.Error.Code == "" || e.Error.Message == "" {
		t.Errorf("%s with %q: %d %s", r.Name, body, a.Code, a.Body)
	}
	if goWords.MatchString(e.Error.Message) {
		t.Errorf("%s with %q speaks of this program: %s", r.Name, body, e.Error.Message)
	}
	if d.written(t) != before {
		t.Errorf("%s with %q was refused (%d %s) and has written", r.Name, body, a.Code, a.Body)
	}
	return a.Code
}

// goWords are what a message for users must not have.
var goWords = regexp.MustCompile(`armcompute|armbatch|armstorage|armapi|RawMessage|Go value|struct `)

// TestWrongTypes gives each member of each good body values of other types. What is
// not taken is refused with a clear 400 (or what the resource's state refuses), and
// the message names no type of this program's.
func TestWrongTypes(t *testing.T) {
	d := newARMDoor(t)
	taken, refused := 0, 0
	for _, r := range d.routes {
		good := d.body(r)
		if good == "" {
			t.Logf("%s takes no body that this test knows", r.Name)
			good = "{}"
		}
		d.try(t, r, good)
		// Others share their body with a PUT, and most of its reading.
		depth := 2
		if r.Method == "PUT" {
			depth = 20
		}
		for _, body := range variants(t, good, depth) {
			if d.try(t, r, body) < 400 {
				taken++
			} else {
				refused++
			}
		}
	}
	t.Logf("%d taken, %d refused", taken, refused)
	before := d.written(t)
	d.send("PUT", armName+d.scope()+"/resourceGroups/another?api-version=2024-03-02", d.as, `{"location":"westus2"}`).is(t, 201, "")
	if d.written(t) == before {
		t.Error("this test does not see what is written")
	}
	// The members' names are the client's.
	for body, want := range map[string]string{
		`{"location":"westus2","properties":{"diskSizeGB":"big"}}`: "the value of 'properties.diskSizeGB' is a string; it must be a whole number",
		`{"properties":7}`: "the value of 'properties' is a number; it must be an object",
		`{"properties":{"creationData":{"createOption":"Empty"}},"zones":[null]}`: "'zones[0]' is null",
		`{"zones":"1"}`:  "the value of 'zones' is a string; it must be an array",
		`{"tags":["a"]}`: "the value of 'tags' is an array; it must be an object",
		`{"location":`:   "not valid JSON",
		`[]`:             "a value is an array where an object must be",
	} {
		a := d.send("PUT", armName+d.scope()+"/resourceGroups/g/providers/Microsoft.Compute/disks/other?api-version=2024-03-02", d.as, body)
		a.is(t, 400, want)
	}
}

// TestRegionsAreNormalised: whatever form a client gives, a resource tells the name
// that Azure tells.
func TestRegionsAreNormalised(t *testing.T) {
	d := newARMDoor(t)
	told := 0
	for _, r := range d.routes {
		if r.Method != "PUT" || !strings.Contains(d.body(r), "West US 2") {
			continue
		}
		a := d.send(r.Method, d.target(r), d.as, d.body(r))
		var got struct{ Location *string }
		switch {
		case a.Code >= 300 || json.Unmarshal(a.Body.Bytes(), &got) != nil || got.Location == nil:
			t.Logf("%s tells none: %d", r.Name, a.Code) // what it refers to is not there
		case *got.Location != region:
			t.Errorf("%s tells %q", r.Name, *got.Location)
		default:
			told++
		}
	}
	if told < 10 {
		t.Errorf("only %d resources tell their region", told)
	}
}

// TestAccountRefusals: what an account cannot have is refused on its change as on its
// creation.
func TestAccountRefusals(t *testing.T) {
	d := newARMDoor(t)
	account := armName + d.scope() + "/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/" + mainAcct + "?api-version=2024-07-01"
	for properties, want := range map[string]string{
		`{"encryption":{"keySource":"Microsoft.KeyVault"}}`:                           "Microsoft.Batch",
		`{"networkProfile":{"nodeManagementAccess":{"defaultAction":"Deny"}}}`:        "networkProfile",
		`{"allowedAuthenticationModes":["Password"]}`:                                 "allowedAuthenticationModes",
		`{"publicNetworkAccess":"Sometimes"}`:                                         "publicNetworkAccess",
		`{"autoStorage":{"storageAccountId":"x","authenticationMode":"StorageKeys"}}`: "autoStorage",
	} {
		for _, method := range []string{"PUT", "PATCH"} {
			before := d.written(t)
			d.send(method, account, d.as, `{"location":"westus2","properties":`+properties+`}`).is(t, 400, want)
			if d.written(t) != before {
				t.Errorf("%s %s was refused and has written", method, properties)
			}
		}
	}
}

// TestStorageRefusals: the same of a storage account.
func TestStorageRefusals(t *testing.T) {
	d := newARMDoor(t)
	account := armName + d.scope() + "/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/authstore?api-version=2023-05-01"
	for properties, want := range map[string]string{
		`{"isSftpEnabled":true}`:                            "SFTP",
		`{"encryption":{"keySource":"Microsoft.Keyvault"}}`: "Microsoft.Storage",
		`{"networkAcls":{"defaultAction":"Deny"}}`:          "networkAcls",
	} {
		for _, method := range []string{"PUT", "PATCH"} {
			before := d.written(t)
			d.send(method, account, d.as, `{"location":"westus2","kind":"StorageV2","sku":{"name":"Standard_LRS"},"properties":`+properties+`}`).is(t, 400, want)
			if d.written(t) != before {
				t.Errorf("%s %s was refused and has written", method, properties)
			}
		}
	}
}

// variants are bodies in each of which one member, so deep at most, has a value of
// another type. Null for a word or a number is leaving it out, and not tried.
func variants(t testing.TB, text string, depth int) []string {
	t.Helper()
	var out []string
	var walk func(v any, deep int, put func(any))
	var root any
	check(t, json.Unmarshal([]byte(text), &root))
	emit := func() {
		b, err := json.Marshal(root)
		check(t, err)
		out = append(out, string(b))
	}
	walk = func(v any, deep int, put func(any)) {
		others := []any{7, map[string]any{}}
		switch v.(type) {
		case map[string]any:
			others = []any{nil, "x", []any{}}
		case []any:
			others = append(others, nil)
		case float64, bool:
			others = []any{"x"}
		}
		for _, o := range others {
			put(o)
			emit()
		}
		put(v)
		if deep == depth {
			return
		}
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(x, deep+1, func(n any) { v[k] = n })
			}
		case []any:
			for i, x := range v {
				v[i] = nil
				emit()
				v[i] = x
				walk(x, deep+1, func(n any) { v[i] = n })
			}
		}
	}
	walk(root, 0, func(n any) { root = n })
	return out
}

// FuzzARMBodies sends any body to any route of the Resource Manager that takes one.
func FuzzARMBodies(f *testing.F) {
	d := newARMDoor(f)
	for i, r := range d.routes {
		f.Add(uint16(i), d.body(r))
	}
	for i, b := range []string{"", "null", "[]", "{", "7", `"x"`, `{"properties":null}`, `{"properties":{"properties":{}}}`, `{"location":"\u0000"}`} {
		f.Add(uint16(i), b)
	}
	f.Fuzz(func(t *testing.T, route uint16, body string) {
		d.try(t, d.routes[int(route)%len(d.routes)], body)
	})
}

// TestNoFilterIsPassedOver: a list with a $filter that it does not know is refused.
// Clients delete what is listed.
func TestNoFilterIsPassedOver(t *testing.T) {
	d := newARMDoor(t)
	for _, r := range d.s.edges.arm.Routes() {
		if r.Method != "GET" || r.Refused != "" {
			continue
		}
		if a := d.send("GET", d.target(r)+"&$filter=nonsense+eq+'x'", d.as, ""); a.Code < 400 {
			t.Errorf("%s has passed over a filter: %d %s", r.Name, a.Code, a.Body)
		}
	}
	pools := armName + d.scope() + "/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/" + mainAcct + "/pools"
	body := `{"properties":{"vmSize":"Standard_D2s_v3","deploymentConfiguration":{"virtualMachineConfiguration":{"imageReference":{"publisher":"debian","offer":"debian-12","sku":"12"},"nodeAgentSkuId":"batch.node.debian 12"}},"scaleSettings":{"fixedScale":{"targetDedicatedNodes":0}}}}`
	for _, name := range []string{"name", "other"} {
		d.send("PUT", pools+"/"+name+"?api-version=2024-07-01", d.as, body).is(t, 200, "")
	}
	for filter, want := range map[string]int{"name eq 'name'": 1, "startswith(name,'o') or name eq 'name'": 2, "properties/vmSize eq 'standard_d2s_v3' and name ne 'name'": 1, "properties/allocationState eq 'Resizing'": 0} {
		var list struct{ Value []any }
		a := d.send("GET", pools+"?api-version=2024-07-01&$filter="+url.QueryEscape(filter), d.as, "")
		if check(t, json.Unmarshal(a.Body.Bytes(), &list)); a.Code != 200 || len(list.Value) != want {
			t.Errorf("%s: %d, %d pools, not %d", filter, a.Code, len(list.Value), want)
		}
	}
}

// TestWhatIsOnlyShown: a machine's boot diagnostics have no effect, and are shown as they
// were given: programs that compare what is with what they asked for would never end.
func TestWhatIsOnlyShown(t *testing.T) {
	d := newARMDoor(t)
	group := armName + d.scope() + "/resourceGroups/g/providers/"
	version := "?api-version=2024-03-01"
	d.send("POST", group+"Microsoft.Compute/disks/disk/endGetAccess"+version, d.as, "")
	d.send("PUT", group+"Microsoft.Network/virtualNetworks/n"+version, d.as, `{"location":"westus2","properties":{"addressSpace":{"addressPrefixes":["10.9.0.0/16"]},"subnets":[{"name":"s","properties":{"addressPrefix":"10.9.0.0/24"}}]}}`).is(t, 201, "")
	id := d.scope() + "/resourceGroups/g/providers/"
	d.send("PUT", group+"Microsoft.Network/networkInterfaces/c"+version, d.as, `{"location":"westus2","properties":{"ipConfigurations":[{"name":"i","properties":{"subnet":{"id":"`+id+`Microsoft.Network/virtualNetworks/n/subnets/s"}}}]}}`).is(t, 201, "")
	vm := group + "Microsoft.Compute/virtualMachines/shown" + version
	d.send("PUT", vm, d.as, `{"location":"westus2","properties":{"hardwareProfile":{"vmSize":"Standard_A1_v2"},"diagnosticsProfile":{"bootDiagnostics":{"enabled":true,"storageUri":"https://s/"}},
		"storageProfile":{"osDisk":{"osType":"Linux","createOption":"Attach","managedDisk":{"id":"`+id+`Microsoft.Compute/disks/disk"}}},
		"networkProfile":{"networkInterfaces":[{"id":"`+id+`Microsoft.Network/networkInterfaces/c"}]}}}`).is(t, 201, `"bootDiagnostics":{"enabled":true,"storageUri":"https://s/"}`)
	d.send("PATCH", vm, d.as, `{"properties":{"diagnosticsProfile":{"bootDiagnostics":{"enabled":false}}}}`).is(t, 200, `"bootDiagnostics":{"enabled":false}`)
	d.send("GET", vm, d.as, "").is(t, 200, `"bootDiagnostics":{"enabled":false}`)
}
