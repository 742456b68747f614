package authz

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// TenantOf tells which tenant a subscription belongs to; false for a
// subscription that does not exist.
type TenantOf func(ctx context.Context, subscription string) (tenant string, ok bool)

// Service holds and evaluates roles. It is safe for concurrent use.
type Service struct {
	db       *sqlite.DB
	rand     io.Reader
	tenantOf TenantOf
	// mu orders writes, so that the snapshot stored last is the newest.
	mu  sync.Mutex
	now atomic.Pointer[snapshot]
}

// snapshot is everything that decisions need; it is never changed, only replaced.
type snapshot struct {
	// order has the built-in roles from narrow to wide, then the custom ones.
	order       []*role
	roles       map[string]*role
	assignments []millpond.RoleAssignment
	grants      map[grantee][]grant
}

// grantee is a principal in its tenant, in lower case.
type grantee struct{ tenant, principal string }

type grant struct {
	scope string // a scope key
	role  *role
}

// New loads the roles. tenantOf may be nil when there is but one tenant.
func New(ctx context.Context, db *sqlite.DB, rand io.Reader, tenantOf TenantOf) (*Service, error) {
	s := &Service{db: db, rand: rand, tenantOf: tenantOf}
	return s, s.Reload(ctx)
}

// Reload reads every role and assignment anew. It is needed only after GrantTx;
// the other verbs do it themselves.
func (s *Service) Reload(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reload(ctx)
}

func (s *Service) reload(ctx context.Context) error {
	n := &snapshot{roles: map[string]*role{}, grants: map[grantee][]grant{}}
	add := func(d millpond.RoleDefinition) {
		r := compileRole(d)
		n.order = append(n.order, r)
		n.roles[strings.ToLower(d.ID)] = r
	}
	for _, d := range builtIn() {
		add(d)
	}
	err := s.db.View(ctx, func(tx *sqlite.Tx) error {
		custom, err := tx.RoleDefinitions()
		if err != nil {
			return err
		}
		for _, d := range custom {
			add(d)
		}
		n.assignments, err = tx.RoleAssignments()
		return err
	})
	if err != nil {
		return fmt.Errorf("load roles: %w", err)
	}
	for _, a := range n.assignments {
		r := n.roles[strings.ToLower(a.Role)]
		if r == nil {
			continue // the role of an assignment cannot be deleted; a row without one grants nothing
		}
		k := grantee{strings.ToLower(a.Tenant), strings.ToLower(a.Principal)}
		n.grants[k] = append(n.grants[k], grant{ScopeKey(a.Scope), r})
	}
	s.now.Store(n)
	return nil
}

// Allowed says whether the caller may do action, such as
// Microsoft.Batch/batchAccounts/pools/read, at scope, an id or "/".
//
// A shared key opens everything of its one account. A task's own token opens
// nothing here: the edge that accepts it limits it to the task's job.
func (s *Service) Allowed(ctx context.Context, caller millpond.Caller, action, scope string) (bool, error) {
	if action == "" || scope == "" {
		return false, fmt.Errorf("authorize: action %q at scope %q", action, scope)
	}
	action, key := strings.ToLower(action), ScopeKey(scope)
	switch caller.Method {
	case millpond.AuthSharedKey:
		id, ok := millpond.ParseResourceID(scope)
		return ok && caller.Account != "" && strings.EqualFold(id.Namespace, "Microsoft.Batch") && strings.EqualFold(id.Types[0], "batchAccounts") &&
			millpond.AccountName(id.Names[0]).Key() == caller.Account.Key() && strings.HasPrefix(action, "microsoft.batch/batchaccounts/"), nil
	case millpond.AuthToken:
	default:
		return false, nil
	}
	if !s.sameTenant(ctx, caller, key) {
		return false, nil
	}
	for _, g := range s.grantsOf(caller) {
		if covers(g.scope, key) && g.role.grants(action) {
			return true, nil
		}
	}
	return false, nil
}

// Sees says whether the caller has any role at, above or below scope, which is
// what it takes to find a subscription in a list.
func (s *Service) Sees(ctx context.Context, caller millpond.Caller, scope string) bool {
	key := ScopeKey(scope)
	if caller.Method != millpond.AuthToken || !s.sameTenant(ctx, caller, key) {
		return false
	}
	for _, g := range s.grantsOf(caller) {
		if covers(g.scope, key) || covers(key, g.scope) {
			return true
		}
	}
	return false
}

func (s *Service) grantsOf(caller millpond.Caller) []grant {
	return s.now.Load().grants[grantee{strings.ToLower(caller.Tenant), strings.ToLower(caller.Object)}]
}

// sameTenant is false when the scope lies in another tenant's subscription:
// "/" means the caller's own tenant and never reaches across.
func (s *Service) sameTenant(ctx context.Context, caller millpond.Caller, key string) bool {
	sub := subscriptionOf(key)
	if sub == "" || s.tenantOf == nil {
		return true
	}
	tenant, ok := s.tenantOf(ctx, sub)
	return !ok || strings.EqualFold(tenant, caller.Tenant)
}

// Authorize is Allowed as an error: nil, or one that names the missing right
// and the command that grants it.
func (s *Service) Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error {
	ok, err := s.Allowed(ctx, caller, action, scope)
	if err != nil || ok {
		return err
	}
	key := ScopeKey(scope)
	if caller.Method == millpond.AuthToken && !s.sameTenant(ctx, caller, key) {
		tenant, _ := s.tenantOf(ctx, subscriptionOf(key))
		return millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationTokenTenant",
			"The access token is from the wrong issuer: it comes from tenant '%s', but the subscription '%s' belongs to tenant '%s'. Sign in to that tenant: az login --service-principal --tenant %s",
			caller.Tenant, subscriptionOf(key), tenant, tenant)
	}
	return s.refusal(caller, action, scope)
}

// refusal words a refusal as Azure does and adds the way out.
func (s *Service) refusal(caller millpond.Caller, action, scope string) error {
	client := caller.App
	if client == "" {
		client = caller.Name
	}
	msg := fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		client, caller.Object, action, scope)
	if caller.Method == millpond.AuthToken && caller.Object != "" {
		if name, ok := s.Suggest(action); ok {
			msg += " Somebody who may assign roles can grant it: " + GrantCommand(caller.Object, name, scope)
		}
	}
	return millpond.Errorf(millpond.Forbidden, "AuthorizationFailed", "%s", msg)
}

// Suggest names the narrowest built-in role that grants an action.
func (s *Service) Suggest(action string) (string, bool) {
	action = strings.ToLower(action)
	for _, r := range s.now.Load().order {
		if r.BuiltIn && r.grants(action) {
			return r.Name, true
		}
	}
	return "", false
}

// GrantCommand is the az command that assigns a role, for error messages.
func GrantCommand(principal, roleName, scope string) string {
	return fmt.Sprintf("az role assignment create --assignee-object-id %s --assignee-principal-type ServicePrincipal --role \"%s\" --scope \"%s\"", principal, roleName, scope)
}
