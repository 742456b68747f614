package identity

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/sqlite"
)

// world is the two edges over a directory with one tenant and its owner.
type world struct {
	t     *testing.T
	creds directory.Credentials
	edge  *Edge
	graph *Graph
}

func open(t *testing.T) *world {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	db, err := sqlite.Open(ctx, filepath.Join(dir, "db"), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	key, err := directory.LoadKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	d := directory.New(db, c, rand.Reader, key)
	az, err := authz.New(ctx, db, rand.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	creds, _, err := d.Bootstrap(ctx, directory.Default(filepath.Join(dir, "credentials.json"), ""), func(tx *sqlite.Tx, c directory.Credentials) error {
		return az.GrantTx(tx, c.TenantID, c.ObjectID, authz.Owner, "/")
	})
	if err == nil {
		err = az.Reload(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	return &world{t, creds, New(d, c, log), NewGraph(d, az, c, log)}
}

// answer is a response with its JSON.
type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (w *world) do(h http.Handler, method, address, bearer, contentType, body string) answer {
	w.t.Helper()
	r := httptest.NewRequest(method, address, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	a := answer{status: rec.Code, header: rec.Header(), raw: rec.Body.String()}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &a.body); err != nil {
			w.t.Fatalf("%s %s: %v in %q", method, address, err, a.raw)
		}
	}
	return a
}

const login = "https://login.microsoftonline.com"

func (w *world) get(address string) answer { return w.do(w.edge, "GET", address, "", "", "") }

func (w *world) post(address string, form url.Values) answer {
	return w.do(w.edge, "POST", address, "", "application/x-www-form-urlencoded", form.Encode())
}

// form is a client-credentials request with one more field.
func (w *world) form(key, value string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {w.creds.ClientID}, "client_secret": {w.creds.ClientSecret},
		"client_info": {"1"}, "claims": {`{"access_token":{"xms_cc":{"values":["CP1"]}}}`}, key: {value}}
}

// TestAzLoginSequence is what MSAL does for az login: discovery, then a token
// from the endpoint that discovery names.
func TestAzLoginSequence(t *testing.T) {
	w := open(t)
	for _, base := range []string{login, "https://127.0.0.1:7443"} {
		d := w.get(base + "/" + w.creds.TenantID + "/v2.0/.well-known/openid-configuration?")
		if d.status != 200 || d.body["token_endpoint"] != base+"/"+w.creds.TenantID+"/oauth2/v2.0/token" || d.body["authorization_endpoint"] == nil {
			t.Fatalf("discovery: %d %s", d.status, d.raw)
		}
		a := w.post(d.body["token_endpoint"].(string), w.form("scope", "https://management.core.windows.net//.default"))
		if a.status != 200 || a.body["token_type"] != "Bearer" || a.body["expires_in"] != float64(3599) || a.body["refresh_token"] != nil {
			t.Fatalf("token: %d %s", a.status, a.raw)
		}
	}
	// A domain in place of the id: az takes the id from the issuer's fourth part.
	d := w.get(login + "/millpond.internal/.well-known/openid-configuration")
	if got := strings.Split(d.body["issuer"].(string), "/"); got[3] != w.creds.TenantID {
		t.Errorf("issuer %v", d.body["issuer"])
	}
	if d = w.get(login + "/" + w.creds.ClientID + "/v2.0/.well-known/openid-configuration"); d.status != 400 || d.body["error"] != "invalid_tenant" {
		t.Errorf("unknown tenant: %d %s", d.status, d.raw)
	}
}

func TestAudienceKeepsItsSlash(t *testing.T) {
	w := open(t)
	for scope, want := range map[string]string{
		"https://batch.core.windows.net//.default":                            "https://batch.core.windows.net/",
		"https://batch.core.windows.net/.default":                             "https://batch.core.windows.net",
		"https://management.azure.com/.default openid offline_access profile": "https://management.azure.com",
		"00000003-0000-0000-c000-000000000000/.default":                       "00000003-0000-0000-c000-000000000000",
	} {
		a := w.post(login+"/"+w.creds.TenantID+"/oauth2/v2.0/token", w.form("scope", scope))
		if a.status != 200 {
			t.Errorf("%s: %d %s", scope, a.status, a.raw)
			continue
		}
		if got := claimsOf(t, a)["aud"]; got != want {
			t.Errorf("%s: aud %v", scope, got)
		}
	}
}

func claimsOf(t *testing.T, a answer) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal(decodeSegment(t, strings.Split(a.body["access_token"].(string), ".")[1]), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestVersion1TokenHasStringsAndVersion1Claims(t *testing.T) {
	w := open(t)
	a := w.post(login+"/"+w.creds.TenantID+"/oauth2/token?api-version=1.0", w.form("resource", "https://batch.core.windows.net/"))
	if a.status != 200 || a.body["expires_in"] != "3599" || a.body["resource"] != "https://batch.core.windows.net/" || a.body["expires_on"] == nil {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	c := claimsOf(t, a)
	for k, want := range map[string]any{"iss": "https://sts.windows.net/" + w.creds.TenantID + "/", "tid": w.creds.TenantID, "oid": w.creds.ObjectID,
		"sub": w.creds.ObjectID, "appid": w.creds.ClientID, "idtyp": "app", "ver": "1.0", "aud": "https://batch.core.windows.net/"} {
		if c[k] != want {
			t.Errorf("%s: %v, want %v", k, c[k], want)
		}
	}
}

// TestADFSSequence is the custom cloud of old az: no tenant in any path.
func TestADFSSequence(t *testing.T) {
	w := open(t)
	d := w.get("https://127.0.0.1:7443/adfs/.well-known/openid-configuration")
	if d.body["token_endpoint"] != "https://127.0.0.1:7443/adfs/oauth2/token" {
		t.Fatalf("%s", d.raw)
	}
	for key, value := range map[string]string{"scope": "https://127.0.0.1:7443//.default", "resource": "https://batch.core.windows.net/"} {
		if a := w.post(d.body["token_endpoint"].(string), w.form(key, value)); a.status != 200 {
			t.Errorf("%s: %d %s", key, a.status, a.raw)
		}
	}
}

func TestInstanceDiscovery(t *testing.T) {
	w := open(t)
	ask := func(host, endpoint string) answer {
		return w.get("https://" + host + "/common/discovery/instance?api-version=1.1&authorization_endpoint=" + url.QueryEscape(endpoint))
	}
	for _, c := range []struct{ at, endpoint, want string }{
		{"login.microsoftonline.com", login + "/t/oauth2/v2.0/authorize", login + "/t/v2.0/.well-known/openid-configuration"},
		{"login.microsoftonline.com", "https://my.host:99/t/oauth2/authorize", "https://my.host:99/t/.well-known/openid-configuration"},
		{"127.0.0.1:7443", "https://127.0.0.1/t/oauth2/v2.0/authorize", "https://127.0.0.1:7443/t/v2.0/.well-known/openid-configuration"},
	} {
		if a := ask(c.at, c.endpoint); a.status != 200 || a.body["tenant_discovery_endpoint"] != c.want {
			t.Errorf("%s: %d %s", c.endpoint, a.status, a.raw)
		}
	}
	for _, bad := range []string{"", "http://x/t", "https://x", "::"} {
		if a := ask("login.microsoftonline.com", bad); a.status != 400 {
			t.Errorf("%q: %d", bad, a.status)
		}
	}
}

func TestTokenErrorsHaveEveryField(t *testing.T) {
	w := open(t)
	token := login + "/" + w.creds.TenantID + "/oauth2/v2.0/token"
	wrong := w.form("scope", "https://management.azure.com/.default")
	wrong.Set("client_secret", "no")
	password := w.form("scope", "x/.default")
	password.Set("grant_type", "password")
	for name, c := range map[string]struct {
		a      answer
		status int
		code   string
		number float64
		retry  string
	}{
		"wrong secret": {w.post(token, wrong), 401, "invalid_client", 7000215, ""},
		"no scope":     {w.post(token, w.form("x", "")), 400, "invalid_request", 900144, "0"},
		"bad scope":    {w.post(token, w.form("scope", "https://management.azure.com")), 400, "invalid_scope", 1002012, "0"},
		"no grant":     {w.post(token, url.Values{}), 400, "invalid_request", 900144, "0"},
		"password":     {w.post(token, password), 400, "unsupported_grant_type", 70003, "0"},
		"device code":  {w.post(login+"/common/oauth2/v2.0/devicecode", nil), 400, "unsupported_grant_type", 70003, "0"},
		"get":          {w.get(token), 405, "invalid_request", 900561, ""},
		"nothing":      {w.get(login + "/nothing"), 404, "invalid_request", 900144, ""},
	} {
		b := c.a.body
		codes, _ := b["error_codes"].([]any)
		if c.a.status != c.status || b["error"] != c.code || len(codes) != 1 || codes[0] != c.number || c.a.header.Get("Retry-After") != c.retry {
			t.Errorf("%s: %d %s", name, c.a.status, c.a.raw)
			continue
		}
		if !strings.HasPrefix(b["error_description"].(string), "AADSTS") {
			t.Errorf("%s: %v", name, b["error_description"])
		}
		for _, k := range []string{"timestamp", "trace_id", "correlation_id", "error_uri"} {
			if _, ok := b[k]; !ok {
				t.Errorf("%s: no %s", name, k)
			}
		}
	}
}

func TestMetadataShapes(t *testing.T) {
	get := func(address string) []byte {
		rec := httptest.NewRecorder()
		Metadata(rec, httptest.NewRequest("GET", address, nil))
		return rec.Body.Bytes()
	}
	var object struct {
		Name            string
		ResourceManager string
		GalleryEndpoint string
		Authentication  struct {
			LoginEndpoint string
			Audiences     []string
		}
	}
	if err := json.Unmarshal(get("https://127.0.0.1:1/metadata/endpoints?api-version=2015-01-01"), &object); err != nil ||
		object.Authentication.LoginEndpoint != "https://127.0.0.1:1/adfs" || object.GalleryEndpoint == "" || len(object.Authentication.Audiences) == 0 {
		t.Errorf("2015-01-01: %v %+v", err, object)
	}
	if err := json.Unmarshal(get("https://127.0.0.1:1//metadata/endpoints?api-version=2022-09-01"), &object); err != nil ||
		object.Name != CloudName || object.ResourceManager != "https://127.0.0.1:1/" {
		t.Errorf("2022-09-01: %v %+v", err, object)
	}
	var clouds []map[string]any
	if err := json.Unmarshal(get("https://127.0.0.1:1/metadata/endpoints?api-version=2019-05-01"), &clouds); err != nil || len(clouds) != 1 || clouds[0]["batch"] == nil {
		t.Errorf("2019-05-01: %v %v", err, clouds)
	}
	if err := json.Unmarshal(get("https://management.azure.com/metadata/endpoints?api-version=2019-05-01"), &clouds); err != nil || clouds[0]["name"] != "AzureCloud" {
		t.Errorf("public: %v %v", err, clouds)
	}
}
