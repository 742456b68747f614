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
		if text := s.AzRefused("ad", "sp", "delete", "--id", made[2]); !strings.Contains(text, "az identity delete") {
			t.Errorf("%s: %s", c.name, text)
		}
		az("identity", "delete", "-g", "g", "-n", name)
		if text := s.AzRefused("ad", "sp", "show", "--id", made[2]); !strings.Contains(text, "does not exist") {
			t.Errorf("%s: after the deletion: %s", c.name, text)
		}
	}
}
