package armapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

const maxBody = 4 << 20

// decode reads a JSON body into an SDK model. Nulls count as absent and unknown
// members are let pass: newer clients send them. A value of the wrong type, or null
// within an array, is refused with the member's name.
func decode(r *azwire.Request, into any) error {
	return decodeBy(r, into, func(b []byte) []byte { return b })
}

// decodeBy is decode for a body that is made strict JSON first.
func decodeBy(r *azwire.Request, into any, strict func([]byte) []byte) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return millpond.Errorf(millpond.TooLarge, "RequestEntityTooLarge", "The request's body is larger than %d bytes.", maxBody)
		}
		return err
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		return nil
	}
	b = strict(b)
	if err := json.Unmarshal(b, into); err != nil {
		return unreadable(b, err)
	}
	return noHoles(into)
}

func ptr[T any](v T) *T { return &v }

// val is what p points to, or the zero value.
func val[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// canonical finds an enumeration's value in any casing; nil gives "".
func canonical[T ~string](p *T, possible []T, target string) (string, error) {
	if p == nil || *p == "" {
		return "", nil
	}
	for _, v := range possible {
		if strings.EqualFold(string(v), string(*p)) {
			return string(v), nil
		}
	}
	names := make([]string, len(possible))
	for i, v := range possible {
		names[i] = string(v)
	}
	e := millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value '%s' of parameter %s is not valid. Use one of: %s.", string(*p), target, strings.Join(names, ", "))
	e.Target = target
	return "", e
}

func unsupported(target, format string, args ...any) error {
	e := millpond.Errorf(millpond.Unsupported, "NotSupported", format, args...)
	e.Target = target
	return e
}

func tagsIn(m map[string]*string) map[string]string {
	if m == nil {
		return nil
	}
	out := map[string]string{}
	for k, v := range m {
		if v != nil {
			out[k] = *v
		}
	}
	return out
}

func tagsOut(m map[string]string) map[string]*string {
	out := map[string]*string{}
	for k, v := range m {
		out[k] = ptr(v)
	}
	return out
}

// strOrNil leaves an empty member out.
func strOrNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func enumOrNil[T ~string](s string) *T {
	if s == "" {
		return nil
	}
	return ptr(T(s))
}

// id builds a resource id from the route's parameters, with the canonical type.
func id(r *azwire.Request, fullType string, names ...string) millpond.ResourceID {
	ns, types, _ := strings.Cut(fullType, "/")
	out := millpond.ResourceID{Subscription: r.Param("sub"), Group: r.Param("rg"), Namespace: ns, Types: strings.Split(types, "/")}
	for _, n := range names {
		out.Names = append(out.Names, r.Param(n))
	}
	return out
}

// mostTop is the largest page that a client may ask for, as in Azure.
const mostTop = 1000

// pageSize is how many items a page has. The lists of groups and of resources read
// $top, which in Azure too is the size of a page, and no end of the list.
func (e *Edge) pageSize(r *azwire.Request) (int, error) {
	top := r.QueryValue("$top")
	switch r.Route.Name {
	case "ResourceGroups_List", "Resources_List", "Resources_ListByResourceGroup":
	default:
		top = ""
	}
	if top == "" {
		return e.PageSize, nil
	}
	n, err := strconv.Atoi(top)
	if err != nil || n < 1 || n > mostTop {
		return 0, millpond.Errorf(millpond.Invalid, "InvalidTopInQueryString", "The $top '%s' is not valid. It is how many items a page has, 1 to %d; nextLink leads to the rest.", azwire.Clip(top), mostTop)
	}
	return n, nil
}

// page asks for one more item than fits, which tells whether there is a next page.
func (e *Edge) page(r *azwire.Request) (after string, limit int, err error) {
	if t := r.QueryValue("$skipToken"); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		if err != nil {
			return "", 0, millpond.Errorf(millpond.Invalid, "InvalidParameter", "The $skipToken is not one that this service gave.")
		}
		after = string(b)
	}
	size, err := e.pageSize(r)
	return after, size + 1, err
}

// writeList encodes a page of items; key gives an item's key for the next link
// and scope the id that a filtered list checks.
func writeList[T any](e *Edge, w http.ResponseWriter, r *azwire.Request, items []T, key func(T) (key, scope, action string), encode func(T) any) error {
	next := ""
	size, err := e.pageSize(r)
	if err != nil {
		return err
	}
	if len(items) > size {
		items = items[:size]
		k, _, _ := key(items[len(items)-1])
		q := r.URL.Query()
		for name := range q {
			if strings.EqualFold(name, "$skipToken") {
				q.Del(name)
			}
		}
		q.Set("$skipToken", base64.RawURLEncoding.EncodeToString([]byte(k)))
		next = r.BaseURL + r.URL.EscapedPath() + "?" + strings.ReplaceAll(url.Values(q).Encode(), "%24", "$")
	}
	value := []any{}
	for _, it := range items {
		if r.Param(filtered) != "" {
			_, scope, action := key(it)
			if e.Auth.Authorize(r.Context(), r.Caller, action, scope) != nil {
				continue
			}
		}
		value = append(value, encode(it))
	}
	body := map[string]any{"value": value}
	if next != "" {
		body["nextLink"] = next
	}
	azwire.WriteJSON(w, http.StatusOK, body)
	return nil
}

func resourceKey[T interface{ Base() *millpond.Resource }](n T) (string, string, string) {
	id := n.Base().ID
	return id.Key(), id.String(), id.Type() + "/read"
}
