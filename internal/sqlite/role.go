package sqlite

import (
	"database/sql"
	"encoding/json"
	"strings"

	millpond "millpond.dev/millpond"
)

// PutRoleDefinition writes a custom role; its name is unique in the tenant.
func (t *Tx) PutRoleDefinition(v millpond.RoleDefinition) error {
	scopes, err := encodeStrings(v.AssignableScopes)
	if err != nil {
		return err
	}
	permissions, err := json.Marshal(v.Permissions)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO role_definition (id, tenant, name, name_key, description, scopes, permissions, created, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, name_key = excluded.name_key, description = excluded.description,
			scopes = excluded.scopes, permissions = excluded.permissions, updated = excluded.updated`,
		v.ID, v.Tenant, v.Name, strings.ToLower(v.Name), v.Description, scopes, string(permissions), micros(v.Created), micros(v.Updated))
	return err
}

// RoleDefinitions lists the custom roles of every tenant, oldest first.
func (t *Tx) RoleDefinitions() ([]millpond.RoleDefinition, error) {
	return collect(t, func(r *sql.Rows) (v millpond.RoleDefinition, err error) {
		var scopes, permissions string
		var created, updated int64
		if err = r.Scan(&v.ID, &v.Tenant, &v.Name, &v.Description, &scopes, &permissions, &created, &updated); err != nil {
			return v, err
		}
		v.Created, v.Updated = fromMicros(created), fromMicros(updated)
		if v.AssignableScopes, err = decodeStrings(scopes); err != nil {
			return v, err
		}
		return v, json.Unmarshal([]byte(permissions), &v.Permissions)
	}, `SELECT id, tenant, name, description, scopes, permissions, created, updated FROM role_definition ORDER BY created, id`)
}

// DeleteRoleDefinition removes a custom role and tells whether there was one.
func (t *Tx) DeleteRoleDefinition(tenant, id string) (bool, error) {
	n, err := t.exec(`DELETE FROM role_definition WHERE tenant = ? AND id = ?`, tenant, id)
	return n > 0, err
}

// InsertRoleAssignment adds an assignment. Its id and (principal, role, scope)
// are unique in the tenant.
func (t *Tx) InsertRoleAssignment(v millpond.RoleAssignment) error {
	_, err := t.exec(`INSERT INTO role_assignment (id, tenant, principal, principal_type, role, scope, scope_key, description, created_by, created, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		v.ID, v.Tenant, v.Principal, v.PrincipalType, v.Role, v.Scope, strings.ToLower(v.Scope), v.Description, v.CreatedBy, micros(v.Created), micros(v.Updated))
	return err
}

// RoleAssignments lists the assignments of every tenant, oldest first.
func (t *Tx) RoleAssignments() ([]millpond.RoleAssignment, error) {
	return collect(t, func(r *sql.Rows) (v millpond.RoleAssignment, err error) {
		var created, updated int64
		err = r.Scan(&v.ID, &v.Tenant, &v.Principal, &v.PrincipalType, &v.Role, &v.Scope, &v.Description, &v.CreatedBy, &created, &updated)
		v.Created, v.Updated = fromMicros(created), fromMicros(updated)
		return v, err
	}, `SELECT id, tenant, principal, principal_type, role, scope, description, created_by, created, updated FROM role_assignment ORDER BY created, id`)
}

// DeleteRoleAssignment removes an assignment and tells whether there was one.
func (t *Tx) DeleteRoleAssignment(tenant, id string) (bool, error) {
	n, err := t.exec(`DELETE FROM role_assignment WHERE tenant = ? AND id = ?`, tenant, id)
	return n > 0, err
}
