package identity

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/directory"
)

// Edge serves login.microsoftonline.com and its like. Everything it serves is
// open to anonymous callers: this is where they stop being that.
type Edge struct {
	dir    *directory.Service
	clock  clock.Clock
	log    *slog.Logger
	routes []azwire.Route
	router *azwire.Router
}

// New makes the edge of the token endpoints.
func New(dir *directory.Service, c clock.Clock, log *slog.Logger) *Edge {
	e := &Edge{dir: dir, clock: c, log: log}
	e.routes = e.table()
	e.router = azwire.NewRouter(e.routes)
	return e
}

// Routes is the table of this edge.
func (e *Edge) Routes() []azwire.Route { return e.routes }

func (e *Edge) table() []azwire.Route {
	const users = "Users do not exist here: Millpond's principals are applications. Sign in with a client id and a secret (az login --service-principal)."
	return []azwire.Route{
		{Name: "OpenIDConfiguration_V2", Method: "GET", Path: "/{tenant}/v2.0/.well-known/openid-configuration", Handle: e.openIDv2},
		{Name: "OpenIDConfiguration_V1", Method: "GET", Path: "/{tenant}/.well-known/openid-configuration", Handle: e.openIDv1},
		{Name: "OpenIDConfiguration_ADFS", Method: "GET", Path: "/adfs/.well-known/openid-configuration", Handle: e.openIDADFS},
		{Name: "Instance_Discover", Method: "GET", Path: "/common/discovery/instance", Handle: e.instance},
		{Name: "Keys_V2", Method: "GET", Path: "/{tenant}/discovery/v2.0/keys", Handle: e.keys},
		{Name: "Keys_V1", Method: "GET", Path: "/{tenant}/discovery/keys", Handle: e.keys},
		{Name: "Token_V2", Method: "POST", Path: "/{tenant}/oauth2/v2.0/token", Handle: e.tokenV2},
		{Name: "Token_V1", Method: "POST", Path: "/{tenant}/oauth2/token", Handle: e.tokenV1},
		{Name: "Token_ADFS", Method: "POST", Path: "/adfs/oauth2/token", Handle: e.tokenADFS},
		{Name: "UserRealm_Get", Method: "GET", Path: "/common/userrealm/{user}", Refused: users},
		{Name: "Authorize_V2", Method: "GET", Path: "/{tenant}/oauth2/v2.0/authorize", Refused: users},
		{Name: "Authorize_V1", Method: "GET", Path: "/{tenant}/oauth2/authorize", Refused: users},
		{Name: "DeviceCode_V2", Method: "POST", Path: "/{tenant}/oauth2/v2.0/devicecode", Refused: users},
		{Name: "DeviceCode_V1", Method: "POST", Path: "/{tenant}/oauth2/devicecode", Refused: users},
	}
}

func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	front := azwire.FrontOf(r.Context())
	req := &azwire.Request{Request: r, ID: front.ID, BaseURL: baseURL(r, front)}
	route, params, allowed := e.router.Match(r.Method, r.URL.EscapedPath())
	var err error
	switch {
	case route == nil && len(allowed) > 0:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		err = directory.NewSignInError(millpond.MethodNotAllowed, "invalid_request", 900561, "The endpoint only accepts "+strings.Join(allowed, ", ")+" requests. Received a "+r.Method+" request.")
	case route == nil:
		err = directory.NewSignInError(millpond.NotFound, "invalid_request", 900144, "There is nothing at this address. The token endpoint is /{tenant}/oauth2/v2.0/token.")
	case route.Refused != "":
		err = directory.NewSignInError(millpond.Unsupported, "unsupported_grant_type", 70003, route.Name+": "+route.Refused)
	default:
		req.Route = route
		for k, v := range params {
			req.SetParam(k, v)
		}
		err = route.Handle(w, req)
	}
	if err != nil {
		e.fail(w, req, err)
	}
}

// oauthError is the body of a failed sign-in. JavaScript's client composes its
// message from every field, so all are there.
type oauthError struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
	URI           string `json:"error_uri"`
}

func (e *Edge) fail(w http.ResponseWriter, r *azwire.Request, err error) {
	me := millpond.AsError(err)
	if me.Kind == millpond.Internal {
		e.log.Error("sign-in failed", "request", r.ID, "error", err)
		me = &millpond.Error{Kind: millpond.Internal, Code: "server_error", Message: me.Message}
	}
	number := 90033
	for _, d := range me.Details {
		if d.Name == directory.AADSTS {
			_, _ = fmt.Sscan(d.Value, &number)
		}
	}
	status := azwire.Status(me.Kind)
	if status == http.StatusBadRequest && !strings.Contains(r.UserAgent(), "azsdk-python") {
		// az keeps a 400 for a minute and repeats it to a caller whose mistake is
		// mended, unless told when to retry (arm-and-identity.md §2.7). Python's
		// azure-identity keeps nothing, but takes the header for an invitation and
		// tries three times more, for five seconds.
		w.Header().Set("Retry-After", "0")
	}
	now := e.clock.Now().UTC().Format("2006-01-02 15:04:05Z")
	correlation := r.Header.Get("client-request-id")
	if correlation == "" {
		correlation = r.ID
	}
	noStore(w)
	azwire.WriteJSON(w, status, oauthError{
		Error:       me.Code,
		Description: fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s", number, me.Message, r.ID, correlation, now),
		Codes:       []int{number}, Timestamp: now, TraceID: r.ID, CorrelationID: correlation,
		URI: fmt.Sprintf("%s/error?code=%d", r.BaseURL, number),
	})
}

func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store, no-cache")
	w.Header().Set("Pragma", "no-cache")
}

// baseURL is the address that the client used. Discovery documents must keep to
// it: a client that is sent elsewhere goes there.
func baseURL(r *http.Request, front azwire.Front) string {
	if front.BaseURL != "" {
		return front.BaseURL
	}
	return "https://" + r.Host
}

// publicLogin are the names of Microsoft's token service for one and the same
// cloud. The first is the one that clients use.
func publicLogin() []string {
	return []string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"}
}

func isPublicLogin(host string) bool {
	for _, h := range publicLogin() {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	return false
}
