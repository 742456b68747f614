package armapi

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// BatchPools runs an operation of the Batch service for a caller whose right
// is proved: what /pools… answers there, with its headers.
type BatchPools interface {
	// Check reads the body of POST …/resize or …/enableautoscale, the operation op, and
	// does no more.
	Check(op string, body []byte) error
	Call(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, method, path string, header http.Header, body []byte) ([]byte, http.Header, error)
}

const poolType = millpond.TypeAccount + "/pools"

func (e *Edge) poolRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Batch/batchAccounts/{name}"
	return []azwire.Route{
		{Name: "Pool_ListByBatchAccount", Method: "GET", Path: at + "/pools", Action: poolType + "/read", Handle: e.listPools},
		{Name: "Pool_Create", Method: "PUT", Path: at + "/pools/{pool}", Action: poolType + "/write", Handle: e.putPool},
		{Name: "Pool_Update", Method: "PATCH", Path: at + "/pools/{pool}", Action: poolType + "/write", Handle: e.patchPool},
		{Name: "Pool_Get", Method: "GET", Path: at + "/pools/{pool}", Action: poolType + "/read", Handle: e.getPool},
		{Name: "Pool_Delete", Method: "DELETE", Path: at + "/pools/{pool}", Action: poolType + "/delete", Handle: e.deletePool},
		{Name: "Pool_GetDeleteResult", Method: "GET", Path: at + "/poolOperationResults/{pool}", Action: poolType + "/read", Handle: e.poolResult},
		{Name: "Pool_DisableAutoScale", Method: "POST", Path: at + "/pools/{pool}/disableAutoScale", Action: poolType + "/disableAutoscale/action", Handle: e.disablePoolAutoScale},
		{Name: "Pool_StopResize", Method: "POST", Path: at + "/pools/{pool}/stopResize", Action: poolType + "/stopResize/action", Handle: e.stopPoolResize},
	}
}

// poolCall is one pool of one account as a request names it.
type poolCall struct {
	e    *Edge
	r    *azwire.Request
	acct millpond.BatchAccount
	path string
}

func (e *Edge) poolOf(r *azwire.Request) (poolCall, error) {
	a, err := e.Accounts.Get(r.Context(), id(r, millpond.TypeAccount, "name"))
	if err != nil {
		return poolCall{}, err
	}
	acct, err := e.Accounts.Lookup(r.Context(), millpond.AccountName(a.ID.Name()))
	return poolCall{e, r, acct, "/pools/" + url.PathEscape(r.Param("pool"))}, err
}

// do calls the Batch service; body is nil or an object.
func (c poolCall) do(method, path string, header http.Header, body map[string]any) (map[string]any, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	out, _, err := c.e.Pools.Call(c.r.Context(), c.r.Caller, c.acct, method, path, header, data)
	if err != nil || len(out) == 0 {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(out, &m)
}

// each reads a list of the Batch service page by page.
func (c poolCall) each(path, query string, do func(doc map[string]any)) error {
	for next := path + query; next != ""; {
		page, err := c.do("GET", next, nil, nil)
		if err != nil {
			return err
		}
		list, _ := page["value"].([]any)
		for _, x := range list {
			if doc, ok := x.(map[string]any); ok {
				do(doc)
			}
		}
		next = ""
		if link, _ := page["odata.nextLink"].(string); link != "" {
			u, err := url.Parse(link)
			if err != nil {
				return err
			}
			next = path + "?" + u.RawQuery
		}
	}
	return nil
}

func (c poolCall) get() (map[string]any, error) { return c.do("GET", c.path, nil, nil) }

func (c poolCall) encode(doc map[string]any) map[string]any {
	name, _ := doc["id"].(string)
	properties := armPool(doc)
	certificatesOut(c.acct.ID, properties)
	delete(properties, "identity")
	out := map[string]any{"id": c.acct.ID.String() + "/pools/" + name, "name": name, "type": poolType, "etag": doc["eTag"],
		"properties": properties}
	if identity := c.identity(doc); identity != nil {
		out["identity"] = identity
	}
	return out
}

func (c poolCall) write(w http.ResponseWriter) error {
	doc, err := c.get()
	if err != nil {
		return err
	}
	if tag, ok := doc["eTag"].(string); ok {
		w.Header().Set("ETag", tag)
	}
	azwire.WriteJSON(w, http.StatusOK, c.encode(doc))
	return nil
}

// conditions are the headers that a write passes on.
func conditions(r *azwire.Request) http.Header {
	out := http.Header{}
	if v := r.Header.Get("If-Match"); v != "" {
		out.Set("If-Match", v)
	}
	return out
}

func (e *Edge) listPools(w http.ResponseWriter, r *azwire.Request) error {
	c, err := e.poolOf(r)
	if err != nil {
		return err
	}
	value, query := []any{}, ""
	if f := r.QueryValue("$filter"); f != "" {
		query = "?$filter=" + url.QueryEscape(batchFilter(f))
	}
	err = c.each("/pools", query, func(doc map[string]any) { value = append(value, c.encode(doc)) })
	if err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

// filterPart is a string of a $filter, which stays, or a word.
var filterPart = regexp.MustCompile(`'(?:[^']|'')*'|[A-Za-z/]+`)

// batchFilter is a $filter of pools in the Batch service's words.
func batchFilter(filter string) string {
	return filterPart.ReplaceAllStringFunc(filter, func(part string) string {
		if part == "name" {
			return "id"
		}
		return strings.TrimPrefix(part, "properties/")
	})
}

func (e *Edge) getPool(w http.ResponseWriter, r *azwire.Request) error {
	c, err := e.poolOf(r)
	if err != nil {
		return err
	}
	return c.write(w)
}

// poolBody reads the properties of a pool.
func poolBody(r *azwire.Request) (properties map[string]any, err error) {
	var body struct {
		Properties map[string]any    `json:"properties"`
		Identity   *poolIdentityBody `json:"identity"`
	}
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Properties == nil {
		body.Properties = map[string]any{}
	}
	// It stands beside the properties here, and among them in the Batch service.
	delete(body.Properties, "identity")
	if body.Identity != nil {
		if body.Properties["identity"], err = body.Identity.batch(); err != nil {
			return nil, err
		}
	}
	return body.Properties, nil
}

// poolIdentityBody is a pool's identity as the Resource Manager writes it: the
// identities are names of members.
type poolIdentityBody struct {
	Type     string         `json:"type"`
	Assigned map[string]any `json:"userAssignedIdentities"`
}

// batch is the identity as the Batch service writes it. A null takes an identity away.
func (b poolIdentityBody) batch() (map[string]any, error) {
	typ := b.Type
	switch {
	case typ == "" || strings.EqualFold(typ, "None"):
		return map[string]any{"type": "None"}, nil
	case !strings.EqualFold(typ, "UserAssigned"):
		return nil, unsupported("identity.type", "A pool has user-assigned identities, not %s. Use the type UserAssigned.", typ)
	}
	list := []any{}
	for _, id := range slices.Sorted(maps.Keys(b.Assigned)) {
		if b.Assigned[id] != nil {
			list = append(list, map[string]any{"resourceId": id})
		}
	}
	return map[string]any{"type": "UserAssigned", "userAssignedIdentities": list}, nil
}

// identity is a pool's identity of the Batch service as the Resource Manager writes
// it, with who each of them is.
func (c poolCall) identity(doc map[string]any) map[string]any {
	x := object(doc, "identity")
	list, _ := x["userAssignedIdentities"].([]any)
	if len(list) == 0 {
		return nil
	}
	assigned := map[string]any{}
	for _, v := range list {
		text, _ := v.(map[string]any)["resourceId"].(string)
		who := map[string]any{}
		id, _ := millpond.ParseResourceID(text)
		if m, err := c.e.Identities.Get(c.r.Context(), id); err == nil {
			who["clientId"], who["principalId"] = m.ClientID, m.PrincipalID
		}
		assigned[text] = who
	}
	return map[string]any{"type": "UserAssigned", "userAssignedIdentities": assigned}
}

// poolIn is the pool that a request names and what its body says of it.
func (e *Edge) poolIn(r *azwire.Request) (c poolCall, patch, scale map[string]any, err error) {
	if c, err = e.poolOf(r); err != nil {
		return c, nil, nil, err
	}
	p, err := poolBody(r)
	if err != nil {
		return c, nil, nil, err
	}
	scale = scaleOf(p)
	doc := batchPool(p)
	return c, doc, scale, certificatesIn(r, doc)
}

// putPool makes a pool. One that exists is changed where the body differs from
// it, so that a template can be deployed again.
func (e *Edge) putPool(w http.ResponseWriter, r *azwire.Request) error {
	c, doc, scale, err := e.poolIn(r)
	if err != nil {
		return err
	}
	have, err := c.get()
	switch {
	case err == nil && r.Header.Get("If-None-Match") == "*":
		return millpond.Errorf(millpond.Precondition, "PreconditionFailed", "The pool '%s' exists, and If-None-Match is '*'.", r.Param("pool"))
	case err == nil:
		for k, v := range doc {
			if within(v, have[k]) {
				delete(doc, k)
			}
		}
		if err := c.change(have, doc, scale); err != nil {
			return err
		}
		return c.write(w)
	case millpond.KindOf(err) != millpond.NotFound:
		return err
	}
	doc["id"] = r.Param("pool")
	if a := object(scale, "autoScale"); a != nil {
		doc["enableAutoScale"] = true
		maps.Copy(doc, batchAutoScale(a))
	} else {
		for k, v := range object(scale, "fixedScale") {
			if k != "nodeDeallocationOption" {
				doc[k] = v
			}
		}
	}
	if _, err := c.do("POST", "/pools", nil, doc); err != nil {
		return err
	}
	return c.write(w)
}

func (e *Edge) patchPool(w http.ResponseWriter, r *azwire.Request) error {
	c, patch, scale, err := e.poolIn(r)
	if err != nil {
		return err
	}
	have, err := c.get()
	if err != nil {
		return err
	}
	if err := c.change(have, patch, scale); err != nil {
		return err
	}
	return c.write(w)
}

// change applies a patch and then the scale settings, each of which is an
// operation of its own in the Batch service; conditions hold for the first. The
// bodies of the later ones are read before the first is done, so that what is
// refused for its form has changed nothing.
func (c poolCall) change(have, patch, scale map[string]any) error {
	auto, _ := have["enableAutoScale"].(bool)
	op, body := scaling(have, scale)
	if op != "" {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		if err := c.e.Pools.Check(op, text); err != nil {
			return err
		}
	}
	header := conditions(c.r)
	if len(patch) > 0 {
		if _, err := c.do("PATCH", c.path, header, patch); err != nil {
			return err
		}
		header = nil
	}
	if auto && object(scale, "autoScale") == nil && object(scale, "fixedScale") != nil {
		// That operation takes no condition, and the resize would be checked
		// against the version that it makes.
		tag, _ := have["eTag"].(string)
		if err := (millpond.Condition{IfMatch: header.Get("If-Match")}).Check(poolTag(tag), millpond.Write); err != nil {
			return err
		}
		if _, err := c.do("POST", c.path+"/disableautoscale", nil, nil); err != nil {
			return err
		}
		header = nil
	}
	if op == "" {
		return nil
	}
	_, err := c.do("POST", c.path+"/"+op, header, body)
	return err
}

// scaling is the operation, and its body, that gives a pool the scale settings; op is
// empty if it has them.
func scaling(have, scale map[string]any) (op string, body map[string]any) {
	if a := object(scale, "autoScale"); a != nil {
		body = batchAutoScale(a)
		if auto, _ := have["enableAutoScale"].(bool); auto && within(body, have) {
			return "", nil
		}
		return "enableautoscale", body
	}
	fixed := object(scale, "fixedScale")
	resize := map[string]any{}
	for _, k := range []string{"targetDedicatedNodes", "targetLowPriorityNodes"} {
		if v, ok := fixed[k]; ok && !reflect.DeepEqual(v, have[k]) {
			resize[k] = v
		}
	}
	if len(resize) == 0 {
		return "", nil
	}
	for _, k := range []string{"resizeTimeout", "nodeDeallocationOption"} {
		v := fixed[k]
		if s, ok := v.(string); ok && k == "nodeDeallocationOption" {
			v = strings.ToLower(s)
		}
		if v != nil {
			resize[k] = v
		}
	}
	return "resize", resize
}

// poolTag is the version of a pool that was read.
type poolTag string

func (t poolTag) ETag() string      { return string(t) }
func (poolTag) Modified() time.Time { return time.Time{} }

// within says whether everything that want says is so in have. Words count in
// any case; what have says beyond it does not matter.
func within(want, have any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, _ := have.(map[string]any)
		for k, v := range w {
			if !within(v, h[k]) {
				return false
			}
		}
		return true
	case []any:
		h, _ := have.([]any)
		if len(h) != len(w) {
			return false
		}
		for i := range w {
			if !within(w[i], h[i]) {
				return false
			}
		}
		return true
	case string:
		h, _ := have.(string)
		return strings.EqualFold(w, h)
	case bool:
		h, _ := have.(bool)
		return w == h
	case nil:
		return true
	}
	return reflect.DeepEqual(want, have)
}

func (e *Edge) deletePool(w http.ResponseWriter, r *azwire.Request) error {
	c, err := e.poolOf(r)
	if err != nil {
		return err
	}
	_, err = c.do("DELETE", c.path, conditions(r), nil)
	switch {
	case err != nil && millpond.KindOf(err) == millpond.NotFound:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case err != nil && millpond.AsError(err).Code != "PoolBeingDeleted":
		return err
	}
	e.pollPool(w, r)
	return nil
}

// pollPool answers 202 with the address that tells when a deletion is done.
func (e *Edge) pollPool(w http.ResponseWriter, r *azwire.Request) {
	at := id(r, millpond.TypeAccount, "name").String() + "/poolOperationResults/" + url.PathEscape(r.Param("pool"))
	w.Header().Set("Location", r.BaseURL+at+"?api-version="+url.QueryEscape(r.QueryValue("api-version")))
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusAccepted)
}

func (e *Edge) poolResult(w http.ResponseWriter, r *azwire.Request) error {
	c, err := e.poolOf(r)
	if err != nil {
		return err
	}
	doc, err := c.get()
	switch {
	case err != nil && millpond.KindOf(err) == millpond.NotFound:
		w.WriteHeader(http.StatusNoContent)
	case err != nil:
		return err
	case doc["state"] == "deleting":
		e.pollPool(w, r)
	default:
		// Another pool has the name by now: the deletion is done.
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

func (e *Edge) disablePoolAutoScale(w http.ResponseWriter, r *azwire.Request) error {
	return e.poolCommand(w, r, "/disableautoscale")
}

func (e *Edge) stopPoolResize(w http.ResponseWriter, r *azwire.Request) error {
	return e.poolCommand(w, r, "/stopresize")
}

func (e *Edge) poolCommand(w http.ResponseWriter, r *azwire.Request, command string) error {
	c, err := e.poolOf(r)
	if err != nil {
		return err
	}
	if _, err := c.do("POST", c.path+command, nil, nil); err != nil {
		return err
	}
	return c.write(w)
}
