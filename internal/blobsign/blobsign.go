// Package blobsign computes the signatures of Azure Storage's blob service:
// Shared Key of requests, and shared access signatures (SAS) of links. The same
// texts are computed to check what a client signed and to sign for the service
// behind.
//
// It knows no accounts, grants no rights and sends nothing. Packages storage and
// storageapi call it.
package blobsign

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Key is an account's name and one of its keys.
type Key struct {
	Account string
	Secret  []byte
}

// ParseKey reads a key as portals print it, in base64. An empty key is refused:
// it would open everything.
func ParseKey(account, text string) (Key, bool) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	return Key{account, b}, err == nil && len(b) > 0 && account != ""
}

// Sign is the base64 of HMAC-SHA256 over a text.
func (k Key) Sign(text string) string {
	m := hmac.New(sha256.New, k.Secret)
	m.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// Equal compares signatures in constant time.
func Equal(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }

// Request is what a Shared Key signature covers.
type Request struct {
	Method string
	// Path is percent-encoded, as on the wire.
	Path   string
	Query  url.Values
	Header http.Header
	// Length is the body's, -1 when it is not known.
	Length int64
}

// StringToSign is the text of Shared Key for blobs since 2015-02-21, for an
// account of the given name.
func (r Request) StringToSign(account string) string {
	var b strings.Builder
	line := func(t string) { b.WriteString(t); b.WriteByte('\n') }
	line(r.Method)
	line(r.Header.Get("Content-Encoding"))
	line(r.Header.Get("Content-Language"))
	if r.Length > 0 {
		line(strconv.FormatInt(r.Length, 10))
	} else {
		line("")
	}
	line(r.Header.Get("Content-MD5"))
	line(r.Header.Get("Content-Type"))
	if r.Header.Get("x-ms-date") != "" {
		line("")
	} else {
		line(r.Header.Get("Date"))
	}
	for _, name := range [...]string{"If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"} {
		line(r.Header.Get(name))
	}
	var names []string
	own := map[string][]string{}
	for name, v := range r.Header {
		if n := strings.ToLower(name); strings.HasPrefix(n, "x-ms-") {
			names = append(names, n)
			own[n] = v
		}
	}
	sort.Strings(names)
	for _, n := range names {
		line(n + ":" + strings.TrimSpace(strings.Join(own[n], ",")))
	}
	b.WriteString("/" + account + r.Path)
	values := map[string][]string{}
	for name, v := range r.Query {
		n := strings.ToLower(name)
		values[n] = append(values[n], v...)
	}
	names = names[:0]
	for n := range values {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		slices.Sort(values[n])
		b.WriteString("\n" + n + ":" + strings.Join(values[n], ","))
	}
	return b.String()
}

// Authorize gives a request the header of Shared Key. Everything that is signed
// must be set, x-ms-date among it.
func (k Key) Authorize(r Request) {
	r.Header.Set("Authorization", "SharedKey "+k.Account+":"+k.Sign(r.StringToSign(k.Account)))
}
