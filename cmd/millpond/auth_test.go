package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/internal/armapi"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobapi"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/httpd"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/storageapi"

	millpond "millpond.dev/millpond"
)

// This test tries every route of every edge with every kind of caller who must
// be refused. Each route must be judged: one that no table here knows fails it.

// anonymousRoutes are the operations of the token service, which is where
// callers stop being anonymous, and what each answers to a request without
// credentials.
func anonymousRoutes() map[string]int {
	return map[string]int{
		"OpenIDConfiguration_V2": 200, "OpenIDConfiguration_V1": 200, "OpenIDConfiguration_ADFS": 200, "Keys_V2": 200, "Keys_V1": 200,
		"Instance_Discover": 400, "Token_V2": 400, "Token_V1": 400, "Token_ADFS": 400,
		"UserRealm_Get": 400, "Authorize_V2": 400, "Authorize_V1": 400, "DeviceCode_V2": 400, "DeviceCode_V1": 400,
	}
}

// signedIn are the operations of the Resource Manager that ask for no right, and
// what each answers to a principal that has no role anywhere.
func signedIn(d *door) map[string]func(t *testing.T, a answer) {
	status := func(code int) func(*testing.T, answer) {
		return func(t *testing.T, a answer) { a.is(t, code, "") }
	}
	return map[string]func(*testing.T, answer){
		"Tenants_List": func(t *testing.T, a answer) { a.is(t, 200, d.admin.TenantID) },
		"Subscriptions_List": func(t *testing.T, a answer) {
			a.is(t, 200, `"value":[]`)
		},
		"Subscriptions_Get": status(403), "Subscriptions_ListLocations": status(403), "Providers_List": status(403), "Providers_Get": status(403),
		// What operations there are is no secret; the test asks for those of a namespace that is not there.
		"Operations_List":      func(t *testing.T, a answer) { a.is(t, 404, "InvalidResourceNamespace") },
		"Operations_GetStatus": status(403), "Operations_GetResult": status(403),
		// It shows community galleries, which everybody sees; the test asks nothing.
		"ResourceGraph_Resources": status(400),
	}
}

// openToMembers are the operations of Graph that every principal of the tenant
// may call, as every member of a directory may in Azure.
func openToMembers() map[string]int {
	return map[string]int{
		"application_List": 200, "application_Get": 200, "servicePrincipal_List": 200, "servicePrincipal_Get": 200, "directoryObject_getByIds": 200,
		"user_List": 200, "user_Get": 404, "group_List": 200, "group_Get": 404, "me_Get": 400, "me_ListOwnedObjects": 400, "organization_List": 200,
		"user_Create": 400, "group_Create": 400, "application_ListOwners": 400, "application_ListFederatedIdentityCredentials": 400,
		"application_CreateFederatedIdentityCredentials": 400, "servicePrincipal_addPassword": 400, "servicePrincipal_ListOwners": 400,
	}
}

// readingPosts are POSTs that change nothing and need a right to read only.
func readingPosts() []string {
	return []string{"directoryObject_getByIds", "StorageAccounts_CheckNameAvailability",
		// Refused whoever asks.
		"user_Create", "group_Create", "application_CreateFederatedIdentityCredentials", "servicePrincipal_addPassword"}
}

// openPages are the pages that need no credentials.
func openPages() map[string]string {
	return map[string]string{"/": "/", "/healthz": "/healthz", "/metrics": "/metrics"}
}

const (
	direct    = "https://127.0.0.1:8443"
	noGUID    = "00000000-0000-4000-8000-000000000000"
	mainAcct  = "authmain"
	neighbour = "authother"
	region    = "westus2"
	armName   = "https://management.azure.com"
	graphName = "https://graph.microsoft.com"
)

// door is a whole server, met at its listener's handler.
type door struct {
	t     testing.TB
	s     *server
	admin directory.Credentials
	// other administers another tenant of the same server.
	other     directory.Credentials
	nobody    directory.Credentials
	key       *rsa.PrivateKey
	operation string            // of the administrator's
	disk      *url.URL          // a signed URL for reading
	keys      map[string]string // of accounts
	// still ends the loop that runs.
	still func()
}

func newDoor(t testing.TB) *door { return newDoorAt(t, datadir.Dir(t.TempDir())) }

func newDoorAt(t testing.TB, data datadir.Dir) *door {
	t.Helper()
	ctx := t.Context()
	release, err := data.Lock()
	check(t, err)
	t.Cleanup(release)
	d := &door{t: t, keys: map[string]string{}}
	cfg := config.Default()
	cfg.Launcher = "fake"
	// Nothing listens there.
	cfg.BlobService.URL = "http://127.0.0.1:1/devstoreaccount1"
	cfg.Tenants = []config.Tenant{{Name: "other", Domain: "other.example"}}
	d.s, err = newServer(ctx, cfg, data, "127.0.0.1:8443", slog.New(slog.NewTextHandler(io.Discard, nil)))
	check(t, err)
	t.Cleanup(func() { check(t, d.s.close()) })
	d.admin, err = directory.ReadCredentials(data.Credentials())
	check(t, err)
	d.other, err = directory.ReadCredentials(data.TenantCredentials("other"))
	check(t, err)
	text, err := os.ReadFile(data.TokenKey())
	check(t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(t, err)
	d.key = key.(*rsa.PrivateKey)
	d.furnish()
	return d
}

// furnish makes what refused callers must not get at.
func (d *door) furnish() {
	t := d.t
	arm := d.token(d.admin, armName)
	group := d.scope() + "/resourceGroups/g"
	put := func(path, body string) answer {
		a := d.send("PUT", armName+path+"?api-version=2024-03-02", bearer(arm), body)
		if a.Code >= 300 {
			t.Fatalf("PUT %s: %d %s", path, a.Code, a.Body)
		}
		return a
	}
	put(group, `{"location":"westus2"}`)
	put(d.scope()+"/resourceGroups/gone", `{"location":"westus2"}`)
	put("/providers/Microsoft.Subscription/aliases/taken", `{"properties":{"displayName":"Taken"}}`)
	deleted := d.send("DELETE", armName+d.scope()+"/resourceGroups/gone?api-version=2021-04-01", bearer(arm), "")
	deleted.is(t, 202, "")
	at, err := url.Parse(deleted.Header().Get("Location"))
	check(t, err)
	d.operation = at.Path[strings.LastIndexByte(at.Path, '/')+1:]
	for _, name := range []string{mainAcct, neighbour} {
		path := group + "/providers/Microsoft.Batch/batchAccounts/" + name
		put(path, `{"location":"westus2"}`)
		var keys struct{ Primary string }
		check(t, json.Unmarshal(d.send("POST", armName+path+"/listKeys?api-version=2024-07-01", bearer(arm), "").Body.Bytes(), &keys))
		d.keys[name] = keys.Primary
	}
	store := group + "/providers/Microsoft.Storage/storageAccounts/authstore"
	put(store, `{"location":"westus2","kind":"StorageV2","sku":{"name":"Standard_LRS"}}`)
	var keys struct{ Keys []struct{ Value string } }
	check(t, json.Unmarshal(d.send("POST", armName+store+"/listKeys?api-version=2023-01-01", bearer(arm), "").Body.Bytes(), &keys))
	d.keys["authstore"] = keys.Keys[0].Value
	disk := group + "/providers/Microsoft.Compute/disks/disk"
	put(disk, `{"location":"westus2","properties":{"creationData":{"createOption":"Empty"},"diskSizeGB":1}}`)
	d.runDisks()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(d.send("GET", armName+disk+"?api-version=2024-03-02", bearer(arm), "").Body.String(), `"provisioningState":"Succeeded"`); {
		if time.Now().After(deadline) {
			t.Fatal("the disk does not become ready")
		}
		time.Sleep(10 * time.Millisecond)
	}
	var access struct{ AccessSAS string }
	granted := d.send("POST", armName+disk+"/beginGetAccess?api-version=2024-03-02", bearer(arm), `{"access":"Read","durationInSeconds":600}`)
	granted.is(t, 200, "sig=")
	check(t, json.Unmarshal(granted.Body.Bytes(), &access))
	d.disk, err = url.Parse(access.AccessSAS)
	check(t, err)

	graph := bearer(d.token(d.admin, graphName))
	var app struct{ ID, AppID string }
	check(t, json.Unmarshal(d.send("POST", graphName+"/v1.0/applications", graph, `{"displayName":"nobody"}`).Body.Bytes(), &app))
	d.send("POST", graphName+"/v1.0/servicePrincipals", graph, `{"appId":"`+app.AppID+`"}`).is(t, 201, "")
	var secret struct{ SecretText string }
	check(t, json.Unmarshal(d.send("POST", graphName+"/v1.0/applications/"+app.ID+"/addPassword", graph, "{}").Body.Bytes(), &secret))
	d.nobody = directory.Credentials{TenantID: d.admin.TenantID, ClientID: app.AppID, ClientSecret: secret.SecretText, ObjectID: app.ID}
}

// runDisks runs the one loop that a disk needs to become ready. The others
// stand still, so that nothing but the requests changes anything.
func (d *door) runDisks() {
	loops, end := context.WithCancel(context.Background())
	d.still = func() {
		end()
		d.s.driver.Wait()
		for _, wait := range d.s.copying {
			wait()
		}
	}
	d.t.Cleanup(d.still)
	for _, loop := range d.s.loops {
		if loop.Name == "disks and images" {
			d.s.driver.Start(loops, loop)
			return
		}
	}
	d.t.Fatal("there is no loop for disks")
}

func (d *door) scope() string { return "/subscriptions/" + d.admin.SubscriptionID }

// token signs in as a program would.
func (d *door) token(c directory.Credentials, resource string) string {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.ClientID}, "client_secret": {c.ClientSecret}, "scope": {resource + "/.default"}}
	a := d.send("POST", "https://login.microsoftonline.com/"+c.TenantID+"/oauth2/v2.0/token", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, form.Encode())
	var out struct {
		Token string `json:"access_token"`
	}
	if check(d.t, json.Unmarshal(a.Body.Bytes(), &out)); out.Token == "" {
		d.t.Fatalf("no token for %s: %s", resource, a.Body)
	}
	return out.Token
}

// answer is a response.
type answer struct{ *httptest.ResponseRecorder }

// is checks status and a part of the body, which HEAD does not have.
func (a answer) is(t testing.TB, code int, part string) {
	t.Helper()
	if a.Code != code || !strings.Contains(a.Body.String(), part) {
		t.Errorf("answered %d %s, want %d with %q", a.Code, a.Body, code, part)
	}
}

func (d *door) send(method, target string, h http.Header, body string) answer {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	maps.Copy(r.Header, h)
	w := httptest.NewRecorder()
	d.s.front.ServeHTTP(w, r)
	return answer{w}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// resign changes claims of a token and signs it again; with a nil key it is
// left unsigned, as algorithm none.
func resign(t testing.TB, token string, key *rsa.PrivateKey, change map[string]any) string {
	t.Helper()
	parts := strings.Split(token, ".")
	var header, claims map[string]any
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		check(t, err)
		check(t, json.Unmarshal(text, into))
	}
	maps.Copy(claims, change)
	if key == nil {
		header["alg"] = "none"
	}
	encode := func(v any) string {
		text, err := json.Marshal(v)
		check(t, err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := encode(header) + "." + encode(claims)
	if key == nil {
		return signed + "."
	}
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	check(t, err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// strangers are the credentials that prove nobody, made from a good token for
// the service and one for another service.
func (d *door) strangers(good, elsewhere string) map[string]http.Header {
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	check(d.t, err)
	now := time.Now()
	parts := strings.Split(good, ".")
	altered := strings.Split(resign(d.t, good, d.key, map[string]any{"oid": d.admin.ObjectID, "x": 1}), ".")
	out := map[string]http.Header{
		"nobody at all":       nil,
		"an empty token":      {"Authorization": {"Bearer "}},
		"garbage":             bearer("garbage"),
		"a password":          {"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(d.admin.ClientID+":"+d.admin.ClientSecret))}},
		"a wrong audience":    bearer(elsewhere),
		"an expired token":    bearer(resign(d.t, good, d.key, map[string]any{"nbf": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(-time.Second).Unix()})),
		"a token of tomorrow": bearer(resign(d.t, good, d.key, map[string]any{"nbf": now.Add(24 * time.Hour).Unix(), "exp": now.Add(25 * time.Hour).Unix()})),
		"a foreign issuer":    bearer(resign(d.t, good, d.key, map[string]any{"iss": "https://sts.windows.net/" + noGUID + "/"})),
		"a foreign signature": bearer(resign(d.t, good, foreign, nil)),
		"no signature":        bearer(resign(d.t, good, nil, nil)),
		"altered claims":      bearer(parts[0] + "." + altered[1] + "." + parts[2]),
	}
	// The way in which these are made must make good ones too.
	out["control"] = bearer(resign(d.t, good, d.key, nil))
	return out
}

var parameter = regexp.MustCompile(`\{([A-Za-z0-9]+)(\.\.\.)?\}`)

// fill puts values into a route's path, and fails for a parameter that it does
// not know.
func fill(t *testing.T, path string, values map[string]string) string {
	t.Helper()
	return parameter.ReplaceAllStringFunc(path, func(p string) string {
		v, ok := values[strings.Trim(p, "{.}")]
		if !ok {
			t.Errorf("the path %s has a parameter %s that this test does not know; give it a value", path, p)
		}
		return v
	})
}

// each runs f for every route of a table: once by the service's public name,
// once by the server's own address.
func each(t *testing.T, routes []azwire.Route, bases []string, path func(*testing.T, azwire.Route) string, f func(t *testing.T, r azwire.Route, target string)) {
	t.Helper()
	if len(routes) == 0 {
		t.Fatal("there are no routes")
	}
	router := azwire.NewRouter(routes)
	for _, r := range routes {
		p := path(t, r)
		found, _, _ := router.Match(r.Method, p)
		if found == nil || found.Name != r.Name {
			t.Errorf("%s: %s %s leads to %v", r.Name, r.Method, p, found)
			continue
		}
		for _, base := range bases {
			t.Run(r.Name+" at "+strings.TrimPrefix(base, "https://"), func(t *testing.T) { f(t, r, base+p) })
		}
	}
}

// changes says whether a request of the route may change something, so that a
// right to read is not enough.
func changes(r azwire.Route) bool {
	switch r.Method {
	case "GET", "HEAD":
		return false
	}
	return !slices.Contains(readingPosts(), r.Name)
}

func TestEveryRouteAsksWhoAndWhetherOne(t *testing.T) {
	d := newDoor(t)
	armValues := map[string]string{"sub": d.admin.SubscriptionID, "rg": "g", "name": "disk", "loc": region, "op": d.operation, "ns": "Microsoft.Other", "rest": "things/x",
		"type": "things", "type2": "parts", "name2": "p", "type3": "bolts", "name3": "b", "alias": "taken", "gallery": "gallery", "image": "image", "version": "1.0.0",
		"vm": "vm", "publisher": "debian", "offer": "debian-12", "sku": "12", "pool": "pool", "detector": "poolsAndNodes", "kind": "images", "app": "app", "cert": "sha1-00", "id": noGUID}
	batchValues := map[string]string{"poolId": "pool", "nodeId": "node", "userName": "user", "extensionName": "extension", "jobId": "job", "taskId": "task",
		"filePath": "stdout.txt", "logName": "console.log", "webhookId": "hook", "jobScheduleId": "schedule", "applicationId": "application", "key": "thumbprintAlgorithm=sha1,thumbprint=00"}
	with := func(values map[string]string) func(*testing.T, azwire.Route) string {
		return func(t *testing.T, r azwire.Route) string { return fill(t, r.Path, values) }
	}
	tables := []*table{
		{name: "arm", routes: d.s.edges.arm.Routes(), bases: []string{armName, direct}, audience: armName, query: "?api-version=2024-03-02",
			path: with(armValues), denied: "AuthorizationFailed", open: signedIn(d), foreign: map[string]func(*testing.T, answer){
				"ResourceGraph_Resources": func(t *testing.T, a answer) { a.is(t, 400, "NotSupported") },
				"Operations_List":         func(t *testing.T, a answer) { a.is(t, 404, "InvalidResourceNamespace") },
				// What a tenant has of its own, it may see and make.
				"Tenants_List": func(t *testing.T, a answer) { a.is(t, 200, d.other.TenantID) },
				"Subscriptions_List": func(t *testing.T, a answer) {
					a.is(t, 200, d.other.SubscriptionID)
					if strings.Contains(a.Body.String(), d.admin.SubscriptionID) {
						t.Errorf("shows a subscription of another tenant: %s", a.Body)
					}
				},
				"Alias_Create": func(t *testing.T, a answer) { a.is(t, 409, "taken") },
				"Alias_Get":    func(t *testing.T, a answer) { a.is(t, 404, "AliasNotFound") },
				// Above subscriptions there is nothing of a tenant's, and these are refused.
				"Deployments_CreateOrUpdateAtManagementGroupScope": func(t *testing.T, a answer) { a.is(t, 400, "NotImplemented") },
				"Deployments_ValidateAtManagementGroupScope":       func(t *testing.T, a answer) { a.is(t, 400, "NotImplemented") },
				"Deployments_CreateOrUpdateAtTenantScope":          func(t *testing.T, a answer) { a.is(t, 400, "NotImplemented") },
				"Deployments_ValidateAtTenantScope":                func(t *testing.T, a answer) { a.is(t, 400, "NotImplemented") },
			}},
		{name: "authorization", routes: d.s.edges.authorization.Routes(), bases: []string{armName + d.scope(), direct + d.scope() + "/resourceGroups/g"}, audience: armName,
			query: "?api-version=2022-04-01", path: with(armValues), denied: "AuthorizationFailed"},
		{name: "batch", routes: d.s.edges.batch.Routes(), bases: []string{"https://" + mainAcct + "." + region + ".batch.azure.com", direct + "/batch/" + mainAcct + "." + region},
			audience: "https://batch.core.windows.net", query: "?api-version=2024-07-01.20.0", path: with(batchValues), denied: "InsufficientAccountPermissions"},
		{name: "graph", routes: d.s.edges.graph.Routes(), bases: []string{graphName, direct}, audience: graphName,
			path: with(map[string]string{"id": d.nobody.ObjectID}), denied: "Authorization_RequestDenied", open: members(), foreign: d.outsiders()},
	}
	for _, tab := range tables {
		t.Run(tab.name, func(t *testing.T) { d.judge(t, tab) })
	}
	t.Run("batch by key", func(t *testing.T) { d.judgeKeys(t, tables[2]) })
	t.Run("login", d.judgeLogin)
	t.Run("blob", d.judgeBlobs)
	t.Run("storage", d.judgeStorage)
	t.Run("node", d.judgeNodes)
	t.Run("pages", d.judgePages)
	for _, tab := range tables {
		t.Run(tab.name+" as administrator", func(t *testing.T) { d.judgeAdministrator(t, tab) })
	}
}

// members is openToMembers as checks. Items that exist are found.
func members() map[string]func(*testing.T, answer) {
	out := map[string]func(*testing.T, answer){}
	for name, code := range openToMembers() {
		out[name] = func(t *testing.T, a answer) {
			// The id is one of an application, which is no principal's.
			if name == "servicePrincipal_Get" {
				code = 404
			}
			if name == "directoryObject_getByIds" && a.Code == 400 {
				return // the body asks for nothing
			}
			a.is(t, code, "")
		}
	}
	return out
}

// outsiders is what Graph answers to the administrator of another tenant: the
// objects of this one do not exist.
func (d *door) outsiders() map[string]func(*testing.T, answer) {
	out := map[string]func(*testing.T, answer){}
	for _, r := range d.s.edges.graph.Routes() {
		out[r.Name] = func(t *testing.T, a answer) {
			if strings.Contains(r.Path, "{id}") && a.Code < 400 {
				t.Errorf("answered %d %s to a caller of another tenant", a.Code, a.Body)
			}
			for _, secret := range []string{d.admin.ClientID, d.admin.ObjectID, d.nobody.ClientID} {
				if strings.Contains(a.Body.String(), secret) {
					t.Errorf("shows %s to a caller of another tenant: %s", secret, a.Body)
				}
			}
		}
	}
	return out
}

// table is an edge that takes bearer tokens.
type table struct {
	name     string
	routes   []azwire.Route
	bases    []string
	audience string
	query    string
	path     func(*testing.T, azwire.Route) string
	// denied is the error code for a missing right.
	denied string
	// open has the routes that need no right, with their check for a principal
	// without any; foreign those that do not refuse another tenant's.
	open, foreign map[string]func(*testing.T, answer)
}

// right is a route's action for the path that the test fills in.
func right(r azwire.Route) string {
	return strings.NewReplacer("{ns}", "Microsoft.Other", "{type}", "things").Replace(r.Action)
}

func (d *door) judge(t *testing.T, tab *table) {
	elsewhere := armName
	if tab.audience == armName {
		elsewhere = "https://batch.core.windows.net"
	}
	good := d.token(d.nobody, tab.audience)
	strangers := d.strangers(good, d.token(d.nobody, elsewhere))
	delete(strangers, "control")
	// By the same hand that makes the bad ones.
	good = resign(t, good, d.key, nil)
	foreign := bearer(d.token(d.other, tab.audience))
	used := map[string]bool{}
	each(t, tab.routes, tab.bases, tab.path, func(t *testing.T, r azwire.Route, target string) {
		used[r.Name] = true
		target += tab.query
		if r.Action == "" {
			t.Fatalf("%s is open to anonymous callers; only the token service may be", r.Name)
		}
		if strings.HasSuffix(r.Action, "/read") && changes(r) {
			t.Errorf("%s changes something and asks for %s only", r.Name, r.Action)
		}
		if (r.Handle == nil) == (r.Refused == "") {
			t.Errorf("%s must be either handled or refused", r.Name)
		}
		for who, header := range strangers {
			a := d.send(r.Method, target, header, "{}")
			if a.Code != 401 || a.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s: answered %d %s (WWW-Authenticate %q), want 401", who, a.Code, a.Body, a.Header().Get("WWW-Authenticate"))
			}
		}
		a := d.send(r.Method, target, bearer(good), "{}")
		verdict, open := tab.open[r.Name]
		switch {
		case open:
			verdict(t, a)
		case r.Action == armapi.SignedIn:
			t.Errorf("%s asks for no right, and this test does not know what it shows to a principal without roles; add it to signedIn", r.Name)
		case r.Method == http.MethodHead:
			a.is(t, 403, "")
		default:
			a.is(t, 403, tab.denied)
			a.is(t, 403, "'"+right(r)+"'")
		}
		a = d.send(r.Method, target, foreign, "{}")
		if verdict, open := tab.foreign[r.Name]; open {
			verdict(t, a)
		} else {
			a.is(t, 401, "")
		}
	})
	for _, known := range []map[string]func(*testing.T, answer){tab.open, tab.foreign} {
		for name := range known {
			if !used[name] {
				t.Errorf("this test knows a route %s that is not there any more", name)
			}
		}
	}
	// Nobody learns by trying which paths there are.
	for _, path := range []string{"/nothing", "/subscriptions/" + noGUID, "/v1.0/nothing"} {
		base := tab.bases[0]
		if tab.name == "authorization" {
			base = armName
		}
		d.send("GET", base+path+tab.query, nil, "").is(t, 401, "")
	}
}

// judgeAdministrator is the control: whom the rights are given, the door lets
// in, and refused operations name themselves and say why.
func (d *door) judgeAdministrator(t *testing.T, tab *table) {
	token := bearer(d.token(d.admin, tab.audience))
	each(t, tab.routes, tab.bases[:1], tab.path, func(t *testing.T, r azwire.Route, target string) {
		target = strings.ReplaceAll(target, d.nobody.ObjectID, noGUID)
		a := d.send(r.Method, target+tab.query, token, "{}")
		if a.Code == 401 || a.Code == 403 || a.Code >= 500 {
			t.Errorf("answered %d %s to the administrator", a.Code, a.Body)
		}
		switch {
		case strings.HasPrefix(r.Name, "Deployments_WhatIf"):
			// Refused in the way in which Azure tells failures of predictions.
			a.is(t, 200, r.Name)
		case r.Refused != "":
			a.is(t, 400, r.Name)
		}
	})
}

// judgeKeys tries each operation of Batch with shared keys: the account's own,
// another account's, and the other account's for this one.
func (d *door) judgeKeys(t *testing.T, tab *table) {
	each(t, tab.routes, tab.bases, tab.path, func(t *testing.T, r azwire.Route, target string) {
		target += tab.query
		for _, c := range []struct{ who, account, key string }{
			{"the key of another account", neighbour, d.keys[neighbour]},
			{"this account's name with another's key", mainAcct, d.keys[neighbour]},
			{"another's name with this account's key", neighbour, d.keys[mainAcct]},
			{"an empty key", mainAcct, ""},
		} {
			a := d.send(r.Method, target, sharedKey(t, r.Method, target, c.account, c.key, time.Now()), "")
			if a.Code != 403 || r.Method != http.MethodHead && !strings.Contains(a.Body.String(), "AuthenticationFailed") {
				t.Errorf("%s: answered %d %s, want 403", c.who, a.Code, a.Body)
			}
		}
		d.send(r.Method, target, sharedKey(t, r.Method, target, mainAcct, d.keys[mainAcct], time.Now().Add(-time.Hour)), "").is(t, 403, "")
		if a := d.send(r.Method, target, sharedKey(t, r.Method, target, mainAcct, d.keys[mainAcct], time.Now()), ""); a.Code == 401 || a.Code == 403 {
			t.Errorf("the account's own key: answered %d %s", a.Code, a.Body)
		}
	})
	// A key opens its account's data plane and nothing else.
	target := armName + d.scope() + "?api-version=2021-01-01"
	d.send("GET", target, sharedKey(t, "GET", target, mainAcct, d.keys[mainAcct], time.Now()), "").is(t, 401, "")
}

// sharedKey signs a request without a body.
func sharedKey(t testing.TB, method, target, name, key string, at time.Time) http.Header {
	t.Helper()
	u, err := url.Parse(target)
	check(t, err)
	secret, err := base64.StdEncoding.DecodeString(key)
	check(t, err)
	length := ""
	if method != http.MethodGet && method != http.MethodHead {
		length = "0"
	}
	date := at.UTC().Format(http.TimeFormat)
	text := strings.Join([]string{method, "", "", length, "", "", "", "", "", "", "", "", "ocp-date:" + date,
		"/" + name + u.EscapedPath(), "api-version:" + u.Query().Get("api-version")}, "\n")
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(text))
	return http.Header{"Ocp-Date": {date}, "Authorization": {"SharedKey " + name + ":" + base64.StdEncoding.EncodeToString(m.Sum(nil))}}
}

func (d *door) judgeLogin(t *testing.T) {
	known := anonymousRoutes()
	path := func(t *testing.T, r azwire.Route) string {
		return fill(t, r.Path, map[string]string{"tenant": d.admin.TenantID, "user": "user@example.com"})
	}
	each(t, d.s.edges.identity.Routes(), []string{"https://login.microsoftonline.com", direct}, path, func(t *testing.T, r azwire.Route, target string) {
		code, ok := known[r.Name]
		if !ok {
			t.Fatalf("%s is open to anonymous callers and this test does not know it; add it to anonymousRoutes if it may be", r.Name)
		}
		a := d.send(r.Method, target, nil, "")
		a.is(t, code, "")
		for _, secret := range []string{"access_token", d.admin.ClientSecret, d.admin.ClientID} {
			if strings.Contains(a.Body.String(), secret) {
				t.Errorf("shows %s to anybody: %s", secret, a.Body)
			}
		}
		if r.Refused != "" {
			a.is(t, 400, r.Name)
		}
	})
	if n := len(d.s.edges.identity.Routes()); n != len(known) {
		t.Errorf("%d routes, and this test knows %d", n, len(known))
	}
}

// judgeStorage tries every operation of storage accounts with what proves
// nothing. The blob service behind does not run: whoever gets past the proof is
// told so.
func (d *door) judgeStorage(t *testing.T) {
	path := func(t *testing.T, r azwire.Route) string {
		return fill(t, r.Path, map[string]string{"container": "c", "blob": "b"})
	}
	owner := d.token(d.admin, "https://storage.azure.com")
	key, ok := blobsign.ParseKey("authstore", d.keys["authstore"])
	if !ok {
		t.Fatal("the storage account has no key")
	}
	signed := func(k blobsign.Key, r azwire.Route, target string, at time.Time) http.Header {
		u, err := url.Parse(target)
		check(t, err)
		h := http.Header{"X-Ms-Date": {at.UTC().Format(http.TimeFormat)}, "X-Ms-Version": {"2021-12-02"}}
		k.Authorize(blobsign.Request{Method: r.Method, Path: u.EscapedPath(), Query: u.Query(), Header: h})
		return h
	}
	sas := func(k blobsign.Key, p blobsign.Place) string {
		q, err := k.SAS(p, blobsign.Grant{Permissions: "racwdl", Expiry: time.Now().Add(time.Hour)})
		check(t, err)
		return "?" + q.Encode()
	}
	wrong := blobsign.Key{Account: "authstore", Secret: []byte("wrong")}
	here := blobsign.Place{Container: "c", Blob: "b"}
	each(t, d.s.edges.storage.Routes(), []string{"https://authstore.blob.core.windows.net", direct + "/authstore"}, path, func(t *testing.T, r azwire.Route, target string) {
		if r.Action != storageapi.Proven {
			t.Fatalf("%s needs %q, and this test does not know how that is proven", r.Name, r.Action)
		}
		if strings.HasPrefix(r.Name, "Service_") {
			target += "?comp=list"
		}
		refused := func(what, target string, h http.Header) {
			t.Helper()
			if a := d.send(r.Method, target, h, ""); a.Code != 401 && a.Code != 403 {
				t.Errorf("%s: answered %d %s", what, a.Code, a.Body)
			}
		}
		for what, h := range d.strangers(owner, d.token(d.admin, armName)) {
			if what != "control" {
				refused(what, target, h)
			}
		}
		if strings.HasPrefix(r.Name, "Blob_") {
			refused("an owner without a data role", target, bearer(owner))
		}
		refused("a principal without a role", target, bearer(d.token(d.nobody, "https://storage.azure.com")))
		refused("another tenant", target, bearer(d.token(d.other, "https://storage.azure.com")))
		refused("a wrong key", target, signed(wrong, r, target, time.Now()))
		refused("an old signature", target, signed(key, r, target, time.Now().Add(-time.Hour)))
		refused("a signature for something else", target, signed(key, r, target+"x", time.Now()))
		if !strings.Contains(target, "?") {
			refused("a wrong key's link", target+sas(wrong, here), nil)
			refused("another container's link", target+sas(key, blobsign.Place{Container: "other"}), nil)
		}
		if a := d.send(r.Method, target, signed(key, r, target, time.Now()), ""); a.Code != 503 {
			t.Errorf("the key: answered %d %s", a.Code, a.Body)
		}
	})
}

// judgeBlobs: the signature of the URL is the right; tokens count for nothing.
func (d *door) judgeBlobs(t *testing.T) {
	good := d.disk.Query()
	query := func(change func(q url.Values)) string {
		q := maps.Clone(good)
		change(q)
		return "?" + q.Encode()
	}
	bad := map[string]string{
		"no signature":  "",
		"garbage":       query(func(q url.Values) { q.Set("sig", "garbage") }),
		"an empty one":  query(func(q url.Values) { q.Set("sig", "") }),
		"more rights":   query(func(q url.Values) { q.Set("sp", "rw") }),
		"more time":     query(func(q url.Values) { q.Set("se", "2099-01-01T00:00:00Z") }),
		"another grant": query(func(q url.Values) { q.Set("si", noGUID) }),
	}
	path := func(t *testing.T, r azwire.Route) string {
		segs := strings.Split(strings.Trim(d.disk.Path, "/"), "/")
		return fill(t, r.Path, map[string]string{"container": segs[0], "blob": segs[1]})
	}
	each(t, d.s.edges.blob.Routes(), []string{"https://" + d.disk.Host, direct + "/blob"}, path, func(t *testing.T, r azwire.Route, target string) {
		if r.Action != blobapi.Signed {
			t.Fatalf("%s needs %q, and this test knows signed URLs only", r.Name, r.Action)
		}
		code := "AuthenticationFailed"
		for what, q := range bad {
			for _, header := range []http.Header{nil, bearer("garbage"), bearer(d.token(d.nobody, "https://storage.azure.com"))} {
				a := d.send(r.Method, target+q, header, "")
				if a.Code != 403 || a.Header().Get("x-ms-error-code") != code {
					t.Errorf("%s: answered %d %s", what, a.Code, a.Body)
				}
			}
		}
		a := d.send(r.Method, strings.Replace(target, "/abcd", "/other", 1)+"?"+good.Encode(), nil, "")
		a.is(t, 403, "")
		if r.Method == http.MethodPut {
			d.send(r.Method, target+"?comp=page&"+good.Encode(), http.Header{"X-Ms-Range": {"bytes=0-511"}, "X-Ms-Page-Write": {"clear"}}, "").is(t, 403, "AuthorizationPermissionMismatch")
			return
		}
		d.send(r.Method, target+"?"+good.Encode(), http.Header{"X-Ms-Range": {"bytes=0-511"}}, "")
		if a := d.send(r.Method, target+"?"+good.Encode(), http.Header{"X-Ms-Range": {"bytes=0-511"}}, ""); a.Code != 200 && a.Code != 206 {
			t.Errorf("the URL that was given: answered %d %s", a.Code, a.Body)
		}
	})
}

// judgeNodes: the channel takes the node's own token for its own generation. It
// answers 403, not 401, because a supervisor cannot sign in anywhere.
func (d *door) judgeNodes(t *testing.T) {
	secret := "channel-secret"
	sum := sha256.Sum256([]byte(secret))
	node := millpond.Node{Account: mainAcct, Pool: "pool", ID: "tvm-1", Generation: 3, State: millpond.NodeStarting, TokenHash: fmt.Sprintf("%x", sum)}
	check(t, d.s.db.Update(context.Background(), func(tx *sqlite.Tx) error { return tx.InsertNode(node) }))
	ask := func(id, generation, authorization string) answer {
		return d.send("POST", direct+"/node/v1/channel", http.Header{"Connection": {"Upgrade"}, "Upgrade": {nodeproto.ChannelUpgrade},
			nodeproto.HeaderNode: {id}, nodeproto.HeaderGeneration: {generation}, "Authorization": {authorization}}, "")
	}
	for what, a := range map[string]answer{
		"no token":              ask("tvm-1", "3", ""),
		"garbage":               ask("tvm-1", "3", "Bearer garbage"),
		"another scheme":        ask("tvm-1", "3", "Basic "+secret),
		"the hash of the token": ask("tvm-1", "3", "Bearer "+node.TokenHash),
		"an earlier generation": ask("tvm-1", "2", "Bearer "+secret),
		"another node":          ask("tvm-2", "3", "Bearer "+secret),
		"an administrator":      ask("tvm-1", "3", "Bearer "+d.token(d.admin, armName)),
	} {
		if a.Code != 403 {
			t.Errorf("%s: answered %d %s, want 403", what, a.Code, a.Body)
		}
	}
	// A recorder cannot be upgraded, so the right token gets as far as that.
	ask("tvm-1", "3", "Bearer "+secret).is(t, 400, "HTTP/1.1")
}

// judgePages: what is open shows no secrets, and nothing else is served there.
func (d *door) judgePages(t *testing.T) {
	pages := openPages()
	for pattern := range d.s.edges.status {
		if _, ok := pages[pattern]; !ok {
			t.Errorf("the page %s is open to anonymous callers and this test does not know it; add it to openPages if it may be", pattern)
		}
	}
	paths := append(slices.Collect(maps.Values(pages)), "/status", "/status.json", "/metadata/endpoints", "/aliases.json")
	for _, path := range paths {
		a := d.send("GET", direct+path, nil, "")
		a.is(t, 200, "")
		for what, secret := range map[string]string{"the secret": d.admin.ClientSecret, "the subscription": d.admin.SubscriptionID, "the client id": d.admin.ClientID, "a key": d.keys[mainAcct]} {
			if bytes.Contains(a.Body.Bytes(), []byte(secret)) {
				t.Errorf("%s shows %s of the administrator", path, what)
			}
		}
	}
	d.judgeNames(t)
	// Every door of the listener is judged above.
	known := []string{"Identity", "Metadata", "ARM", "Aliases", "Graph", "Batch", "Blob", "Storage", "Node", "Status"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[httpd.Handlers]()) {
		if !slices.Contains(known, f.Name) {
			t.Errorf("the listener has a handler %s that this test does not know", f.Name)
		}
	}
}

// judgeNames: what preflight says of an image version is shown on the status page to
// who may read the version, and to nobody else.
func (d *door) judgeNames(t *testing.T) {
	id, ok := millpond.ParseResourceID(d.scope() + "/resourceGroups/g/providers/Microsoft.Compute/galleries/secrets/images/unreleased/versions/1.0.0")
	if !ok {
		t.Fatal("no id")
	}
	v := &millpond.ImageVersion{Resource: millpond.Resource{ID: id, State: millpond.StateSucceeded}, Preflight: millpond.Preflight{Findings: []millpond.Finding{{Code: "UsersKept", Seen: "The user is left."}}}}
	check(t, d.s.db.Update(context.Background(), func(tx *sqlite.Tx) error { return tx.Put(v) }))
	defer func() {
		check(t, d.s.db.Update(context.Background(), func(tx *sqlite.Tx) error { return tx.DeleteResource(id.Key()) }))
	}()
	for _, path := range []string{"/", "/status", "/status.json"} {
		for who, c := range map[string]struct {
			header http.Header
			code   int
			shown  bool
		}{
			"nobody in particular":       {nil, 200, false},
			"the administrator":          {bearer(d.token(d.admin, armName)), 200, true},
			"a principal without a role": {bearer(d.token(d.nobody, armName)), 200, false},
			"another tenant":             {bearer(d.token(d.other, armName)), 200, false},
			"another service's token":    {bearer(d.token(d.admin, graphName)), 401, false},
			"a forged token":             {bearer("garbage"), 401, false},
		} {
			a := d.send("GET", direct+path, c.header, "")
			if a.Code != c.code || strings.Contains(a.Body.String(), "unreleased") != c.shown || strings.Contains(a.Body.String(), d.admin.SubscriptionID) != c.shown {
				t.Errorf("%s to %s: %d %s", path, who, a.Code, a.Body)
			}
		}
	}
}
