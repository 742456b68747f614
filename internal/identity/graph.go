package identity

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/authz"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/directory"
)

// Rights of Graph's routes. They are evaluated at the root scope, "/". Reading
// is open to every principal of the tenant, as for members of a directory in
// Azure, so that a job submitter can look up names; see Graph.authorize.
const (
	applicationsRead  = "microsoft.directory/applications/read"
	applicationsWrite = "microsoft.directory/applications/write"
	principalsRead    = "microsoft.directory/servicePrincipals/read"
	principalsWrite   = "microsoft.directory/servicePrincipals/write"
	objectsRead       = "microsoft.directory/directoryObjects/read"
)

// Graph serves graph.microsoft.com: the calls of `az ad` and `az role`.
type Graph struct {
	dir    *directory.Service
	authz  *authz.Service
	clock  clock.Clock
	log    *slog.Logger
	routes []azwire.Route
	router *azwire.Router
}

// NewGraph makes the Graph edge.
func NewGraph(dir *directory.Service, az *authz.Service, c clock.Clock, log *slog.Logger) *Graph {
	g := &Graph{dir: dir, authz: az, clock: c, log: log}
	g.routes = g.table()
	g.router = azwire.NewRouter(g.routes)
	return g
}

// Routes is the table of this edge.
func (g *Graph) Routes() []azwire.Route { return g.routes }

func (g *Graph) table() []azwire.Route {
	const (
		noUsers     = "Users do not exist here: Millpond's principals are applications. Use: az ad sp create-for-rbac"
		noGroups    = "Groups do not exist here. Assign roles to service principals."
		noFederated = "Federated credentials are not supported: Millpond trusts no other issuer. Use a client secret."
		noOwners    = "Owners of applications and service principals are not kept: rights come from role assignments."
	)
	routes := []azwire.Route{
		{Name: "application_List", Method: "GET", Path: "/v1.0/applications", Action: applicationsRead, Handle: g.listApplications},
		{Name: "application_Create", Method: "POST", Path: "/v1.0/applications", Action: applicationsWrite, Handle: g.createApplication},
		{Name: "application_Get", Method: "GET", Path: "/v1.0/applications/{id}", Action: applicationsRead, Handle: g.getApplication},
		{Name: "application_Update", Method: "PATCH", Path: "/v1.0/applications/{id}", Action: applicationsWrite, Handle: g.updateApplication},
		{Name: "application_Delete", Method: "DELETE", Path: "/v1.0/applications/{id}", Action: applicationsWrite, Handle: g.deleteApplication},
		{Name: "application_addPassword", Method: "POST", Path: "/v1.0/applications/{id}/addPassword", Action: applicationsWrite, Handle: g.addPassword},
		{Name: "application_removePassword", Method: "POST", Path: "/v1.0/applications/{id}/removePassword", Action: applicationsWrite, Handle: g.removePassword},
		{Name: "servicePrincipal_List", Method: "GET", Path: "/v1.0/servicePrincipals", Action: principalsRead, Handle: g.listPrincipals},
		{Name: "servicePrincipal_Create", Method: "POST", Path: "/v1.0/servicePrincipals", Action: principalsWrite, Handle: g.createPrincipal},
		{Name: "servicePrincipal_Get", Method: "GET", Path: "/v1.0/servicePrincipals/{id}", Action: principalsRead, Handle: g.getPrincipal},
		{Name: "servicePrincipal_Update", Method: "PATCH", Path: "/v1.0/servicePrincipals/{id}", Action: principalsWrite, Handle: g.updatePrincipal},
		{Name: "servicePrincipal_Delete", Method: "DELETE", Path: "/v1.0/servicePrincipals/{id}", Action: principalsWrite, Handle: g.deletePrincipal},
		{Name: "directoryObject_getByIds", Method: "POST", Path: "/v1.0/directoryObjects/getByIds", Action: objectsRead, Handle: g.getByIDs},
		{Name: "user_List", Method: "GET", Path: "/v1.0/users", Action: objectsRead, Handle: g.emptyList("users")},
		{Name: "user_Get", Method: "GET", Path: "/v1.0/users/{id}", Action: objectsRead, Handle: g.missing},
		{Name: "group_List", Method: "GET", Path: "/v1.0/groups", Action: objectsRead, Handle: g.emptyList("groups")},
		{Name: "group_Get", Method: "GET", Path: "/v1.0/groups/{id}", Action: objectsRead, Handle: g.missing},
		{Name: "me_Get", Method: "GET", Path: "/v1.0/me", Action: objectsRead, Handle: g.me},
		{Name: "me_ListOwnedObjects", Method: "GET", Path: "/v1.0/me/ownedObjects", Action: objectsRead, Handle: g.me},
		{Name: "organization_List", Method: "GET", Path: "/v1.0/organization", Action: objectsRead, Handle: g.listOrganizations},
	}
	for _, r := range []azwire.Route{
		{Name: "user_Create", Method: "POST", Path: "/v1.0/users", Refused: noUsers},
		{Name: "group_Create", Method: "POST", Path: "/v1.0/groups", Refused: noGroups},
		{Name: "application_ListOwners", Method: "GET", Path: "/v1.0/applications/{id}/owners", Refused: noOwners},
		{Name: "application_ListFederatedIdentityCredentials", Method: "GET", Path: "/v1.0/applications/{id}/federatedIdentityCredentials", Refused: noFederated},
		{Name: "application_CreateFederatedIdentityCredentials", Method: "POST", Path: "/v1.0/applications/{id}/federatedIdentityCredentials", Refused: noFederated},
		{Name: "servicePrincipal_addPassword", Method: "POST", Path: "/v1.0/servicePrincipals/{id}/addPassword",
			Refused: "Secrets belong to applications here, not to service principals. Use: az ad app credential reset --id APP-ID"},
		{Name: "servicePrincipal_ListOwners", Method: "GET", Path: "/v1.0/servicePrincipals/{id}/owners", Refused: noOwners},
	} {
		r.Action = objectsRead
		routes = append(routes, r)
	}
	return routes
}

func (g *Graph) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	front := azwire.FrontOf(r.Context())
	req := &azwire.Request{Request: r, ID: front.ID, BaseURL: baseURL(r, front)}
	if err := g.serve(w, req); err != nil {
		g.fail(w, req, err)
	}
}

func (g *Graph) serve(w http.ResponseWriter, r *azwire.Request) error {
	// Who asks comes before what for: an anonymous caller learns no routes.
	bearer, _ := Bearer(r.Request)
	caller, err := g.dir.Verify(r.Context(), bearer, directory.AudienceGraph)
	if err != nil {
		return err
	}
	r.Caller = caller
	route, params, allowed := g.router.Match(r.Method, r.URL.EscapedPath())
	switch {
	case route == nil && len(allowed) > 0:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return millpond.Errorf(millpond.MethodNotAllowed, "Request_BadRequest", "Specified HTTP method is not allowed for the request target. Use one of: %s.", strings.Join(allowed, ", "))
	case route == nil:
		return millpond.Errorf(millpond.Invalid, "BadRequest", "Resource not found for the segment '%s'. Millpond serves the part of Microsoft Graph that az ad and az role need; docs/wire lists it.", r.URL.Path)
	}
	r.Route = route
	for k, v := range params {
		r.SetParam(k, v)
	}
	if err := g.authorize(r); err != nil {
		return err
	}
	if route.Refused != "" {
		return millpond.Errorf(millpond.Unsupported, "Request_UnsupportedOperation", "%s: %s", route.Name, route.Refused)
	}
	return route.Handle(w, r)
}

// Bearer is the token of an Authorization header, in any casing of the scheme.
func Bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// authorize lets every principal of the tenant read, and asks for a right at
// the root to change anything.
func (g *Graph) authorize(r *azwire.Request) error {
	if strings.HasSuffix(r.Route.Action, "/read") {
		return nil
	}
	ok, err := g.authz.Allowed(r.Context(), r.Caller, r.Route.Action, "/")
	if err != nil || ok {
		return err
	}
	role, _ := g.authz.Suggest(r.Route.Action)
	return millpond.Errorf(millpond.Forbidden, "Authorization_RequestDenied",
		"Insufficient privileges to complete the operation. It needs '%s' on the directory; an administrator can grant it: %s",
		r.Route.Action, authz.GrantCommand(r.Caller.Object, role, "/"))
}

func (g *Graph) fail(w http.ResponseWriter, r *azwire.Request, err error) {
	e := millpond.AsError(err)
	if e.Kind == millpond.Internal {
		g.log.Error("graph request failed", "request", r.ID, "error", err)
	}
	status := azwire.Status(e.Kind)
	code := e.Code
	if e.Kind == millpond.Unauthenticated {
		code = "InvalidAuthenticationToken"
		w.Header().Set("WWW-Authenticate", `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", client_id="00000003-0000-0000-c000-000000000000"`)
	}
	azwire.WriteJSON(w, status, map[string]any{"error": map[string]any{
		"code": code, "message": e.Message,
		"innerError": map[string]string{"date": g.clock.Now().UTC().Format("2006-01-02T15:04:05"), "request-id": r.ID, "client-request-id": r.Header.Get("client-request-id")},
	}})
}

// maxBody bounds a Graph request.
const maxBody = 4 << 20

// decode reads a JSON body; an empty one leaves v as it is.
func decode(w http.ResponseWriter, r *azwire.Request, v any) error {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &tooLarge):
		return millpond.Errorf(millpond.TooLarge, "Request_BadRequest", "The request is larger than %d bytes.", maxBody)
	}
	return millpond.Errorf(millpond.Invalid, "BadRequest", "Unable to read JSON request payload. Please ensure Content-Type header is set and payload is of valid JSON format: %v", err)
}

func (g *Graph) writeList(w http.ResponseWriter, r *azwire.Request, set string, items []map[string]any) {
	if items == nil {
		items = []map[string]any{}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"@odata.context": r.BaseURL + "/v1.0/$metadata#" + set, "value": items})
}

func (g *Graph) writeObject(w http.ResponseWriter, r *azwire.Request, status int, set string, item map[string]any) {
	item["@odata.context"] = r.BaseURL + "/v1.0/$metadata#" + set + "/$entity"
	azwire.WriteJSON(w, status, item)
}

// emptyList serves a kind of object that does not exist here.
func (g *Graph) emptyList(set string) func(http.ResponseWriter, *azwire.Request) error {
	return func(w http.ResponseWriter, r *azwire.Request) error {
		g.writeList(w, r, set, nil)
		return nil
	}
}

func (g *Graph) missing(_ http.ResponseWriter, r *azwire.Request) error {
	return millpond.Errorf(millpond.NotFound, "Request_ResourceNotFound", "Resource '%s' does not exist or one of its queried reference-property objects are not present.", r.Param("id"))
}

func (g *Graph) me(http.ResponseWriter, *azwire.Request) error {
	return millpond.Errorf(millpond.Invalid, "BadRequest", "/me request is only valid with delegated authentication flow: the caller is an application, not a user.")
}

func (g *Graph) listOrganizations(w http.ResponseWriter, r *azwire.Request) error {
	t, err := g.dir.Tenant(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	g.writeList(w, r, "organization", []map[string]any{{
		"id": t.ID, "displayName": t.DisplayName, "tenantType": "AAD", "createdDateTime": graphTime(t.Created),
		"verifiedDomains": []map[string]any{{"name": t.Domain, "isDefault": true, "isInitial": true, "type": "Managed"}},
	}})
	return nil
}
