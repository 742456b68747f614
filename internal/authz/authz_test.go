package authz

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

const (
	tenantA = "aaaaaaaa-0000-4000-8000-000000000001"
	tenantB = "bbbbbbbb-0000-4000-8000-000000000001"
	subA    = "aaaaaaaa-0000-4000-8000-0000000000f1"
	subB    = "bbbbbbbb-0000-4000-8000-0000000000f1"
	alice   = "aaaaaaaa-0000-4000-8000-0000000000a1"
	bob     = "bbbbbbbb-0000-4000-8000-0000000000b1"
)

var bg = context.Background()

func caller(tenant, object string) millpond.Caller {
	return millpond.Caller{Method: millpond.AuthToken, Tenant: tenant, Object: object, App: "app-of-" + object}
}

// open gives two tenants with one subscription and one principal each.
func open(t *testing.T) *Service {
	t.Helper()
	db, err := sqlite.Open(bg, filepath.Join(t.TempDir(), "db"), clock.NewManual(time.Unix(1e9, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	err = db.Update(bg, func(tx *sqlite.Tx) error {
		for i, tenant := range []string{tenantA, tenantB} {
			id := []string{alice, bob}[i]
			if err := tx.InsertTenant(millpond.Tenant{ID: tenant, Domain: tenant + ".test"}); err != nil {
				return err
			}
			if err := tx.InsertApplication(millpond.Application{ID: id, AppID: id, Tenant: tenant}); err != nil {
				return err
			}
			if err := tx.InsertServicePrincipal(millpond.ServicePrincipal{ID: id, AppID: id, Tenant: tenant, Enabled: true}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(bg, db, rand.Reader, func(_ context.Context, sub string) (string, bool) {
		tenant, ok := map[string]string{subA: tenantA, subB: tenantB}[strings.ToLower(sub)]
		return tenant, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unassign takes the assignment guid1 back, so that a table needs one database.
func unassign(t *testing.T, s *Service, tenant, scope string) {
	t.Helper()
	if _, ok, err := s.Unassign(bg, tenant, scope, guid1); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func assign(t *testing.T, s *Service, tenant, principal, role, scope, id string) {
	t.Helper()
	_, err := s.Assign(bg, caller(tenant, principal), Assignment{ID: id, Scope: scope, Role: role, Principal: principal})
	if err != nil {
		t.Fatal(err)
	}
}

const (
	groupA   = "/subscriptions/" + subA + "/resourceGroups/RG"
	accountA = groupA + "/providers/Microsoft.Batch/batchAccounts/acct"
	galleryA = groupA + "/providers/Microsoft.Compute/galleries/g"
	guid1    = "00000000-0000-4000-8000-000000000001"
	guid2    = "00000000-0000-4000-8000-000000000002"
)

func TestRolesGrantWhatAzureSaysTheyGrant(t *testing.T) {
	s := open(t)
	for _, c := range []struct {
		role, action string
		want         bool
	}{
		{Owner, "Microsoft.Authorization/roleAssignments/write", true},
		{Owner, "Microsoft.Batch/batchAccounts/jobs/write", true},
		{Contributor, "Microsoft.Compute/galleries/images/versions/write", true},
		{Contributor, "Microsoft.Authorization/roleAssignments/write", false},
		{Contributor, "microsoft.authorization/roleassignments/DELETE", false},
		{Contributor, "Microsoft.Authorization/roleAssignments/read", true},
		{Contributor, "Microsoft.Compute/galleries/share/action", false},
		{Contributor, "Microsoft.Batch/batchAccounts/jobs/write", true},
		{Reader, "Microsoft.Batch/batchAccounts/pools/read", true},
		{Reader, "Microsoft.Batch/batchAccounts/listKeys/action", false},
		{BatchJobSubmitter, "Microsoft.Batch/batchAccounts/jobs/write", true},
		{BatchJobSubmitter, "Microsoft.Batch/batchAccounts/pools/read", true},
		{BatchJobSubmitter, "Microsoft.Batch/batchAccounts/pools/write", false},
		{BatchDataContributor, "Microsoft.Batch/batchAccounts/pools/write", true},
		{BatchDataContributor, "Microsoft.Batch/batchAccounts/write", false},
		{BatchAccountReader, "Microsoft.Batch/batchAccounts/jobs/read", true},
		{BatchAccountReader, "Microsoft.Batch/batchAccounts/jobs/write", false},
		{GalleryImageReader, "Microsoft.Compute/galleries/images/versions/read", true},
		{GalleryImageReader, "Microsoft.Compute/galleries/read", false},
		{GalleryArtifactPublisher, "Microsoft.Compute/galleries/images/versions/write", true},
		{GalleryArtifactPublisher, "Microsoft.Compute/galleries/share/action", false},
		{GallerySharingAdmin, "Microsoft.Compute/galleries/share/action", true},
		{DiskDataOperator, "Microsoft.Compute/disks/upload/action", true},
		{RBACAdministrator, "Microsoft.Authorization/roleAssignments/delete", true},
		{UserAccessAdministrator, "Microsoft.Compute/disks/write", false},
	} {
		assign(t, s, tenantA, alice, c.role, groupA, guid1)
		got, err := s.Allowed(bg, caller(tenantA, alice), c.action, galleryA)
		unassign(t, s, tenantA, groupA)
		if err != nil || got != c.want {
			t.Errorf("%s %s: %v, %v", c.role, c.action, got, err)
		}
	}
}

func TestGrantsReachDownTheirScopeAndNowhereElse(t *testing.T) {
	s := open(t)
	for _, c := range []struct {
		grant, target string
		want          bool
	}{
		{"/", accountA, true},
		{"/", "/", true},
		{"/subscriptions/" + subA, "/", false},
		{groupA, strings.ToLower(accountA), true},
		{strings.ToUpper(groupA), accountA, true},
		{groupA, groupA + "2/providers/x/y/z", false},
		{accountA, groupA, false},
		{accountA + "/", accountA, true},
		{"/", "/subscriptions/" + subB + "/resourceGroups/RG", false}, // another tenant's
	} {
		assign(t, s, tenantA, alice, Owner, c.grant, guid1)
		if got, _ := s.Allowed(bg, caller(tenantA, alice), "Microsoft.Batch/batchAccounts/read", c.target); got != c.want {
			t.Errorf("granted at %s, asked at %s: %v", c.grant, c.target, got)
		}
		unassign(t, s, tenantA, c.grant)
	}
}

// NotActions narrow their own role only: another role's grant stands.
func TestNotActionsAreNoDenial(t *testing.T) {
	s := open(t)
	assign(t, s, tenantA, alice, Contributor, groupA, guid1)
	assign(t, s, tenantA, alice, GallerySharingAdmin, groupA, guid2)
	if ok, _ := s.Allowed(bg, caller(tenantA, alice), "Microsoft.Compute/galleries/share/action", galleryA); !ok {
		t.Error("the second role's grant was lost")
	}
}

func TestRefusalNamesTheRightAndTheCommand(t *testing.T) {
	s := open(t)
	err := s.Authorize(bg, caller(tenantA, alice), "Microsoft.Compute/galleries/images/versions/read", galleryA)
	e := millpond.AsError(err)
	if e.Kind != millpond.Forbidden || e.Code != "AuthorizationFailed" {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{alice, "app-of-" + alice, "Microsoft.Compute/galleries/images/versions/read", galleryA,
		`az role assignment create --assignee-object-id ` + alice, `--role "Compute Gallery Image Reader" --scope "` + galleryA + `"`} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("no %q in: %s", want, e.Message)
		}
	}
	// What it proposes must do.
	assign(t, s, tenantA, alice, GalleryImageReader, galleryA, guid1)
	if err := s.Authorize(bg, caller(tenantA, alice), "Microsoft.Compute/galleries/images/versions/read", galleryA); err != nil {
		t.Error(err)
	}
}

func TestOtherTenantsSubscriptionIsTheWrongIssuer(t *testing.T) {
	s := open(t)
	assign(t, s, tenantB, bob, Owner, "/", guid1)
	err := s.Authorize(bg, caller(tenantB, bob), "Microsoft.Compute/galleries/read", galleryA)
	if e := millpond.AsError(err); e.Kind != millpond.Unauthenticated || e.Code != "InvalidAuthenticationTokenTenant" || !strings.Contains(e.Message, tenantA) {
		t.Errorf("%v", err)
	}
	if s.Sees(bg, caller(tenantB, bob), "/subscriptions/"+subA) || !s.Sees(bg, caller(tenantB, bob), "/subscriptions/"+subB) {
		t.Error("sees the wrong subscription")
	}
	_, err = s.Assign(bg, caller(tenantA, alice), Assignment{ID: guid2, Scope: groupA, Role: Reader, Principal: bob})
	if e := millpond.AsError(err); e.Code != "PrincipalNotFound" || !strings.Contains(e.Message, " does not exist in the directory ") {
		t.Errorf("foreign principal: %v", err)
	}
}

func TestAssignmentCountsAtOnceAndEndsAtOnce(t *testing.T) {
	s := open(t)
	may := func() bool {
		ok, err := s.Allowed(bg, caller(tenantA, alice), "Microsoft.Batch/batchAccounts/read", accountA)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if may() || s.Sees(bg, caller(tenantA, alice), "/subscriptions/"+subA) {
		t.Error("allowed without a role")
	}
	assign(t, s, tenantA, alice, Reader, accountA, guid1)
	if !may() || !s.Sees(bg, caller(tenantA, alice), "/subscriptions/"+subA) {
		t.Error("not allowed with a role")
	}
	if _, ok, err := s.Unassign(bg, tenantA, accountA, guid1); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if may() {
		t.Error("allowed after the role was taken away")
	}
}

func TestSharedKeyOpensItsAccountOnly(t *testing.T) {
	s := open(t)
	key := millpond.Caller{Method: millpond.AuthSharedKey, Account: "ACCT"}
	for _, c := range []struct {
		action, scope string
		want          bool
	}{
		{"Microsoft.Batch/batchAccounts/pools/write", accountA, true},
		{"Microsoft.Batch/batchAccounts/pools/write", accountA + "2", false},
		{"Microsoft.Compute/galleries/images/versions/read", galleryA, false},
		{"Microsoft.Compute/disks/read", accountA, false},
		{"Microsoft.Batch/batchAccounts/pools/write", groupA, false},
	} {
		if got, _ := s.Allowed(bg, key, c.action, c.scope); got != c.want {
			t.Errorf("%s at %s: %v", c.action, c.scope, got)
		}
	}
	if got, _ := s.Allowed(bg, millpond.Caller{Method: millpond.AuthTaskToken, Account: "acct"}, "Microsoft.Batch/batchAccounts/jobs/read", accountA); got {
		t.Error("a task token was allowed")
	}
	if got, _ := s.Allowed(bg, millpond.Caller{}, "Microsoft.Batch/batchAccounts/jobs/read", accountA); got {
		t.Error("nobody was allowed")
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("*", "a/b")
	f.Add("microsoft.batch/*/read", "microsoft.batch/batchaccounts/pools/read")
	f.Add("*/read", "read")
	f.Add("a**b*", "aXb")
	f.Fuzz(func(t *testing.T, pattern, action string) {
		var re strings.Builder
		for i, part := range strings.Split(pattern, "*") {
			if i > 0 {
				re.WriteString("(?s:.*)")
			}
			re.WriteString(regexp.QuoteMeta(part))
		}
		rx, err := regexp.Compile("^" + re.String() + "$")
		if err != nil || !isASCII(pattern+action) {
			t.Skip()
		}
		if got, want := matches(pattern, action), rx.MatchString(action); got != want {
			t.Fatalf("matches(%q, %q) = %v, want %v", pattern, action, got, want)
		}
	})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == '\n' {
			return false
		}
	}
	return true
}
