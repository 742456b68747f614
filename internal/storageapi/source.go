package storageapi

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/storage"
)

// source is where x-ms-copy-source leads. One of behind and disk is set for what
// this server has; none for an address that the service behind fetches itself.
type source struct {
	// link is what the client sent.
	link string
	// behind is the blob's address behind, with a signature for reading it.
	behind string
	disk   *compute.Access
}

func badSource(why string) error {
	return millpond.Errorf(millpond.Invalid, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format: x-ms-copy-source. %s", why)
}

// copySource finds and proves the source of a copy.
func (e *Edge) copySource(r *request, link string) (source, error) {
	out := source{link: link}
	u, err := url.Parse(link)
	if err != nil || u.Host == "" {
		return out, badSource("It must be a URL.")
	}
	host, own := strings.ToLower(hostOf(u.Host)), u.Host == r.Host
	token, hasToken := bearer(r.Header.Get("x-ms-copy-source-authorization"))
	switch {
	case strings.HasSuffix(host, azwire.DiskSuffix), own && strings.HasPrefix(u.Path, "/blob/"):
		a := compute.AccessFromURL(u)
		out.disk = &a
		return out, nil
	case !strings.HasSuffix(host, azwire.BlobSuffix) && !own:
		if r.Header.Get("x-ms-copy-source-authorization") != "" {
			return out, millpond.Errorf(millpond.Unsupported, "UnsupportedOperation", "x-ms-copy-source-authorization is for storage accounts of this server. Sign the source's URL.")
		}
		return out, nil
	}
	s := &request{Request: &azwire.Request{Request: &http.Request{Method: http.MethodGet, Host: u.Host, URL: u, Header: http.Header{}, RemoteAddr: r.RemoteAddr}}}
	s.Request.Request = s.Request.Request.WithContext(r.Context())
	if s.account, err = e.Accounts.Lookup(r.Context(), s.locate()); err != nil {
		return out, err
	}
	_, params, _ := e.router.Match(http.MethodGet, s.path)
	s.place = blobsign.Place{Container: params["container"], Blob: params["blob"]}
	if s.place.Blob == "" {
		return out, badSource("It must lead to a blob.")
	}
	if err := s.confined(); err != nil {
		return out, err
	}
	same := s.account.ID.Key() == r.account.ID.Key()
	switch {
	case blobsign.IsSAS(s.query):
		if err := e.proveLink(s); err != nil {
			return out, err
		}
		to, err := e.address(s.account, s.path, s.place, s.query, true)
		if err != nil {
			return out, err
		}
		out.behind = to.String()
		return out, nil
	case hasToken:
		err = e.proveToken(s, token)
	case same && r.by == byToken:
		token, _ = bearer(r.Header.Get("Authorization"))
		err = e.proveToken(s, token)
	case same && r.by == byKey:
		// The account's key opens all of it.
	default:
		err = millpond.Errorf(millpond.Conflict, "CannotVerifyCopySource", "The source of the copy cannot be read without a signature. Sign its URL.")
	}
	if err != nil {
		return out, err
	}
	// The service behind must not think that the key opens all accounts, so it
	// gets a link to this one blob.
	to, err := e.address(s.account, s.path, s.place, s.query, false)
	if err != nil {
		return out, err
	}
	q, err := e.Behind.Key.SAS(blobsign.Place{Container: storage.Name(s.account.ID.Name(), s.place.Container), Blob: s.place.Blob},
		blobsign.Grant{Permissions: "r", Expiry: e.Clock.Now().Add(24 * time.Hour), Plain: e.Behind.URL.Scheme == "http"})
	if err != nil {
		return out, err
	}
	for k, v := range s.query {
		q[k] = v
	}
	to.RawQuery = q.Encode()
	out.behind = to.String()
	return out, nil
}

func bearer(authorization string) (token string, ok bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

// content is an opened source.
type content struct {
	io.ReadCloser
	// length is in bytes, properties what a blob's own headers say.
	length     int64
	properties http.Header
}

// takes says whether a request is filled with its source's content before it is
// answered: Put Block, Put Page and Append Block From URL, and Put Blob From URL,
// which alone of the copies of whole blobs names a type. Any other copy goes on
// after the answer.
func takes(r *request) bool {
	switch strings.ToLower(r.query.Get("comp")) {
	case "block", "page", "appendblock":
		return true
	case "":
		return r.Header.Get("x-ms-blob-type") != ""
	}
	return false
}

// fill makes of a request with a source in this server one that carries the
// content: the service behind could not fetch from here, and emulators do not
// know these operations. It returns the request to send behind; its body must
// be closed.
func (e *Edge) fill(r *request, s source) (*http.Request, error) {
	span, err := azwire.ParseByteRange(r.Header.Get("x-ms-source-range"))
	if err != nil {
		return nil, err
	}
	var c *content
	if s.disk != nil {
		c, err = e.partOfDisk(r.Context(), *s.disk, span)
	} else {
		c, err = e.openBehind(r, s.behind)
	}
	if err != nil {
		return nil, err
	}
	out := r.Request.Request.Clone(r.Context())
	h := out.Header
	if strings.ToLower(r.query.Get("comp")) == "" {
		inherit(h, c.properties)
	}
	for from, to := range map[string]string{"x-ms-source-content-md5": "Content-MD5", "x-ms-source-content-crc64": "x-ms-content-crc64"} {
		if v := h.Get(from); v != "" {
			h.Set(to, v)
		}
	}
	for name := range h {
		if n := strings.ToLower(name); strings.HasPrefix(n, "x-ms-source-") || strings.HasPrefix(n, "x-ms-copy-source") || n == "content-length" {
			h.Del(name)
		}
	}
	out.Body, out.ContentLength = c, c.length
	return out, nil
}

// inherit gives a new blob the properties and metadata of its source, unless the
// client gave its own or does not want them.
func inherit(h, properties http.Header) {
	if !strings.EqualFold(h.Get("x-ms-copy-source-blob-properties"), "false") {
		for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Cache-Control"} {
			if v := properties.Get(name); v != "" && h.Get("x-ms-blob-"+name) == "" {
				h.Set("x-ms-blob-"+name, v)
			}
		}
	}
	for name := range h {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), metaPrefix) {
			return
		}
	}
	for name, v := range properties {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), metaPrefix) {
			h[name] = v
		}
	}
}

func (e *Edge) partOfDisk(ctx context.Context, a compute.Access, span azwire.ByteRange) (*content, error) {
	b, err := e.OpenDisk(ctx, a)
	if err != nil {
		return nil, err
	}
	off, n, err := span.Within(b.Size())
	if err != nil {
		b.Close()
		return nil, err
	}
	return &content{ReadCloser: struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(b, off, n), b}, length: n, properties: http.Header{"Content-Type": {"application/octet-stream"}}}, nil
}

// openBehind reads a blob of the service behind, under the source conditions and
// the source range of the request.
func (e *Edge) openBehind(r *request, link string) (*content, error) {
	q, err := http.NewRequestWithContext(r.Context(), http.MethodGet, link, nil)
	if err != nil {
		return nil, badSource("It must be a URL.")
	}
	q.Header.Set("x-ms-version", blobsign.SASVersion)
	// Without this the transport asks for a compressed body, and loses its length.
	q.Header.Set("Accept-Encoding", "identity")
	if v := r.Header.Get("x-ms-source-range"); v != "" {
		q.Header.Set("x-ms-range", v)
	}
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if v := r.Header.Get("x-ms-source-" + name); v != "" {
			q.Header.Set(name, v)
		}
	}
	resp, err := e.Behind.HTTP.RoundTrip(q)
	if err != nil {
		return nil, e.silent(err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		if resp.ContentLength >= 0 {
			return &content{ReadCloser: resp.Body, length: resp.ContentLength, properties: resp.Header}, nil
		}
		resp.Body.Close()
		return nil, millpond.Errorf(millpond.Unavailable, "ServerBusy", "The blob service behind does not say how long the source is. Try again.")
	}
	resp.Body.Close()
	code := resp.Header.Get("x-ms-error-code")
	switch resp.StatusCode {
	case http.StatusNotModified, http.StatusPreconditionFailed:
		return nil, millpond.Errorf(millpond.Precondition, "SourceConditionNotMet", "The source condition specified using HTTP conditional header(s) is not met.")
	case http.StatusNotFound:
		return nil, millpond.Errorf(millpond.NotFound, "CannotVerifyCopySource", "The specified blob does not exist: there is nothing at the source of the copy.")
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, millpond.Errorf(millpond.Range, "InvalidRange", "The source range is invalid for the current size of the source.")
	case http.StatusForbidden:
		return nil, millpond.Errorf(millpond.Forbidden, "CannotVerifyCopySource", "The source of the copy cannot be read with its signature (%s). Sign its URL with the permission r.", azwire.Clip(code))
	}
	return nil, millpond.Errorf(millpond.Conflict, "CannotVerifyCopySource", "The source of the copy cannot be read: the blob service behind says %d %s.", resp.StatusCode, azwire.Clip(code))
}
