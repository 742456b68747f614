package armapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/deployment"
)

// Local is the Resource Manager for callers inside the process: requests go
// through the same table of routes, with the same rights, as those of a client.
// The caller has been authenticated before; nothing outside the process can say
// who it is.
type Local struct{ edge *Edge }

// Local lends the edge to the verbs of deployments.
func (e *Edge) Local() Local { return Local{e} }

// memory is a response that is kept.
type memory struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (m *memory) Header() http.Header         { return m.header }
func (m *memory) WriteHeader(status int)      { m.status = status }
func (m *memory) Write(b []byte) (int, error) { return m.body.Write(b) }

// request makes a request as a caller. target is a path with its query.
func (l Local) request(ctx context.Context, caller millpond.Caller, method, target string, body []byte) (*azwire.Request, error) {
	hr, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidResourceId", "The resource id '%s' is not valid.", target)
	}
	hr.Header.Set("Content-Type", "application/json")
	return &azwire.Request{Request: hr, ID: uuid.NewString(), Caller: caller}, nil
}

func pathOf(id, apiVersion string) string {
	u := url.URL{Path: id}
	return u.EscapedPath() + "?api-version=" + url.QueryEscape(apiVersion)
}

// do serves a request and returns its answer, or its error as it was made.
func (l Local) do(ctx context.Context, caller millpond.Caller, method, target string, body []byte) (*memory, error) {
	r, err := l.request(ctx, caller, method, target, body)
	if err != nil {
		return nil, err
	}
	w := &memory{header: http.Header{}, status: http.StatusOK}
	if err := l.edge.find(r); err != nil {
		return nil, err
	}
	switch {
	case r.Route == nil:
		err = l.edge.elsewhere(w, r)
	case r.Route.Refused != "":
		err = refusal(r)
	default:
		err = r.Route.Handle(w, r)
	}
	if err == nil && w.status >= 400 {
		err = answered(w)
	}
	return w, err
}

// answered reads the error that an edge has written itself.
func answered(w *memory) error {
	var body struct {
		Error millpond.ErrorBody `json:"error"`
	}
	_ = json.Unmarshal(w.body.Bytes(), &body)
	kind := millpond.Invalid
	switch w.status {
	case http.StatusForbidden:
		kind = millpond.Forbidden
	case http.StatusNotFound:
		kind = millpond.NotFound
	case http.StatusConflict:
		kind = millpond.Conflict
	case http.StatusInternalServerError:
		kind = millpond.Internal
	}
	e := millpond.Errorf(kind, body.Error.Code, "%s", body.Error.Message)
	e.Target = body.Error.Target
	return e
}

// Check is a dry run of a PUT: the type is served, the caller may write it, the
// location is a region, and, where the route can tell, the body is valid.
func (l Local) Check(ctx context.Context, caller millpond.Caller, id, apiVersion string, body []byte) error {
	r, err := l.request(ctx, caller, http.MethodPut, pathOf(id, apiVersion), body)
	if err != nil {
		return err
	}
	if err := l.edge.find(r); err != nil {
		return err
	}
	if r.Route == nil {
		if lastProvider(r.URL.EscapedPath()) == "microsoft.authorization" {
			return nil // judged when it is put
		}
		return millpond.Errorf(millpond.Invalid, "InvalidResourceType", "The resource type of '%s' is not served.", id)
	}
	if r.Route.Refused != "" {
		return refusal(r)
	}
	if body == nil {
		return nil
	}
	var located struct {
		Location string `json:"location"`
	}
	if err := json.Unmarshal(body, &located); err == nil && located.Location != "" {
		if _, err := l.edge.Resources.Region(located.Location); err != nil {
			return err
		}
	}
	if r.Route.Check == nil {
		return nil
	}
	return r.Route.Check(r)
}

// Put creates or updates a resource.
func (l Local) Put(ctx context.Context, caller millpond.Caller, id, apiVersion string, body []byte) (deployment.Answer, error) {
	target := pathOf(id, apiVersion)
	w, err := l.do(ctx, caller, http.MethodPut, target, body)
	if err != nil {
		return deployment.Answer{}, err
	}
	a := deployment.Answer{Status: w.status}
	switch {
	case w.header.Get("Azure-AsyncOperation") != "":
		a.Tracking = "status " + w.header.Get("Azure-AsyncOperation")
	case w.status == http.StatusAccepted && w.header.Get("Location") != "":
		a.Tracking = "result " + w.header.Get("Location")
	case under(w.body.Bytes()) != "":
		a.Tracking = "resource " + target
	}
	return a, nil
}

// under is the provisioning state of a body, or empty if it is final.
func under(body []byte) string {
	var b struct {
		Properties struct {
			ProvisioningState string `json:"provisioningState"`
		} `json:"properties"`
	}
	_ = json.Unmarshal(body, &b)
	switch s := b.Properties.ProvisioningState; {
	case s == "", strings.EqualFold(s, "Succeeded"):
		return ""
	default:
		return s
	}
}

// Poll asks once for the outcome of a PUT.
func (l Local) Poll(ctx context.Context, caller millpond.Caller, tracking string) (bool, *millpond.ErrorBody, error) {
	kind, target, _ := strings.Cut(tracking, " ")
	w, err := l.do(ctx, caller, http.MethodGet, target, nil)
	if err != nil {
		return false, nil, err
	}
	state := ""
	var failure *millpond.ErrorBody
	switch kind {
	case "status":
		var b struct {
			Status string              `json:"status"`
			Error  *millpond.ErrorBody `json:"error"`
		}
		if err := json.Unmarshal(w.body.Bytes(), &b); err != nil {
			return false, nil, err
		}
		state, failure = b.Status, b.Error
	case "result":
		if w.status == http.StatusAccepted {
			return false, nil, nil
		}
		return true, nil, nil
	default:
		if state = under(w.body.Bytes()); state == "" {
			return true, nil, nil
		}
	}
	switch strings.ToLower(state) {
	case "succeeded":
		return true, nil, nil
	case "failed", "canceled":
		if failure == nil {
			failure = &millpond.ErrorBody{Code: "ResourceDeploymentFailure", Message: "The resource write operation failed to complete successfully, because it reached terminal provisioning state '" + state + "'."}
		}
		return true, failure, nil
	}
	return false, nil, nil
}

// Get reads a resource.
func (l Local) Get(ctx context.Context, caller millpond.Caller, id, apiVersion string) ([]byte, error) {
	w, err := l.do(ctx, caller, http.MethodGet, pathOf(id, apiVersion), nil)
	if err != nil {
		return nil, err
	}
	return w.body.Bytes(), nil
}

// Post calls an action of a resource.
func (l Local) Post(ctx context.Context, caller millpond.Caller, id, action, apiVersion string, body []byte) ([]byte, error) {
	w, err := l.do(ctx, caller, http.MethodPost, pathOf(id+"/"+action, apiVersion), body)
	if err != nil {
		return nil, err
	}
	return w.body.Bytes(), nil
}
