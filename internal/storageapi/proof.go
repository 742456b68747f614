package storageapi

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/storage"
)

// proof is what a request is allowed by.
type proof int

const (
	byNothing proof = iota // an open container, if the service behind has it open
	byKey
	byLink
	byToken
)

// clockSkew is how far a signed date may lie from ours.
const clockSkew = 15 * time.Minute

// prove checks what the request brings.
func (e *Edge) prove(r *request) (proof, error) {
	scheme, credentials, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	switch {
	case blobsign.IsSAS(r.query):
		return byLink, e.proveLink(r)
	case strings.EqualFold(scheme, "SharedKey"):
		return byKey, e.proveKey(r, strings.TrimSpace(credentials))
	case strings.EqualFold(scheme, "Bearer"):
		return byToken, e.proveToken(r, strings.TrimSpace(credentials))
	case scheme == "":
		if r.place.Container == "" || !r.account.PublicBlobs || r.Method != http.MethodGet && r.Method != http.MethodHead {
			return byNothing, millpond.Errorf(millpond.Unauthenticated, "NoAuthenticationInformation",
				"Server failed to authenticate the request. Please refer to the information in the www-authenticate header. Sign the request with the account's key, use a signed URL, or sign in.")
		}
		return byNothing, nil
	}
	return byNothing, failed("The authentication scheme " + azwire.Clip(scheme) + " is not supported. Use SharedKey, a signed URL or a token.")
}

func failed(detail string) error {
	return millpond.Errorf(millpond.Forbidden, "AuthenticationFailed",
		"Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.").
		With("AuthenticationErrorDetail", detail)
}

func (e *Edge) keysAllowed(r *request) error {
	if r.account.SharedKey {
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "KeyBasedAuthenticationNotPermitted",
		"Key based authentication is not permitted on this storage account. Sign in (az: --auth-mode login), or allow it: az storage account update --allow-shared-key-access true")
}

func (e *Edge) proveKey(r *request, credentials string) error {
	name, signature, _ := strings.Cut(credentials, ":")
	if name != r.account.ID.Name() {
		return failed("The request is signed for account " + azwire.Clip(name) + " but addressed to account " + r.account.ID.Name() + ".")
	}
	if err := e.keysAllowed(r); err != nil {
		return err
	}
	date := r.Header.Get("x-ms-date")
	if date == "" {
		date = r.Header.Get("Date")
	}
	t, err := http.ParseTime(date)
	if err != nil {
		return failed("Either x-ms-date or Date must be given as a date of RFC 1123.")
	}
	if d := e.Clock.Now().Sub(t); d > clockSkew || d < -clockSkew {
		return failed("The request's date, " + azwire.Clip(date) + ", is more than 15 minutes from the server's time, " + e.Clock.Now().UTC().Format(http.TimeFormat) + ".")
	}
	// The whole path is signed, with the account in direct use.
	path := r.path
	if !strings.HasSuffix(strings.ToLower(hostOf(r.Host)), azwire.BlobSuffix) {
		path = "/" + r.account.ID.Name() + r.path
		if r.path == "/" && !strings.HasSuffix(strings.SplitN(r.RequestURI, "?", 2)[0], "/") {
			path = strings.TrimSuffix(path, "/")
		}
	}
	text := blobsign.Request{Method: r.Method, Path: path, Query: r.query, Header: r.Header, Length: r.ContentLength}.StringToSign(name)
	if !storage.Verify(r.account, text, signature) {
		return failed("The MAC signature found in the HTTP request '" + azwire.Clip(signature) + "' is not the same as any computed signature. Server used following string to sign: '" + text + "'.")
	}
	return nil
}

func (e *Edge) proveLink(r *request) error {
	if err := e.keysAllowed(r); err != nil {
		return err
	}
	text, err := blobsign.SASText(r.account.ID.Name(), r.query, r.place)
	if err != nil {
		return failed("The signed URL cannot be used: " + err.Error() + ".")
	}
	if !storage.Verify(r.account, text, r.query.Get("sig")) {
		return failed("Signature did not match. String to sign used was " + text)
	}
	now := e.Clock.Now()
	if t, ok := blobsign.Time(r.query.Get("st")); ok && now.Before(t) {
		return failed("Signature not valid in the specified time frame: Start [" + t.Format(http.TimeFormat) + "] - Current [" + now.UTC().Format(http.TimeFormat) + "]")
	}
	if t, ok := blobsign.Time(r.query.Get("se")); ok && !now.Before(t) {
		return failed("Signature not valid in the specified time frame: Expiry [" + t.Format(http.TimeFormat) + "] - Current [" + now.UTC().Format(http.TimeFormat) + "]")
	}
	if limit := r.query.Get("sip"); limit != "" && !within(limit, r.RemoteAddr) {
		return millpond.Errorf(millpond.Forbidden, "AuthorizationSourceIPMismatch", "This request is not authorized to perform this operation using this source IP.")
	}
	return nil
}

// within says whether an address lies in a link's signed range, first or first-last.
func within(limit, remote string) bool {
	first, last, ranged := strings.Cut(limit, "-")
	if !ranged {
		last = first
	}
	lo, err1 := netip.ParseAddr(first)
	hi, err2 := netip.ParseAddr(last)
	at, err3 := netip.ParseAddr(hostOf(remote))
	return err1 == nil && err2 == nil && err3 == nil && lo.Compare(at.Unmap()) <= 0 && at.Unmap().Compare(hi) <= 0
}

func hostOf(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

func (e *Edge) proveToken(r *request, token string) error {
	caller, err := e.Verify(r.Context(), token)
	if err != nil {
		me := *millpond.AsError(err)
		me.Code = "InvalidAuthenticationInfo"
		return &me
	}
	action, scope := right(r)
	if err := e.Auth.Authorize(r.Context(), caller, action, scope); err != nil {
		me := *millpond.AsError(err)
		if me.Kind == millpond.Forbidden {
			me.Code = "AuthorizationPermissionMismatch"
		}
		return &me
	}
	return nil
}

// right is what a token's roles must give for a request, as Azure names it.
func right(r *request) (action, scope string) {
	const containers = "Microsoft.Storage/storageAccounts/blobServices/containers/"
	scope = r.account.ID.String()
	verb := "write"
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		verb = "read"
	case http.MethodDelete:
		verb = "delete"
	}
	if r.place.Container == "" {
		return containers + verb, scope
	}
	scope += "/blobServices/default/containers/" + r.place.Container
	comp := strings.ToLower(r.query.Get("comp"))
	switch {
	case r.place.Blob != "" && comp == "tags":
		return containers + "blobs/tags/" + verb, scope
	case r.place.Blob != "", comp == "list", comp == "blobs":
		return containers + "blobs/" + verb, scope
	}
	return containers + verb, scope
}
