// Package armapi is the Resource Manager's edge: it decodes requests, calls one
// verb each, and encodes answers in the shapes and with the status codes that
// Azure's clients insist on. Every operation stands in Routes, the refused ones
// too.
//
// It holds no state and makes no decision about resources. httpd mounts it for
// management.azure.com and for /subscriptions, /providers and /tenants in
// direct use.
package armapi

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/certificate"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/deployment"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/managedidentity"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/storage"
)

// Authorizer says whether a caller may do something. Sees tells whether the
// caller has any role at, above or below a scope; lists are filtered by it.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
	Sees(ctx context.Context, caller millpond.Caller, scope string) bool
}

// Options are what an Edge calls.
type Options struct {
	Log *slog.Logger
	// Authenticate proves who the caller is by a token for the Resource Manager.
	Authenticate func(r *http.Request) (millpond.Caller, error)
	Auth         Authorizer
	// Authorization answers for every path whose last provider is
	// Microsoft.Authorization; the identity edge has it.
	Authorization func(w http.ResponseWriter, r *azwire.Request) error
	Resources     *resource.Service
	Compute       *compute.Service
	Gallery       *gallery.Service
	Accounts      *account.Service
	Storage       *storage.Service
	Applications  *application.Service
	Network       *network.Service
	Identities    *managedidentity.Service
	Machines      *machine.Service
	Deployments   *deployment.Service
	// Pools is the Batch service.
	Pools   BatchPools
	VMSizes func() []millpond.VMSize
	// Certificates are only for api-versions that have them.
	Certificates *certificate.Service
	// TenantName is what a tenant is called; nil shows none.
	TenantName func(ctx context.Context, tenant string) string
	// PageSize bounds lists; 0 means 200.
	PageSize int
}

// Edge is the handler.
type Edge struct {
	Options
	router *azwire.Router
	// served has the routes without those that refuse.
	served *azwire.Router
}

// New makes the handler.
func New(o Options) *Edge {
	e := &Edge{Options: o}
	if e.PageSize == 0 {
		e.PageSize = 200
	}
	if e.VMSizes == nil {
		e.VMSizes = millpond.VMSizes
	}
	all := e.Routes()
	e.router = azwire.NewRouter(all)
	e.served = azwire.NewRouter(slices.DeleteFunc(slices.Clone(all), func(r azwire.Route) bool { return r.Refused != "" || catchesAll(r) }))
	return e
}

// SignedIn is the Action of operations that every signed-in principal may call;
// the handler shows only what the caller may see.
const SignedIn = "(any signed-in principal)"

// Routes is the table of operations.
func (e *Edge) Routes() []azwire.Route {
	var all []azwire.Route
	for _, part := range [][]azwire.Route{e.subscriptionRoutes(), e.groupRoutes(), e.providerRoutes(), e.resourceRoutes(), e.operationRoutes(),
		e.diskRoutes(), e.imageRoutes(), e.galleryRoutes(), e.versionRoutes(), e.checkRoutes(), e.sharingRoutes(), e.accountRoutes(), e.poolRoutes(), e.storageRoutes(), e.applicationRoutes(), e.certificateRoutes(), e.networkRoutes(), e.identityRoutes(), e.placementRoutes(), e.sshKeyRoutes(), e.deploymentRoutes(),
		e.machineRoutes(), e.extensionRoutes(), e.commandRoutes(), e.catalogueRoutes(), e.refusedRoutes()} {
		all = append(all, part...)
	}
	return all
}

// apiVersion is what a version looks like; which one it is does not matter.
var apiVersion = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}([.-][A-Za-z0-9.]+)?$`)

var slashes = regexp.MustCompile(`/{2,}`)

func (e *Edge) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	front := azwire.FrontOf(hr.Context())
	r := &azwire.Request{Request: hr.Clone(hr.Context()), ID: front.ID, BaseURL: front.BaseURL}
	if r.ID == "" {
		r.ID = uuid.NewString()
	}
	if r.BaseURL == "" {
		r.BaseURL = "https://" + hr.Host
	}
	w.Header().Set("x-ms-request-id", r.ID)
	w.Header().Set("x-ms-correlation-request-id", r.ID)
	w.Header().Set("Cache-Control", "no-cache")
	if err := e.serve(w, r); err != nil {
		if me := millpond.AsError(err); me.Kind == millpond.Internal {
			e.Log.Error("request failed", "request", r.ID, "method", hr.Method, "path", hr.URL.Path, "err", err)
		} else if me.Kind == millpond.Unauthenticated {
			w.Header().Set("WWW-Authenticate", `Bearer authorization_uri="https://login.microsoftonline.com/`+r.Caller.Tenant+`", error="invalid_token", error_description="`+strings.ReplaceAll(me.Message, `"`, "'")+`"`)
		}
		azwire.WriteARMError(w, hr, err)
	}
}

func (e *Edge) serve(w http.ResponseWriter, r *azwire.Request) error {
	caller, err := e.Authenticate(r.Request)
	if err != nil {
		return err
	}
	r.Caller = caller
	if err := e.find(r); err != nil {
		return err
	}
	if r.Route == nil {
		return e.elsewhere(w, r)
	}
	if r.Route.Refused != "" {
		if catchesAll(*r.Route) {
			if _, _, allowed := e.served.Match(r.Method, r.URL.EscapedPath()); len(allowed) > 0 {
				return notAllowed(w, r, allowed)
			}
		}
		return refuse(w, r)
	}
	if r.Route.Ended(r.APIVersion) {
		return millpond.Errorf(millpond.Unsupported, "NotImplemented", "%s: %s", r.Route.Name, r.Route.EndedWhy)
	}
	if f := r.QueryValue("$filter"); f != "" && r.Method == http.MethodGet && !filters(r.Route.Name) {
		return millpond.Errorf(millpond.Invalid, "InvalidFilterInQueryString", "%s: the $filter '%s' is not supported; this list cannot be filtered. Leave it out and choose from what is listed: az ... --query", r.Route.Name, azwire.Clip(f))
	}
	return r.Route.Handle(w, r)
}

// filters says whether an operation reads $filter. A list that passed over one would
// show what nobody asked for.
func filters(operation string) bool {
	switch operation {
	case "ResourceGroups_List", "Resources_List", "Resources_ListByResourceGroup", "ResourceSkus_List", "Pool_ListByBatchAccount":
		return true
	}
	return strings.HasPrefix(operation, "Deployments_List")
}

// find sets the route of an authenticated request, after the caller's right to
// it and the locks in its way have been checked. It leaves the route empty for what the authorization edge
// or nobody serves.
func (e *Edge) find(r *azwire.Request) error {
	// az resource show writes an empty parent as a double slash.
	raw := slashes.ReplaceAllString(r.URL.EscapedPath(), "/")
	r.URL.Path = slashes.ReplaceAllString(r.URL.Path, "/")
	r.APIVersion = r.QueryValue("api-version")
	if r.APIVersion == "" {
		return millpond.Errorf(millpond.Invalid, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	}
	if !apiVersion.MatchString(r.APIVersion) {
		return millpond.Errorf(millpond.Invalid, "InvalidApiVersionParameter", "The api-version '%s' is invalid. It must have the form 2022-09-01.", r.APIVersion)
	}
	if lastProvider(raw) == "microsoft.authorization" && e.Authorization != nil {
		return nil
	}
	route, params, _ := e.router.Match(r.Method, raw)
	if route == nil {
		return nil
	}
	r.Route = route
	for k, v := range params {
		r.SetParam(k, v)
	}
	if sub := params["sub"]; sub != "" {
		s, err := e.Resources.SubscriptionFor(r.Context(), r.Caller, sub)
		if err != nil {
			return err
		}
		r.SetParam("sub", s.ID)
	}
	if err := e.authorize(r); err != nil || route.Refused != "" {
		return err
	}
	return e.unlocked(r)
}

// elsewhere serves what is not in the table.
func (e *Edge) elsewhere(w http.ResponseWriter, r *azwire.Request) error {
	if lastProvider(r.URL.EscapedPath()) == "microsoft.authorization" && e.Authorization != nil {
		return e.Authorization(w, r)
	}
	_, _, allowed := e.router.Match(r.Method, r.URL.EscapedPath())
	if len(allowed) > 0 {
		return notAllowed(w, r, allowed)
	}
	return millpond.Errorf(millpond.NotFound, "InvalidResourceType", "There is no operation at %s.", r.URL.Path)
}

// catchesAll says that a route is for every type that has none of its own.
func catchesAll(r azwire.Route) bool { return strings.HasSuffix(r.Path, "/{rest...}") }

// notAllowed refuses a method that a path does not have.
func notAllowed(w http.ResponseWriter, r *azwire.Request, allowed []string) error {
	slices.Sort(allowed)
	list := strings.Join(slices.Compact(allowed), ", ")
	w.Header().Set("Allow", list)
	return millpond.Errorf(millpond.MethodNotAllowed, "MethodNotAllowed", "The method %s is not allowed for this path. Allowed: %s.", r.Method, list)
}

// filtered marks a list that shows only what the caller may read item by item.
const filtered = "(filtered)"

func (e *Edge) authorize(r *azwire.Request) error {
	if r.Route.Action == SignedIn {
		return nil
	}
	scope := Scope(r.URL.Path)
	action := strings.NewReplacer("{ns}", r.Param("ns"), "{type}", typeOf(r.Param("rest"))).Replace(r.Route.Action)
	err := e.Auth.Authorize(r.Context(), r.Caller, action, scope)
	if err != nil && r.Route.ByItem &&
		millpond.KindOf(err) == millpond.Forbidden && e.Auth.Sees(r.Context(), r.Caller, scope) {
		r.SetParam(filtered, "yes")
		return nil
	}
	return err
}

func lastProvider(path string) string {
	segs := strings.Split(strings.ToLower(strings.Trim(path, "/")), "/")
	for i := len(segs) - 2; i >= 0; i-- {
		if segs[i] == "providers" {
			return segs[i+1]
		}
	}
	return ""
}

// typeOf drops the names from type/name/type/name.
func typeOf(rest string) string {
	var out []string
	for i, s := range strings.Split(rest, "/") {
		if i%2 == 0 {
			out = append(out, s)
		}
	}
	return strings.Join(out, "/")
}

// Scope is what rights are checked on for a path: the innermost subscription,
// group or resource that it names. A trailing collection or verb is left out.
func Scope(path string) string {
	segs := strings.Split(strings.Trim(path, "/"), "/")
	if len(segs) < 2 || !strings.EqualFold(segs[0], "subscriptions") {
		return "/"
	}
	scope := "/subscriptions/" + segs[1]
	if len(segs) < 4 || !strings.EqualFold(segs[2], "resourceGroups") {
		return scope
	}
	scope += "/resourceGroups/" + segs[3]
	if len(segs) < 8 || !strings.EqualFold(segs[4], "providers") {
		return scope
	}
	scope += "/providers/" + segs[5]
	for i := 6; i+1 < len(segs); i += 2 {
		scope += "/" + segs[i] + "/" + segs[i+1]
	}
	return scope
}
