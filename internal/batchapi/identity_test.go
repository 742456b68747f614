package batchapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// TestIdentityReferences: what names no user-assigned identity is refused where it is
// read, and a pool's are read once each.
func TestIdentityReferences(t *testing.T) {
	s := makeShapes()
	const good = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one"
	pool := func(identity string) (map[string]any, error) {
		return decodeBody([]byte(`{"id":"p","vmSize":"s","virtualMachineConfiguration":{"imageReference":{"virtualMachineImageId":"/v"},"nodeAgentSKUId":"n"},"identity":`+identity+`}`), thisVersion, s.poolAdd, false, nil)
	}
	for identity, code := range map[string]string{
		`{"type":"UserAssigned"}`: "MissingRequiredProperty",
		`{"type":"SystemAssigned","userAssignedIdentities":[{"resourceId":"` + good + `"}]}`:      "InvalidPropertyValue",
		`{"type":"None","userAssignedIdentities":[{"resourceId":"` + good + `"}]}`:                "InvalidPropertyValue",
		`{"type":"UserAssigned","userAssignedIdentities":[{"resourceId":"one"}]}`:                 "InvalidPropertyValue",
		`{"type":"UserAssigned","userAssignedIdentities":[{}]}`:                                   "MissingRequiredProperty",
		`{"type":"UserAssigned","userAssignedIdentities":[{"resourceId":"` + good[:60] + `/x"}]}`: "InvalidPropertyValue",
	} {
		if _, err := pool(identity); err == nil || millpond.AsError(err).Code != code {
			t.Errorf("%s: %v, want %s", identity, err, code)
		}
	}
	m, err := pool(fmt.Sprintf(`{"type":"userassigned","userAssignedIdentities":[{"resourceId":%q,"clientId":"x"},{"resourceId":%q}]}`, good, strings.ToUpper(good)))
	if got := identitiesOf(m); err != nil || len(got) != 1 || got[0] != good {
		t.Errorf("%v %v", got, err)
	}
	file := func(rest string) error {
		var in azbatch.CreateTaskContent
		_, err := decodeBody([]byte(`{"id":"t","commandLine":"x","resourceFiles":[{`+rest+`,"identityReference":{"resourceId":"`+good+`"}}]}`), thisVersion, s.taskAdd, false, &in)
		if err == nil && resourceFiles(in.ResourceFiles)[0].Identity != good {
			err = fmt.Errorf("read %+v", resourceFiles(in.ResourceFiles))
		}
		return err
	}
	if err := file(`"httpUrl":"https://a.blob.core.windows.net/c/b","filePath":"b"`); err != nil {
		t.Error(err)
	}
	// The linked storage has its own way.
	if err := file(`"autoStorageContainerName":"abc"`); err == nil {
		t.Error("an identity with autoStorageContainerName is taken")
	}
}
