package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/sqlite"
)

// Credentials is the content of credentials.json: how the administrator of a
// tenant signs in. The file is secret.
type Credentials struct {
	TenantID         string `json:"tenantId"`
	TenantDomain     string `json:"tenantDomain"`
	ClientID         string `json:"clientId"`
	ClientSecret     string `json:"clientSecret"`
	ObjectID         string `json:"objectId"`
	SubscriptionID   string `json:"subscriptionId"`
	SubscriptionName string `json:"subscriptionName"`
	// Endpoint is the server's own address, https://host:port.
	Endpoint string `json:"endpoint"`
}

// ReadCredentials reads a credentials file.
func ReadCredentials(file string) (c Credentials, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read %s: %w", file, err)
	}
	return c, nil
}

// Write writes a credentials file, readable by its owner alone.
func (c Credentials) Write(file string) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(file, append(data, '\n'), 0o600)
}

// TenantSpec says which tenant shall exist.
type TenantSpec struct {
	DisplayName string
	Domain      string
	// SubscriptionName is the display name of the tenant's first subscription.
	SubscriptionName string
	// File is where the administrator's credentials lie.
	File string
	// Endpoint is the server's own address, written into File.
	Endpoint string
}

// Default is the one tenant of a new data folder.
func Default(file, endpoint string) TenantSpec {
	return TenantSpec{DisplayName: "Millpond", Domain: "millpond.internal", SubscriptionName: "Millpond", File: file, Endpoint: endpoint}
}

// Bootstrap makes sure that a tenant exists with an administrator application
// whose secret lies in a file, and returns the file's content. On the first run
// for a domain it makes tenant, application, principal, secret and the ids of a
// subscription, and calls grant in the same transaction to add what other
// packages own: the subscription, and Owner at "/" for the principal. Later runs
// keep the file's endpoint up to date and replace a secret whose file is gone.
//
// created tells whether grant has run.
func (s *Service) Bootstrap(ctx context.Context, spec TenantSpec, grant func(*sqlite.Tx, Credentials) error) (c Credentials, created bool, err error) {
	old, err := ReadCredentials(spec.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, false, err
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		t, err := tx.Tenant(strings.ToLower(spec.Domain))
		switch {
		case errors.Is(err, sqlite.ErrNoRow):
			created = true
			if c, err = s.createTenant(tx, spec); err != nil {
				return err
			}
			if err := grant(tx, c); err != nil {
				return err
			}
		case err != nil:
			return err
		case old.TenantID == t.ID && old.ClientSecret != "":
			c = old
			if c.Endpoint == spec.Endpoint {
				return nil
			}
			c.Endpoint = spec.Endpoint
		default:
			if c, err = s.recoverAdministrator(tx, t); err != nil {
				return err
			}
			c.Endpoint = spec.Endpoint
		}
		// Before the commit: a secret that is in the database and in no file would
		// lock everybody out, a file without its row is written over next time.
		return c.Write(spec.File)
	})
	return c, created, err
}

func (s *Service) createTenant(tx *sqlite.Tx, spec TenantSpec) (Credentials, error) {
	var none Credentials
	tenant, err := s.guid()
	if err != nil {
		return none, err
	}
	subscription, err := s.guid()
	if err != nil {
		return none, err
	}
	if err := tx.InsertTenant(millpond.Tenant{ID: tenant, DisplayName: spec.DisplayName, Domain: strings.ToLower(spec.Domain), Created: tx.Now}); err != nil {
		return none, err
	}
	app, err := s.createApplication(tx, tenant, ApplicationSpec{DisplayName: "millpond-administrator"})
	if err != nil {
		return none, err
	}
	principal, err := s.createPrincipal(tx, tenant, app.AppID, true)
	if err != nil {
		return none, err
	}
	_, text, err := s.addSecret(tx, app.ID, "bootstrap", tx.Now, tx.Now.Add(administratorSecretLife))
	if err != nil {
		return none, err
	}
	c := Credentials{TenantID: tenant, TenantDomain: strings.ToLower(spec.Domain), ClientID: app.AppID, ClientSecret: text, ObjectID: principal.ID,
		SubscriptionID: subscription, SubscriptionName: spec.SubscriptionName, Endpoint: spec.Endpoint}
	// What recovery needs, without the secret.
	kept := c
	kept.ClientSecret, kept.Endpoint = "", ""
	doc, err := json.Marshal(kept)
	if err != nil {
		return none, err
	}
	return c, tx.PutSetting(administratorSetting(tenant), string(doc))
}

// recoverAdministrator gives a tenant's administrator a new secret. Who can
// delete the file and restart the server can read the database anyway.
func (s *Service) recoverAdministrator(tx *sqlite.Tx, t millpond.Tenant) (c Credentials, err error) {
	doc, err := tx.Setting(administratorSetting(t.ID))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(doc), &c); err != nil {
		return c, fmt.Errorf("the administrator of tenant %s is not on record: %w", t.Domain, err)
	}
	app, err := tx.ApplicationByAppID(c.ClientID)
	if err != nil {
		return c, fmt.Errorf("the administrator application %s of tenant %s: %w", c.ClientID, t.Domain, err)
	}
	_, c.ClientSecret, err = s.addSecret(tx, app.ID, "recovered", tx.Now, tx.Now.Add(administratorSecretLife))
	return c, err
}

func administratorSetting(tenant string) string { return "directory.administrator." + tenant }

// administratorSecretLife is long, because nothing on this machine would renew it.
const administratorSecretLife = 10 * 365 * 24 * time.Hour
