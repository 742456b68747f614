package batchapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// maxBody is the largest request body, in bytes (batch-data-plane.md §9). Clients
// split a collection of tasks in half when it is exceeded.
const maxBody = 1 << 20

type kind int

const (
	kindText kind = iota
	kindNumber
	kindTruth
	kindSpan
	kindList
	kindObject
	kindTable
	// kindWhole is an object of the user's own, kept as it is.
	kindWhole
)

// rule says what one member of a request body may be. Bodies are checked
// against rules before the SDK's model decodes them, because the model neither
// tells which member is wrong nor what is understood but not supported.
// Members without a rule are unknown and ignored: newer clients send them.
type rule struct {
	kind     kind
	required bool
	// id is the name of a new pool, job or task.
	id bool
	// moment is a date and time, kept as RFC 3339 writes it.
	moment bool
	// words are the only texts allowed, in the spelling that is kept.
	words []string
	// low and high bound a number, or the length of a text or list.
	low, high int64
	elem      *rule
	// raw leaves the items of a list as they are; each is judged by itself.
	raw     bool
	members map[string]*rule
	// refused says why the member is not supported; it is then an error to use
	// it. Null, empty, and the values in unused mean that it is not used.
	refused string
	unused  []any
	// barred are words that are understood and refused, for the reason unfit.
	barred []string
	unfit  string
	// until is the first api-version, YYYY-MM-DD, from which the member is refused
	// for the reason ended; empty for one that is taken of all.
	until, ended string
	// like is the body that has the same refusals; they are listed there.
	like string
	// then looks at a whole object that is right in its parts.
	then func(b *body, object map[string]any, path string) error
}

func text(max int64) *rule       { return &rule{kind: kindText, high: max} }
func number(lo, hi int64) *rule  { return &rule{kind: kindNumber, low: lo, high: hi} }
func truth() *rule               { return &rule{kind: kindTruth} }
func span() *rule                { return &rule{kind: kindSpan} }
func word(words ...string) *rule { return &rule{kind: kindText, words: words} }
func many(elem *rule, most int64) *rule {
	return &rule{kind: kindList, elem: elem, high: most}
}

// table is an object with names of the user's own.
func table(elem *rule, most int64) *rule {
	return &rule{kind: kindTable, elem: elem, high: most}
}
func object(members map[string]*rule) *rule { return &rule{kind: kindObject, members: members} }

// refuse is a member that is an error unless it is not really used.
func refuse(reason string, unused ...any) *rule { return &rule{refused: reason, unused: unused} }

// without has some words refused for a reason.
func (r *rule) without(reason string, words ...string) *rule {
	r.barred, r.unfit = words, reason
	return r
}

func (r *rule) needed() *rule {
	r.required = true
	return r
}

func (r *rule) check(f func(b *body, object map[string]any, path string) error) *rule {
	r.then = f
	return r
}

// body is a request's body on its way through the rules.
type body struct {
	// version is the request's api-version.
	version string
}

// readBody reads a body against a rule and decodes what is left into a model of
// the SDK. An empty body is the zero model when optional is set. It returns the
// checked object for members that the model does not have.
func readBody(w http.ResponseWriter, r *request, shape *rule, optional bool, model any) (map[string]any, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, millpond.Errorf(millpond.TooLarge, "RequestBodyTooLarge",
			"The request body is larger than %d bytes. Send fewer items at a time.", maxBody).With("MaxLimit", strconv.Itoa(maxBody))
	}
	if err != nil {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidRequestBody", "The request body could not be read to its end.").Because(err)
	}
	return decodeBody(data, r.APIVersion, shape, optional, model)
}

func decodeBody(data []byte, version string, shape *rule, optional bool, model any) (map[string]any, error) {
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	if len(data) == 0 && optional {
		return map[string]any{}, nil
	}
	bad := func(reason string) error {
		return millpond.Errorf(millpond.Invalid, "InvalidRequestBody", "The specified request body is not syntactically valid: %s", reason).With("Reason", reason)
	}
	if len(data) == 0 {
		return nil, bad("It is empty; a JSON object is expected.")
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, bad("It is not JSON: " + azwire.Clip(err.Error()) + ".")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, bad("Something follows the JSON object.")
	}
	return checkedBody(v, version, shape, model)
}

// checkedBody checks a decoded object against a rule and decodes what is left
// into a model.
func checkedBody(v any, version string, shape *rule, model any) (map[string]any, error) {
	bad := func(reason string) error {
		return millpond.Errorf(millpond.Invalid, "InvalidRequestBody", "The specified request body is not syntactically valid: %s", reason).With("Reason", reason)
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, bad("A JSON object is expected.")
	}
	b := &body{version: version}
	clean, err := b.walk(shape, v, "")
	if err != nil {
		return nil, err
	}
	m := clean.(map[string]any)
	if model == nil {
		return m, nil
	}
	again, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(again, model)
	}
	if err != nil {
		return nil, bad("A property has the wrong type.")
	}
	return m, nil
}

// walk checks v and returns it without unknown members, nulls and members that
// are not used, with words in their canonical spelling.
func (b *body) walk(r *rule, v any, path string) (any, error) {
	switch r.kind {
	case kindText:
		s, ok := v.(string)
		if !ok {
			return nil, invalid(path, v, "A string is expected.")
		}
		if len(r.words) > 0 {
			for _, w := range r.words {
				if strings.EqualFold(w, s) {
					return w, nil
				}
			}
			for _, w := range r.barred {
				if strings.EqualFold(w, s) {
					return nil, unsupportedMember(path[strings.LastIndexByte(path, '.')+1:], path, r.unfit)
				}
			}
			return nil, invalid(path, v, "It must be one of "+strings.Join(r.words, ", ")+".")
		}
		if r.moment {
			if t, ok := azwire.ParseTime(s); ok {
				return t.Format(time.RFC3339Nano), nil
			}
			return nil, invalid(path, v, "A date and time such as 2026-01-31T08:00:00Z is expected.")
		}
		if r.id && s != "" && !millpond.ValidBatchID(s) {
			return nil, invalid(path, v, "An id has 1 to 64 letters, digits, hyphens and underscores.")
		}
		if r.high > 0 && int64(len([]rune(s))) > r.high {
			return nil, invalid(path, v, fmt.Sprintf("It is longer than %d characters.", r.high))
		}
		return s, nil
	case kindNumber:
		n, ok := wholeNumber(v)
		if !ok {
			return nil, invalid(path, v, "A whole number of 32 bits is expected.")
		}
		if n < r.low || n > r.high {
			return nil, invalid(path, v, fmt.Sprintf("It must be between %d and %d.", r.low, r.high))
		}
		return n, nil
	case kindTruth:
		if _, ok := v.(bool); !ok {
			return nil, invalid(path, v, "true or false is expected.")
		}
		return v, nil
	case kindSpan:
		s, ok := v.(string)
		if !ok {
			return nil, invalid(path, v, "An ISO 8601 duration such as PT15M is expected.")
		}
		if _, _, err := azwire.ParseDuration(s); err != nil {
			return nil, invalid(path, v, "It is "+err.Error()+".")
		}
		return s, nil
	case kindList:
		return b.walkList(r, v, path)
	case kindWhole:
		return walkWhole(r, v, path)
	case kindTable:
		return b.walkTable(r, v, path)
	}
	return b.walkObject(r, v, path)
}

func (b *body) walkList(r *rule, v any, path string) (any, error) {
	l, ok := v.([]any)
	if !ok {
		return nil, invalid(path, v, "A list is expected.")
	}
	if int64(len(l)) < r.low || r.high > 0 && int64(len(l)) > r.high {
		return nil, invalid(path, strconv.Itoa(len(l))+" items", fmt.Sprintf("It must have between %d and %d items.", r.low, r.high))
	}
	if r.raw {
		return l, nil
	}
	out := make([]any, 0, len(l))
	for i, x := range l {
		at := fmt.Sprintf("%s[%d]", path, i)
		if x == nil {
			return nil, invalid(at, nil, "null is not allowed in this list.")
		}
		y, err := b.walk(r.elem, x, at)
		if err != nil {
			return nil, err
		}
		out = append(out, y)
	}
	return out, nil
}

func (b *body) walkTable(r *rule, v any, path string) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, invalid(path, v, "An object is expected.")
	}
	if int64(len(m)) > r.high {
		return nil, invalid(path, strconv.Itoa(len(m))+" members", fmt.Sprintf("It must have at most %d members.", r.high))
	}
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		y, err := b.walk(r.elem, m[name], path+"."+name)
		if err != nil {
			return nil, err
		}
		out[name] = y
	}
	return out, nil
}

func (b *body) walkObject(r *rule, v any, path string) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, invalid(path, v, "An object is expected.")
	}
	out := map[string]any{}
	// Sorted, so that a body with two mistakes gets the same answer each time.
	names := sortedNames(r.members)
	within := func(name string) string {
		if path != "" {
			return path + "." + name
		}
		return name
	}
	// What is refused goes first: a pool of a cloud service misses its virtual
	// machines, and is to hear that such services are gone.
	for _, name := range names {
		if rule := r.members[name]; rule.refused != "" && !isUnused(m[name], rule.unused) {
			at := within(name)
			return nil, unsupportedMember(name, at, rule.refused)
		}
	}
	for _, name := range names {
		rule, x, at := r.members[name], m[name], within(name)
		if rule.refused != "" {
			continue
		}
		if rule.until != "" && b.version >= rule.until && !isUnused(x, nil) {
			return nil, unsupportedMember(name, at, rule.ended)
		}
		if x == nil {
			if rule.required {
				return nil, missing(at)
			}
			continue
		}
		y, err := b.walk(rule, x, at)
		if err != nil {
			return nil, err
		}
		if s, isText := y.(string); isText && s == "" && rule.required {
			return nil, missing(at)
		}
		out[name] = y
	}
	if r.then != nil {
		if err := r.then(b, out, path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func unsupportedMember(name, path, why string) error {
	return millpond.Errorf(millpond.Unsupported, "UnsupportedProperty", "The property %s cannot be used: %s", path, why).
		With("PropertyName", name).With("PropertyPath", path).With("Reason", why)
}

func sortedNames(m map[string]*rule) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	// Required members first: what is missing matters more than what is refused.
	sort.Slice(names, func(i, j int) bool {
		a, b := names[i], names[j]
		if m[a].required != m[b].required {
			return m[a].required
		}
		return a < b
	})
	return names
}

// isUnused says whether a refused member does not ask for anything.
func isUnused(v any, unused []any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case []any:
		return !slices.ContainsFunc(x, func(item any) bool { return !isUnused(item, unused) })
	case map[string]any:
		for _, y := range x {
			if y != nil {
				return false
			}
		}
		return true
	case string:
		for _, u := range unused {
			if s, ok := u.(string); ok && strings.EqualFold(s, x) {
				return true
			}
		}
		return x == ""
	case bool:
		for _, u := range unused {
			if u == x {
				return true
			}
		}
	}
	return false
}

// wholeNumber reads an int32, written as a number or as a text: OData writes
// numbers in both ways.
func wholeNumber(v any) (int64, bool) {
	s := ""
	switch x := v.(type) {
	case json.Number:
		s = x.String()
	case string:
		s = x
	default:
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return n, err == nil
}

func missing(path string) *millpond.Error {
	return millpond.Errorf(millpond.Invalid, "MissingRequiredProperty",
		"A required property was not specified in the request body: %s.", path).
		With("PropertyName", lastName(path)).With("PropertyPath", path)
}

func invalid(path string, value any, reason string) *millpond.Error {
	shown := ""
	switch x := value.(type) {
	case nil:
		shown = "null"
	case string:
		shown = x
	default:
		b, _ := json.Marshal(x)
		shown = string(b)
	}
	if secret(lastName(path)) {
		shown = "(not shown)"
	}
	return millpond.Errorf(millpond.Invalid, "InvalidPropertyValue",
		"The value provided for one of the properties in the request body is invalid: %s. %s", path, reason).
		With("PropertyName", lastName(path)).With("PropertyValue", azwire.Clip(shown)).With("PropertyPath", path).With("Reason", reason)
}

// secret says whether a member must not be repeated in an answer.
func secret(name string) bool {
	switch strings.ToLower(name) {
	case "password", "accountkey", "sshprivatekey", "httpurl", "blobsource", "storagecontainerurl", "containerurl", "value", "data", "settings", "protectedsettings":
		return true
	}
	return false
}

func lastName(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		path = path[i+1:]
	}
	name, _, _ := strings.Cut(path, "[")
	return name
}

const (
	anyInt = math.MaxInt32
	retry  = -1
)

// limit is a duration of a checked body: 0 for infinite or absent.
func limit(s *string) time.Duration {
	if s == nil {
		return 0
	}
	d, _, err := azwire.ParseDuration(*s)
	if err != nil {
		return 0
	}
	return d
}
