//go:build e2e

package az

import (
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestManagedIdentities makes identities with both generations of az, gives them
// roles and finds them in the directory.
func TestManagedIdentities(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	s.Az("group", "create", "--name", "g", "--location", "westus2")
	for _, c := range []struct {
		name string
		az   func(args ...string) string
	}{{"current", s.Az}, {"old", s.OldAz}} {
		az := func(args ...string) string {
			t.Helper()
			return strings.TrimSpace(c.az(args...))
		}
		name := "id" + c.name
		made := strings.Fields(az("identity", "create", "-g", "g", "-n", name, "--tags", "a=b", "--query", "[id, clientId, principalId]", "-o", "tsv"))
		if len(made) != 3 || !strings.HasSuffix(made[0], "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"+name) {
			t.Fatalf("%s: %q", c.name, made)
		}
		if got := az("identity", "show", "-g", "g", "-n", name, "--query", "join(' ', [principalId, location, tags.a])", "-o", "tsv"); got != made[2]+" westus2 b" {
			t.Errorf("%s: shown %q", c.name, got)
		}
		// A second time changes nothing of who it is.
		if got := az("identity", "create", "-g", "g", "-n", name, "--query", "principalId", "-o", "tsv"); got != made[2] {
			t.Errorf("%s: another principal, %s", c.name, got)
		}
		if got := az("identity", "list", "-g", "g", "--query", "[].name", "-o", "tsv"); !strings.Contains(got, name) {
			t.Errorf("%s: listed %q", c.name, got)
		}
		if got := az("ad", "sp", "show", "--id", made[1], "--query", "join(' ', [id, servicePrincipalType, alternativeNames[1]])", "-o", "tsv"); got != made[2]+" ManagedIdentity "+made[0] {
			t.Errorf("%s: in the directory: %q", c.name, got)
		}
		scope := "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/g"
		s.Az("role", "assignment", "create", "--assignee-object-id", made[2], "--assignee-principal-type", "ServicePrincipal", "--role", "Reader", "--scope", scope)
		if got := strings.TrimSpace(s.Az("role", "assignment", "list", "--assignee", made[2], "--scope", scope, "--query", "[].roleDefinitionName", "-o", "tsv")); got != "Reader" {
			t.Errorf("%s: roles %q", c.name, got)
		}
		// A pool that has it, by the Resource Manager, and one of somebody who may not assign it.
		account := scope + "/providers/Microsoft.Batch/batchAccounts/acct" + c.name
		s.Put(account, map[string]any{"location": "westus2"})
		pool := map[string]any{"identity": map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{made[0]: map[string]any{}}},
			"properties": map[string]any{"vmSize": "STANDARD_D2S_V3", "deploymentConfiguration": map[string]any{"virtualMachineConfiguration": map[string]any{
				"imageReference": map[string]any{"publisher": "canonical", "offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts"}, "nodeAgentSkuId": "batch.node.ubuntu 22.04"}}}}
		var shown struct {
			Identity struct {
				Type     string
				Assigned map[string]struct{ PrincipalID, ClientID string } `json:"userAssignedIdentities"`
			}
		}
		if err := s.Do(s.Admin(), lab.ARM, "PUT", account+"/pools/p?api-version=2024-07-01", pool).JSON(&shown); err != nil || shown.Identity.Type != "UserAssigned" || shown.Identity.Assigned[made[0]].PrincipalID != made[2] {
			t.Errorf("%s: %+v %v", c.name, shown, err)
		}
		if a := s.Do(s.Admin(), lab.ARM, "PUT", account+"/pools/p?api-version=2024-07-01", pool); a.Status != 200 {
			t.Errorf("%s: deployed again: %d %s", c.name, a.Status, a.Body)
		}
		pool["identity"] = map[string]any{"type": "UserAssigned", "userAssignedIdentities": map[string]any{made[0] + "x": map[string]any{}}}
		if a := s.Do(s.Admin(), lab.ARM, "PUT", account+"/pools/q?api-version=2024-07-01", pool); a.Status != 400 || !strings.Contains(string(a.Body), "FailedIdentityOperation") {
			t.Errorf("%s: an identity that is not there: %d %s", c.name, a.Status, a.Body)
		}
		if text := s.AzRefused("ad", "sp", "delete", "--id", made[2]); !strings.Contains(text, "az identity delete") {
			t.Errorf("%s: %s", c.name, text)
		}
		az("identity", "delete", "-g", "g", "-n", name)
		if text := s.AzRefused("ad", "sp", "show", "--id", made[2]); !strings.Contains(text, "does not exist") {
			t.Errorf("%s: after the deletion: %s", c.name, text)
		}
	}
	// An account's own identities.
	id := strings.TrimSpace(s.Az("identity", "create", "-g", "g", "-n", "ofaccount", "--query", "id", "-o", "tsv"))
	shown := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(s.Az(append(args, "--query", "join(' ', [type, to_string(length(keys(not_null(userAssignedIdentities, `{}`))))])", "-o", "tsv")...))
	}
	s.Az("batch", "account", "create", "-g", "g", "-n", "withidentity", "-l", "westus2", "--mi-user-assigned", id)
	if got := shown("batch", "account", "identity", "show", "-g", "g", "-n", "withidentity"); got != "UserAssigned 1" {
		t.Errorf("made with one: %s", got)
	}
	if got := shown("batch", "account", "identity", "remove", "-g", "g", "-n", "withidentity", "--user-assigned", id, "--yes"); got != "None 0" {
		t.Errorf("after its removal: %s", got)
	}
	if got := shown("batch", "account", "identity", "assign", "-g", "g", "-n", "withidentity", "--user-assigned", id); got != "UserAssigned 1" {
		t.Errorf("given again: %s", got)
	}
	if text := s.AzRefused("batch", "account", "identity", "assign", "-g", "g", "-n", "withidentity", "--system-assigned"); !strings.Contains(text, "az identity create") {
		t.Errorf("%s", text)
	}
}
