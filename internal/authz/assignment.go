package authz

import (
	"context"
	"errors"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Assignment is what a caller asks for when it assigns a role.
type Assignment struct {
	// ID is the GUID that the caller chose as the name.
	ID    string
	Scope string
	// Role is a role definition's GUID or its full id.
	Role          string
	Principal     string
	PrincipalType string
	Description   string
}

// Assign gives a role. Repeating an assignment answers with the one there is.
//
// Errors: InvalidRoleAssignmentId, RoleDefinitionDoesNotExist,
// PrincipalNotFound, UnmatchedPrincipalType, RoleAssignmentExists,
// RoleAssignmentUpdateNotPermitted. The messages keep the words by which az
// recognises them.
func (s *Service) Assign(ctx context.Context, caller millpond.Caller, in Assignment) (millpond.RoleAssignment, error) {
	var none millpond.RoleAssignment
	if _, err := uuid.Parse(in.ID); err != nil {
		return none, millpond.Errorf(millpond.Invalid, "InvalidRoleAssignmentId", "The role assignment ID '%s' is not valid. The role assignment ID must be a GUID.", in.ID)
	}
	if in.Principal == "" || in.Role == "" {
		return none, millpond.Errorf(millpond.Invalid, "BadRequestFormat", "The request was incorrectly formatted: properties.principalId and properties.roleDefinitionId are required.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	role, ok := s.definition(caller.Tenant, in.Role)
	if !ok {
		return none, roleMissing(lastSegment(in.Role))
	}
	if !assignableAt(role.RoleDefinition, in.Scope) {
		return none, millpond.Errorf(millpond.Invalid, "RoleDefinitionNotAssignable",
			"The role '%s' may not be assigned at scope '%s'. Its assignable scopes are: %s.", role.Name, in.Scope, strings.Join(role.AssignableScopes, ", "))
	}
	var out millpond.RoleAssignment
	err := s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if err := s.checkPrincipal(tx, caller.Tenant, in); err != nil {
			return err
		}
		for _, a := range s.now.Load().assignments {
			if !strings.EqualFold(a.Tenant, caller.Tenant) {
				continue
			}
			same := strings.EqualFold(a.Principal, in.Principal) && strings.EqualFold(a.Role, role.ID) && ScopeKey(a.Scope) == ScopeKey(in.Scope)
			switch {
			case strings.EqualFold(a.ID, in.ID) && same:
				out = a
				return nil
			case strings.EqualFold(a.ID, in.ID):
				return millpond.Errorf(millpond.Conflict, "RoleAssignmentUpdateNotPermitted",
					"Tenant ID, application ID, principal ID, and scope are not allowed to be updated. Choose another name than '%s'.", in.ID)
			case same:
				return millpond.Errorf(millpond.Conflict, "RoleAssignmentExists", "The role assignment already exists. The ID of the existing role assignment is %s.", a.ID)
			}
		}
		out = millpond.RoleAssignment{ID: strings.ToLower(in.ID), Tenant: caller.Tenant, Principal: strings.ToLower(in.Principal), PrincipalType: "ServicePrincipal",
			Role: role.ID, Scope: cleanScope(in.Scope), Description: in.Description, CreatedBy: caller.Object, Created: tx.Now, Updated: tx.Now}
		return tx.InsertRoleAssignment(out)
	})
	if err != nil {
		return none, err
	}
	return out, s.reload(ctx)
}

// checkPrincipal makes sure that the principal is one of the tenant's.
func (s *Service) checkPrincipal(tx *sqlite.Tx, tenant string, in Assignment) error {
	sp, err := tx.ServicePrincipal(strings.ToLower(in.Principal))
	if err != nil && !errors.Is(err, sqlite.ErrNoRow) {
		return err
	}
	if err != nil || !strings.EqualFold(sp.Tenant, tenant) {
		return millpond.Errorf(millpond.Invalid, "PrincipalNotFound",
			"Principal %s does not exist in the directory %s. Check that you have the correct principal ID: it is the service principal's object id, not the application's.",
			strings.ReplaceAll(in.Principal, "-", ""), tenant)
	}
	if in.PrincipalType != "" && !strings.EqualFold(in.PrincipalType, "ServicePrincipal") {
		return millpond.Errorf(millpond.Invalid, "UnmatchedPrincipalType",
			"The PrincipalId '%s' has type 'ServicePrincipal', which is different from specified PrinciaplType '%s'.", in.Principal, in.PrincipalType)
	}
	return nil
}

// GrantTx assigns a role inside a caller's transaction, for first set-up, where
// the principal is made in the same one. Reload makes it count.
func (s *Service) GrantTx(tx *sqlite.Tx, tenant, principal, role, scope string) error {
	id, err := uuid.NewRandomFromReader(s.rand)
	if err != nil {
		return err
	}
	return tx.InsertRoleAssignment(millpond.RoleAssignment{ID: id.String(), Tenant: tenant, Principal: principal, PrincipalType: "ServicePrincipal",
		Role: role, Scope: cleanScope(scope), CreatedBy: millpond.BuiltInPrincipal, Created: tx.Now, Updated: tx.Now})
}

// Filter chooses assignments. The zero Filter takes all at, above and below the
// scope.
type Filter struct {
	// AtScope leaves out what lies below the scope.
	AtScope bool
	// ExactScope leaves out what lies above it as well.
	ExactScope bool
	// Principal is an object id; groups do not exist here, so "assigned to" and
	// "principal is" mean the same.
	Principal string
	// Role is a role definition's GUID.
	Role string
}

// Assignments lists assignments of a tenant that touch a scope.
func (s *Service) Assignments(_ context.Context, tenant, scope string, f Filter) []millpond.RoleAssignment {
	key := ScopeKey(scope)
	var out []millpond.RoleAssignment
	for _, a := range s.now.Load().assignments {
		at := ScopeKey(a.Scope)
		above, below := covers(at, key), covers(key, at)
		switch {
		case !strings.EqualFold(a.Tenant, tenant),
			!above && !below,
			f.AtScope && !above,
			f.ExactScope && at != key,
			f.Principal != "" && !strings.EqualFold(a.Principal, f.Principal),
			f.Role != "" && !strings.EqualFold(a.Role, f.Role):
			continue
		}
		out = append(out, a)
	}
	return out
}

// Assignment finds one by its GUID. The scope must be the one it was made at.
func (s *Service) Assignment(_ context.Context, tenant, scope, id string) (millpond.RoleAssignment, error) {
	for _, a := range s.now.Load().assignments {
		if strings.EqualFold(a.Tenant, tenant) && strings.EqualFold(a.ID, id) && ScopeKey(a.Scope) == ScopeKey(scope) {
			return a, nil
		}
	}
	return millpond.RoleAssignment{}, millpond.Errorf(millpond.NotFound, "RoleAssignmentNotFound", "The role assignment '%s' is not found at scope '%s'.", id, scope)
}

// Unassign takes a role away. It returns what was removed, or false when there
// was nothing.
func (s *Service) Unassign(ctx context.Context, tenant, scope, id string) (millpond.RoleAssignment, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.Assignment(ctx, tenant, scope, id)
	if err != nil {
		return a, false, nil
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.DeleteRoleAssignment(a.Tenant, a.ID)
		return err
	})
	if err != nil {
		return a, false, err
	}
	return a, true, s.reload(ctx)
}

// cleanScope keeps the spelling but not stray slashes.
func cleanScope(scope string) string { return "/" + strings.Trim(scope, "/") }

func lastSegment(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }
