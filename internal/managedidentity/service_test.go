package managedidentity_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/managedidentity"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

// onlyAlice lets alice assign identities.
type onlyAlice struct{}

func (onlyAlice) Authorize(_ context.Context, caller millpond.Caller, action, _ string) error {
	if caller.Object == "alice" && action == "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action" {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "no %s", action)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func code(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || millpond.AsError(err).Code != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestIdentities: an identity and its principal are made and end together; who may
// assign one, and which one a machine's question means.
func TestIdentities(t *testing.T) {
	ctx := t.Context()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "db"), clock.System{})
	check(t, err)
	defer db.Close()
	check(t, db.Update(ctx, func(tx *sqlite.Tx) error { return tx.InsertTenant(millpond.Tenant{ID: "t", Domain: "t.example"}) }))
	res := resource.New(resource.Options{DB: db, Clock: clock.System{}, Regions: []millpond.Region{{Name: "westus2"}}})
	check(t, res.EnsureSubscription(ctx, millpond.Subscription{ID: "s", Tenant: "t"}, true))
	_, _, err = res.PutGroup(ctx, millpond.Group{Subscription: "s", Name: "rg", Location: "westus2"})
	check(t, err)
	s := managedidentity.New(db, res, onlyAlice{})
	at := func(name string) millpond.ResourceID {
		id, _ := millpond.ParseResourceID("/subscriptions/s/resourceGroups/rg/providers/" + millpond.TypeManagedIdentity + "/" + name)
		return id
	}
	principal := func(m *millpond.ManagedIdentity) (p millpond.ServicePrincipal, err error) {
		err = db.View(ctx, func(tx *sqlite.Tx) (err error) {
			p, err = tx.ServicePrincipal(m.PrincipalID)
			return err
		})
		return p, err
	}
	one, created, err := s.Put(ctx, managedidentity.Change{ID: at("one")})
	check(t, err)
	p, err := principal(one)
	if err != nil || !created || p.AppID != one.ClientID || p.Managed != one.ID.String() || p.Tenant != "t" || !p.Enabled || p.DisplayName != "one" {
		t.Errorf("%+v %+v %v", one, p, err)
	}
	again, created, err := s.Put(ctx, managedidentity.Change{ID: at("one"), Tags: map[string]string{"a": "b"}})
	if err != nil || created || again.PrincipalID != one.PrincipalID || again.Tags["a"] != "b" {
		t.Errorf("%+v %v", again, err)
	}
	two, _, err := s.Put(ctx, managedidentity.Change{ID: at("two")})
	check(t, err)
	_, _, err = s.Put(ctx, managedidentity.Change{ID: at("x")})
	code(t, err, "InvalidResourceName")
	_, _, err = s.Put(ctx, managedidentity.Change{ID: at("none"), Patch: true})
	code(t, err, "ResourceNotFound")

	alice := millpond.Caller{Object: "alice"}
	id, err := s.AdmitIdentity(ctx, alice, "/SUBSCRIPTIONS/s/resourcegroups/RG/providers/microsoft.managedidentity/userassignedidentities/ONE")
	if err != nil || id != one.ID.String() {
		t.Errorf("%s %v", id, err)
	}
	_, err = s.AdmitIdentity(ctx, alice, at("none").String())
	code(t, err, "FailedIdentityOperation")
	for _, who := range []millpond.Caller{{Object: "bob"}, {}} {
		_, err = s.AdmitIdentity(ctx, who, at("none").String())
		code(t, err, "LinkedAuthorizationFailed")
	}
	_, err = s.AdmitIdentity(ctx, alice, "one")
	code(t, err, "InvalidPropertyValue")

	both := []string{one.ID.String(), two.ID.String(), at("deleted").String()}
	for _, c := range []struct {
		assigned                    []string
		client, principal, resource string
		want                        *millpond.ManagedIdentity
	}{
		{both[:1], "", "", "", one}, {both, "", "", "", nil}, {nil, "", "", "", nil}, {both, two.ClientID, "", "", two}, {both, "", one.PrincipalID, "", one},
		{both, "", "", two.ID.String(), two}, {both[:1], two.ClientID, "", "", nil}, {both, "", "", at("deleted").String(), nil},
	} {
		got, err := s.Select(ctx, c.assigned, c.client, c.principal, c.resource)
		if c.want == nil {
			code(t, err, "invalid_request")
		} else if err != nil || got.PrincipalID != c.want.PrincipalID {
			t.Errorf("%+v: %+v %v", c, got, err)
		}
	}

	found, err := s.Delete(ctx, at("one"))
	if err != nil || !found {
		t.Error(found, err)
	}
	if _, err := principal(one); !errors.Is(err, sqlite.ErrNoRow) {
		t.Errorf("the principal is still there: %v", err)
	}
	if found, err = s.Delete(ctx, at("one")); err != nil || found {
		t.Error(found, err)
	}
}
