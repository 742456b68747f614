package batchapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// clockSkew is how far a signed date may lie from ours.
const clockSkew = 15 * time.Minute

// signedRequest is what a Shared Key signature covers, taken from a request
// before anything has decoded its path.
type signedRequest struct {
	method string
	// account is spelled as in the Authorization header.
	account string
	// path is percent-encoded, exactly as sent, with the prefix of direct use.
	path  string
	query string
	// length is the body's, -1 when it is not known.
	length int64
	header http.Header
}

// signedFrom reads a request as its client signed it.
func signedFrom(r *http.Request, account string) signedRequest {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	if r.RequestURI == "" {
		path, query = r.URL.EscapedPath(), r.URL.RawQuery
	}
	if !strings.HasPrefix(path, "/") {
		// A proxy's absolute form: scheme://host/path.
		if _, rest, ok := strings.Cut(path, "://"); ok {
			_, p, _ := strings.Cut(rest, "/")
			path = "/" + p
		}
	}
	return signedRequest{method: r.Method, account: account, path: path, query: query, length: r.ContentLength, header: r.Header}
}

// signatureVariant is one way in which clients differ
// (batch-data-plane.md §5.1, deviations).
type signatureVariant struct {
	length    string
	date      string
	lower     bool // query names in lower case (.NET)
	keepEmpty bool // parameters without a value (Python leaves them out)
}

// variants lists every string that a client may have signed for this request,
// the likeliest first.
func (s signedRequest) variants() []signatureVariant {
	lengths := []string{strconv.FormatInt(s.length, 10)}
	if s.length <= 0 {
		lengths = []string{"", "0"}
		if s.header.Get("Content-Length") == "0" || s.method != http.MethodGet && s.method != http.MethodHead {
			lengths = []string{"0", ""}
		}
	}
	// Without ocp-date the Date must be under the signature: it is what keeps an
	// old request from being sent again.
	dates := []string{s.header.Get("Date")}
	if s.header.Get("ocp-date") != "" {
		dates = []string{"", s.header.Get("Date")}
		if dates[1] == "" {
			dates = dates[:1]
		}
	}
	empties := []bool{false}
	if s.hasEmptyParameter() {
		empties = []bool{false, true}
	}
	var out []signatureVariant
	for _, empty := range empties {
		for _, lower := range []bool{false, true} {
			for _, d := range dates {
				for _, l := range lengths {
					out = append(out, signatureVariant{l, d, lower, empty})
				}
			}
		}
	}
	return out
}

type queryPair struct{ name, value string }

// pairs are the query's parameters, decoded, the first of each name only.
func (s signedRequest) pairs() []queryPair {
	var out []queryPair
	seen := map[string]bool{}
	for _, part := range strings.Split(s.query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, err1 := url.QueryUnescape(name)
		v, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil {
			n, v = name, value
		}
		if !seen[n] {
			seen[n] = true
			out = append(out, queryPair{n, v})
		}
	}
	return out
}

func (s signedRequest) hasEmptyParameter() bool {
	for _, p := range s.pairs() {
		if p.value == "" {
			return true
		}
	}
	return false
}

// stringToSign is the text of one variant (batch-data-plane.md §5.1).
func (s signedRequest) stringToSign(v signatureVariant) string {
	var b strings.Builder
	line := func(t string) { b.WriteString(t); b.WriteByte('\n') }
	line(strings.ToUpper(s.method))
	line(s.header.Get("Content-Encoding"))
	line(s.header.Get("Content-Language"))
	line(v.length)
	line(s.header.Get("Content-MD5"))
	line(s.header.Get("Content-Type"))
	line(v.date)
	for _, name := range [...]string{"If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"} {
		line(s.header.Get(name))
	}
	var names []string
	for name := range s.header {
		if strings.HasPrefix(strings.ToLower(name), "ocp-") {
			names = append(names, strings.ToLower(name))
		}
	}
	sort.Strings(names)
	for _, name := range names {
		line(name + ":" + strings.TrimSpace(s.header.Get(name)))
	}
	b.WriteString("/" + s.account + s.path)
	pairs := s.pairs()
	if v.lower {
		for i := range pairs {
			pairs[i].name = strings.ToLower(pairs[i].name)
		}
	}
	sort.SliceStable(pairs, func(i, j int) bool { return pairs[i].name < pairs[j].name })
	for _, p := range pairs {
		if p.value != "" || v.keepEmpty {
			b.WriteString("\n" + p.name + ":" + p.value)
		}
	}
	return b.String()
}

func sign(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// authenticateSharedKey checks "SharedKey {account}:{signature}" against the
// account that the request is addressed to. credentials is what follows the
// scheme. Errors are 403 AuthenticationFailed with an AuthenticationErrorDetail.
func authenticateSharedKey(r *http.Request, credentials string, acct millpond.BatchAccount, now time.Time) (millpond.Caller, error) {
	name, signature, ok := strings.Cut(strings.TrimSpace(credentials), ":")
	if !ok || name == "" || signature == "" {
		return millpond.Caller{}, keyRefused("The Authorization header is not of the form 'SharedKey account:signature'.")
	}
	if millpond.AccountName(name).Key() != acct.Name.Key() {
		return millpond.Caller{}, keyRefused("The request is signed for account '" + azwire.Clip(name) + "' but addressed to account '" + string(acct.Name) + "'.")
	}
	if !acct.SharedKeyAllowed {
		return millpond.Caller{}, keyRefused("Shared Key authentication is disabled for account '" + string(acct.Name) +
			"' by its allowedAuthenticationModes. Sign in with a token: az batch account login without --shared-key-auth.")
	}
	if err := checkDate(r.Header, now); err != nil {
		return millpond.Caller{}, err
	}
	given, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return millpond.Caller{}, keyRefused("The signature is not base64.")
	}
	s := signedFrom(r, name)
	var keys [][]byte
	for _, k := range [...]string{acct.PrimaryKey, acct.SecondaryKey} {
		// An account without a key must not be opened by an empty one.
		if b, err := base64.StdEncoding.DecodeString(k); err == nil && len(b) > 0 {
			keys = append(keys, b)
		}
	}
	matched := false
	variants := s.variants()
	for _, v := range variants {
		text := s.stringToSign(v)
		for _, k := range keys {
			// Every candidate is compared, so that time tells nothing.
			matched = hmac.Equal(sign(k, text), given) || matched
		}
	}
	if !matched {
		return millpond.Caller{}, keyRefused("The MAC signature found in the HTTP request '" + azwire.Clip(signature) +
			"' is not the same as any computed signature. Server used following string to sign: '" + s.stringToSign(variants[0]) + "'.")
	}
	return millpond.Caller{Method: millpond.AuthSharedKey, Tenant: acct.Tenant, Account: acct.Name, Name: string(acct.Name)}, nil
}

func checkDate(h http.Header, now time.Time) error {
	name := "ocp-date"
	text := h.Get(name)
	if text == "" {
		name = "Date"
		text = h.Get(name)
	}
	if text == "" {
		return keyRefused("Either the header ocp-date or the header Date must be given, because it is signed.")
	}
	t, err := http.ParseTime(text)
	if err != nil {
		return keyRefused("The header " + name + " is not an RFC 1123 date such as Tue, 01 Oct 2024 12:00:00 GMT.")
	}
	if d := now.Sub(t); d > clockSkew || d < -clockSkew {
		return keyRefused("The date in the header " + name + ", '" + azwire.Clip(text) + "', is more than 15 minutes from the server's time, '" +
			now.UTC().Format(http.TimeFormat) + "'. Set the clock of the client.")
	}
	return nil
}

func keyRefused(detail string) *millpond.Error {
	return millpond.Errorf(millpond.Forbidden, "AuthenticationFailed",
		"Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.").
		With("AuthenticationErrorDetail", detail)
}
