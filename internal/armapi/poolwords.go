package armapi

import (
	"maps"
	"strings"
)

// A pool has two spellings: the Batch service's, which the rest of this server
// reads, and the Resource Manager's, which nests it under properties, names a
// few members otherwise and writes enumerations with capitals. These functions
// carry JSON objects from one to the other. What neither knows passes through,
// so that the Batch edge accepts or refuses it by name.

// poolNames are the members that are spelled otherwise at any depth: the
// Resource Manager's name, then the Batch service's.
var poolNames = [][2]string{
	{"nodeAgentSkuId", "nodeAgentSKUId"},
	{"inboundNatPools", "inboundNATPools"},
	{"userName", "username"},
	{"dynamicVnetAssignmentScope", "dynamicVNetAssignmentScope"},
}

// poolValues are the enumerations by member, as the Resource Manager spells
// them. The Batch service has the same words in lower case.
var poolValues = map[string][]string{
	"allocationState":              {"Steady", "Resizing", "Stopping"},
	"nodeFillType":                 {"Spread", "Pack"},
	"jobDefaultOrder":              {"None", "CreationTime"},
	"elevationLevel":               {"NonAdmin", "Admin"},
	"scope":                        {"Task", "Pool"},
	"loginMode":                    {"Batch", "Interactive"},
	"caching":                      {"None", "ReadOnly", "ReadWrite"},
	"storageAccountType":           {"Standard_LRS", "Premium_LRS", "StandardSSD_LRS"},
	"protocol":                     {"TCP", "UDP"},
	"access":                       {"Allow", "Deny"},
	"provision":                    {"BatchManaged", "UserManaged", "NoPublicIPAddresses"},
	"policy":                       {"Regional", "Zonal"},
	"targets":                      {"OsDisk", "TemporaryDisk"},
	"targetNodeCommunicationMode":  {"Default", "Classic", "Simplified"},
	"currentNodeCommunicationMode": {"Default", "Classic", "Simplified"},
	"storeLocation":                {"CurrentUser", "LocalMachine"},
	"visibility":                   {"StartTask", "Task", "RemoteUser"},
	"workingDirectory":             {"TaskWorkingDirectory", "ContainerImageDefault"},
}

// rename copies v with the names of table's column to exchanged for those of
// column from, at any depth, and with enumerations by spell.
func rename(v any, from, to int, spell func(member, value string) string, member string) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			for _, n := range poolNames {
				if k == n[from] {
					k = n[to]
				}
			}
			// Metadata, tags and environment settings are the user's own words.
			if k == "name" || k == "value" || k == "resourceTags" || k == "tags" || k == "settings" || k == "protectedSettings" {
				out[k] = x
				continue
			}
			out[k] = rename(x, from, to, spell, k)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = rename(x, from, to, spell, member)
		}
		return out
	case string:
		return spell(member, v)
	}
	return v
}

// armSpelling gives an enumeration's value its capitals.
func armSpelling(member, value string) string {
	for _, s := range poolValues[member] {
		if strings.EqualFold(s, value) {
			return s
		}
	}
	return value
}

// batchSpelling takes them away.
func batchSpelling(member, value string) string {
	for _, s := range poolValues[member] {
		if strings.EqualFold(s, value) {
			return strings.ToLower(value)
		}
	}
	return value
}

// object is m[name] if that is an object, else nil.
func object(m map[string]any, name string) map[string]any {
	o, _ := m[name].(map[string]any)
	return o
}

// move takes a member to another name, and its value through fn unless that is
// nil.
func move(m map[string]any, from, to string, fn func(any) any) {
	v, ok := m[from]
	if !ok {
		return
	}
	delete(m, from)
	if fn != nil {
		v = fn(v)
	}
	m[to] = v
}

// each applies fn to the objects of a list.
func each(v any, fn func(map[string]any)) any {
	list, _ := v.([]any)
	for _, x := range list {
		if o, ok := x.(map[string]any); ok {
			fn(o)
		}
	}
	return v
}

// scaleOf takes scaleSettings out of a pool's properties.
func scaleOf(p map[string]any) map[string]any {
	s := object(p, "scaleSettings")
	delete(p, "scaleSettings")
	return s
}

// batchAutoScale is the Batch service's members for a pool's autoScale.
func batchAutoScale(a map[string]any) map[string]any {
	m := map[string]any{"autoScaleFormula": a["formula"]}
	if v, ok := a["evaluationInterval"]; ok {
		m["autoScaleEvaluationInterval"] = v
	}
	return m
}

// batchPool is the Batch service's object for the Resource Manager's
// properties, without the scale settings, which have operations of their own.
func batchPool(properties map[string]any) map[string]any {
	m, _ := rename(properties, 0, 1, batchSpelling, "").(map[string]any)
	for _, readOnly := range []string{"allocationState", "allocationStateTransitionTime", "autoScaleRun", "creationTime", "currentDedicatedNodes",
		"currentLowPriorityNodes", "currentNodeCommunicationMode", "lastModified", "provisioningState", "provisioningStateTransitionTime", "resizeOperationStatus"} {
		delete(m, readOnly)
	}
	if d := object(m, "deploymentConfiguration"); d != nil {
		maps.Copy(m, d)
		delete(m, "deploymentConfiguration")
	}
	if i := object(object(m, "virtualMachineConfiguration"), "imageReference"); i != nil {
		move(i, "id", "virtualMachineImageId", nil)
	}
	move(m, "interNodeCommunication", "enableInterNodeCommunication", func(v any) any {
		s, _ := v.(string)
		return strings.EqualFold(s, "Enabled")
	})
	move(m, "applicationPackages", "applicationPackageReferences", func(v any) any {
		return each(v, func(o map[string]any) { move(o, "id", "applicationId", nil) })
	})
	move(m, "certificates", "certificateReferences", nil)
	return m
}

// armPool is the Resource Manager's properties for the Batch service's object.
func armPool(doc map[string]any) map[string]any {
	m, _ := rename(doc, 1, 0, armSpelling, "").(map[string]any)
	out := map[string]any{"provisioningState": "Succeeded", "provisioningStateTransitionTime": m["stateTransitionTime"]}
	if s, _ := m["state"].(string); strings.EqualFold(s, "deleting") {
		out["provisioningState"] = "Deleting"
	}
	for _, k := range []string{"displayName", "lastModified", "creationTime", "allocationState", "allocationStateTransitionTime", "currentDedicatedNodes",
		"currentLowPriorityNodes", "networkConfiguration", "taskSlotsPerNode", "taskSchedulingPolicy", "userAccounts", "metadata", "startTask",
		"mountConfiguration", "targetNodeCommunicationMode", "currentNodeCommunicationMode", "upgradePolicy", "resourceTags"} {
		if v, ok := m[k]; ok {
			out[k] = v
		}
	}
	if v, ok := m["vmSize"].(string); ok {
		out["vmSize"] = strings.ToUpper(v)
	}
	if v := object(m, "virtualMachineConfiguration"); v != nil {
		if i := object(v, "imageReference"); i != nil {
			move(i, "virtualMachineImageId", "id", nil)
		}
		out["deploymentConfiguration"] = map[string]any{"virtualMachineConfiguration": v}
	}
	out["interNodeCommunication"] = "Disabled"
	if on, _ := m["enableInterNodeCommunication"].(bool); on {
		out["interNodeCommunication"] = "Enabled"
	}
	if v, ok := m["applicationPackageReferences"]; ok {
		out["applicationPackages"] = each(v, func(o map[string]any) { move(o, "applicationId", "id", nil) })
	}
	if v, ok := m["certificateReferences"]; ok {
		out["certificates"] = v
	}
	resize := map[string]any{}
	for _, k := range []string{"targetDedicatedNodes", "targetLowPriorityNodes", "resizeTimeout"} {
		if v, ok := m[k]; ok {
			resize[k] = v
		}
	}
	if on, _ := m["enableAutoScale"].(bool); on {
		out["scaleSettings"] = map[string]any{"autoScale": map[string]any{"formula": m["autoScaleFormula"], "evaluationInterval": m["autoScaleEvaluationInterval"]}}
		if run := object(m, "autoScaleRun"); run != nil {
			move(run, "timestamp", "evaluationTime", nil)
			out["autoScaleRun"] = run
		}
	} else {
		out["scaleSettings"] = map[string]any{"fixedScale": maps.Clone(resize)}
	}
	if errs, ok := m["resizeErrors"]; ok {
		resize["errors"] = errs
	}
	out["resizeOperationStatus"] = resize
	return out
}
