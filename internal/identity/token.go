package identity

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/directory"
)

// maxForm is plenty for a token request; assertions are a few kilobytes.
const maxForm = 1 << 20

// tokenV2 takes `scope`: the audience is the first word without /.default.
func (e *Edge) tokenV2(w http.ResponseWriter, r *azwire.Request) error {
	return e.token(w, r, r.Param("tenant"), false)
}

// tokenV1 takes `resource`, which is the audience as it stands.
func (e *Edge) tokenV1(w http.ResponseWriter, r *azwire.Request) error {
	return e.token(w, r, r.Param("tenant"), true)
}

// tokenADFS takes either, because Python's two clients differ. It has no tenant
// in its path: the application's home is meant.
func (e *Edge) tokenADFS(w http.ResponseWriter, r *azwire.Request) error {
	return e.token(w, r, "", false)
}

func (e *Edge) token(w http.ResponseWriter, r *azwire.Request, tenant string, v1 bool) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return directory.NewSignInError(millpond.Invalid, "invalid_request", 900144, "The request body is not a form: "+err.Error())
	}
	form := r.PostForm
	if form.Get("grant_type") == "" {
		return missing("grant_type")
	}
	if form.Get("grant_type") != "client_credentials" {
		return directory.NewSignInError(millpond.Invalid, "unsupported_grant_type", 70003,
			"The app requested an unsupported grant type '"+form.Get("grant_type")+"'. Only client_credentials is served: users do not exist here.")
	}
	client, secret := form.Get("client_id"), form.Get("client_secret")
	if id, pw, ok := r.BasicAuth(); ok {
		// RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
		client, secret = unescape(id), unescape(pw)
	}
	if client == "" {
		return missing("client_id")
	}
	resource, err := resourceOf(form, v1 || (tenant == "" && form.Get("scope") == ""))
	if err != nil {
		return err
	}
	t, err := e.dir.SignIn(r.Context(), directory.Grant{Tenant: tenant, ClientID: client, Secret: secret,
		Assertion: form.Get("client_assertion"), Resource: resource, OwnHost: r.Host})
	if err != nil {
		return err
	}
	noStore(w)
	life := strconv.Itoa(int(t.Life.Seconds()))
	if form.Get("scope") == "" {
		// Version 1 writes numbers as strings.
		azwire.WriteJSON(w, http.StatusOK, map[string]string{
			"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "expires_on": strconv.FormatInt(t.Expires.Unix(), 10),
			"not_before": strconv.FormatInt(t.NotBefore.Unix(), 10), "resource": t.Resource, "access_token": t.Access,
		})
		return nil
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": int(t.Life.Seconds()), "ext_expires_in": int(t.Life.Seconds()), "access_token": t.Access,
	})
	return nil
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

func missing(field string) error {
	return directory.NewSignInError(millpond.Invalid, "invalid_request", 900144, "The request body must contain the following parameter: '"+field+"'.")
}

// resourceOf is the audience that a request asks for. Only the literal suffix is
// taken off: `https://host//.default` means `https://host/`, and a verifier
// that compares would miss it otherwise.
func resourceOf(form url.Values, v1 bool) (string, error) {
	if v1 {
		if form.Get("resource") == "" {
			return "", missing("resource")
		}
		return form.Get("resource"), nil
	}
	words := strings.Fields(form.Get("scope"))
	if len(words) == 0 {
		return "", missing("scope")
	}
	resource, ok := strings.CutSuffix(words[0], "/.default")
	if !ok {
		return "", directory.NewSignInError(millpond.Invalid, "invalid_scope", 1002012,
			"The provided value for scope "+words[0]+" is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).")
	}
	return resource, nil
}
