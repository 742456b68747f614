package directory

import (
	"context"
	"crypto/subtle"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Grant is a client-credentials request, stripped of its wire form.
type Grant struct {
	// Tenant is what stood in the path: an id, a domain, common or
	// organizations; "" on the ADFS-style path. Without a tenant of its own it is
	// the application's home.
	Tenant   string
	ClientID string
	Secret   string
	// Assertion is a signed JWT in place of a secret.
	Assertion string
	// Resource is the audience that the token shall have.
	Resource string
	// OwnHost is the host and port by which the client reached this server.
	OwnHost string
}

// NewSignInError is an error of the token endpoints: the OAuth error, Azure's
// number of it, and its text without the AADSTS prefix. Number is the detail
// named by AADSTS.
func NewSignInError(kind millpond.Kind, oauth string, number int, message string) *millpond.Error {
	return (&millpond.Error{Kind: kind, Code: oauth, Message: message}).With(AADSTS, strconv.Itoa(number))
}

// AADSTS is the name of the detail that holds the number.
const AADSTS = "AADSTS"

var domainName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+$`)

// FindTenant finds the tenant of a path's first segment. oauth is the OAuth
// error for an unknown one, which differs between the endpoints.
//
// Errors: AADSTS900023 for what cannot be a tenant, AADSTS90002 for one that is
// not here.
func (s *Service) FindTenant(ctx context.Context, name, oauth string) (t millpond.Tenant, err error) {
	if _, bad := uuid.Parse(name); bad != nil && !domainName.MatchString(name) {
		return t, NewSignInError(millpond.Invalid, "invalid_request", 900023,
			"Specified tenant identifier '"+name+"' is neither a valid DNS name, nor a valid external domain.")
	}
	t, err = s.Tenant(ctx, name)
	if millpond.KindOf(err) == millpond.NotFound {
		err = NewSignInError(millpond.Invalid, oauth, 90002,
			"Tenant '"+name+"' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. This is a Millpond server; its tenants are in its credentials.json.")
	}
	return t, err
}

// SignIn gives an application a token for its principal in a tenant. Errors
// carry the OAuth error, the AADSTS number and the kind of arm-and-identity.md
// §2.6.
func (s *Service) SignIn(ctx context.Context, g Grant) (Token, error) {
	if classify(g.Resource, g.OwnHost) == audienceUnknown {
		return Token{}, NewSignInError(millpond.Invalid, "invalid_resource", 500011,
			"The resource principal named "+g.Resource+" was not found in the tenant named "+g.Tenant+". This can happen if the application has not been installed by the administrator of the tenant.")
	}
	tenant, err := s.signInTenant(ctx, g)
	if err != nil {
		return Token{}, err
	}
	var app millpond.Application
	var principal millpond.ServicePrincipal
	var secrets []sqlite.SecretRow
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		if principal, err = tx.ServicePrincipalOf(tenant, strings.ToLower(g.ClientID)); err != nil {
			return err
		}
		if app, err = tx.ApplicationByAppID(principal.AppID); err != nil {
			return err
		}
		secrets, err = tx.Secrets(app.ID)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return Token{}, unknownApplication(g.ClientID, tenant)
	}
	if err != nil {
		return Token{}, err
	}
	// The secret comes before the state: nobody learns whether an application is
	// disabled without its secret.
	if err := s.checkSecret(g, app, secrets); err != nil {
		return Token{}, err
	}
	if !principal.Enabled {
		return Token{}, NewSignInError(millpond.Invalid, "unauthorized_client", 7000112, "Application '"+app.AppID+"'("+app.DisplayName+") is disabled.")
	}
	return s.issue(principal, g.Resource)
}

// signInTenant is the id of the tenant that a grant is for.
func (s *Service) signInTenant(ctx context.Context, g Grant) (string, error) {
	switch strings.ToLower(g.Tenant) {
	case "", "common", "organizations", "adfs":
		var app millpond.Application
		err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
			app, err = tx.ApplicationByAppID(strings.ToLower(g.ClientID))
			return err
		})
		if errors.Is(err, sqlite.ErrNoRow) {
			return "", unknownApplication(g.ClientID, "of this server")
		}
		return app.Tenant, err
	}
	t, err := s.FindTenant(ctx, g.Tenant, "invalid_request")
	return t.ID, err
}

func unknownApplication(client, tenant string) error {
	return NewSignInError(millpond.Invalid, "unauthorized_client", 700016,
		"Application with identifier '"+client+"' was not found in the directory '"+tenant+"'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.")
}

func (s *Service) checkSecret(g Grant, app millpond.Application, secrets []sqlite.SecretRow) error {
	if g.Assertion != "" {
		return NewSignInError(millpond.Unauthenticated, "invalid_client", 700027,
			"The certificate with identifier used to sign the client assertion is not registered on application. Millpond keeps no certificates and trusts no other issuer; sign in with a client secret.")
	}
	if g.Secret == "" {
		return NewSignInError(millpond.Unauthenticated, "invalid_client", 7000218,
			"The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
	}
	got := digest(g.Secret)
	now := s.clock.Now()
	var matched *sqlite.SecretRow
	for i := range secrets {
		// Every row is compared, so that time tells nothing about which matched.
		if subtle.ConstantTimeCompare([]byte(got), []byte(secrets[i].Digest)) == 1 {
			matched = &secrets[i]
		}
	}
	switch {
	case matched == nil || now.Before(matched.Start.Add(-time.Minute)):
		return NewSignInError(millpond.Unauthenticated, "invalid_client", 7000215,
			"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '"+app.AppID+"'.")
	case !now.Before(matched.End):
		return NewSignInError(millpond.Unauthenticated, "invalid_client", 7000222,
			"The provided client secret keys for app '"+app.AppID+"' are expired. Create new keys for your app: az ad app credential reset --id "+app.AppID)
	}
	return nil
}
