// Package storageapi is the blob endpoint of the storage accounts. It finds the
// account that a request is for, proves that the request is allowed (the
// account's key, a signed link, a token with a role, or an open container),
// and passes it to the real blob service under the account's own part of it,
// signed anew. What a signed link permits is enforced by the service behind,
// which gets a link with the same words.
//
// It stores nothing. It reads a blob or a disk only where a request's content is
// to come from another address of this server, which the service behind cannot
// reach. httpd mounts it for
// *.blob.core.windows.net and, in direct use, for /{account}/….
package storageapi

import (
	"context"
	"encoding/xml"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/storage"
)

// Accounts finds storage accounts by name; storage.Service does.
type Accounts interface {
	Lookup(ctx context.Context, name string) (*millpond.StorageAccount, error)
}

// Disk is a disk as a page blob; *compute.Blob is one.
type Disk interface {
	io.ReaderAt
	io.Closer
	Size() int64
	// Data lists the ranges that may hold more than zeros.
	Data(off, n int64) ([]compute.Extent, error)
}

// Authorizer decides rights; an error says which right is missing.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// Options are what an Edge is made of.
type Options struct {
	Accounts Accounts
	// OpenDisk opens what is behind a disk's signed URL, to be copied into a blob.
	OpenDisk func(ctx context.Context, a compute.Access) (Disk, error)
	// Behind is the real service; nil answers that there is none.
	Behind *storage.Backend
	Auth   Authorizer
	// Verify proves a token for storage.
	Verify func(ctx context.Context, token string) (millpond.Caller, error)
	Clock  clock.Clock
	Log    *slog.Logger
}

// Edge is the handler.
type Edge struct {
	Options
	router *azwire.Router
	proxy  *httputil.ReverseProxy
	copies copies
}

// Proven is the Action of every operation: a signature, a token with a role
// for it, or an open container.
const Proven = "(the account's key, a signed URL, or a token with a data role)"

// New makes the handler.
func New(o Options) *Edge {
	e := &Edge{Options: o, copies: copies{waiting: make(chan *diskCopy, maxCopies), by: map[string]*diskCopy{}}}
	e.router = azwire.NewRouter(e.Routes())
	e.proxy = &httputil.ReverseProxy{Rewrite: e.rewrite, ModifyResponse: e.answer, ErrorHandler: e.unreachable}
	if o.Behind != nil {
		e.proxy.Transport = o.Behind.HTTP
	}
	if o.Log != nil {
		e.proxy.ErrorLog = slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
	}
	return e
}

// Routes is the table of operations. Storage tells operations of one method and
// path apart by query and headers; all are passed on, but for those that refused
// names.
func (e *Edge) Routes() []azwire.Route {
	var out []azwire.Route
	add := func(name, method, path string) {
		out = append(out, azwire.Route{Name: name, Method: method, Path: path, Action: Proven, Handle: e.pass})
	}
	add("Service_Get", "GET", "/")
	add("Service_GetAccountInfo", "HEAD", "/")
	for _, m := range []string{"GET", "HEAD", "PUT", "DELETE", "POST"} {
		add("Container_"+m, m, "/{container}")
	}
	for _, m := range []string{"GET", "HEAD", "PUT", "DELETE", "POST"} {
		add("Blob_"+m, m, "/{container}/{blob...}")
	}
	return out
}

type requestKey struct{}

// request is a request on its way behind.
type request struct {
	*azwire.Request
	account *millpond.StorageAccount
	// path is encoded and begins after the account: "/", "/container", "/container/blob".
	path string
	// base is the account's endpoint as the client reaches it, with a last slash.
	base  string
	place blobsign.Place
	by    proof
	// query is the client's, without its signature.
	query url.Values
}

func (e *Edge) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	front := azwire.FrontOf(hr.Context())
	r := &request{Request: &azwire.Request{ID: front.ID}}
	// Handlers get the part of a request that all edges share; this one's is in
	// its context.
	r.Request.Request = hr.WithContext(context.WithValue(hr.Context(), requestKey{}, r))
	if r.ID == "" {
		r.ID = uuid.NewString()
	}
	w.Header().Set("x-ms-request-id", r.ID)
	if v := hr.Header.Get("x-ms-version"); v != "" {
		w.Header().Set("x-ms-version", v)
	}
	if err := e.serve(w, r); err != nil {
		e.writeError(w, r, err)
	}
}

func (e *Edge) serve(w http.ResponseWriter, r *request) error {
	if e.Behind == nil {
		return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "This server has no blob service behind its storage accounts. Start it with --blob-service; docs/guide/storage.md says how.")
	}
	var err error
	name := r.locate()
	if r.account, err = e.Accounts.Lookup(r.Context(), name); err != nil {
		return err
	}
	route, params, allowed := e.router.Match(r.Method, r.path)
	if route == nil {
		if len(allowed) > 0 {
			return millpond.Errorf(millpond.MethodNotAllowed, "UnsupportedHttpVerb", "The resource doesn't support specified Http Verb %s.", r.Method)
		}
		return millpond.Errorf(millpond.Invalid, "InvalidUri", "The requested URI does not represent any resource on the server.")
	}
	r.Route = route
	r.place = blobsign.Place{Container: params["container"], Blob: params["blob"]}
	// Proof first: who may not ask learns nothing of what is supported.
	if r.by, err = e.prove(r); err != nil {
		return err
	}
	if err := refused(r); err != nil {
		return err
	}
	return route.Handle(w, r.Request)
}

// locate takes the account from the host or from the first segment, and splits
// the path.
func (r *request) locate() (account string) {
	raw, _, _ := strings.Cut(r.RequestURI, "?")
	if i := strings.Index(raw, "://"); i >= 0 || raw == "" {
		raw = r.URL.EscapedPath()
	}
	if !strings.HasPrefix(raw, "/") {
		raw = "/" + raw
	}
	r.query = r.URL.Query()
	host := strings.ToLower(hostOf(r.Host))
	if label, ok := strings.CutSuffix(host, azwire.BlobSuffix); ok {
		r.path, r.base = raw, "https://"+r.Host+"/"
		return label
	}
	account, rest, _ := strings.Cut(raw[1:], "/")
	r.path, r.base = "/"+rest, "https://"+r.Host+"/"+account+"/"
	return account
}

// refused are the operations that reach beyond the account's own part of the
// service behind.
func refused(r *request) error {
	no := func(why string) error {
		return millpond.Errorf(millpond.Unsupported, "UnsupportedOperation", "%s", why)
	}
	comp, restype := strings.ToLower(r.query.Get("comp")), strings.ToLower(r.query.Get("restype"))
	switch {
	case comp == "batch":
		return no("Batches of blob requests are not supported. Send the requests one by one.")
	case r.place.Container == "" && !(comp == "list" || comp == "properties" && (restype == "account" || restype == "service" && r.Method == http.MethodGet)):
		return no("This operation of the whole blob service is not supported: the service is shared by all storage accounts of this server. Use an operation of a container.")
	case strings.HasPrefix(r.place.Container, "$"):
		return no("The container " + r.place.Container + " is not supported: it belongs to the whole blob service. Use a container of another name.")
	}
	return r.confined()
}

var containerName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// confined refuses names that could lead out of the account's own part of the
// service behind: it may resolve the dots of a path after the signature, which
// for an account's link covers no path at all.
func (r *request) confined() error {
	no := func(format string, args ...any) error {
		return millpond.Errorf(millpond.Invalid, "InvalidResourceName", format, args...)
	}
	account, c := r.account.ID.Name(), r.place.Container
	switch {
	case c == "":
		return nil
	case !containerName.MatchString(c):
		return no("The container name %s is not valid: lower-case letters and digits, and single hyphens between them.", azwire.Clip(c))
	case !storage.Fits(account, c):
		return no("The container name %s is too long: with the account's name before it, it may have %d characters here.", azwire.Clip(c), 62-len(account))
	}
	for _, seg := range strings.FieldsFunc(r.place.Blob, func(c rune) bool { return c == '/' || c == '\\' }) {
		if seg == "." || seg == ".." {
			return no("The blob name %s is not valid: no part of it may be . or .., which are resolved on the way.", azwire.Clip(r.place.Blob))
		}
	}
	return nil
}

func (e *Edge) writeError(w http.ResponseWriter, r *request, err error) {
	me := millpond.AsError(err)
	if me.Kind == millpond.Internal {
		e.Log.Error("blob request failed", "request", r.ID, "method", r.Method, "err", err)
	}
	w.Header().Set("x-ms-error-code", me.Code)
	status := azwire.Status(me.Kind)
	if me.Kind == millpond.Unauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer authorization_uri=https://login.microsoftonline.com/"+r.tenant()+"/oauth2/authorize resource_id=https://storage.azure.com")
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	detail := ""
	for _, d := range me.Details {
		if d.Name == "AuthenticationErrorDetail" {
			detail = d.Value
		}
	}
	body, _ := xml.Marshal(struct {
		XMLName                   xml.Name `xml:"Error"`
		Code                      string
		Message                   string
		AuthenticationErrorDetail string `xml:",omitempty"`
	}{Code: me.Code, Message: me.Message + "\nRequestId:" + r.ID, AuthenticationErrorDetail: detail})
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), body...))
}

func (r *request) tenant() string {
	if r.account == nil {
		return ""
	}
	return r.account.Tenant
}
