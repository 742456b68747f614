package armapi

import (
	"encoding/json"
	"testing"
)

func parsed(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPoolWords: what the Resource Manager says of a pool comes back as it was
// said, by way of the Batch service's words.
func TestPoolWords(t *testing.T) {
	given := `{"displayName":"d","vmSize":"STANDARD_D2_V2","deploymentConfiguration":{"virtualMachineConfiguration":{"imageReference":{"id":"/v"},"nodeAgentSkuId":"batch.node.ubuntu 22.04",
		"dataDisks":[{"lun":1,"diskSizeGB":5,"caching":"ReadWrite","storageAccountType":"Standard_LRS"}]}},
		"interNodeCommunication":"Enabled","applicationPackages":[{"id":"app","version":"1"}],"certificates":[],
		"userAccounts":[{"name":"Admin","elevationLevel":"Admin"}],"metadata":[{"name":"scope","value":"Pool"}],
		"networkConfiguration":{"endpointConfiguration":{"inboundNatPools":[{"name":"TCP","protocol":"TCP","backendPort":1}]}},
		"startTask":{"commandLine":"Pack","userIdentity":{"userName":"Admin"}},"taskSchedulingPolicy":{"nodeFillType":"Pack"},"targetNodeCommunicationMode":"Simplified",
		"currentDedicatedNodes":7}`
	doc := batchPool(parsed(t, given))
	want := `{"displayName":"d","vmSize":"STANDARD_D2_V2","virtualMachineConfiguration":{"imageReference":{"virtualMachineImageId":"/v"},"nodeAgentSKUId":"batch.node.ubuntu 22.04",
		"dataDisks":[{"lun":1,"diskSizeGB":5,"caching":"readwrite","storageAccountType":"standard_lrs"}]},
		"enableInterNodeCommunication":true,"applicationPackageReferences":[{"applicationId":"app","version":"1"}],"certificateReferences":[],
		"userAccounts":[{"name":"Admin","elevationLevel":"admin"}],"metadata":[{"name":"scope","value":"Pool"}],
		"networkConfiguration":{"endpointConfiguration":{"inboundNATPools":[{"name":"TCP","protocol":"tcp","backendPort":1}]}},
		"startTask":{"commandLine":"Pack","userIdentity":{"username":"Admin"}},"taskSchedulingPolicy":{"nodeFillType":"pack"},"targetNodeCommunicationMode":"simplified"}`
	same(t, doc, parsed(t, want))
	doc["targetDedicatedNodes"], doc["state"], doc["stateTransitionTime"] = 3.0, "deleting", "T"
	back := armPool(doc)
	p := parsed(t, given)
	delete(p, "currentDedicatedNodes")
	p["provisioningState"], p["provisioningStateTransitionTime"] = "Deleting", "T"
	p["scaleSettings"], p["resizeOperationStatus"] = parsed(t, `{"fixedScale":{"targetDedicatedNodes":3}}`), parsed(t, `{"targetDedicatedNodes":3}`)
	same(t, back, p)
	back = armPool(parsed(t, `{"enableAutoScale":true,"autoScaleFormula":"f","autoScaleEvaluationInterval":"PT5M","autoScaleRun":{"timestamp":"T","results":"r"}}`))
	same(t, back["scaleSettings"], parsed(t, `{"autoScale":{"formula":"f","evaluationInterval":"PT5M"}}`))
	same(t, back["autoScaleRun"], parsed(t, `{"evaluationTime":"T","results":"r"}`))
}

func same(t *testing.T, got, want any) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestWithin(t *testing.T) {
	have := parsed(t, `{"a":{"b":"X","c":2},"l":[{"n":1,"d":true}]}`)
	for text, want := range map[string]bool{
		`{}`: true, `{"a":{"b":"x"}}`: true, `{"a":{"b":"y"}}`: false, `{"l":[{"n":1}]}`: true, `{"l":[]}`: false, `{"z":1}`: false, `{"z":null}`: true, `{"a":{"c":2}}`: true,
	} {
		if within(parsed(t, text), have) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
}
