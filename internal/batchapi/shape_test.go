package batchapi

import (
	"encoding/json"
	"path"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

const thisVersion = "2024-07-01.20.0"

// merged is the mandated pool with members replaced by those of change.
func merged(t *testing.T, base, change string) string {
	t.Helper()
	var m, c map[string]any
	if err := json.Unmarshal([]byte(base), &m); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(change), &c); err != nil {
		t.Fatal(change, err)
	}
	for k, v := range c {
		if vm, ok := v.(map[string]any); ok && k == "virtualMachineConfiguration" {
			for k2, v2 := range vm {
				m[k].(map[string]any)[k2] = v2
			}
			continue
		}
		m[k] = v
	}
	b, _ := json.Marshal(m)
	return string(b)
}

const jobBody = `{"id":"j","poolInfo":{"poolId":"p"}}`
const taskBody = `{"id":"t","commandLine":"true"}`

func TestWhatIsNotSupportedIsRefusedOnlyWhenItIsUsed(t *testing.T) {
	s := makeShapes()
	vm := func(x string) string { return `{"virtualMachineConfiguration":{` + x + `}}` }
	for _, c := range []struct {
		name         string
		shape        *rule
		base         string
		used, unused []string
	}{
		{"pool", s.poolAdd, galleryPool, []string{
			`{"cloudServiceConfiguration":{"osFamily":"6"}}`,
			`{"applicationLicenses":["maya"]}`,
			`{"networkConfiguration":{"publicIPAddressConfiguration":{"ipFamilies":["IPv4","IPv6"]}}}`, `{"mountConfiguration":[{"azureBlobFileSystemConfiguration":{"accountName":"a","containerName":"c","relativeMountPath":"p"}}]}`,
			`{"startTask":{"commandLine":"x","containerSettings":{"imageName":"i","registry":{"identityReference":{"resourceId":"x"}}}}}`,
			vm(`"containerConfiguration":{"type":"dockerCompatible","containerRegistries":[{"identityReference":{"resourceId":"x"}}]}`), vm(`"windowsConfiguration":{"x":1,"enableAutomaticUpdates":"maybe"}`),
			vm(`"diskEncryptionConfiguration":{"targets":["osdisk"],"customerManagedKey":{"keyUrl":"https://v/keys/k"}}`),
			vm(`"securityProfile":{"securityType":"ConfidentialVM"}`), vm(`"securityProfile":{"proxyAgentSettings":{"enabled":true}}`),
			vm(`"serviceArtifactReference":{"id":"x"}`), vm(`"licenseType":"Windows_Server"`),
		}, []string{
			`{"enableAutoScale":false,"autoScaleFormula":null}`, `{"certificateReferences":[],"applicationPackageReferences":[],"mountConfiguration":[],"applicationLicenses":null}`,
			`{"identity":{"type":"None"}}`, `{"networkConfiguration":{}}`, `{"networkConfiguration":{"publicIPAddressConfiguration":{"ipFamilies":["ipv4"]}}}`, `{"networkConfiguration":{"dynamicVNetAssignmentScope":"none","publicIPAddressConfiguration":{"provision":"BatchManaged"}}}`, `{"networkConfiguration":{"publicIPAddressConfiguration":{"provision":"nopublicipaddresses"}}}`,
			`{"upgradePolicy":{"mode":"manual"}}`, `{"resourceTags":{"a":"b"}}`, `{"targetNodeCommunicationMode":"Default"}`, `{"unknownFutureMember":{"a":[1]}}`,
			`{"networkConfiguration":{"enableAcceleratedNetworking":true}}`, `{"upgradePolicy":{"mode":"rolling","rollingUpgradePolicy":{"enableCrossZoneUpgrade":true}}}`, vm(`"nodePlacementConfiguration":{"policy":"Zonal"}`),
			vm(`"nodePlacementConfiguration":{"policy":"regional"},"extensions":[],"containerConfiguration":{"type":"dockercompatible","containerImageNames":["a/b:1"],"containerRegistries":[{"registryServer":"r","username":"u","password":"p"}]},"osDisk":{"caching":"None","writeAcceleratorEnabled":true,"diskSizeGB":100,"ephemeralOSDiskSettings":{"placement":"CacheDisk"},"managedDisk":{"storageAccountType":"premium_lrs"}}`),
			`{"mountConfiguration":[{"nfsMountConfiguration":{"source":"h:/x","relativeMountPath":"a","mountOptions":"-o ro"}},{"azureFileShareConfiguration":{"accountName":"a","accountKey":"k","azureFileUrl":"https://a.file.core.windows.net/s","relativeMountPath":"b"}}]}`,
			vm(`"diskEncryptionConfiguration":{"targets":["OsDisk","temporarydisk"]}`),
			vm(`"securityProfile":{"encryptionAtHost":true,"securityType":"TrustedLaunch","uefiSettings":{"secureBootEnabled":true,"vTpmEnabled":true}}`),
			vm(`"securityProfile":{"encryptionAtHost":false,"uefiSettings":{"vTpmEnabled":false}},"dataDisks":[]`),
		}},
		{"job", s.jobAdd, jobBody, []string{
			`{"networkConfiguration":{"subnetId":"/x"}}`,
		}, []string{`{"onTaskFailure":"noaction","allowTaskPreemption":false,"usesTaskDependencies":false,"jobManagerTask":null,"maxParallelTasks":-1}`}},
		{"task", s.taskAdd, taskBody, []string{
			`{"containerSettings":{"imageName":"x","registry":{"identityReference":{"resourceId":"x"}}}}`,
		}, []string{`{"dependsOn":{"taskIds":[],"taskIdRanges":[]},"outputFiles":[],"exitConditions":{},"authenticationTokenSettings":{"access":[]},"applicationPackageReferences":[]}`}},
	} {
		for _, change := range c.used {
			_, err := decodeBody([]byte(merged(t, c.base, change)), thisVersion, c.shape, false, nil)
			e := millpond.AsError(err)
			if err == nil || e.Code != "UnsupportedProperty" || e.Kind != millpond.Unsupported || len(e.Details) != 3 || e.Details[0].Name != "PropertyName" || e.Details[2].Name != "Reason" {
				t.Errorf("%s %s: %v", c.name, change, err)
			}
		}
		for _, change := range c.unused {
			if _, err := decodeBody([]byte(merged(t, c.base, change)), thisVersion, c.shape, false, nil); err != nil {
				t.Errorf("%s %s: %v", c.name, change, err)
			}
		}
	}
}

func TestWrongBodies(t *testing.T) {
	s := makeShapes()
	for _, c := range []struct {
		shape            *rule
		base, change     string
		code, path, part string
	}{
		{s.poolAdd, galleryPool, `{"id":null}`, "MissingRequiredProperty", "id", ""},
		{s.poolAdd, galleryPool, `{"id":""}`, "MissingRequiredProperty", "id", ""},
		{s.poolAdd, galleryPool, `{"id":"a b"}`, "InvalidPropertyValue", "id", "1 to 64 letters"},
		{s.poolAdd, galleryPool, `{"vmSize":7}`, "InvalidPropertyValue", "vmSize", "string is expected"},
		{s.poolAdd, galleryPool, `{"targetDedicatedNodes":-1}`, "InvalidPropertyValue", "targetDedicatedNodes", "between 0"},
		{s.poolAdd, galleryPool, `{"targetDedicatedNodes":1.5}`, "InvalidPropertyValue", "targetDedicatedNodes", "whole number"},
		{s.poolAdd, galleryPool, `{"targetDedicatedNodes":3000000000}`, "InvalidPropertyValue", "targetDedicatedNodes", "whole number"},
		{s.poolAdd, galleryPool, `{"networkConfiguration":{"publicIPAddressConfiguration":{"provision":"usermanaged"}}}`, "InvalidPropertyValue", "networkConfiguration.publicIPAddressConfiguration.provision", ""},
		{s.poolAdd, galleryPool, `{"networkConfiguration":{"publicIPAddressConfiguration":{"provision":"NoPublicIPAddresses"},"endpointConfiguration":{"inboundNATPools":[{"name":"a","protocol":"tcp","backendPort":80,"frontendPortRangeStart":1000,"frontendPortRangeEnd":1100}]}}}`, "InvalidPropertyValue", "networkConfiguration.endpointConfiguration", "public addresses"},
		{s.poolAdd, galleryPool, `{"resizeTimeout":"15 minutes"}`, "InvalidPropertyValue", "resizeTimeout", "ISO 8601"},
		{s.poolAdd, galleryPool, `{"metadata":{}}`, "InvalidPropertyValue", "metadata", "list is expected"},
		{s.poolAdd, galleryPool, `{"metadata":[{"name":"","value":"x"}]}`, "EmptyMetadataKey", "metadata[0].name", ""},
		{s.poolAdd, galleryPool, `{"metadata":[null]}`, "InvalidPropertyValue", "metadata[0]", "null"},
		{s.poolAdd, galleryPool, `{"startTask":{}}`, "MissingRequiredProperty", "startTask.commandLine", ""},
		{s.poolAdd, galleryPool, `{"startTask":{"commandLine":"x","environmentSettings":[{"value":"v"}]}}`, "MissingRequiredProperty", "startTask.environmentSettings[0].name", ""},
		{s.poolAdd, galleryPool, `{"startTask":{"commandLine":"x","waitForSuccess":"yes"}}`, "InvalidPropertyValue", "startTask.waitForSuccess", "true or false"},
		{s.poolAdd, galleryPool, `{"startTask":{"commandLine":"x","resourceFiles":[{"httpUrl":"https://h/f","filePath":"../x"}]}}`, "InvalidPropertyValue", "startTask.resourceFiles[0].filePath", "leave"},
		{s.poolAdd, galleryPool, `{"startTask":{"commandLine":"x","resourceFiles":[{"httpUrl":"file:///etc","filePath":"x"}]}}`, "InvalidPropertyValue", "startTask.resourceFiles[0].httpUrl", "http://"},
		{s.poolAdd, galleryPool, `{"startTask":{"commandLine":"x","userIdentity":{"username":"a","autoUser":{}}}}`, "InvalidPropertyValue", "startTask.userIdentity", "exclude"},
		{s.poolAdd, galleryPool, `{"virtualMachineConfiguration":{"imageReference":{"virtualMachineImageId":"/x","version":"1.0.0"}}}`, "InvalidPropertyValue",
			"virtualMachineConfiguration.imageReference.version", "Specified property version can only have a value when publisher is set."},
		{s.poolAdd, galleryPool, `{"virtualMachineConfiguration":{"imageReference":{"virtualMachineImageId":"/x","publisher":"p"}}}`, "InvalidPropertyValue", "virtualMachineConfiguration.imageReference.publisher", "together"},
		{s.poolAdd, galleryPool, `{"virtualMachineConfiguration":{"imageReference":{"publisher":"p"}}}`, "MissingRequiredProperty", "virtualMachineConfiguration.imageReference.offer", ""},
		{s.poolAdd, galleryPool, `{"virtualMachineConfiguration":{"dataDisks":[{"lun":64,"diskSizeGB":1}]}}`, "InvalidPropertyValue", "virtualMachineConfiguration.dataDisks[0].lun", "63"},
		{s.poolAdd, galleryPool, `{"userAccounts":[{"name":"a","linuxUserConfiguration":{"uid":5}}]}`, "InvalidPropertyValue", "userAccounts[0].linuxUserConfiguration", "together"},
		{s.poolAdd, galleryPool, `{"networkConfiguration":{"subnetId":7}}`, "InvalidPropertyValue", "networkConfiguration.subnetId", "string is expected"},
		{s.jobAdd, jobBody, `{"poolInfo":{}}`, "MissingRequiredProperty", "poolInfo.poolId", ""},
		{s.jobAdd, jobBody, `{"maxParallelTasks":0}`, "InvalidPropertyValue", "maxParallelTasks", "greater than 0"},
		{s.jobAdd, jobBody, `{"constraints":{"maxWallClockTime":"1Y"}}`, "InvalidPropertyValue", "constraints.maxWallClockTime", "ISO 8601"},
		{s.jobAdd, jobBody, `{"priority":1001}`, "OutOfRangePriority", "priority", ""},
		{s.taskAdd, taskBody, `{"commandLine":null}`, "MissingRequiredProperty", "commandLine", ""},
		{s.taskAdd, taskBody, `{"requiredSlots":0}`, "InvalidPropertyValue", "requiredSlots", ""},
		{s.jobDisable, `{}`, `{"disableTasks":"later"}`, "InvalidPropertyValue", "disableTasks", "requeue, terminate, wait"},
	} {
		_, err := decodeBody([]byte(merged(t, c.base, c.change)), thisVersion, c.shape, false, nil)
		e := millpond.AsError(err)
		got := ""
		for _, d := range e.Details {
			if d.Name == "PropertyPath" {
				got = d.Value
			}
		}
		if err == nil || e.Code != c.code || got != c.path || !strings.Contains(e.Message, c.part) {
			t.Errorf("%s: %v at %q", c.change, err, got)
		}
	}
	for _, text := range []string{"", "7", "[]", "{", `{"id":`, `{} {}`, "\xff"} {
		if _, err := decodeBody([]byte(text), thisVersion, s.jobAdd, false, nil); millpond.AsError(err).Code != "InvalidRequestBody" {
			t.Errorf("%q: %v", text, err)
		}
	}
	// A secret is never repeated in an answer.
	_, err := decodeBody([]byte(merged(t, galleryPool, `{"userAccounts":[{"name":"a","password":{"hunter2":1}}]}`)), thisVersion, s.poolAdd, false, nil)
	b, _ := json.Marshal(millpond.AsError(err))
	if err == nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("%s", b)
	}
}

// TestCertificatesEndWithAVersion: references are taken before it, and refused
// from then on unless the list is empty.
func TestCertificatesEndWithAVersion(t *testing.T) {
	s := makeShapes()
	some := merged(t, galleryPool, `{"certificateReferences":[{"thumbprint":"`+strings.ToUpper(thumbprintA)+`","thumbprintAlgorithm":"sha1","storeLocation":"LocalMachine","storeName":"Root","visibility":["StartTask","remoteUser"]}]}`)
	m, err := decodeBody([]byte(some), "2024-07-01.20.0", s.poolAdd, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(m["certificateReferences"]); string(b) != `[{"storeLocation":"localmachine","storeName":"Root","thumbprint":"`+thumbprintA+`","thumbprintAlgorithm":"sha1","visibility":["starttask","remoteuser"]}]` {
		t.Errorf("%s", b)
	}
	if _, err := decodeBody([]byte(some), "2025-06-01", s.poolAdd, false, nil); millpond.AsError(err).Code != "UnsupportedProperty" {
		t.Errorf("later: %v", err)
	}
	for _, none := range []string{`{"certificateReferences":[]}`, `{"certificateReferences":null}`} {
		if _, err := decodeBody([]byte(merged(t, galleryPool, none)), "2025-06-01", s.poolAdd, false, nil); err != nil {
			t.Errorf("%s: %v", none, err)
		}
	}
	for _, bad := range []string{`{"thumbprint":"ab","thumbprintAlgorithm":"sha1"}`, `{"thumbprint":"` + thumbprintA + `","thumbprintAlgorithm":"md5"}`, `{"thumbprintAlgorithm":"sha1"}`} {
		if _, err := decodeBody([]byte(merged(t, galleryPool, `{"certificateReferences":[`+bad+`]}`)), thisVersion, s.poolAdd, false, nil); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// TestExtensions: settings are any object, kept as they are; what is protected is
// not repeated, neither in an error nor in an answer.
func TestExtensions(t *testing.T) {
	s := makeShapes()
	body := func(extensions string) string {
		return merged(t, galleryPool, `{"virtualMachineConfiguration":{"extensions":`+extensions+`}}`)
	}
	var in azbatch.CreatePoolContent
	if _, err := decodeBody([]byte(body(`[{"name":"a","publisher":"p","type":"t","typeHandlerVersion":"2.1","settings":{"fileUris":["https://h/f"],"n":1.5},"protectedSettings":{"commandToExecute":"geheim"},"provisionAfterExtensions":["b"]},
		{"name":"b","publisher":"p","type":"u","settings":{},"protectedSettings":null}]`)), thisVersion, s.poolAdd, false, &in); err != nil {
		t.Fatal(err)
	}
	got := poolSpec(in).Extensions
	if len(got) != 2 || string(got[0].Settings) != `{"fileUris":["https://h/f"],"n":1.5}` || string(got[0].Protected) != `{"commandToExecute":"geheim"}` || got[0].After[0] != "b" || got[1].Settings != nil {
		t.Errorf("%+v", got)
	}
	m, err := machineWhole(millpond.PoolSpec{Extensions: got})
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(m); strings.Contains(string(b), "geheim") || !strings.Contains(string(b), `"settings":{"fileUris":["https://h/f"],"n":1.5}`) {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{`[{"name":"a","publisher":"p","type":"t","protectedSettings":"geheim"}]`, `[{"name":"a","publisher":"p","type":"t","protectedSettings":["geheim"]}]`, `[{"name":"a"}]`} {
		_, err := decodeBody([]byte(body(bad)), thisVersion, s.poolAdd, false, nil)
		if e, _ := json.Marshal(millpond.AsError(err)); err == nil || strings.Contains(string(e), "geheim") {
			t.Errorf("%s: %s", bad, e)
		}
	}
}

func TestDefaultsFollowTheVersion(t *testing.T) {
	s := makeShapes()
	body := merged(t, galleryPool, `{"maxTasksPerNode":4,"startTask":{"commandLine":"x","runElevated":true,"resourceFiles":[{"blobSource":"https://h/f","filePath":"f"}]}}`)
	for version, wait := range map[string]bool{"2018-12-01.8.0": false, "2019-08-01.10.0": true, "2025-06-01": true} {
		var in azbatch.CreatePoolContent
		if _, err := decodeBody([]byte(body), version, s.poolAdd, false, &in); err != nil {
			t.Fatal(err)
		}
		spec := poolSpec(in)
		if spec.TaskSlotsPerNode != 4 || spec.StartTask.WaitForSuccess != wait || !spec.StartTask.User.Admin || spec.StartTask.ResourceFiles[0].URL != "https://h/f" ||
			spec.FillType != millpond.FillSpread || spec.NodeAgentSKU != "batch.node.ubuntu 16.04" || !strings.Contains(spec.Image.ResourceID, "/galleries/") {
			t.Errorf("%s: %+v", version, spec)
		}
	}
}

func TestTooLargeBodies(t *testing.T) {
	e, _ := newEdge(t)
	send(e, "POST", "/jobs", jobBody, "admin")
	refused(t, send(e, "POST", "/jobs/j/addtaskcollection", `{"value":[{"id":"t","commandLine":"`+strings.Repeat("x", maxBody)+`"}]}`, "admin"), 413, "RequestBodyTooLarge")
	refused(t, send(e, "POST", "/jobs/j/addtaskcollection", `{"value":[`+strings.Repeat(taskBody+",", 100)+taskBody+`]}`, "admin"), 400, "InvalidPropertyValue")
}

func FuzzBodies(f *testing.F) {
	for _, s := range []string{galleryPool, jobBody, taskBody, `{"value":[` + taskBody + `,null]}`, `{"targetDedicatedNodes":3,"resizeTimeout":"PT20M"}`, `{"constraints":{"maxTaskRetryCount":-1}}`,
		`{"virtualMachineConfiguration":{"dataDisks":[{"lun":0,"diskSizeGB":"10"}]},"userAccounts":[{"name":"a","linuxUserConfiguration":{"uid":1,"gid":2}}]}`, `{"startTask":null,"metadata":[]}`} {
		f.Add(s, "2018-12-01.8.0")
		f.Add(s, thisVersion)
	}
	e, s := newEdge(f)
	f.Fuzz(func(t *testing.T, body, version string) {
		if !apiVersion.MatchString(version) {
			version = thisVersion
		}
		s.pools, s.jobs, s.tasks = map[string]millpond.Pool{"p": {}}, map[string]millpond.Job{"j": {}}, map[string]map[string]millpond.Task{"j": {"t": {}}}
		for _, op := range []string{"POST /pools", "PATCH /pools/p", "POST /pools/p/updateproperties", "POST /pools/p/resize", "POST /pools/p/removenodes", "POST /jobs", "PATCH /jobs/j",
			"PUT /jobs/j", "POST /jobs/j/disable", "POST /jobs/j/terminate", "POST /jobs/j/tasks", "POST /jobs/j/addtaskcollection", "PUT /jobs/j/tasks/t", "POST /pools/p/nodes/n/reboot"} {
			method, path, _ := strings.Cut(op, " ")
			if w := send(e, method, path+"?api-version="+version, body, "admin"); w.Code >= 500 {
				t.Errorf("%s with %q: %d %s", op, body, w.Code, w.Body)
			}
		}
		// Whatever was taken in can be shown.
		for _, path := range []string{"/pools", "/jobs", "/jobs/j/tasks"} {
			if w := send(e, "GET", path, "", "admin"); w.Code != 200 {
				t.Errorf("%s after %q: %d %s", path, body, w.Code, w.Body)
			}
		}
	})
}

func FuzzFileNames(f *testing.F) {
	f.Add("wd/a b.txt")
	f.Add(`..\..\etc`)
	f.Add("/./a//b/")
	f.Fuzz(func(t *testing.T, raw string) {
		name, err := fileName(raw)
		if err != nil {
			return
		}
		tr := tree{root: "workitems/j/job-1/t"}
		full := tr.below(name)
		if !strings.HasPrefix(full, tr.root+"/") || path.Clean(full) != full {
			t.Errorf("%q becomes %q", raw, full)
		}
	})
}
