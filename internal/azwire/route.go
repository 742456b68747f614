package azwire

import (
	"net/http"
	"net/url"
	"sort"
	"strings"

	millpond "millpond.dev/millpond"
)

// Route is one operation of an edge. The table of routes is the edge: the auth
// test, the wire documents and the router all read it.
type Route struct {
	// Name is the vendor's operation name, such as Pool_Add.
	Name   string
	Method string
	// Path has {name} for one segment, text({name}) for a segment with fixed text
	// around it, and a last {name...} for the rest. Literal text matches without
	// regard to case.
	Path string
	// Action is the right that a caller needs, such as
	// Microsoft.Batch/batchAccounts/pools/read. Empty means that the route is
	// open to anonymous callers, and the auth test knows each of those by name.
	Action string
	// ByItem says that a caller with a role of any kind at, above or below the scope
	// gets the list even without Action: of what it may read item by item, or of what
	// is the same for everybody. The handler sees to that.
	ByItem bool
	// Refused says why the operation is not supported; such a route has no
	// Handle and answers with Azure's error shape.
	Refused string
	// Until is the first api-version, YYYY-MM-DD, that does not have the operation
	// any more, and EndedWhy what its callers are told; empty for one that has not
	// ended.
	Until, EndedWhy string
	// Check, where there is one, is a dry run: it refuses what Handle would
	// refuse by the body alone, and changes nothing.
	Check  func(r *Request) error
	Handle func(w http.ResponseWriter, r *Request) error
}

// Ended says whether an api-version has the operation no more.
func (r *Route) Ended(version string) bool {
	return r.Until != "" && version >= r.Until
}

// Request is an authenticated, routed request on its way to a handler.
type Request struct {
	*http.Request
	Caller     millpond.Caller
	Route      *Route
	ID         string // server's request id, a GUID
	APIVersion string
	// BaseURL is scheme and host (and prefix) as the client wrote them, without
	// a trailing slash, for links in answers.
	BaseURL string
	params  map[string]string
}

// Param is a path parameter, decoded.
func (r *Request) Param(name string) string { return r.params[name] }

// SetParam is for edges that derive a parameter from the host.
func (r *Request) SetParam(name, value string) {
	if r.params == nil {
		r.params = map[string]string{}
	}
	r.params[name] = value
}

// QueryValue is a query parameter found without regard to the case of its name.
func (r *Request) QueryValue(name string) string {
	for k, v := range r.URL.Query() {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Router finds the route of a raw (still percent-encoded) path. Segments are
// split before they are decoded, because file names arrive with %2F inside.
type Router struct{ routes []compiled }

type compiled struct {
	route *Route
	segs  []string
}

// NewRouter makes a Router of a table. Of two patterns that match, the one with more
// literal parts is taken.
func NewRouter(routes []Route) *Router {
	r := &Router{}
	for i := range routes {
		r.routes = append(r.routes, compiled{&routes[i], strings.Split(strings.Trim(routes[i].Path, "/"), "/")})
	}
	// Literal beats parameter, so /pools/{id}/nodes/{n} never swallows a literal sibling.
	sort.SliceStable(r.routes, func(i, j int) bool { return literals(r.routes[i].segs) > literals(r.routes[j].segs) })
	return r
}

func literals(segs []string) int {
	n := 0
	for _, s := range segs {
		if !strings.HasPrefix(s, "{") {
			n++
		}
	}
	return n
}

// Match returns the route and its decoded parameters. When the path is known but
// the method is not, it returns nil and the methods that would do.
func (r *Router) Match(method, rawPath string) (*Route, map[string]string, []string) {
	segs := strings.Split(strings.Trim(rawPath, "/"), "/")
	var allowed []string
	for _, c := range r.routes {
		params, ok := matchSegments(c.segs, segs)
		if !ok {
			continue
		}
		if c.route.Method == method {
			return c.route, params, nil
		}
		allowed = append(allowed, c.route.Method)
	}
	return nil, nil, allowed
}

func matchSegments(pattern, segs []string) (map[string]string, bool) {
	var params map[string]string
	set := func(k, raw string) bool {
		v, err := url.PathUnescape(raw)
		if err != nil {
			return false
		}
		if params == nil {
			params = map[string]string{}
		}
		params[k] = v
		return true
	}
	for i, p := range pattern {
		if strings.HasSuffix(p, "...}") {
			if i >= len(segs) {
				return nil, false
			}
			ok := set(p[1:len(p)-4], strings.Join(segs[i:], "/"))
			return params, ok
		}
		if i >= len(segs) {
			return nil, false
		}
		if strings.HasPrefix(p, "{") {
			if segs[i] == "" || !set(p[1:len(p)-1], segs[i]) {
				return nil, false
			}
			continue
		}
		if open, end := strings.IndexByte(p, '{'), strings.IndexByte(p, '}'); open > 0 && end > open {
			before, after := p[:open], p[end+1:]
			if len(segs[i]) <= len(before)+len(after) || !strings.EqualFold(segs[i][:len(before)], before) || !strings.EqualFold(segs[i][len(segs[i])-len(after):], after) ||
				!set(p[open+1:end], segs[i][len(before):len(segs[i])-len(after)]) {
				return nil, false
			}
			continue
		}
		if !strings.EqualFold(p, segs[i]) {
			return nil, false
		}
	}
	return params, len(pattern) == len(segs)
}
