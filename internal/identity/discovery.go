package identity

import (
	"net/http"
	"net/url"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/directory"
)

// openID is a discovery document. Everything but issuer is an address of the
// host by which the client came.
type openID struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	DeviceCode    string   `json:"device_authorization_endpoint,omitempty"`
	Keys          string   `json:"jwks_uri"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	ResponseTypes []string `json:"response_types_supported"`
	ResponseModes []string `json:"response_modes_supported"`
	Scopes        []string `json:"scopes_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	SigningAlgs   []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
	Region        *string  `json:"tenant_region_scope"`
	Cloud         string   `json:"cloud_instance_name"`
	CloudGraph    string   `json:"cloud_graph_host_name"`
	Graph         string   `json:"msgraph_host"`
}

func document() openID {
	return openID{
		AuthMethods: []string{"client_secret_post"}, ResponseTypes: []string{"code", "token"}, ResponseModes: []string{"query"},
		Scopes: []string{"openid"}, SubjectTypes: []string{"pairwise"}, SigningAlgs: []string{"RS256"},
		Claims: []string{"aud", "iss", "iat", "nbf", "exp", "appid", "idtyp", "oid", "sub", "tid", "ver"},
		Cloud:  "microsoftonline.com", CloudGraph: "graph.windows.net", Graph: "graph.microsoft.com",
	}
}

// tenantOf is the tenant of the path. common and organizations stay what they
// are, because a token request may name them too.
func (e *Edge) tenantOf(r *azwire.Request) (string, error) {
	name := strings.ToLower(r.Param("tenant"))
	if name == "common" || name == "organizations" {
		return name, nil
	}
	t, err := e.dir.FindTenant(r.Context(), name, "invalid_tenant")
	return t.ID, err
}

func (e *Edge) openIDv2(w http.ResponseWriter, r *azwire.Request) error {
	tenant, err := e.tenantOf(r)
	if err != nil {
		return err
	}
	base := r.BaseURL + "/" + tenant
	d := document()
	d.Issuer = "https://" + publicLogin()[0] + "/" + tenant + "/v2.0"
	d.Authorization, d.Token = base+"/oauth2/v2.0/authorize", base+"/oauth2/v2.0/token"
	d.DeviceCode, d.Keys = base+"/oauth2/v2.0/devicecode", base+"/discovery/v2.0/keys"
	azwire.WriteJSON(w, http.StatusOK, d)
	return nil
}

// openIDv1 must name the issuer as https://sts.windows.net/{id}/: az takes the
// tenant's id from there when it was given a domain.
func (e *Edge) openIDv1(w http.ResponseWriter, r *azwire.Request) error {
	tenant, err := e.tenantOf(r)
	if err != nil {
		return err
	}
	base := r.BaseURL + "/" + tenant
	d := document()
	d.Issuer = "https://sts.windows.net/" + tenant + "/"
	d.Authorization, d.Token = base+"/oauth2/authorize", base+"/oauth2/token"
	d.DeviceCode, d.Keys = base+"/oauth2/devicecode", base+"/discovery/keys"
	azwire.WriteJSON(w, http.StatusOK, d)
	return nil
}

// openIDADFS serves the style of on-premises clouds, which clients take without
// asking Microsoft whether the host is known.
func (e *Edge) openIDADFS(w http.ResponseWriter, r *azwire.Request) error {
	base := r.BaseURL + "/adfs"
	d := document()
	d.Issuer = base
	d.Authorization, d.Token, d.Keys = base+"/oauth2/authorize", base+"/oauth2/token", base+"/discovery/keys"
	azwire.WriteJSON(w, http.StatusOK, d)
	return nil
}

type instanceMetadata struct {
	Network string   `json:"preferred_network"`
	Cache   string   `json:"preferred_cache"`
	Aliases []string `json:"aliases"`
}

// instance answers whether a host is a token service. Any host may be asked
// about here, because whoever asks trusts this server's certificate; the answer
// for a host that is not Microsoft's points to that same host.
func (e *Edge) instance(w http.ResponseWriter, r *azwire.Request) error {
	asked := r.QueryValue("authorization_endpoint")
	u, err := url.Parse(asked)
	if asked == "" || err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return directory.NewSignInError(millpond.Invalid, "invalid_request", 900144,
			"The request must contain the parameter 'authorization_endpoint', such as https://login.microsoftonline.com/common/oauth2/v2.0/authorize.")
	}
	version := "/v2.0"
	if !strings.Contains(strings.ToLower(u.Path), "/v2.0/") {
		version = ""
	}
	tenant, _, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	public := publicLogin()
	metadata := []instanceMetadata{{Network: public[0], Cache: public[1], Aliases: public}}
	host := u.Host
	if !isPublicLogin(u.Hostname()) {
		// Python's client asks without the port of its authority. When it asks at
		// that same host, this connection has the port.
		if u.Port() == "" && strings.EqualFold(u.Hostname(), hostname(r.Host)) {
			host = r.Host
		}
		metadata = append(metadata, instanceMetadata{Network: host, Cache: host, Aliases: []string{host}})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": "https://" + host + "/" + tenant + version + "/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata":                  metadata,
	})
	return nil
}

func hostname(hostport string) string {
	u := url.URL{Host: hostport}
	return u.Hostname()
}

func (e *Edge) keys(w http.ResponseWriter, r *azwire.Request) error {
	azwire.WriteJSON(w, http.StatusOK, e.dir.PublicKeys())
	return nil
}
