package batchapi

import (
	"regexp"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// shapes are the rules of every body, by operation.
type shapes struct {
	poolAdd, poolPatch, poolReplace, poolResize, removeNodes          *rule
	enableAutoScale, evaluate                                         *rule
	nodeReboot, nodeReimage, nodeDeallocate, nodePreempt, nodeDisable *rule
	uploadLogs                                                        *rule
	userAdd, userUpdate                                               *rule
	jobAdd, jobPatch, jobUpdate, jobDisable, jobTerminate             *rule
	taskAdd, taskCollection, taskUpdate                               *rule
	scheduleAdd, schedulePatch, scheduleUpdate                        *rule
	certificateAdd                                                    *rule
}

func makeShapes() shapes {
	return shapes{
		poolAdd: poolAddShape(), poolPatch: poolPatchShape(), poolReplace: poolReplaceShape(), poolResize: resizeShape(), removeNodes: removeNodesShape(),
		enableAutoScale: enableAutoScaleShape(), evaluate: evaluateShape(),
		nodeReboot: object(map[string]*rule{"nodeRebootOption": deallocation()}), nodeReimage: object(map[string]*rule{"nodeReimageOption": deallocation()}),
		nodePreempt:    object(map[string]*rule{"noticeInSeconds": number(0, 3600)}),
		nodeDeallocate: object(map[string]*rule{"nodeDeallocateOption": deallocation()}),
		uploadLogs:     uploadLogsShape(),
		userAdd:        userAddRule(), userUpdate: userUpdateRule(),
		nodeDisable: object(map[string]*rule{"nodeDisableSchedulingOption": word("requeue", "terminate", "taskcompletion")}),
		jobAdd:      jobAddShape(), jobPatch: jobPatchShape(), jobUpdate: jobUpdateShape(),
		jobDisable:   object(map[string]*rule{"disableTasks": word("requeue", "terminate", "wait").needed()}),
		jobTerminate: object(map[string]*rule{"terminateReason": text(1024)}),
		scheduleAdd:  scheduleAddShape(), schedulePatch: schedulePatchShape(), scheduleUpdate: scheduleUpdateShape(),
		certificateAdd: certificateShape(),
		taskAdd:        taskAddShape(), taskCollection: taskCollectionShape(), taskUpdate: object(map[string]*rule{"constraints": taskConstraints()}),
	}
}

func deallocation() *rule { return word("requeue", "terminate", "taskcompletion", "retaineddata") }

// warningItem is the name of the metadata items that warnings are shown as.
// They are read-only: what a client sends back is dropped.
const warningItem = "millpond:warning"

func metadataRule() *rule {
	item := object(map[string]*rule{"name": text(1024), "value": text(32 << 10)}).check(func(_ *body, m map[string]any, path string) error {
		if s, _ := m["name"].(string); s == "" {
			return millpond.Errorf(millpond.Invalid, "EmptyMetadataKey", "A metadata item has no name.").With("PropertyName", "name").With("PropertyPath", path+".name")
		}
		if _, ok := m["value"]; !ok {
			return missing(path + ".value")
		}
		return nil
	})
	return many(item, 1000)
}

func poolAddShape() *rule {
	return object(map[string]*rule{
		"id":                           idRule().needed(),
		"displayName":                  text(1024),
		"vmSize":                       text(128).needed(),
		"virtualMachineConfiguration":  machineRule().needed(),
		"cloudServiceConfiguration":    refuse("Cloud Services left the service in 2024; use virtualMachineConfiguration."),
		"resizeTimeout":                span(),
		"targetDedicatedNodes":         number(0, anyInt),
		"targetLowPriorityNodes":       number(0, anyInt),
		"enableAutoScale":              truth(),
		"autoScaleFormula":             text(maxFormula),
		"autoScaleEvaluationInterval":  span(),
		"enableInterNodeCommunication": truth(),
		"networkConfiguration":         networkRule(),
		"startTask":                    startTaskRule(),
		"certificateReferences":        certificateRefsRule(),
		"applicationPackageReferences": packagesRule(),
		"applicationLicenses":          refuse("Application licences are not supported. Leave applicationLicenses out, and give nodes their licences in the start task."),
		"taskSlotsPerNode":             number(1, millpond.MaxTaskSlots),
		"maxTasksPerNode":              number(1, millpond.MaxTaskSlots),
		"taskSchedulingPolicy": object(map[string]*rule{"nodeFillType": word("spread", "pack").needed(),
			"jobDefaultOrder": word("none", "creationtime")}),
		"userAccounts":                many(userAccountRule(), 100),
		"metadata":                    metadataRule(),
		"mountConfiguration":          many(mountRule(), millpond.MaxMounts),
		"targetNodeCommunicationMode": word("default", "classic", "simplified"),
		"upgradePolicy":               upgradeRule(),
		"resourceTags":                table(text(256), 50),
		"identity":                    poolIdentityRule(),
	}).check(func(_ *body, m map[string]any, _ string) error {
		// maxTasksPerNode is the name before 2020-09-01.12.0.
		if v, ok := m["maxTasksPerNode"]; ok {
			if _, both := m["taskSlotsPerNode"]; !both {
				m["taskSlotsPerNode"] = v
			}
		}
		if on, _ := m["enableAutoScale"].(bool); on {
			if f, _ := m["autoScaleFormula"].(string); f == "" {
				return missing("autoScaleFormula")
			}
			for _, name := range []string{"targetDedicatedNodes", "targetLowPriorityNodes"} {
				if v, given := m[name]; given {
					return invalid(name, v, "A pool that sizes itself by a formula has no targets of its own.")
				}
			}
			return nil
		}
		for _, name := range []string{"autoScaleFormula", "autoScaleEvaluationInterval"} {
			if v, given := m[name]; given && v != "" {
				return invalid(name, v, "It can be given only with enableAutoScale true.")
			}
		}
		// Without a target the pool is empty. The documentation wants one, the
		// service does not: the SDK's own tests leave both out.
		return nil
	})
}

// needTarget wants a size: without a formula there is nothing else to go by.
func needTarget(m map[string]any) error {
	_, dedicated := m["targetDedicatedNodes"]
	_, low := m["targetLowPriorityNodes"]
	if !dedicated && !low {
		return missing("targetDedicatedNodes")
	}
	return nil
}

// poolPatchShape is widened with 2024-07-01.20.0; it is accepted of every
// version, as unknown members are.
func poolPatchShape() *rule {
	shape, add := poolReplaceShape(), poolAddShape()
	for _, name := range []string{"displayName", "vmSize", "virtualMachineConfiguration", "taskSlotsPerNode", "taskSchedulingPolicy", "enableInterNodeCommunication",
		"networkConfiguration", "userAccounts", "mountConfiguration", "upgradePolicy", "resourceTags", "identity"} {
		rule := add.members[name]
		rule.required = false
		shape.members[name] = rule
	}
	// Who sends these means to change the size, and would be told that it is done.
	for _, name := range []string{"targetDedicatedNodes", "targetLowPriorityNodes", "resizeTimeout"} {
		shape.members[name] = refuse("A patch does not change the size of a pool. Resize it: az batch pool resize")
	}
	for _, name := range []string{"enableAutoScale", "autoScaleFormula", "autoScaleEvaluationInterval"} {
		shape.members[name] = refuse("A patch does not change how a pool is sized. Use enableautoscale or disableautoscale: az batch pool autoscale enable", false)
	}
	return shape
}

func poolReplaceShape() *rule {
	return object(map[string]*rule{
		"startTask":                    startTaskRule(),
		"metadata":                     metadataRule(),
		"certificateReferences":        certificateRefsRule(),
		"applicationPackageReferences": packagesRule(),
		"targetNodeCommunicationMode":  word("default", "classic", "simplified"),
	})
}

func resizeShape() *rule {
	return object(map[string]*rule{
		"targetDedicatedNodes":   number(0, anyInt),
		"targetLowPriorityNodes": number(0, anyInt),
		"resizeTimeout":          span(),
		"nodeDeallocationOption": deallocation(),
	}).check(func(_ *body, m map[string]any, _ string) error { return needTarget(m) })
}

func removeNodesShape() *rule {
	nodes := many(text(128), 100).needed()
	nodes.low = 1
	return object(map[string]*rule{"nodeList": nodes, "resizeTimeout": span(), "nodeDeallocationOption": deallocation()})
}

// idRule is an id that a caller adds.
func idRule() *rule {
	r := text(0)
	r.id = true
	return r
}

func machineRule() *rule {
	const vault = "Keys of a key vault are not supported: there is none. Disks are encrypted with keys of this host by diskEncryptionConfiguration.targets."
	const confidential = "Confidential machines need processors that hosts here do not have. Use trustedLaunch, and encryptionAtHost for the disks."
	return object(map[string]*rule{
		"imageReference": imageRule().needed(),
		"nodeAgentSKUId": text(256).needed(),
		"windowsConfiguration": object(map[string]*rule{
			"enableAutomaticUpdates": refuse("Windows settings do not apply to Linux images.", true, false)}),
		"dataDisks": many(object(map[string]*rule{
			"lun": number(0, 63).needed(), "diskSizeGB": number(1, 65536).needed(),
			"caching":            word("none", "readonly", "readwrite"),
			"storageAccountType": word("standard_lrs", "premium_lrs", "standardssd_lrs"),
			"managedDisk":        refuse("Managed disks by id are not supported for data disks. Choose their type with storageAccountType."),
		}), 64),
		"licenseType":                 refuse("Licences apply to Windows only, and nothing is licensed here. Leave licenseType out."),
		"containerConfiguration":      containerPoolRule(),
		"diskEncryptionConfiguration": object(map[string]*rule{"targets": many(word("osdisk", "temporarydisk"), 2), "customerManagedKey": refuse(vault)}),
		"nodePlacementConfiguration":  object(map[string]*rule{"policy": word("regional", "zonal")}),
		"extensions":                  extensionsRule(),
		"osDisk": object(map[string]*rule{
			"ephemeralOSDiskSettings": object(map[string]*rule{"placement": word("cachedisk")}),
			"caching":                 word("none", "readonly", "readwrite"),
			"diskSizeGB":              number(1, 4095),
			"managedDisk": object(map[string]*rule{"storageAccountType": word("standard_lrs", "premium_lrs", "standardssd_lrs"),
				"securityProfile": refuse(confidential), "diskEncryptionSet": refuse(vault)}),
			"writeAcceleratorEnabled": truth(),
		}),
		"securityProfile": object(map[string]*rule{
			"encryptionAtHost":   truth(),
			"securityType":       word("trustedLaunch", "standard").without(confidential, "confidentialVM"),
			"uefiSettings":       object(map[string]*rule{"secureBootEnabled": truth(), "vTpmEnabled": truth()}),
			"proxyAgentSettings": refuse("Nodes have no metadata service that a proxy agent would guard but that of their identities."),
		}),
		"serviceArtifactReference": refuse("Service artifacts are not supported. Name the image version in virtualMachineImageId."),
	})
}

// imageRule holds the exclusions of batch-data-plane.md §2.2 and §4.6.
func imageRule() *rule {
	return object(map[string]*rule{
		"virtualMachineImageId": text(2048), "publisher": text(256), "offer": text(256), "sku": text(256), "version": text(64),
		"sharedGalleryImageId": text(2048), "communityGalleryImageId": text(2048),
	}).check(func(_ *body, m map[string]any, path string) error {
		has := func(name string) bool { s, _ := m[name].(string); return s != "" }
		for _, id := range []string{"virtualMachineImageId", "sharedGalleryImageId", "communityGalleryImageId"} {
			if !has(id) {
				continue
			}
			for _, name := range []string{"publisher", "offer", "sku", "virtualMachineImageId", "sharedGalleryImageId", "communityGalleryImageId"} {
				if has(name) && name != id {
					return invalid(path+"."+name, m[name], "Specified property "+name+" cannot be given together with "+id+".")
				}
			}
			if has("version") {
				return invalid(path+".version", m["version"], "Specified property version can only have a value when publisher is set.")
			}
			return nil
		}
		for _, name := range []string{"publisher", "offer", "sku"} {
			if !has(name) {
				if name == "publisher" && has("version") {
					return invalid(path+".version", m["version"], "Specified property version can only have a value when publisher is set.")
				}
				return missing(path + "." + name)
			}
		}
		return nil
	})
}

// upgradeRule holds the bounds of batch-data-plane.md §2.2.
// nodeDeallocationOption is Millpond's own.
func upgradeRule() *rule {
	return object(map[string]*rule{
		"mode": word("automatic", "manual", "rolling").needed(),
		"automaticOSUpgradePolicy": object(map[string]*rule{"enableAutomaticOSUpgrade": truth(), "disableAutomaticRollback": truth(),
			"useRollingUpgradePolicy": truth(), "osRollingUpgradeDeferral": truth()}),
		"rollingUpgradePolicy": object(map[string]*rule{
			"enableCrossZoneUpgrade":  truth(),
			"maxBatchInstancePercent": number(5, 100), "maxUnhealthyInstancePercent": number(5, 100), "maxUnhealthyUpgradedInstancePercent": number(0, 100),
			"pauseTimeBetweenBatches": span(), "prioritizeUnhealthyInstances": truth(), "rollbackFailedInstancesOnPolicyBreach": truth(),
			"nodeDeallocationOption": deallocation(),
		}).check(func(_ *body, m map[string]any, path string) error {
			batch, unhealthy := int64(20), int64(20)
			if v, ok := m["maxBatchInstancePercent"].(int64); ok {
				batch = v
			}
			if v, ok := m["maxUnhealthyInstancePercent"].(int64); ok {
				unhealthy = v
			}
			if batch > unhealthy {
				return invalid(path+".maxUnhealthyInstancePercent", unhealthy, "It must not be less than maxBatchInstancePercent.")
			}
			if s, ok := m["pauseTimeBetweenBatches"].(string); ok {
				if _, infinite, err := azwire.ParseDuration(s); err != nil || infinite {
					return invalid(path+".pauseTimeBetweenBatches", s, "A duration such as PT1M is expected.")
				}
			}
			return nil
		}),
	})
}

func networkRule() *rule {
	const network = "A machine keeps its network card as long as it lives. Name the subnet in the pool's networkConfiguration."
	const public = "Nodes have no public addresses."
	return object(map[string]*rule{
		"subnetId":                   text(2048),
		"dynamicVNetAssignmentScope": refuse(network, "none"),
		"endpointConfiguration":      endpointsRule(),
		"publicIPAddressConfiguration": object(map[string]*rule{"provision": word("batchmanaged", "nopublicipaddresses"), "ipAddressIds": refuse(public),
			"ipFamilies": refuse(public, "IPv4"), "ipTags": refuse(public)}),
		"publicIPs":                   refuse(public),
		"enableAcceleratedNetworking": truth(),
	}).check(func(_ *body, m map[string]any, path string) error {
		p, _ := m["publicIPAddressConfiguration"].(map[string]any)
		if provision, _ := p["provision"].(string); strings.EqualFold(provision, "NoPublicIPAddresses") && m["endpointConfiguration"] != nil {
			return invalid(path+".endpointConfiguration", "inboundNATPools", "Endpoints are at public addresses, and the pool is to have none. Leave one of the two out.")
		}
		return nil
	})
}

func userAccountRule() *rule {
	return object(map[string]*rule{
		"name": text(20).needed(), "password": text(256), "elevationLevel": word("nonadmin", "admin"),
		"linuxUserConfiguration":   object(map[string]*rule{"uid": number(1, anyInt), "gid": number(1, anyInt), "sshPrivateKey": text(16 << 10)}),
		"windowsUserConfiguration": refuse("Windows settings do not apply to Linux images."),
	}).check(func(_ *body, m map[string]any, path string) error {
		if c, ok := m["linuxUserConfiguration"].(map[string]any); ok {
			_, uid := c["uid"]
			_, gid := c["gid"]
			if uid != gid {
				return invalid(path+".linuxUserConfiguration", "", "uid and gid must be given together or not at all.")
			}
		}
		return nil
	})
}

func startTaskRule() *rule {
	return object(map[string]*rule{
		"commandLine":         text(millpond.MaxStartTaskChars).needed(),
		"containerSettings":   containerRule(),
		"resourceFiles":       resourceFilesRule(),
		"environmentSettings": environmentRule(),
		"userIdentity":        userIdentityRule(),
		"runElevated":         truth(),
		"maxTaskRetryCount":   number(retry, anyInt),
		"waitForSuccess":      truth(),
	}).check(func(b *body, m map[string]any, _ string) error {
		elevate(m)
		if _, given := m["waitForSuccess"]; !given {
			// The default changed with 2019-08-01.10.0.
			m["waitForSuccess"] = b.version[:10] >= "2019-08-01"
		}
		return nil
	})
}

// elevate takes runElevated, by which versions before 2017 asked for an
// administrator, out of a task.
func elevate(m map[string]any) {
	if elevated, _ := m["runElevated"].(bool); elevated && m["userIdentity"] == nil {
		m["userIdentity"] = map[string]any{"autoUser": map[string]any{"elevationLevel": "admin"}}
	}
	delete(m, "runElevated")
}

func environmentRule() *rule {
	return many(object(map[string]*rule{"name": text(1024).needed(), "value": text(32 << 10)}), 1000)
}

func userIdentityRule() *rule {
	return object(map[string]*rule{
		"username": text(256),
		"autoUser": object(map[string]*rule{"scope": word("task", "pool"), "elevationLevel": word("nonadmin", "admin")}),
	}).check(func(_ *body, m map[string]any, path string) error {
		if s, _ := m["username"].(string); s != "" && m["autoUser"] != nil {
			return invalid(path, s, "username and autoUser exclude each other.")
		}
		return nil
	})
}

var containerName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9]){2,62}$`)

// webAddress wants a URL; what is signed in it is not repeated in the answer.
func webAddress(path, u string) error {
	if low := strings.ToLower(u); !strings.HasPrefix(low, "http://") && !strings.HasPrefix(low, "https://") {
		return invalid(path, u, "It must begin with http:// or https://.")
	}
	return nil
}

func resourceFilesRule() *rule {
	return many(object(map[string]*rule{
		"httpUrl": text(8192),
		// blobSource is the name before 2018-12-01.8.0.
		"blobSource":               text(8192),
		"filePath":                 text(1024),
		"fileMode":                 text(8),
		"storageContainerUrl":      text(8192),
		"autoStorageContainerName": text(63),
		"blobPrefix":               text(1024),
		"identityReference":        identityReferenceRule(),
	}).check(func(_ *body, m map[string]any, path string) error {
		if s, ok := m["blobSource"]; ok && m["httpUrl"] == nil {
			m["httpUrl"] = s
		}
		delete(m, "blobSource")
		source := ""
		for _, name := range []string{"httpUrl", "storageContainerUrl", "autoStorageContainerName"} {
			u, _ := m[name].(string)
			switch {
			case u == "":
				delete(m, name)
				continue
			case source != "":
				return invalid(path+"."+name, u, "Only one of httpUrl, storageContainerUrl and autoStorageContainerName can be given.")
			case name == "autoStorageContainerName" && !containerName.MatchString(u):
				return invalid(path+"."+name, u, "It must be the name of a container: 3 to 63 lower-case letters, digits and hyphens.")
			case name != "autoStorageContainerName":
				if err := webAddress(path+"."+name, u); err != nil {
					return err
				}
			}
			source = name
		}
		if source == "" {
			return missing(path + ".httpUrl")
		}
		if source == "autoStorageContainerName" && m["identityReference"] != nil {
			return invalid(path+".identityReference", "", "The linked storage account is opened by the Batch account's own settings. Give the identity with a URL.")
		}
		file, _ := m["filePath"].(string)
		if source == "httpUrl" {
			if prefix, _ := m["blobPrefix"].(string); prefix != "" {
				return invalid(path+".blobPrefix", prefix, "It can be given with a container only.")
			}
			if file == "" {
				return missing(path + ".filePath")
			}
		}
		if strings.HasPrefix(file, "/") {
			return invalid(path+".filePath", file, "It must be relative to the task's working directory.")
		}
		for _, seg := range strings.FieldsFunc(file, func(c rune) bool { return c == '/' || c == '\\' }) {
			if seg == ".." {
				return invalid(path+".filePath", file, "It may not leave the task's working directory.")
			}
		}
		if mode, _ := m["fileMode"].(string); mode != "" && !octalMode(mode) {
			return invalid(path+".fileMode", mode, "It must be an octal mode such as 0770.")
		}
		return nil
	}), 10000)
}

// octalMode is three or four octal digits.
func octalMode(s string) bool {
	if len(s) < 3 || len(s) > 4 {
		return false
	}
	return strings.Trim(s, "01234567") == ""
}
