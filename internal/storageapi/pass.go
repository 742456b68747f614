package storageapi

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/storage"
)

type passKey struct{}

// behind is what the proxy's hooks need of a request.
type behind struct {
	*request
	// url is where the request goes; source its copy source there, if it has one.
	url    *url.URL
	source string
}

// pass sends a proven request behind and the answer back.
func (e *Edge) pass(w http.ResponseWriter, ar *azwire.Request) error {
	r := ar.Context().Value(requestKey{}).(*request)
	b := &behind{request: r}
	var err error
	if b.url, err = e.address(r.account, r.path, r.place, r.query, r.by == byLink); err != nil {
		return err
	}
	hr := r.Request.Request
	if link := r.Header.Get("x-ms-copy-source"); link != "" {
		s, err := e.copySource(r, link)
		if err != nil {
			return err
		}
		switch here := s.behind != "" || s.disk != nil; {
		case here && takes(r):
			if hr, err = e.fill(r, s); err != nil {
				return err
			}
			defer hr.Body.Close()
		case s.disk != nil:
			return e.copyDisk(w, b, s)
		case here:
			b.source = s.behind
		default:
			b.source = link
		}
	}
	// What the server sets itself comes from behind.
	for _, h := range []string{"x-ms-request-id", "x-ms-version", "x-ms-client-request-id", "X-Content-Type-Options"} {
		w.Header().Del(h)
	}
	e.proxy.ServeHTTP(plainWriter{w}, hr.WithContext(context.WithValue(r.Context(), passKey{}, b)))
	return nil
}

const metaPrefix = "X-Ms-Meta-"

// plainNames writes the names of metadata in small letters. Go has made capitals of
// their first ones, and programs look for the names that they gave: which were small
// ones more often than not.
func plainNames(h http.Header) {
	for name, v := range h {
		if strings.HasPrefix(name, metaPrefix) {
			delete(h, name)
			h[strings.ToLower(name)] = v
		}
	}
}

// plainWriter is a client's answer with plain names of metadata.
type plainWriter struct{ http.ResponseWriter }

func (w plainWriter) WriteHeader(status int) {
	plainNames(w.Header())
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// address is the URL behind of a path of an account. A link's signature is made
// anew for it.
func (e *Edge) address(a *millpond.StorageAccount, path string, p blobsign.Place, query url.Values, link bool) (*url.URL, error) {
	own := *e.Behind.URL
	var err error
	place := p
	raw := "/"
	if p.Container != "" {
		place.Container = storage.Name(a.ID.Name(), p.Container)
		_, rest, deeper := strings.Cut(path[1:], "/")
		raw = "/" + place.Container
		if deeper {
			raw += "/" + rest
		}
	}
	if link {
		if query, err = e.Behind.Key.Resign(query, place); err != nil {
			return nil, failed("The signed URL cannot be used: " + err.Error() + ".")
		}
	}
	if p.Container == "" && strings.EqualFold(query.Get("comp"), "list") {
		q := url.Values{}
		for k, v := range query {
			// Azure takes names in any case: another spelling would list all accounts.
			if !strings.EqualFold(k, "prefix") {
				q[k] = v
			}
		}
		q.Set("prefix", storage.Name(a.ID.Name(), query.Get("prefix")))
		query = q
	}
	if own.Path, err = url.PathUnescape(e.Behind.URL.Path + raw); err != nil {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidUri", "The requested URI is not properly encoded.")
	}
	own.RawPath, own.RawQuery = e.Behind.URL.EscapedPath()+raw, query.Encode()
	return &own, nil
}

// rewrite makes the request behind and signs it.
func (e *Edge) rewrite(p *httputil.ProxyRequest) {
	b := p.In.Context().Value(passKey{}).(*behind)
	p.Out.URL, p.Out.Host = b.url, ""
	h := p.Out.Header
	for _, name := range []string{"Authorization", "Date", "Expect"} {
		h.Del(name)
	}
	if b.source != "" {
		h.Set("x-ms-copy-source", b.source)
		h.Del("x-ms-copy-source-authorization") // it was for this server
	}
	plainNames(h)
	if h.Get("x-ms-version") == "" && b.by != byLink {
		h.Set("x-ms-version", blobsign.SASVersion)
	}
	if b.by == byKey || b.by == byToken {
		h.Set("x-ms-date", e.Clock.Now().UTC().Format(http.TimeFormat))
		e.Behind.Key.Authorize(blobsign.Request{Method: p.Out.Method, Path: p.Out.URL.EscapedPath(), Query: p.Out.URL.Query(), Header: h, Length: p.Out.ContentLength})
	}
}

// maxList bounds a list that is kept to have its names put right.
const maxList = 64 << 20

var (
	endpointAttr  = regexp.MustCompile(`ServiceEndpoint="[^"]*"`)
	containerAttr = regexp.MustCompile(`ContainerName="[^"]*"`)
	markElement   = regexp.MustCompile(`(?i)<` + copyMark + `>[^<]*</` + copyMark + `>`)
)

// answer puts the account's own names into what the service behind says.
func (e *Edge) answer(resp *http.Response) error {
	b := resp.Request.Context().Value(passKey{}).(*behind)
	if from := resp.Header.Get("x-ms-copy-source"); from != "" {
		resp.Header.Set("x-ms-copy-source", e.clientURL(b, from))
	}
	if b.place.Blob != "" && resp.Header.Get(markHeader) != "" {
		e.showCopy(resp.Header)
	}
	comp := strings.ToLower(b.query.Get("comp"))
	if resp.StatusCode != http.StatusOK || b.Method != http.MethodGet || comp != "list" && comp != "blobs" || b.place.Blob != "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxList))
	resp.Body.Close()
	if err != nil {
		return err
	}
	body = rename(body, b.account.ID.Name(), b.base, b.place.Container)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// rename takes the account's prefix out of a list, of containers if container is
// empty, of blobs otherwise. Names of blobs are left alone.
func rename(body []byte, account, base, container string) []byte {
	head := bytes.IndexByte(body, '>')
	if bytes.HasPrefix(body, []byte("<?xml")) || bytes.HasPrefix(body, []byte("\xef\xbb\xbf<?xml")) {
		if next := bytes.IndexByte(body[head+1:], '>'); next >= 0 {
			head += 1 + next
		}
	}
	top := endpointAttr.ReplaceAllLiteral(body[:head+1], []byte(`ServiceEndpoint="`+base+`"`))
	rest := body[head+1:]
	if container != "" {
		top = containerAttr.ReplaceAllLiteral(top, []byte(`ContainerName="`+container+`"`))
		rest = markElement.ReplaceAllLiteral(rest, nil)
	} else {
		for _, tag := range []string{"<Name>", "<Prefix>"} {
			rest = bytes.ReplaceAll(rest, []byte(tag+account+"-"), []byte(tag))
		}
		rest = bytes.ReplaceAll(rest, []byte("<Prefix></Prefix>"), []byte("<Prefix/>"))
	}
	return append(append([]byte(nil), top...), rest...)
}

// clientURL is an address behind as the client knows it, without a signature.
func (e *Edge) clientURL(b *behind, link string) string {
	u, err := url.Parse(link)
	if err != nil || u.Host != e.Behind.URL.Host {
		return link
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), e.Behind.URL.EscapedPath()+"/")
	account, name, ok2 := strings.Cut(rest, "-")
	if !ok || !ok2 {
		return link
	}
	if account == b.account.ID.Name() {
		return b.base + name
	}
	return "https://" + account + azwire.BlobSuffix + "/" + name
}

// unreachable answers when the service behind does not.
func (e *Edge) unreachable(w http.ResponseWriter, hr *http.Request, err error) {
	b := hr.Context().Value(passKey{}).(*behind)
	if hr.Context().Err() != nil {
		w.WriteHeader(499)
		return
	}
	e.writeError(w, b.request, e.silent(err))
}

// silent is the answer when the service behind gives none.
func (e *Edge) silent(err error) error {
	e.Log.Warn("the blob service behind does not answer", "host", e.Behind.URL.Host, "err", err)
	return millpond.Errorf(millpond.Unavailable, "ServerBusy", "The blob service behind this server's storage accounts does not answer. Whoever runs the server must see that it runs at %s.", e.Behind.URL.Host)
}
