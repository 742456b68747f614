package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// Requests of these tests come from 192.0.2.1.
const testAddress = "192.0.2.1"

// TestAccountAccess: an account's rules about addresses are kept, shown and obeyed.
func TestAccountAccess(t *testing.T) {
	d := newARMDoor(t)
	at := armName + d.scope() + "/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/" + mainAcct + "?api-version=2024-07-01"
	asBatch := bearer(d.token(d.admin, "https://batch.core.windows.net"))
	pools := func() answer {
		return d.send("GET", "https://"+mainAcct+"."+region+".batch.azure.com/pools?api-version=2024-07-01.20.0", asBatch, "")
	}
	rules := func(action string, addresses ...string) answer {
		list := []map[string]string{}
		for _, a := range addresses {
			list = append(list, map[string]string{"value": a})
		}
		body, err := json.Marshal(map[string]any{"properties": map[string]any{"networkProfile": map[string]any{"accountAccess": map[string]any{"defaultAction": action, "ipRules": list}}}})
		check(t, err)
		return d.send("PATCH", at, d.as, string(body))
	}
	rules("Allow", "203.0.113.7").is(t, 200, `"value":"203.0.113.7"`)
	pools().is(t, 200, "")
	rules("Deny", "203.0.113.7", "198.51.100.0/24").is(t, 200, `"defaultAction":"Deny"`)
	pools().is(t, 403, "AuthorizationFailure")
	pools().is(t, 403, "network-rule add --name "+mainAcct)
	for _, address := range []string{testAddress, "192.0.2.0/24", "0.0.0.0/0"} {
		rules("Deny", address).is(t, 200, address)
		pools().is(t, 200, "")
	}
	for _, wrong := range []string{"", "here", "192.0.2.0/33", "::1", "192.0.2.1-192.0.2.9"} {
		rules("Deny", wrong).is(t, 400, "not an IPv4 address")
	}
	rules("Sometimes").is(t, 400, "defaultAction")
	d.send("GET", at, d.as, "").is(t, 200, `"value":"0.0.0.0/0"`)
	d.send("PATCH", at, d.as, `{"properties":{"networkProfile":{"nodeManagementAccess":{"defaultAction":"Deny"}}}}`).is(t, 400, "nodeManagementAccess")
	// A PUT that says nothing of it opens the account.
	rules("Deny").is(t, 200, "")
	pools().is(t, 403, "")
	d.send("PUT", at, d.as, `{"location":"`+region+`"}`).is(t, 200, "")
	pools().is(t, 200, "")
}

// TestDetector: the one detector tells what its account's pools lack.
func TestDetector(t *testing.T) {
	d := newARMDoor(t)
	account := armName + d.scope() + "/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/" + mainAcct
	const version = "?api-version=2024-07-01"
	var one struct {
		Properties struct{ Value string }
	}
	d.send("PUT", account+"/pools/troubled"+version, d.as, strings.Replace(armBodies()["Pool"], `"publicIPAddressConfiguration":{"provision":"NoPublicIPAddresses"}`, "", 1)).is(t, 200, "")
	a := d.send("GET", account+"/detectors/poolsandnodes"+version, d.as, "")
	a.is(t, 200, account[len(armName):]+"/detectors/poolsAndNodes")
	check(t, json.Unmarshal(a.Body.Bytes(), &one))
	text, err := base64.StdEncoding.DecodeString(one.Properties.Value)
	check(t, err)
	var said struct {
		Healthy bool
		Pools   []struct {
			ID     string
			Target float64 `json:"targetNodes"`
		}
	}
	check(t, json.Unmarshal(text, &said))
	if len(said.Pools) == 0 || said.Pools[0].ID == "" || !said.Healthy {
		t.Errorf("%s", text)
	}
	list := d.send("GET", account+"/detectors"+version, d.as, "")
	list.is(t, 200, `"poolsAndNodes"`)
	if !strings.HasPrefix(list.Body.String(), `{"value":[{`) {
		t.Errorf("%s", list.Body)
	}
	d.send("GET", account+"/detectors/another"+version, d.as, "").is(t, 404, "poolsAndNodes")
}
