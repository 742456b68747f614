package azwire

import (
	"net/http"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

// ParseCondition reads the condition headers of a request. More than one is 400
// MultipleConditionHeadersNotSupported. With tags false (condition set C2), the
// ETag headers are ignored, as the service does for files.
func ParseCondition(h http.Header, tags bool) (millpond.Condition, error) {
	var c millpond.Condition
	var given []string
	get := func(name string) string {
		v := strings.TrimSpace(h.Get(name))
		if v != "" {
			given = append(given, name)
		}
		return v
	}
	if tags {
		c.IfMatch, c.IfNoneMatch = get("If-Match"), get("If-None-Match")
	}
	var err error
	date := func(name string) time.Time {
		v := get(name)
		if v == "" {
			return time.Time{}
		}
		t, e := http.ParseTime(v)
		if e != nil && err == nil {
			err = millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "The header %s is not an RFC 1123 date such as Tue, 01 Oct 2024 12:00:00 GMT.", name).
				With("HeaderName", name).With("HeaderValue", Clip(v))
		}
		return t
	}
	c.IfModifiedSince, c.IfUnmodifiedSince = date("If-Modified-Since"), date("If-Unmodified-Since")
	if err == nil && len(given) > 1 {
		err = millpond.Errorf(millpond.Invalid, "MultipleConditionHeadersNotSupported",
			"Only one condition header may be given, not %s together.", strings.Join(given, " and ")).With("HeaderName", given[1])
	}
	return c, err
}
