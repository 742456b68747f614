package authz

import (
	"context"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Definitions lists the roles that may be assigned at or (for custom roles)
// below a scope: the built-in ones and the tenant's own.
func (s *Service) Definitions(_ context.Context, tenant, scope string) []millpond.RoleDefinition {
	var out []millpond.RoleDefinition
	for _, r := range s.now.Load().order {
		if r.BuiltIn || (strings.EqualFold(r.Tenant, tenant) && touches(r.RoleDefinition, scope)) {
			out = append(out, r.RoleDefinition)
		}
	}
	return out
}

// Definition finds a role by its GUID or full id.
func (s *Service) Definition(_ context.Context, tenant, id string) (millpond.RoleDefinition, error) {
	r, ok := s.definition(tenant, id)
	if !ok {
		return millpond.RoleDefinition{}, roleMissing(lastSegment(id))
	}
	return r.RoleDefinition, nil
}

func (s *Service) definition(tenant, id string) (*role, bool) {
	r, ok := s.now.Load().roles[strings.ToLower(lastSegment(id))]
	if !ok || (!r.BuiltIn && !strings.EqualFold(r.Tenant, tenant)) {
		return nil, false
	}
	return r, true
}

// PutDefinition makes or replaces a custom role of the tenant.
//
// Errors: InvalidRoleDefinitionId, BadRequestFormat,
// RoleDefinitionUpdateNotPermitted for a built-in role,
// RoleDefinitionWithSameNameExists.
func (s *Service) PutDefinition(ctx context.Context, tenant string, d millpond.RoleDefinition) (millpond.RoleDefinition, error) {
	var none millpond.RoleDefinition
	if _, err := uuid.Parse(d.ID); err != nil {
		return none, millpond.Errorf(millpond.Invalid, "InvalidRoleDefinitionId", "The role definition ID '%s' is not valid. It must be a GUID.", d.ID)
	}
	if strings.TrimSpace(d.Name) == "" || len(d.AssignableScopes) == 0 {
		return none, millpond.Errorf(millpond.Invalid, "BadRequestFormat", "A role definition needs properties.roleName and at least one of properties.assignableScopes.")
	}
	d.ID, d.Tenant, d.BuiltIn = strings.ToLower(d.ID), tenant, false
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now.Load()
	if old, ok := now.roles[d.ID]; ok {
		if old.BuiltIn || !strings.EqualFold(old.Tenant, tenant) {
			return none, millpond.Errorf(millpond.Conflict, "RoleDefinitionUpdateNotPermitted", "The role definition '%s' is built in and cannot be changed. Choose another id.", d.ID)
		}
		d.Created = old.Created
	}
	for _, r := range now.order {
		if r.ID != d.ID && strings.EqualFold(r.Name, d.Name) && (r.BuiltIn || strings.EqualFold(r.Tenant, tenant)) {
			return none, millpond.Errorf(millpond.Conflict, "RoleDefinitionWithSameNameExists", "A role named '%s' exists already. Choose another name.", d.Name)
		}
	}
	err := s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if d.Created.IsZero() {
			d.Created = tx.Now
		}
		d.Updated = tx.Now
		return tx.PutRoleDefinition(d)
	})
	if err != nil {
		return none, err
	}
	return d, s.reload(ctx)
}

// DeleteDefinition removes a custom role that is assigned nowhere. False means
// that there was none.
func (s *Service) DeleteDefinition(ctx context.Context, tenant, id string) (millpond.RoleDefinition, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.definition(tenant, id)
	if !ok {
		return millpond.RoleDefinition{}, false, nil
	}
	if r.BuiltIn {
		return r.RoleDefinition, false, millpond.Errorf(millpond.Conflict, "RoleDefinitionDeleteNotPermitted", "The role '%s' is built in and cannot be deleted.", r.Name)
	}
	for _, a := range s.now.Load().assignments {
		if strings.EqualFold(a.Role, r.ID) {
			return r.RoleDefinition, false, millpond.Errorf(millpond.Conflict, "RoleDefinitionHasAssignments", "There are existing role assignments referencing role (code: %s). Delete them first.", r.ID)
		}
	}
	err := s.db.Update(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.DeleteRoleDefinition(r.Tenant, r.ID)
		return err
	})
	if err != nil {
		return r.RoleDefinition, false, err
	}
	return r.RoleDefinition, true, s.reload(ctx)
}

func roleMissing(id string) error {
	return millpond.Errorf(millpond.NotFound, "RoleDefinitionDoesNotExist", "The specified role definition with ID '%s' does not exist. Roles are listed by: az role definition list", id)
}

// assignableAt says whether a role may be assigned at a scope.
func assignableAt(d millpond.RoleDefinition, scope string) bool {
	for _, a := range d.AssignableScopes {
		if covers(ScopeKey(a), ScopeKey(scope)) {
			return true
		}
	}
	return false
}

// touches says whether a role may be assigned at, above or below a scope.
func touches(d millpond.RoleDefinition, scope string) bool {
	for _, a := range d.AssignableScopes {
		if covers(ScopeKey(a), ScopeKey(scope)) || covers(ScopeKey(scope), ScopeKey(a)) {
			return true
		}
	}
	return false
}
