package azwire

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
)

// skipVersion leads the text of a token, so that a later form can be told apart.
const skipVersion = "1:"

// SkipToken hides where a page ended in an opaque word.
func SkipToken(after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(skipVersion + after))
}

// ParseSkipToken reads a token that SkipToken made. Empty means the first page.
func ParseSkipToken(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(b), skipVersion)
	if err != nil || !ok || len(b) > 4096 {
		return "", millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue",
			"The $skiptoken is none that this service made. Follow odata.nextLink as it is, or start again without $skiptoken.").
			With("QueryParameterName", "$skiptoken").With("QueryParameterValue", Clip(token))
	}
	return after, nil
}

// NextLink is the absolute address of the page after "after": the request's own,
// every query parameter as the client wrote it, with a new $skiptoken. It is ""
// after the last page and must then be left out of the answer: Python follows an
// empty link for ever.
func NextLink(r *Request, after string) string {
	if after == "" {
		return ""
	}
	var kept []string
	for _, p := range strings.Split(r.URL.RawQuery, "&") {
		name, _, _ := strings.Cut(p, "=")
		if n, err := url.QueryUnescape(name); p == "" || err == nil && strings.EqualFold(n, "$skiptoken") {
			continue
		}
		kept = append(kept, p)
	}
	kept = append(kept, "$skiptoken="+SkipToken(after))
	return r.BaseURL + r.URL.EscapedPath() + "?" + strings.Join(kept, "&")
}

// MaxResults reads maxresults: 1 to most, most when it is not given. The error
// is 400 InvalidQueryParameterValue below 1, and OutOfRangeQueryParameterValue
// above most.
func MaxResults(r *Request, most int) (int, error) {
	text := r.QueryValue("maxresults")
	if text == "" {
		return most, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The query parameter maxresults is %q, which is not a number.", Clip(text)).
			With("QueryParameterName", "maxresults").With("QueryParameterValue", Clip(text)).With("Reason", "Not a number.")
	}
	if n < 1 {
		const why = "MaxResults cannot be less than 1"
		return 0, millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue", "The query parameter maxresults is %d: %s.", n, why).
			With("QueryParameterName", "maxresults").With("QueryParameterValue", Clip(text)).With("Reason", why)
	}
	if n > most {
		return 0, millpond.Errorf(millpond.Invalid, "OutOfRangeQueryParameterValue",
			"The query parameter maxresults is %d; it must be between 1 and %d.", n, most).
			With("QueryParameterName", "maxresults").With("QueryParameterValue", Clip(text)).
			With("MinimumAllowed", "1").With("MaximumAllowed", strconv.Itoa(most))
	}
	return n, nil
}
