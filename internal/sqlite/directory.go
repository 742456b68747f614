package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"

	millpond "millpond.dev/millpond"
)

// InsertTenant adds a tenant; its domain is unique.
func (t *Tx) InsertTenant(v millpond.Tenant) error {
	_, err := t.exec(`INSERT INTO tenant (id, display_name, domain, created) VALUES (?, ?, ?, ?)`,
		v.ID, v.DisplayName, v.Domain, micros(v.Created))
	return err
}

// Tenant finds a tenant by its id or its domain; ErrNoRow without one.
func (t *Tx) Tenant(idOrDomain string) (millpond.Tenant, error) {
	return scanTenant(t.row(`SELECT id, display_name, domain, created FROM tenant WHERE id = ? OR domain = ?`, idOrDomain, idOrDomain))
}

// Tenants lists all tenants, oldest first.
func (t *Tx) Tenants() ([]millpond.Tenant, error) {
	return collect(t, func(r *sql.Rows) (millpond.Tenant, error) { return scanTenant(r) },
		`SELECT id, display_name, domain, created FROM tenant ORDER BY created, id`)
}

// scannable is a row or the current one of several.
type scannable interface{ Scan(...any) error }

func scanTenant(r scannable) (v millpond.Tenant, err error) {
	var created int64
	err = r.Scan(&v.ID, &v.DisplayName, &v.Domain, &created)
	v.Created = fromMicros(created)
	return v, err
}

const applicationColumns = `id, app_id, tenant, display_name, audience, identifier_uris, created`

// InsertApplication adds an application; object id and client id are unique.
func (t *Tx) InsertApplication(v millpond.Application) error {
	uris, err := encodeStrings(v.IdentifierURIs)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO application (`+applicationColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		v.ID, v.AppID, v.Tenant, v.DisplayName, v.Audience, uris, micros(v.Created))
	return err
}

// UpdateApplication writes the fields of an application that may change.
func (t *Tx) UpdateApplication(v millpond.Application) error {
	uris, err := encodeStrings(v.IdentifierURIs)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE application SET display_name = ?, audience = ?, identifier_uris = ? WHERE id = ?`,
		v.DisplayName, v.Audience, uris, v.ID)
	return err
}

// DeleteApplication removes an application with its secrets and its service
// principals in every tenant. It tells whether there was one.
func (t *Tx) DeleteApplication(id string) (bool, error) {
	n, err := t.exec(`DELETE FROM application WHERE id = ?`, id)
	return n > 0, err
}

// Application finds an application by object id; ErrNoRow without one.
func (t *Tx) Application(id string) (millpond.Application, error) {
	return scanApplication(t.row(`SELECT `+applicationColumns+` FROM application WHERE id = ?`, id))
}

// ApplicationByAppID finds an application by client id; ErrNoRow without one.
func (t *Tx) ApplicationByAppID(appID string) (millpond.Application, error) {
	return scanApplication(t.row(`SELECT `+applicationColumns+` FROM application WHERE app_id = ?`, appID))
}

// Applications lists the applications whose home is the tenant, oldest first.
func (t *Tx) Applications(tenant string) ([]millpond.Application, error) {
	return collect(t, func(r *sql.Rows) (millpond.Application, error) { return scanApplication(r) },
		`SELECT `+applicationColumns+` FROM application WHERE tenant = ? ORDER BY created, id`, tenant)
}

func scanApplication(r scannable) (v millpond.Application, err error) {
	var uris string
	var created int64
	if err = r.Scan(&v.ID, &v.AppID, &v.Tenant, &v.DisplayName, &v.Audience, &uris, &created); err != nil {
		return v, err
	}
	v.Created = fromMicros(created)
	v.IdentifierURIs, err = decodeStrings(uris)
	return v, err
}

// SecretRow is a secret with what it is checked against.
type SecretRow struct {
	millpond.Secret
	// Digest is the SHA-256 of the secret, in hex.
	Digest string
}

// InsertSecret adds a secret to an application.
func (t *Tx) InsertSecret(application string, v SecretRow) error {
	_, err := t.exec(`INSERT INTO application_secret (key_id, application, display_name, hint, digest, starts, ends) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		v.KeyID, application, v.DisplayName, v.Hint, v.Digest, micros(v.Start), micros(v.End))
	return err
}

// Secrets lists an application's secrets, oldest first.
func (t *Tx) Secrets(application string) ([]SecretRow, error) {
	return collect(t, func(r *sql.Rows) (v SecretRow, err error) {
		var start, end int64
		err = r.Scan(&v.KeyID, &v.DisplayName, &v.Hint, &v.Digest, &start, &end)
		v.Start, v.End = fromMicros(start), fromMicros(end)
		return v, err
	}, `SELECT key_id, display_name, hint, digest, starts, ends FROM application_secret WHERE application = ? ORDER BY starts, key_id`, application)
}

// DeleteSecret removes one secret and tells whether there was one.
func (t *Tx) DeleteSecret(application, keyID string) (bool, error) {
	n, err := t.exec(`DELETE FROM application_secret WHERE application = ? AND key_id = ?`, application, keyID)
	return n > 0, err
}

const principalSelect = `SELECT p.id, p.app_id, p.tenant, p.display_name, p.enabled, p.app_tenant, p.created, p.resource FROM (
	SELECT s.id, s.app_id, s.tenant, a.display_name, s.enabled, a.tenant AS app_tenant, s.created, '' AS resource
	FROM service_principal s JOIN application a ON a.app_id = s.app_id
	UNION ALL SELECT id, app_id, tenant, display_name, 1, tenant, created, resource FROM managed_principal) AS p `

// InsertServicePrincipal adds a principal; (tenant, client id) is unique.
func (t *Tx) InsertServicePrincipal(v millpond.ServicePrincipal) error {
	_, err := t.exec(`INSERT INTO service_principal (id, app_id, tenant, enabled, created) VALUES (?, ?, ?, ?, ?)`,
		v.ID, v.AppID, v.Tenant, v.Enabled, micros(v.Created))
	return err
}

// ServicePrincipal finds a principal by object id; ErrNoRow without one.
func (t *Tx) ServicePrincipal(id string) (millpond.ServicePrincipal, error) {
	return scanPrincipal(t.row(principalSelect+`WHERE p.id = ?`, id))
}

// ServicePrincipalOf finds the principal of a client id in a tenant; ErrNoRow
// without one.
func (t *Tx) ServicePrincipalOf(tenant, appID string) (millpond.ServicePrincipal, error) {
	return scanPrincipal(t.row(principalSelect+`WHERE p.tenant = ? AND p.app_id = ?`, tenant, appID))
}

// ServicePrincipals lists the principals of a tenant, oldest first.
func (t *Tx) ServicePrincipals(tenant string) ([]millpond.ServicePrincipal, error) {
	return collect(t, func(r *sql.Rows) (millpond.ServicePrincipal, error) { return scanPrincipal(r) },
		principalSelect+`WHERE p.tenant = ? ORDER BY p.created, p.id`, tenant)
}

// SetServicePrincipalEnabled lets a principal sign in, or stops it.
func (t *Tx) SetServicePrincipalEnabled(id string, enabled bool) error {
	_, err := t.exec(`UPDATE service_principal SET enabled = ? WHERE id = ?`, enabled, id)
	return err
}

// DeleteServicePrincipal removes a principal and tells whether there was one.
func (t *Tx) DeleteServicePrincipal(id string) (bool, error) {
	n, err := t.exec(`DELETE FROM service_principal WHERE id = ?`, id)
	return n > 0, err
}

// InsertManagedPrincipal adds the principal of a managed identity.
func (t *Tx) InsertManagedPrincipal(v millpond.ServicePrincipal) error {
	_, err := t.exec(`INSERT INTO managed_principal (id, app_id, tenant, display_name, resource, created) VALUES (?, ?, ?, ?, ?, ?)`,
		v.ID, v.AppID, v.Tenant, v.DisplayName, v.Managed, micros(v.Created))
	return err
}

// DeleteManagedPrincipal removes the principal of a managed identity.
func (t *Tx) DeleteManagedPrincipal(id string) error {
	_, err := t.exec(`DELETE FROM managed_principal WHERE id = ?`, id)
	return err
}

func scanPrincipal(r scannable) (v millpond.ServicePrincipal, err error) {
	var created int64
	err = r.Scan(&v.ID, &v.AppID, &v.Tenant, &v.DisplayName, &v.Enabled, &v.AppTenant, &created, &v.Managed)
	v.Created = fromMicros(created)
	return v, err
}

func encodeStrings(v []string) (string, error) {
	if v == nil {
		v = []string{}
	}
	b, err := json.Marshal(v)
	return string(b), err
}

func decodeStrings(s string) ([]string, error) {
	var v []string
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return nil, fmt.Errorf("decode a list of strings: %w", err)
	}
	return v, nil
}
