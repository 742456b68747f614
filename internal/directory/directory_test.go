package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

var bg = context.Background()

type world struct {
	*Service
	clock *clock.Manual
	dir   string
}

func open(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	db, err := sqlite.Open(bg, filepath.Join(dir, "db"), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	key, err := LoadKey(filepath.Join(dir, "token.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &world{New(db, c, rand.Reader, key), c, dir}
}

func noGrant(*sqlite.Tx, Credentials) error { return nil }

func (w *world) bootstrap(t *testing.T) Credentials {
	t.Helper()
	c, _, err := w.Bootstrap(bg, Default(filepath.Join(w.dir, "credentials.json"), "https://127.0.0.1:1"), noGrant)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func number(err error) string {
	for _, d := range millpond.AsError(err).Details {
		if d.Name == AADSTS {
			return d.Value
		}
	}
	return ""
}

func TestSignInErrors(t *testing.T) {
	w := open(t)
	c := w.bootstrap(t)
	other, _, err := w.Bootstrap(bg, TenantSpec{DisplayName: "Other", Domain: "other.test", File: filepath.Join(w.dir, "other.json")}, noGrant)
	if err != nil {
		t.Fatal(err)
	}
	good := Grant{Tenant: c.TenantID, ClientID: c.ClientID, Secret: c.ClientSecret, Resource: "https://batch.core.windows.net/"}
	for name, tc := range map[string]struct {
		change func(*Grant)
		kind   millpond.Kind
		code   string
		number string
	}{
		"wrong secret":       {func(g *Grant) { g.Secret = "no" }, millpond.Unauthenticated, "invalid_client", "7000215"},
		"no secret":          {func(g *Grant) { g.Secret = "" }, millpond.Unauthenticated, "invalid_client", "7000218"},
		"another's secret":   {func(g *Grant) { g.Secret = other.ClientSecret }, millpond.Unauthenticated, "invalid_client", "7000215"},
		"assertion":          {func(g *Grant) { g.Assertion = "e30.e30.x" }, millpond.Unauthenticated, "invalid_client", "700027"},
		"unknown client":     {func(g *Grant) { g.ClientID = c.TenantID }, millpond.Invalid, "unauthorized_client", "700016"},
		"unknown, no tenant": {func(g *Grant) { g.Tenant, g.ClientID = "", "x" }, millpond.Invalid, "unauthorized_client", "700016"},
		"other tenant":       {func(g *Grant) { g.Tenant = other.TenantID }, millpond.Invalid, "unauthorized_client", "700016"},
		"unknown tenant":     {func(g *Grant) { g.Tenant = c.ClientID }, millpond.Invalid, "invalid_request", "90002"},
		"unknown domain":     {func(g *Grant) { g.Tenant = "nowhere.test" }, millpond.Invalid, "invalid_request", "90002"},
		"no tenant at all":   {func(g *Grant) { g.Tenant = "not a tenant" }, millpond.Invalid, "invalid_request", "900023"},
		"unknown resource":   {func(g *Grant) { g.Resource = "https://example.com" }, millpond.Invalid, "invalid_resource", "500011"},
	} {
		g := good
		tc.change(&g)
		_, err := w.SignIn(bg, g)
		if e := millpond.AsError(err); err == nil || e.Kind != tc.kind || e.Code != tc.code || number(err) != tc.number {
			t.Errorf("%s: %v %s", name, err, number(err))
		}
	}
	for _, tenant := range []string{c.TenantID, strings.ToUpper(c.TenantID), c.TenantDomain, "", "common", "organizations"} {
		g := good
		g.Tenant = tenant
		if token, err := w.SignIn(bg, g); err != nil || token.Tenant != c.TenantID {
			t.Errorf("tenant %q: %v", tenant, err)
		}
	}
	if err := w.SetEnabled(bg, c.TenantID, c.ObjectID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.SignIn(bg, good); number(err) != "7000112" {
		t.Errorf("disabled: %v", err)
	}
	w.clock.Advance(administratorSecretLife)
	if _, err := w.SignIn(bg, good); number(err) != "7000222" {
		t.Errorf("expired: %v", err)
	}
}

func TestVerifyTakesItsAudienceOnly(t *testing.T) {
	w := open(t)
	c := w.bootstrap(t)
	const own = "127.0.0.1:7443"
	for resource, want := range map[string][]Audience{
		"https://management.core.windows.net/": {AudienceARM},
		"https://management.azure.com":         {AudienceARM},
		"https://batch.core.windows.net/":      {AudienceBatch},
		"https://batch.core.windows.net":       {AudienceBatch},
		"ddbf3205-c6bd-46ae-8127-60eb93363864": {AudienceBatch},
		"https://graph.microsoft.com/":         {AudienceGraph},
		"https://storage.azure.com":            {AudienceStorage},
		"https://vault.azure.net":              {},
		"https://" + own + "/":                 {AudienceARM, AudienceGraph},
	} {
		token, err := w.SignIn(bg, Grant{ClientID: c.ClientID, Secret: c.ClientSecret, Resource: resource, OwnHost: own})
		if err != nil {
			t.Errorf("%s: %v", resource, err)
			continue
		}
		for _, a := range []Audience{AudienceARM, AudienceBatch, AudienceGraph, AudienceStorage} {
			caller, err := w.Verify(bg, token.Access, a)
			ok := false
			for _, x := range want {
				ok = ok || x == a
			}
			if ok != (err == nil) {
				t.Errorf("%s for audience %d: %v", resource, a, err)
			}
			if err == nil && (caller.Object != c.ObjectID || caller.App != c.ClientID || caller.Tenant != c.TenantID || caller.Method != millpond.AuthToken) {
				t.Errorf("%s: caller %+v", resource, caller)
			}
		}
	}
}

func TestVerifyRefusesWhatItDidNotIssue(t *testing.T) {
	w, foreign := open(t), open(t)
	c, f := w.bootstrap(t), foreign.bootstrap(t)
	grant := Grant{ClientID: c.ClientID, Secret: c.ClientSecret, Resource: "https://management.azure.com/"}
	token, err := w.SignIn(bg, grant)
	if err != nil {
		t.Fatal(err)
	}
	alien, err := foreign.SignIn(bg, Grant{ClientID: f.ClientID, Secret: f.ClientSecret, Resource: grant.Resource})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token.Access, ".")
	// Signed with the public key as if it were a shared secret, under our key id.
	hs, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: w.key.private.PublicKey.N.Bytes(), KeyID: w.key.id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	confused, err := jwt.Signed(hs).Claims(claims{Audience: grant.Resource, Object: c.ObjectID, Tenant: c.TenantID}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, bearer := range map[string]string{
		"none": "", "garbage": "opaque", "another server's": alien.Access, "cut": parts[0] + "." + parts[1] + ".", "swapped": parts[0] + "." + strings.Split(alien.Access, ".")[1] + "." + parts[2],
		"algorithm none": "eyJhbGciOiJub25lIn0." + parts[1] + ".", "algorithm confused": confused,
	} {
		if _, err := w.Verify(bg, bearer, AudienceARM); millpond.KindOf(err) != millpond.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.clock.Advance(tokenLife)
	if _, err := w.Verify(bg, token.Access, AudienceARM); millpond.AsError(err).Code != "ExpiredAuthenticationToken" {
		t.Errorf("expired: %v", err)
	}
}

func TestBootstrapIsDoneOnceAndRecoversItsFile(t *testing.T) {
	w := open(t)
	file := filepath.Join(w.dir, "credentials.json")
	granted := 0
	run := func(endpoint string) Credentials {
		t.Helper()
		c, _, err := w.Bootstrap(bg, Default(file, endpoint), func(*sqlite.Tx, Credentials) error { granted++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := run("https://127.0.0.1:1")
	for _, name := range []string{file, filepath.Join(w.dir, "token.key")} {
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	second := run("https://127.0.0.1:2")
	if first.Endpoint = "https://127.0.0.1:2"; second != first || granted != 1 {
		t.Errorf("second start: %+v, grants %d", second, granted)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	third := run("https://127.0.0.1:2")
	if third.ClientID != first.ClientID || third.SubscriptionID != first.SubscriptionID || third.ClientSecret == first.ClientSecret || granted != 1 {
		t.Errorf("after the file was lost: grants %d", granted)
	}
	if _, err := w.SignIn(bg, Grant{ClientID: third.ClientID, Secret: third.ClientSecret, Resource: "https://management.azure.com"}); err != nil {
		t.Error(err)
	}
}

func TestFailedBootstrapLeavesNothing(t *testing.T) {
	w := open(t)
	boom := errors.New("boom")
	if _, _, err := w.Bootstrap(bg, Default(filepath.Join(w.dir, "c.json"), ""), func(*sqlite.Tx, Credentials) error { return boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if tenants, err := w.Tenants(bg); err != nil || len(tenants) != 0 {
		t.Errorf("%v %v", tenants, err)
	}
}

func TestApplicationsStayInTheirTenant(t *testing.T) {
	w := open(t)
	a := w.bootstrap(t)
	b, _, err := w.Bootstrap(bg, TenantSpec{DisplayName: "Other", Domain: "other.test", File: filepath.Join(w.dir, "other.json")}, noGrant)
	if err != nil {
		t.Fatal(err)
	}
	app, err := w.CreateApplication(bg, a.TenantID, ApplicationSpec{DisplayName: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Application(bg, b.TenantID, app.ID); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("seen from the other tenant: %v", err)
	}
	if _, err := w.CreateServicePrincipal(bg, b.TenantID, app.AppID, true); !strings.Contains(err.Error(), " does not reference ") {
		t.Errorf("single-tenant application in the other tenant: %v", err)
	}
	multi := func(s ApplicationSpec) ApplicationSpec { s.Audience = millpond.MultiTenant; return s }
	if err := w.UpdateApplication(bg, a.TenantID, app.ID, multi); err != nil {
		t.Fatal(err)
	}
	_, text, err := w.AddSecret(bg, a.TenantID, app.ID, "s", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.CreateServicePrincipal(bg, b.TenantID, app.AppID, true)
	if err != nil {
		t.Fatal(err)
	}
	token, err := w.SignIn(bg, Grant{Tenant: b.TenantID, ClientID: app.AppID, Secret: text, Resource: "https://management.azure.com"})
	if err != nil || token.Tenant != b.TenantID {
		t.Fatal(token.Tenant, err)
	}
	if caller, err := w.Verify(bg, token.Access, AudienceARM); err != nil || caller.Object != p.ID {
		t.Errorf("%+v %v", caller, err)
	}
	if err := w.DeleteApplication(bg, a.TenantID, app.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ServicePrincipal(bg, b.TenantID, p.ID); millpond.KindOf(err) != millpond.NotFound {
		t.Errorf("principal outlived its application: %v", err)
	}
}

func TestSecretIsKeptAsDigestOnly(t *testing.T) {
	w := open(t)
	c := w.bootstrap(t)
	files, err := filepath.Glob(filepath.Join(w.dir, "db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), c.ClientSecret) {
			t.Errorf("%s holds the secret", name)
		}
	}
}

// TestTokensOfTasks: a task's token names the attempt, for the Batch service
// alone, and ends.
func TestTokensOfTasks(t *testing.T) {
	w := open(t)
	c := w.bootstrap(t)
	who := millpond.TaskIdentity{Job: "j", Task: "t", Attempt: 3}
	token, err := w.IssueTask(TaskToken{Tenant: c.TenantID, Account: "acct", Task: who, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Verify(bg, token, AudienceBatch)
	if err != nil || got.Method != millpond.AuthTaskToken || got.Account != "acct" || got.Object != "" || *got.Task != who {
		t.Errorf("%+v, %v", got, err)
	}
	for _, a := range []Audience{AudienceARM, AudienceGraph, AudienceStorage} {
		if _, err := w.Verify(bg, token, a); err == nil {
			t.Errorf("audience %d takes it", a)
		}
	}
	w.clock.Advance(2 * time.Hour)
	if _, err := w.Verify(bg, token, AudienceBatch); millpond.AsError(err).Code != "ExpiredAuthenticationToken" {
		t.Errorf("%v", err)
	}
}
