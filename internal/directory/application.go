package directory

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Applications lists a tenant's own applications, oldest first.
func (s *Service) Applications(ctx context.Context, tenant string) (out []millpond.Application, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		out, err = tx.Applications(tenant)
		return err
	})
	return out, err
}

// Application finds one by object id within the tenant.
func (s *Service) Application(ctx context.Context, tenant, id string) (a millpond.Application, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		a, err = applicationOf(tx, tenant, id)
		return err
	})
	return a, err
}

func applicationOf(tx *sqlite.Tx, tenant, id string) (millpond.Application, error) {
	a, err := tx.Application(strings.ToLower(id))
	if err == nil && !strings.EqualFold(a.Tenant, tenant) {
		err = sqlite.ErrNoRow
	}
	return a, rowOr(err, id)
}

// ApplicationSpec is what a caller may choose about an application.
type ApplicationSpec struct {
	DisplayName    string
	Audience       string // "" means millpond.SingleTenant
	IdentifierURIs []string
}

func (v *ApplicationSpec) check() error {
	if v.Audience == "" {
		v.Audience = millpond.SingleTenant
	}
	if n := utf8.RuneCountInString(v.DisplayName); n == 0 || n > 256 {
		return millpond.Errorf(millpond.Invalid, "Request_BadRequest", "Invalid value specified for property 'displayName' of resource 'Application': it must have 1 to 256 characters.")
	}
	if v.Audience != millpond.SingleTenant && v.Audience != millpond.MultiTenant {
		return millpond.Errorf(millpond.Unsupported, "Request_BadRequest", "signInAudience '%s' is not supported here; use %s or %s.", v.Audience, millpond.SingleTenant, millpond.MultiTenant)
	}
	return nil
}

// CreateApplication registers an application in a tenant. It has no service
// principal yet.
func (s *Service) CreateApplication(ctx context.Context, tenant string, spec ApplicationSpec) (a millpond.Application, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		a, err = s.createApplication(tx, tenant, spec)
		return err
	})
	return a, err
}

func (s *Service) createApplication(tx *sqlite.Tx, tenant string, spec ApplicationSpec) (millpond.Application, error) {
	var none millpond.Application
	if err := spec.check(); err != nil {
		return none, err
	}
	id, err := s.guid()
	if err != nil {
		return none, err
	}
	appID, err := s.guid()
	if err != nil {
		return none, err
	}
	a := millpond.Application{ID: id, AppID: appID, Tenant: tenant, DisplayName: spec.DisplayName, Audience: spec.Audience,
		IdentifierURIs: spec.IdentifierURIs, Created: tx.Now}
	return a, tx.InsertApplication(a)
}

// UpdateApplication changes an application; edit gets what it is and returns
// what it shall be.
func (s *Service) UpdateApplication(ctx context.Context, tenant, id string, edit func(ApplicationSpec) ApplicationSpec) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := applicationOf(tx, tenant, id)
		if err != nil {
			return err
		}
		spec := edit(ApplicationSpec{DisplayName: a.DisplayName, Audience: a.Audience, IdentifierURIs: a.IdentifierURIs})
		if err := spec.check(); err != nil {
			return err
		}
		a.DisplayName, a.Audience, a.IdentifierURIs = spec.DisplayName, spec.Audience, spec.IdentifierURIs
		return tx.UpdateApplication(a)
	})
}

// DeleteApplication removes an application, its secrets and its principals.
// Role assignments stay and grant nothing, as in Azure.
func (s *Service) DeleteApplication(ctx context.Context, tenant, id string) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := applicationOf(tx, tenant, id)
		if err != nil {
			return err
		}
		_, err = tx.DeleteApplication(a.ID)
		return err
	})
}

// Secrets lists an application's secrets without the secrets.
func (s *Service) Secrets(ctx context.Context, application string) (out []millpond.Secret, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		rows, err := tx.Secrets(application)
		for _, r := range rows {
			out = append(out, r.Secret)
		}
		return err
	})
	return out, err
}

// AddSecret makes a secret and returns its text, which is not kept. Zero times
// mean from now on, and for two years.
func (s *Service) AddSecret(ctx context.Context, tenant, application, displayName string, start, end time.Time) (v millpond.Secret, text string, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := applicationOf(tx, tenant, application)
		if err != nil {
			return err
		}
		v, text, err = s.addSecret(tx, a.ID, displayName, start, end)
		return err
	})
	return v, text, err
}

func (s *Service) addSecret(tx *sqlite.Tx, application, displayName string, start, end time.Time) (millpond.Secret, string, error) {
	var none millpond.Secret
	if start.IsZero() {
		start = tx.Now
	}
	if end.IsZero() {
		end = start.AddDate(2, 0, 0)
	}
	if !end.After(start) {
		return none, "", millpond.Errorf(millpond.Invalid, "Request_BadRequest", "The credential's endDateTime must be later than its startDateTime.")
	}
	id, err := s.guid()
	if err != nil {
		return none, "", err
	}
	text, err := newSecret(s.rand)
	if err != nil {
		return none, "", err
	}
	v := millpond.Secret{KeyID: id, DisplayName: displayName, Hint: text[:3], Start: start, End: end}
	return v, text, tx.InsertSecret(application, sqlite.SecretRow{Secret: v, Digest: digest(text)})
}

// RemoveSecret forgets one secret of an application.
func (s *Service) RemoveSecret(ctx context.Context, tenant, application, keyID string) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := applicationOf(tx, tenant, application)
		if err != nil {
			return err
		}
		ok, err := tx.DeleteSecret(a.ID, strings.ToLower(keyID))
		if err == nil && !ok {
			err = millpond.Errorf(millpond.Invalid, "Request_BadRequest", "No password credential found with keyId '%s'.", keyID)
		}
		return err
	})
}

// newSecret makes 256 bits of randomness into text. The characters are safe in a
// form, a shell and a file, and "~" keeps az from taking a secret that starts
// with "-" for an option.
func newSecret(rand io.Reader) (string, error) {
	b := make([]byte, 32)
	if _, err := io.ReadFull(rand, b); err != nil {
		return "", err
	}
	return "mp~" + base64.RawURLEncoding.EncodeToString(b), nil
}

// digest is what is kept of a secret. Nobody can choose a secret: each is 256
// random bits from newSecret, which cannot be guessed from a digest however fast
// that is to compute. So a plain SHA-256 does, where a password that a person
// chose would need a slow hash with salt.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
