package directory

import (
	"context"
	"errors"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// ServicePrincipals lists a tenant's principals, oldest first.
func (s *Service) ServicePrincipals(ctx context.Context, tenant string) (out []millpond.ServicePrincipal, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = tx.ServicePrincipals(tenant)
		return err
	})
	return out, err
}

// ServicePrincipal finds one by object id within the tenant.
func (s *Service) ServicePrincipal(ctx context.Context, tenant, id string) (p millpond.ServicePrincipal, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		p, err = principalOf(tx, tenant, id)
		return err
	})
	return p, err
}

func principalOf(tx *sqlite.Tx, tenant, id string) (millpond.ServicePrincipal, error) {
	p, err := tx.ServicePrincipal(strings.ToLower(id))
	if err == nil && !strings.EqualFold(p.Tenant, tenant) {
		err = sqlite.ErrNoRow
	}
	return p, rowOr(err, id)
}

// ownPrincipal is one that the directory may change; a managed identity's changes
// with its resource only.
func ownPrincipal(tx *sqlite.Tx, tenant, id string) (millpond.ServicePrincipal, error) {
	p, err := principalOf(tx, tenant, id)
	if err == nil && p.Managed != "" {
		err = millpond.Errorf(millpond.Forbidden, "Authorization_RequestDenied", "The service principal is that of a managed identity, which it lives and ends with. Delete the identity: az identity delete --ids %s", p.Managed)
	}
	return p, err
}

// CreateServicePrincipal gives an application an identity in a tenant: its own,
// or another one if the application is for several.
func (s *Service) CreateServicePrincipal(ctx context.Context, tenant, appID string, enabled bool) (p millpond.ServicePrincipal, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		p, err = s.createPrincipal(tx, tenant, appID, enabled)
		return err
	})
	return p, err
}

func (s *Service) createPrincipal(tx *sqlite.Tx, tenant, appID string, enabled bool) (millpond.ServicePrincipal, error) {
	var none millpond.ServicePrincipal
	a, err := tx.ApplicationByAppID(strings.ToLower(appID))
	if errors.Is(err, sqlite.ErrNoRow) || (err == nil && !strings.EqualFold(a.Tenant, tenant) && a.Audience != millpond.MultiTenant) {
		return none, millpond.Errorf(millpond.Invalid, "Request_BadRequest",
			"The appId '%s' of the service principal does not reference a valid application object.", appID)
	}
	if err != nil {
		return none, err
	}
	id, err := s.guid()
	if err != nil {
		return none, err
	}
	p := millpond.ServicePrincipal{ID: id, AppID: a.AppID, Tenant: tenant, DisplayName: a.DisplayName, Enabled: enabled, AppTenant: a.Tenant, Created: tx.Now}
	if err := tx.InsertServicePrincipal(p); sqlite.IsUnique(err) {
		return none, millpond.Errorf(millpond.Conflict, "Request_MultipleObjectsWithSameKeyValue",
			"The service principal cannot be created, updated, or restored because the service principal name %s is already in use.", a.AppID)
	} else if err != nil {
		return none, err
	}
	return p, nil
}

// SetEnabled lets a principal sign in, or stops it. Tokens that it has stay
// valid until they expire.
func (s *Service) SetEnabled(ctx context.Context, tenant, id string, enabled bool) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		p, err := ownPrincipal(tx, tenant, id)
		if err != nil {
			return err
		}
		return tx.SetServicePrincipalEnabled(p.ID, enabled)
	})
}

// DeleteServicePrincipal removes a principal; its application stays.
func (s *Service) DeleteServicePrincipal(ctx context.Context, tenant, id string) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		p, err := ownPrincipal(tx, tenant, id)
		if err != nil {
			return err
		}
		_, err = tx.DeleteServicePrincipal(p.ID)
		return err
	})
}
