package directory

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	millpond "millpond.dev/millpond"
)

const (
	// tokenLife is how long a token is good for.
	tokenLife = time.Hour
	// backdate covers the skew of a client that checks nbf itself.
	backdate = 5 * time.Minute
)

// Token is an access token as the token endpoints hand it out.
type Token struct {
	Access             string
	Tenant             string
	Resource           string
	NotBefore, Expires time.Time
	// Life is what to tell the client: a second less than it is, as Azure does.
	Life time.Duration
}

// claims are those of Azure's v1 access tokens for an application, which is
// what ARM and Batch get from either endpoint (arm-and-identity.md §2.5).
type claims struct {
	Audience  string           `json:"aud"`
	Issuer    string           `json:"iss"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	Expiry    *jwt.NumericDate `json:"exp"`
	AppID     string           `json:"appid"`
	AppIDACR  string           `json:"appidacr"`
	IDP       string           `json:"idp"`
	IDType    string           `json:"idtyp"`
	Object    string           `json:"oid"`
	Subject   string           `json:"sub"`
	Tenant    string           `json:"tid"`
	Unique    string           `json:"uti"`
	Version   string           `json:"ver"`
	Name      string           `json:"app_displayname,omitempty"`
	Task      *taskClaims      `json:"millpond_task,omitempty"`
	// Managed is the resource id of the managed identity that the token is for.
	Managed string `json:"xms_mirid,omitempty"`
}

func issuer(tenant string) string { return "https://sts.windows.net/" + tenant + "/" }

// issue signs a token for a principal.
func (s *Service) issue(p millpond.ServicePrincipal, resource string) (Token, error) {
	unique := make([]byte, 16)
	if _, err := io.ReadFull(s.rand, unique); err != nil {
		return Token{}, err
	}
	now := s.clock.Now().Truncate(time.Second)
	t := Token{Tenant: p.Tenant, Resource: resource, NotBefore: now.Add(-backdate), Expires: now.Add(tokenLife), Life: tokenLife - time.Second}
	// 1: a secret was proven; 2: a certificate, which is how Azure's own hosts prove a managed identity.
	proof := "1"
	if p.Managed != "" {
		proof = "2"
	}
	var err error
	t.Access, err = jwt.Signed(s.key.signer).Claims(claims{
		Audience: resource, Issuer: issuer(p.Tenant), IssuedAt: jwt.NewNumericDate(t.NotBefore), NotBefore: jwt.NewNumericDate(t.NotBefore),
		Expiry: jwt.NewNumericDate(t.Expires), AppID: p.AppID, AppIDACR: proof, IDP: issuer(p.Tenant), IDType: "app", Object: p.ID, Subject: p.ID,
		Tenant: p.Tenant, Unique: base64.RawURLEncoding.EncodeToString(unique), Version: "1.0", Name: p.DisplayName, Managed: p.Managed,
	}).Serialize()
	return t, err
}

// Verify checks a bearer token that this server issued and returns whom it
// names. It accepts a token for one audience only.
//
// Errors are Unauthenticated with the code InvalidAuthenticationToken,
// ExpiredAuthenticationToken or AuthenticationFailed (no token at all).
func (s *Service) Verify(_ context.Context, bearer string, audience Audience) (millpond.Caller, error) {
	var none millpond.Caller
	if bearer == "" {
		return none, millpond.Errorf(millpond.Unauthenticated, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing. Sign in with az login, or run the program with millpond exec.")
	}
	parsed, err := jwt.ParseSigned(bearer, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return none, invalidToken("The access token is invalid: it is not a signed JWT.").Because(err)
	}
	if len(parsed.Headers) != 1 || parsed.Headers[0].KeyID != s.key.id {
		return none, invalidToken("The access token is invalid: it is signed with a key that this server does not have. If the server's data folder is new, sign in again.")
	}
	var c claims
	if err := parsed.Claims(&s.key.private.PublicKey, &c); err != nil {
		return none, invalidToken("The access token is invalid: its signature does not match.").Because(err)
	}
	if c.Expiry == nil || c.NotBefore == nil || c.Object == "" && c.Task == nil || c.Tenant == "" || c.Issuer != issuer(c.Tenant) {
		return none, invalidToken("The access token is invalid: it lacks a claim.").Because(errors.New("claims of a token that we signed"))
	}
	now := s.clock.Now()
	if !now.Before(c.Expiry.Time()) {
		return none, millpond.Errorf(millpond.Unauthenticated, "ExpiredAuthenticationToken",
			"The access token expiry UTC time '%s' is earlier than current UTC time '%s'. Get a new one.", stamp(c.Expiry.Time()), stamp(now))
	}
	if now.Before(c.NotBefore.Time()) {
		return none, invalidToken("The access token is not yet valid. Check this machine's clock.")
	}
	if !audience.accepts(c.Audience) {
		return none, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationTokenAudience",
			"The access token has been obtained for wrong audience or resource '%s'. It should exactly match with one of the allowed audiences '%s'.",
			c.Audience, strings.Join(audience.names(), "','"))
	}
	if c.Task != nil {
		return c.Task.caller(c.Tenant), nil
	}
	return millpond.Caller{Method: millpond.AuthToken, Tenant: c.Tenant, Object: c.Object, App: c.AppID, Name: c.Name}, nil
}

func (a Audience) names() []string {
	switch a {
	case AudienceARM:
		return []string{"https://management.core.windows.net/", "https://management.core.windows.net", "https://management.azure.com/", "https://management.azure.com"}
	case AudienceBatch:
		return []string{"https://batch.core.windows.net/", "https://batch.core.windows.net"}
	case AudienceGraph:
		return []string{"https://graph.microsoft.com/", "https://graph.microsoft.com", "00000003-0000-0000-c000-000000000000"}
	case AudienceStorage:
		return []string{"https://storage.azure.com/", "https://storage.azure.com"}
	}
	return nil
}

func invalidToken(message string) *millpond.Error {
	return &millpond.Error{Kind: millpond.Unauthenticated, Code: "InvalidAuthenticationToken", Message: message}
}

func stamp(t time.Time) string { return t.UTC().Format("1/2/2006 3:04:05 PM") }
