package identity

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

func decodeSegment(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) token(client, secret string) string {
	w.t.Helper()
	f := w.form("scope", "https://graph.microsoft.com//.default")
	f.Set("client_id", client)
	f.Set("client_secret", secret)
	a := w.post(login+"/"+w.creds.TenantID+"/oauth2/v2.0/token", f)
	if a.status != 200 {
		w.t.Fatalf("token: %d %s", a.status, a.raw)
	}
	return a.body["access_token"].(string)
}

func (w *world) graphCall(token, method, path, body string) answer {
	w.t.Helper()
	return w.do(w.graph, method, "https://graph.microsoft.com/v1.0"+path, token, "application/json", body)
}

func values(a answer) []any {
	v, _ := a.body["value"].([]any)
	return v
}

// TestCreateForRBACSequence is `az ad sp create-for-rbac -n N`, twice.
func TestCreateForRBACSequence(t *testing.T) {
	w := open(t)
	admin := w.token(w.creds.ClientID, w.creds.ClientSecret)
	filter := func(set, f string) answer {
		return w.graphCall(admin, "GET", "/"+set+"?$filter="+url.PathEscape(f), "")
	}
	if a := filter("servicePrincipals", "displayName eq 'it''s'"); a.status != 200 || values(a) == nil || len(values(a)) != 0 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	app := w.graphCall(admin, "POST", "/applications", `{"displayName":"it's","keyCredentials":[]}`)
	if passwords, ok := app.body["passwordCredentials"].([]any); app.status != 201 || !ok || len(passwords) != 0 || app.body["keyCredentials"] == nil {
		t.Fatalf("create: %d %s", app.status, app.raw)
	}
	id, appID := app.body["id"].(string), app.body["appId"].(string)
	secret := w.graphCall(admin, "POST", "/applications/"+id+"/addPassword", `{"passwordCredential":{"displayName":"rbac","startDateTime":"2026-01-02T03:04:05.123456Z","endDateTime":"2027-01-02T03:04:05Z"}}`)
	for _, k := range []string{"secretText", "keyId", "startDateTime", "endDateTime", "displayName", "hint"} {
		if s, _ := secret.body[k].(string); secret.status != 200 || s == "" {
			t.Fatalf("addPassword: %s in %d %s", k, secret.status, secret.raw)
		}
	}
	sp := w.graphCall(admin, "POST", "/servicePrincipals", `{"appId":"`+appID+`","accountEnabled":true}`)
	if sp.status != 201 || sp.body["appOwnerOrganizationId"] != w.creds.TenantID {
		t.Fatalf("principal: %d %s", sp.status, sp.raw)
	}
	if a := w.graphCall(admin, "POST", "/servicePrincipals", `{"appId":"`+appID+`"}`); a.status != 409 {
		t.Errorf("second principal: %d %s", a.status, a.raw)
	}
	if a := filter("servicePrincipals", "servicePrincipalNames/any(c:c eq '"+appID+"')"); len(values(a)) != 1 {
		t.Errorf("by name: %s", a.raw)
	}
	if a := filter("applications", "startswith(displayName,'IT''')"); len(values(a)) != 1 {
		t.Errorf("by start: %s", a.raw)
	}
	if a := filter("applications", "mailNickname eq 'x'"); a.status != 400 {
		t.Errorf("unknown property: %d", a.status)
	}
	objects := w.graphCall(admin, "POST", "/directoryObjects/getByIds", `{"ids":["`+strings.ToUpper(sp.body["id"].(string))+`","x"],"types":["user","group","servicePrincipal","directoryObjectPartnerReference"]}`)
	if len(values(objects)) != 1 || values(objects)[0].(map[string]any)["@odata.type"] != "#microsoft.graph.servicePrincipal" {
		t.Errorf("getByIds: %s", objects.raw)
	}

	// The new principal may read the directory and change nothing in it.
	weak := w.token(appID, secret.body["secretText"].(string))
	if a := w.graphCall(weak, "GET", "/servicePrincipals/"+sp.body["id"].(string), ""); a.status != 200 {
		t.Errorf("read: %d %s", a.status, a.raw)
	}
	for _, r := range w.graph.Routes() {
		if !strings.HasSuffix(r.Action, "/write") {
			continue
		}
		a := w.graphCall(weak, r.Method, strings.NewReplacer("/v1.0", "", "{id}", id).Replace(r.Path), "{}")
		if e, _ := a.body["error"].(map[string]any); a.status != 403 || e["code"] != "Authorization_RequestDenied" {
			t.Errorf("%s: %d %s", r.Name, a.status, a.raw)
		}
	}

	// Again with the same name: the old password goes, a new one comes.
	if a := w.graphCall(admin, "PATCH", "/applications/"+id, `{"displayName":"it's"}`); a.status != 204 || a.raw != "" {
		t.Errorf("patch: %d %s", a.status, a.raw)
	}
	got := w.graphCall(admin, "GET", "/applications/"+id, "")
	kept := got.body["passwordCredentials"].([]any)
	if len(kept) != 1 || kept[0].(map[string]any)["secretText"] != nil {
		t.Errorf("passwords: %s", got.raw)
	}
	if a := w.graphCall(admin, "POST", "/applications/"+id+"/removePassword", `{"keyId":"`+secret.body["keyId"].(string)+`"}`); a.status != 204 {
		t.Errorf("removePassword: %d %s", a.status, a.raw)
	}
	if a := w.graphCall(admin, "DELETE", "/applications/"+id, ""); a.status != 204 {
		t.Errorf("delete: %d", a.status)
	}
	gone := w.graphCall(admin, "GET", "/applications/"+id, "")
	if e, _ := gone.body["error"].(map[string]any); gone.status != 404 || e["code"] != "Request_ResourceNotFound" {
		t.Errorf("gone: %d %s", gone.status, gone.raw)
	}
}

func TestGraphRoutesNeedAToken(t *testing.T) {
	w := open(t)
	arm := w.post(login+"/"+w.creds.TenantID+"/oauth2/v2.0/token", w.form("scope", "https://management.azure.com/.default")).body["access_token"].(string)
	for _, r := range w.graph.Routes() {
		if r.Action == "" {
			t.Errorf("%s is open to anybody", r.Name)
		}
		for _, bearer := range []string{"", "opaque", arm} {
			if a := w.graphCall(bearer, r.Method, strings.TrimPrefix(r.Path, "/v1.0"), ""); a.status != 401 {
				t.Errorf("%s with token %.10q: %d", r.Name, bearer, a.status)
			}
		}
	}
}

func TestFilter(t *testing.T) {
	object := map[string][]string{"displayName": {"It's Me"}, "names": {"a", "b"}}
	for text, want := range map[string]bool{
		"":                                             true,
		"displayName eq 'it''s me'":                    true,
		"displayName ne 'it''s me'":                    false,
		"startswith(displayName,'IT')":                 true,
		"endswith( displayName , 'me' )":               true,
		"names/any(c:c eq 'b')":                        true,
		"names/any(x: x eq 'c')":                       false,
		"names/any(c:c eq 'b') and displayName eq 'x'": false,
		"displayName eq 'x' or names/any(c:c eq 'a')":  true,
		"not (displayName eq 'x') and (displayName eq 'y' or names eq 'A')":    true,
		"displayName eq 'x' or displayName eq 'it''s me' and not names eq 'a'": false,
	} {
		f, err := parseFilter(text, "displayName", "names")
		if err != nil || f(object) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, bad := range []string{"x", "x eq 'a'", "displayName", "displayName eq", "displayName eq 'a", "displayName eq 'a' and", "(displayName eq 'a'", "names/any(c:d eq 'a')",
		"displayName gt 'a'", "displayName eq 'a' 'b'", "displayName eq )", strings.Repeat("(", 100000), strings.Repeat("not ", 1000) + "displayName eq 'a'"} {
		if _, err := parseFilter(bad, "displayName", "names"); millpond.KindOf(err) != millpond.Invalid {
			t.Errorf("%.40s: %v", bad, err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"displayName eq 'a'", "names/any(c:c eq 'b') and startswith(displayName,'x')", "not (a or b)", "'''", "(((", "a/any(:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		match, err := parseFilter(s, "displayName", "names")
		if err != nil {
			if millpond.KindOf(err) != millpond.Invalid {
				t.Fatal(err)
			}
			return
		}
		match(map[string][]string{"displayName": {"x"}, "names": {"a", ""}})
	})
}
