package armapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

const (
	testTenant    = "11111111-0000-4000-8000-000000000001"
	testAdmin     = "11111111-0000-4000-8000-0000000000a1"
	testPrincipal = "11111111-0000-4000-8000-0000000000b2"
	testGroup     = "/subscriptions/22222222-0000-4000-8000-000000000001/resourceGroups/RG"
)

// authorizationServer has one tenant with an owner and a principal without rights.
func authorizationServer(t *testing.T) func(caller, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	ctx := context.Background()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "db"), clock.NewManual(time.Unix(1e9, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	az, err := authz.New(ctx, db, rand.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(ctx, func(tx *sqlite.Tx) error {
		if err := tx.InsertTenant(millpond.Tenant{ID: testTenant, Domain: "one.test"}); err != nil {
			return err
		}
		for i, id := range []string{testAdmin, testPrincipal} {
			app := strings.Replace(id, "1111", []string{"aaaa", "bbbb"}[i], 1)
			if err := tx.InsertApplication(millpond.Application{ID: app, AppID: app, Tenant: testTenant}); err != nil {
				return err
			}
			if err := tx.InsertServicePrincipal(millpond.ServicePrincipal{ID: id, AppID: app, Tenant: testTenant, Enabled: true}); err != nil {
				return err
			}
		}
		return az.GrantTx(tx, testTenant, testAdmin, authz.Owner, "/")
	})
	if err == nil {
		err = az.Reload(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := NewAuthorization(az, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return func(caller, method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "https://management.azure.com"+path, strings.NewReader(body))
		h.ServeHTTP(w, &azwire.Request{Request: r, Caller: millpond.Caller{Method: millpond.AuthToken, Tenant: testTenant, Object: caller}})
		return w
	}
}

// TestRoleAssignmentSequence is `az role assignment create --role NAME`, a
// repetition, a second one, list and delete.
func TestRoleAssignmentSequence(t *testing.T) {
	call := authorizationServer(t)
	scope := testGroup + "/providers/Microsoft.Compute/galleries/G"
	base := scope + "/providers/microsoft.authorization"
	w := call(testAdmin, "GET", base+"/roleDefinitions?$filter=roleName%20eq%20%27compute%20gallery%20image%20reader%27", "")
	var roles struct{ Value []wireDefinition }
	if err := json.Unmarshal(w.Body.Bytes(), &roles); err != nil || w.Code != 200 || len(roles.Value) != 1 {
		t.Fatalf("roles by name: %d %s", w.Code, w.Body)
	}
	if !strings.HasPrefix(roles.Value[0].ID, "/subscriptions/22222222-") {
		t.Errorf("role id %s is not prefixed with the subscription", roles.Value[0].ID)
	}
	body := `{"properties":{"roleDefinitionId":"` + roles.Value[0].ID + `","principalId":"` + testPrincipal + `","principalType":"ServicePrincipal"}}`
	const id = "/roleAssignments/33333333-0000-4000-8000-000000000001"
	for range 2 {
		if w = call(testAdmin, "PUT", base+id, body); w.Code != http.StatusCreated {
			t.Fatalf("assign: %d %s", w.Code, w.Body)
		}
	}
	w = call(testAdmin, "PUT", base+"/roleAssignments/33333333-0000-4000-8000-000000000002", body)
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "role assignment already exists") || !strings.Contains(w.Body.String(), `"RoleAssignmentExists"`) {
		t.Errorf("second of the same: %d %s", w.Code, w.Body)
	}
	w = call(testAdmin, "PUT", base+"/roleAssignments/33333333-0000-4000-8000-000000000003", strings.Replace(body, testPrincipal, "99999999-0000-4000-8000-000000000009", 1))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), " does not exist in the directory ") {
		t.Errorf("unknown principal: %d %s", w.Code, w.Body)
	}
	count := func(path string) int {
		t.Helper()
		w := call(testAdmin, "GET", path, "")
		var got struct{ Value []wireAssignment }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return len(got.Value)
	}
	list := "/providers/Microsoft.Authorization/roleAssignments"
	for path, want := range map[string]int{
		scope + list + "?$filter=atScope()":     2,
		testGroup + list + "?$filter=atScope()": 1,
		testGroup + list:                        2,
		testGroup + list + "?$filter=principalId%20eq%20%27" + testPrincipal + "%27":    1,
		scope + list + "?$filter=atScope()+and+assignedTo(%27" + testPrincipal + "%27)": 1,
		list: 2,
	} {
		if got := count(path); got != want {
			t.Errorf("%s: %d assignments, want %d", path, got, want)
		}
	}
	if w = call(testPrincipal, "GET", base+"/roleAssignments", ""); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "az role assignment create --assignee-object-id "+testPrincipal) {
		t.Errorf("list without the right: %d %s", w.Code, w.Body)
	}
	if w = call(testAdmin, "DELETE", base+id, ""); w.Code != 200 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	if w = call(testAdmin, "DELETE", base+id, ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("delete again: %d %s", w.Code, w.Body)
	}
}

func TestCustomRoleGrantsAtItsScopesOnly(t *testing.T) {
	call := authorizationServer(t)
	const id = "44444444-0000-4000-8000-000000000001"
	def := `{"properties":{"roleName":"Pool resizer","type":"CustomRole","assignableScopes":["` + testGroup + `"],"permissions":[{"actions":["Microsoft.Batch/batchAccounts/pools/*"],"notActions":["*/delete"]}]}}`
	if w := call(testAdmin, "PUT", testGroup+"/providers/Microsoft.Authorization/roleDefinitions/"+id, def); w.Code != 201 {
		t.Fatalf("define: %d %s", w.Code, w.Body)
	}
	assign := `{"properties":{"roleDefinitionId":"` + id + `","principalId":"` + testPrincipal + `"}}`
	if w := call(testAdmin, "PUT", "/providers/Microsoft.Authorization/roleAssignments/55555555-0000-4000-8000-000000000001", assign); w.Code != 400 {
		t.Errorf("assigned at the root: %d %s", w.Code, w.Body)
	}
	if w := call(testAdmin, "PUT", testGroup+"/providers/Microsoft.Authorization/roleAssignments/55555555-0000-4000-8000-000000000001", assign); w.Code != 201 {
		t.Errorf("assign: %d %s", w.Code, w.Body)
	}
	if w := call(testAdmin, "DELETE", testGroup+"/providers/Microsoft.Authorization/roleDefinitions/"+id, ""); w.Code != 409 {
		t.Errorf("delete a role in use: %d %s", w.Code, w.Body)
	}
}

func FuzzRoleFilter(f *testing.F) {
	for _, s := range []string{"atScope()", "principalId eq 'a'", "roleName eq 'it''s' and atScope()", "assignedTo('x')", "İ eq 'x'", "type EQ '"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseRoleFilter(s)
		if err != nil && millpond.KindOf(err) != millpond.Invalid {
			t.Fatalf("%q: %v", s, err)
		}
		if err == nil && strings.TrimSpace(s) == "" && got != (roleFilter{}) {
			t.Fatalf("%q: %+v", s, got)
		}
	})
}
