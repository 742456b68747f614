package batchapi

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/job"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/pool"
)

// Accounts finds Batch accounts by name. An unknown one is NotFound.
type Accounts interface {
	Lookup(ctx context.Context, name millpond.AccountName) (millpond.BatchAccount, error)
}

// Authorizer decides rights; an error says which right is missing.
type Authorizer interface {
	Authorize(ctx context.Context, caller millpond.Caller, action, scope string) error
}

// Pools are the verbs of pools, as package pool has them.
type Pools interface {
	Add(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, spec millpond.PoolSpec, t pool.Targets) (millpond.Pool, error)
	Get(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) (millpond.Pool, error)
	List(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Pool]) ([]millpond.Pool, string, error)
	Patch(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, id millpond.PoolID, cond millpond.Condition, p pool.Patch) error
	Delete(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error
	Resize(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, t pool.Targets, o millpond.DeallocationOption) error
	StopResize(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition) error
	EnableAutoScale(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, a pool.AutoScale) error
	DisableAutoScale(ctx context.Context, acct millpond.AccountName, id millpond.PoolID) error
	EvaluateAutoScale(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, formula string) (millpond.AutoScaleRun, error)
	AutoScaleHistory(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, limit int) ([]millpond.ScaleRecord, error)
	RemoveNodes(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, cond millpond.Condition, nodes []millpond.NodeID, timeout *time.Duration, o millpond.DeallocationOption) error
	NodeCounts(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.PoolNodeCounts]) ([]millpond.PoolNodeCounts, string, error)
}

// Nodes are the verbs of nodes, as package node has them.
type Nodes interface {
	Get(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (millpond.Node, error)
	List(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, q millpond.ListQuery[millpond.Node]) ([]millpond.Node, string, error)
	Reboot(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error
	Reimage(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error
	Deallocate(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error
	Start(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) error
	AddUser(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, u node.User) error
	UpdateUser(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, u node.User) error
	DeleteUser(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, name string) error
	RemoteLogin(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (netip.AddrPort, error)
	Preempt(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, notice time.Duration) error
	DisableScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error
	EnableScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) error
	UploadLogs(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, q node.LogRequest) (node.UploadedLogs, error)
	Files(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (node.Files, error)
	SparesOf(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID) (millpond.Spares, bool)
	Usage(id millpond.NodeID) (millpond.NodeUsage, bool)
	KeptFiles(ctx context.Context, id millpond.NodeID, directory string) (node.Files, error)
	Logs(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) ([]node.Log, error)
	ReadLog(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, name string) ([]byte, error)
}

// Jobs are the verbs of jobs and tasks, as package job has them.
type Jobs interface {
	AddJob(ctx context.Context, acct millpond.AccountName, spec millpond.JobSpec) (millpond.Job, error)
	GetJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID) (millpond.Job, error)
	ListJobs(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error)
	PatchJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, p job.Patch) error
	UpdateJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, u job.Update) error
	DeleteJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, force bool) error
	DisableJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, what millpond.DisableTasks) error
	EnableJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition) error
	TerminateJob(ctx context.Context, acct millpond.AccountName, id millpond.JobID, cond millpond.Condition, reason string, force bool) error
	ListJobNodes(ctx context.Context, acct millpond.AccountName, job millpond.JobID, q millpond.ListQuery[millpond.JobNode]) ([]millpond.JobNode, string, error)
	AddTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, spec millpond.TaskSpec) (millpond.Task, error)
	AddTasks(ctx context.Context, acct millpond.AccountName, job millpond.JobID, specs []millpond.TaskSpec) ([]job.AddResult, error)
	GetTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID) (millpond.Task, error)
	ListTasks(ctx context.Context, acct millpond.AccountName, job millpond.JobID, q millpond.ListQuery[millpond.Task]) ([]millpond.Task, string, error)
	UpdateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition, c job.Constraints) error
	TerminateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error
	DeleteTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error
	ReactivateTask(ctx context.Context, acct millpond.AccountName, job millpond.JobID, id millpond.TaskID, cond millpond.Condition) error
	TaskCounts(ctx context.Context, acct millpond.AccountName, job millpond.JobID) (tasks, slots millpond.TaskCounts, err error)
}

// Schedules are the verbs of job schedules, as package job has them.
type Schedules interface {
	AddSchedule(ctx context.Context, acct millpond.AccountName, spec millpond.JobScheduleSpec) (millpond.JobSchedule, error)
	GetSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID) (millpond.JobSchedule, error)
	ListSchedules(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.JobSchedule]) ([]millpond.JobSchedule, string, error)
	ListScheduleJobs(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, q millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error)
	ChangeSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, p job.SchedulePatch) error
	DisableSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition) error
	EnableSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition) error
	TerminateSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, force bool) error
	DeleteSchedule(ctx context.Context, acct millpond.AccountName, id millpond.JobScheduleID, cond millpond.Condition, force bool) error
}

// SupportedImage is an image of the catalogue that pools can be made from.
type SupportedImage struct {
	Publisher, Offer, SKU, Version string
	NodeAgentSKU                   string
	OSType                         string // linux or windows
	Verified                       bool
	Capabilities                   []string
	EndOfLife                      time.Time
}

// Options are what the edge needs. All but Authority must be set.
type Options struct {
	Accounts  Accounts
	Authz     Authorizer
	Pools     Pools
	Nodes     Nodes
	Jobs      Jobs
	Schedules Schedules
	Stats     Statistics
	Events    Events
	Webhooks  Webhooks
	// Certificates are only for api-versions that have them.
	Certificates Certificates
	// Verify checks a bearer token for the Batch audience. Its errors are
	// Unauthenticated.
	Verify func(ctx context.Context, token string) (millpond.Caller, error)
	// Applications lists an account's applications that nodes can install.
	Applications func(ctx context.Context, acct millpond.ResourceID) ([]application.Summary, error)
	// SupportedImages lists the catalogue.
	SupportedImages func(ctx context.Context) ([]SupportedImage, error)
	// Authority is the address of the token service that a client without a token
	// is sent to, for a tenant. Nil means login.microsoftonline.com.
	Authority func(tenant string) string
	Clock     clock.Clock
	// Rand makes request ids when no listener has.
	Rand io.Reader
	Log  *slog.Logger
}

// Edge is the data-plane edge. It is safe for concurrent use.
type Edge struct {
	Options
	routes []azwire.Route
	router *azwire.Router
	shapes shapes
	lists  lists
}

// New makes the edge.
func New(o Options) *Edge {
	if o.Authority == nil {
		o.Authority = func(tenant string) string { return "https://login.microsoftonline.com/" + tenant }
	}
	e := &Edge{Options: o, shapes: makeShapes(), lists: makeLists()}
	e.routes = e.table()
	e.router = azwire.NewRouter(e.routes)
	return e
}

// Routes is the table of this edge.
func (e *Edge) Routes() []azwire.Route { return e.routes }

// apiVersion is YYYY-MM-DD, alone or with the service's number or -preview.
var apiVersion = regexp.MustCompile(`^20(1[89]|[2-9][0-9])-(0[1-9]|1[0-2])-[0-3][0-9](\.[0-9]{1,3}\.[0-9]{1,3})?(-preview)?$`)

// before says whether the request's version is older than a date.
func (r *request) before(date string) bool { return r.APIVersion[:10] < date }

func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	front := azwire.FrontOf(r.Context())
	if front.ID == "" {
		front, r = e.alone(w, r)
	}
	w.Header().Set("DataServiceVersion", "3.0")
	req := &request{Request: &azwire.Request{Request: r, ID: front.ID, BaseURL: front.BaseURL}}
	if err := e.serve(w, req, front); err != nil {
		e.fail(w, req, err)
	}
}

// serve is the order in which a request is judged. The caller is proved before
// anything is told about what an account holds (that the account exists is no
// secret: in Azure it is a name in DNS); the right is checked before the body is
// read.
func (e *Edge) serve(w http.ResponseWriter, r *request, front azwire.Front) error {
	if err := e.findAccount(r, front); err != nil {
		return err
	}
	if err := e.authenticate(w, r); err != nil {
		return err
	}
	// Tasks call from nodes, which no address tells.
	if r.Caller.Method != millpond.AuthTaskToken && !r.acct.Access.Admits(r.RemoteAddr) {
		return millpond.Errorf(millpond.Forbidden, "AuthorizationFailure", "This request is not authorized to perform this operation: the account %s is closed to the address %s. Its owner can open it: az batch account network-profile network-rule add --name %s --profile BatchAccount --ip-address ADDRESS", r.acct.Name, azwire.Clip(r.RemoteAddr), r.acct.Name)
	}
	route, params, allowed := e.router.Match(r.Method, r.URL.EscapedPath())
	if route == nil {
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			return millpond.Errorf(millpond.MethodNotAllowed, "UnsupportedHttpVerb", "The method %s is not supported here; %s is.", r.Method, strings.Join(allowed, ", "))
		}
		return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "There is no operation of the Batch service at the path %s.", azwire.Clip(r.URL.EscapedPath()))
	}
	r.Route = route
	for k, v := range params {
		r.SetParam(k, v)
	}
	if err := e.authorize(r); err != nil {
		return err
	}
	if err := checkVersion(r); err != nil {
		return err
	}
	if err := checkCommon(r); err != nil {
		return err
	}
	if route.Ended(r.APIVersion) {
		return millpond.Errorf(millpond.Unsupported, "NotImplemented", "%s: %s", route.Name, route.EndedWhy)
	}
	if route.Refused != "" {
		return millpond.Errorf(millpond.Unsupported, "NotImplemented", "%s: %s The operations that Millpond has are listed in docs/wire/batch.md.", route.Name, route.Refused)
	}
	r.Request.Request = withAccount(r.Request.Request, r.acct)
	r.Request.Request = r.Request.Request.WithContext(millpond.WithRequest(r.Context(), millpond.Request{ID: r.ID, Client: azwire.Clip(r.Header.Get("client-request-id"))}))
	return route.Handle(w, r.Request)
}

// alone is for requests that no listener has seen, in tests and when the edge
// is mounted by itself.
func (e *Edge) alone(w http.ResponseWriter, r *http.Request) (azwire.Front, *http.Request) {
	id, err := uuid.NewRandomFromReader(e.Rand)
	if err != nil {
		id = uuid.Nil
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	f := azwire.Front{ID: id.String(), BaseURL: scheme + r.Host}
	if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/batch/"); ok {
		label, _, _ := strings.Cut(rest, "/")
		f.Prefix = "/batch/" + label
		f.BaseURL += f.Prefix
		r = r.Clone(azwire.WithFront(r.Context(), f))
		r.URL.RawPath = strings.TrimPrefix(r.URL.EscapedPath(), f.Prefix)
		r.URL.Path = strings.TrimPrefix(r.URL.Path, f.Prefix)
		f.Account, f.Region, _ = strings.Cut(label, ".")
	}
	w.Header().Set("request-id", f.ID)
	if c := r.Header.Get("client-request-id"); c != "" && strings.EqualFold(r.Header.Get("return-client-request-id"), "true") {
		w.Header().Set("client-request-id", c)
	}
	return f, r
}

// findAccount takes the account from the front, or from the first label of a
// host that has ".batch." in it.
func (e *Edge) findAccount(r *request, front azwire.Front) error {
	name, region := front.Account, front.Region
	if name == "" {
		host := r.Host
		if i := strings.LastIndexByte(host, ':'); i > 0 {
			host = host[:i]
		}
		if labels := strings.Split(host, "."); len(labels) > 2 && strings.Contains(host, ".batch.") {
			name, region = labels[0], labels[1]
			if region == "batch" {
				region = ""
			}
		}
	}
	if name == "" {
		return millpond.Errorf(millpond.Invalid, "HostInformationNotPresent",
			"The address %s names no Batch account. Use https://{account}.{region}.batch.azure.com, or this server's address with /batch/{account}.{region}.", azwire.Clip(r.Host))
	}
	acct, err := e.Accounts.Lookup(r.Context(), millpond.AccountName(name))
	if millpond.KindOf(err) == millpond.NotFound && err != nil {
		return millpond.Errorf(millpond.NotFound, "ResourceNotFound",
			"There is no Batch account named '%s'. az batch account list shows the accounts; az batch account create makes one.", azwire.Clip(name)).Because(err)
	}
	if err != nil {
		return err
	}
	if region != "" && millpond.NormalizeRegion(region) != millpond.NormalizeRegion(acct.Region) {
		return millpond.Errorf(millpond.NotFound, "ResourceNotFound",
			"The Batch account '%s' is in region %s, not in %s. Its address is https://%s.", acct.Name, acct.Region, azwire.Clip(region), acct.Host())
	}
	r.acct = acct
	return nil
}

func (e *Edge) authenticate(w http.ResponseWriter, r *request) error {
	scheme, credentials, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		caller, err := e.Verify(r.Context(), strings.TrimSpace(credentials))
		if err == nil && r.acct.Tenant != "" && !strings.EqualFold(caller.Tenant, r.acct.Tenant) {
			err = millpond.Errorf(millpond.Unauthenticated, "AuthenticationFailed",
				"The token comes from tenant '%s', but the account '%s' belongs to tenant '%s'. Sign in to that tenant: az login --service-principal --tenant %s",
				caller.Tenant, r.acct.Name, r.acct.Tenant, r.acct.Tenant)
		}
		if err != nil {
			return e.challenge(w, r, err)
		}
		r.Caller = caller
		return nil
	case strings.EqualFold(scheme, "SharedKey"):
		caller, err := authenticateSharedKey(r.Request.Request, credentials, r.acct, e.Clock.Now())
		r.Caller = caller
		return err
	case scheme == "":
		return e.challenge(w, r, millpond.Errorf(millpond.Unauthenticated, "AuthenticationFailed",
			"The request has no Authorization header. Sign in with az login, run the program with millpond exec, or give the account's name and key."))
	}
	return e.challenge(w, r, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationInfo",
		"The authentication scheme '%s' is not known; use Bearer or SharedKey.", azwire.Clip(scheme)))
}

// challenge adds to a 401 where a token can be had.
func (e *Edge) challenge(w http.ResponseWriter, r *request, err error) error {
	me := millpond.AsError(err)
	if me.Kind != millpond.Unauthenticated {
		return err
	}
	authority := e.Authority(r.acct.Tenant)
	if f := azwire.FrontOf(r.Context()); f.Prefix != "" {
		// In direct use the tokens come from the same address.
		authority = strings.TrimSuffix(f.BaseURL, f.Prefix) + "/" + r.acct.Tenant
	}
	w.Header().Set("WWW-Authenticate", `Bearer authorization_uri="`+authority+`", resource_id="https://batch.core.windows.net/"`)
	if len(me.Details) == 0 {
		me = me.With("AuthenticationErrorDetail", me.Message)
	}
	if me.Code != "InvalidAuthenticationInfo" {
		c := *me
		c.Code = "AuthenticationFailed"
		me = &c
	}
	return me
}

// recoded gives a refusal of rights the code that Batch has for it.
func recoded(err error) error {
	me := millpond.AsError(err)
	switch me.Kind {
	case millpond.Forbidden:
		c := *me
		c.Code = "InsufficientAccountPermissions"
		return &c
	case millpond.Unauthenticated:
		c := *me
		c.Code = "AuthenticationFailed"
		return &c
	}
	return err
}

func checkVersion(r *request) error {
	v := r.QueryValue("api-version")
	if v == "" {
		return millpond.Errorf(millpond.Invalid, "MissingRequiredQueryParameter", "A query parameter that's mandatory for this request is not specified: api-version, for example api-version=2024-07-01.20.0.").
			With("QueryParameterName", "api-version")
	}
	if !apiVersion.MatchString(v) {
		return millpond.Errorf(millpond.Invalid, "UnsupportedRequestVersion", "The api-version %q is not one of the Batch service since 2018, such as 2024-07-01.20.0.", azwire.Clip(v)).
			With("QueryParameterName", "api-version").With("QueryParameterValue", azwire.Clip(v))
	}
	r.APIVersion = v
	return nil
}

// checkCommon checks what many operations take and few use: the seconds that the
// answer may take, of which it needs a fraction, what is true or false, and the
// client's clock.
func checkCommon(r *request) error {
	if v := r.QueryValue("timeout"); v != "" {
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || n < 0 {
			return millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The value of the query parameter timeout is not a number of seconds.").
				With("QueryParameterName", "timeout").With("QueryParameterValue", azwire.Clip(v)).With("Reason", "Give a whole number; 30 is the most and the default.")
		}
	}
	for _, name := range []string{"force", "recursive"} {
		if v := r.QueryValue(name); v != "" && !strings.EqualFold(v, "true") && !strings.EqualFold(v, "false") {
			return millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The value of the query parameter %s is neither true nor false.", name).
				With("QueryParameterName", name).With("QueryParameterValue", azwire.Clip(v)).With("Reason", "Give true or false.")
		}
	}
	if v := r.Header.Get("ocp-date"); v != "" {
		if _, err := http.ParseTime(v); err != nil {
			return millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "The value of the header ocp-date is not a date such as Mon, 02 Jan 2006 15:04:05 GMT.").
				With("HeaderName", "ocp-date").With("HeaderValue", azwire.Clip(v))
		}
	}
	return nil
}

// fail renders an error. What is ours goes to the log, never to the client.
func (e *Edge) fail(w http.ResponseWriter, r *request, err error) {
	me := millpond.AsError(err)
	name := ""
	if r.Route != nil {
		name = r.Route.Name
	}
	switch {
	case r.Context().Err() != nil:
		e.Log.Info("the client went away", "request", r.ID, "operation", name)
	case me.Kind == millpond.Internal:
		e.Log.Error("operation failed", "request", r.ID, "operation", name, "error", err)
	case me.Err != nil:
		e.Log.Info("operation refused", "request", r.ID, "operation", name, "code", me.Code, "cause", me.Err)
	}
	if me.Kind == millpond.Unavailable || me.Kind == millpond.TooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	status := azwire.Status(me.Kind)
	if r.Method == http.MethodHead || status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	e.writeJSON(w, r, status, azwire.BatchError(me, r.BaseURL, r.ID, e.Clock.Now()))
}
