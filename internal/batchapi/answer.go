package batchapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// contentType is what the service answers with; clients refuse to parse others.
const contentType = "application/json; odata=minimalmetadata"

func (e *Edge) writeJSON(w http.ResponseWriter, r *request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		e.Log.Error("an answer could not be encoded", "request", r.ID, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	writeText(w, status, body)
}

func writeText(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// empty answers without a body, as most operations that write do.
func empty(w http.ResponseWriter, status int) error {
	if status != http.StatusNoContent {
		w.Header().Set("Content-Length", "0")
	}
	w.WriteHeader(status)
	return nil
}

// versionHeaders tells the version of what was read or written.
func versionHeaders(w http.ResponseWriter, v millpond.Versioned) {
	w.Header().Set("ETag", v.ETag())
	w.Header().Set("Last-Modified", azwire.HTTPDate(v.Modified()))
}

// target sets DataServiceId, the address of what a write was about.
func target(w http.ResponseWriter, r *request, path ...string) {
	w.Header().Set("DataServiceId", r.address(path...))
}

// created answers an add.
func created(w http.ResponseWriter, r *request, v millpond.Versioned, path ...string) error {
	versionHeaders(w, v)
	target(w, r, path...)
	w.Header().Set("Location", r.address(path...))
	return empty(w, http.StatusCreated)
}

// address is an absolute URL below the account's, each segment escaped.
func (r *request) address(path ...string) string {
	var b strings.Builder
	b.WriteString(r.BaseURL)
	for _, p := range path {
		b.WriteByte('/')
		b.WriteString(escapeSegment(p))
	}
	return b.String()
}

// escapeSegment percent-encodes all but unreserved characters, so that slashes
// of file names and colons of job ids survive.
func escapeSegment(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// entity is one answer's object before it is written.
type entity struct {
	model any
	extra map[string]any
}

// writeEntity answers a get. Set is the name in odata.metadata.
func (e *Edge) writeEntity(w http.ResponseWriter, r *request, set string, members []string, v entity) error {
	sel, err := azwire.ParseSelection(r.QueryValue("$select"), members)
	if err != nil {
		return err
	}
	m, err := azwire.Entity(v.model, v.extra, sel)
	if err != nil {
		return err
	}
	m["odata.metadata"], _ = json.Marshal(r.BaseURL + "/$metadata#" + set + "/@Element")
	if r.Method == http.MethodHead {
		return empty(w, http.StatusOK)
	}
	e.writeJSON(w, r, http.StatusOK, m)
	return nil
}

// page answers a list.
type page struct {
	Metadata string `json:"odata.metadata"`
	Value    []any  `json:"value"`
	// NextLink is left out after the last page: Python follows "" for ever.
	NextLink string `json:"odata.nextLink,omitempty"`
}

func (e *Edge) writePage(w http.ResponseWriter, r *request, set string, value []any, after string) error {
	texts := make([][]byte, len(value))
	err := inParts(len(value), func(i int) (err error) {
		switch v := value[i].(type) {
		case json.RawMessage:
			texts[i] = v
		case json.Marshaler:
			texts[i], err = v.MarshalJSON()
		default:
			texts[i], err = json.Marshal(v)
		}
		return err
	})
	if err != nil {
		return err
	}
	frame, err := json.Marshal(page{r.BaseURL + "/$metadata#" + set, []any{}, azwire.NextLink(r.Request, after)})
	if err != nil {
		return err
	}
	// The entities go into the empty list as they are: encoding/json would read each of
	// them again, which was a quarter of a page's time.
	const list = `"value":[`
	head, tail, _ := bytes.Cut(frame, []byte(list))
	writeText(w, http.StatusOK, slices.Concat(head, []byte(list), bytes.Join(texts, []byte(",")), tail))
	return nil
}

// listOf runs one list operation: filter, select, paging, encode.
func listOf[T any](e *Edge, w http.ResponseWriter, r *request, l list[T], most int,
	fetch func(millpond.ListQuery[T]) ([]T, string, error), encode func(T) entity) error {
	q, sel, err := l.query(r, most)
	if err != nil {
		return err
	}
	rows, next, err := fetch(q)
	if err != nil {
		return err
	}
	value := make([]any, len(rows))
	err = inParts(len(rows), func(i int) (err error) {
		v := encode(rows[i])
		switch {
		case sel != nil:
			value[i], err = azwire.Entity(v.model, v.extra, sel)
		case v.extra != nil:
			value[i], err = azwire.Whole(v.model, v.extra)
		default:
			// Nothing to add or leave out: the model is what is written.
			value[i] = v.model
		}
		return err
	})
	if err != nil {
		return err
	}
	return e.writePage(w, r, l.set, value, next)
}

// inParts does each of n, in as many parts at the same time as there are processors
// if they are many. each must be safe to be called so.
func inParts(n int, each func(i int) error) error {
	const few = 200
	parts := min(runtime.GOMAXPROCS(0), n/few+1)
	var g errgroup.Group
	for part := range parts {
		g.Go(func() error {
			for i := part * n / parts; i < (part+1)*n/parts; i++ {
				if err := each(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// warn puts a pool's warnings into headers, where az --debug and every HTTP
// client shows them.
func warn(w http.ResponseWriter, warnings []millpond.Warning) {
	for _, x := range warnings {
		w.Header().Add("Warning", azwire.WarningHeader(x.Message))
	}
}

// Pointers for the SDK's models.

func ptr[T any](v T) *T { return &v }

// some is nil for the zero value, so that unset members are left out.
func some[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func count(n int) *int32 { return ptr(int32(n)) }

func code(n *int) *int32 {
	if n == nil {
		return nil
	}
	return count(*n)
}
