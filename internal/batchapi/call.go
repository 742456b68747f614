package batchapi

import (
	"bytes"
	"context"
	"net/http"
	"net/url"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// Call runs one operation for a caller whose right has been proved elsewhere:
// the Resource Manager's pools are this service's pools in other words. path
// is below the account and may have a query; the body and the answer are JSON
// in the shape of callVersion. An error is in this service's terms.
func (e *Edge) Call(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, method, path string, header http.Header, body []byte) ([]byte, http.Header, error) {
	u, err := url.Parse(path)
	if err != nil {
		return nil, nil, err
	}
	hr := (&http.Request{Method: method, URL: u, Header: header, Body: http.NoBody, Host: acct.Host()}).WithContext(ctx)
	if hr.Header == nil {
		hr.Header = http.Header{}
	}
	if body != nil {
		hr.Header.Set("Content-Type", contentType)
		hr.Body, hr.ContentLength = readCloser{bytes.NewReader(body)}, int64(len(body))
	}
	route, params, _ := e.router.Match(method, u.EscapedPath())
	if route == nil {
		return nil, nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "There is no operation of the Batch service at the path %s.", azwire.Clip(path))
	}
	r := &azwire.Request{Request: withAccount(hr, acct), BaseURL: "https://" + acct.Host(), Caller: caller, Route: route, APIVersion: callVersion}
	for k, v := range params {
		r.SetParam(k, v)
	}
	w := &answer{header: http.Header{}}
	if err := route.Handle(w, r); err != nil {
		return nil, nil, err
	}
	return w.body.Bytes(), w.header, nil
}

// Check reads the body of one of the operations on a pool's size, resize or
// enableautoscale, as Call would, and does nothing.
func (e *Edge) Check(op string, body []byte) error {
	shape := map[string]*rule{"resize": e.shapes.poolResize, "enableautoscale": e.shapes.enableAutoScale}[op]
	if shape == nil {
		return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "There is no operation %s of pools.", azwire.Clip(op))
	}
	_, err := decodeBody(body, callVersion, shape, false, nil)
	return err
}

// callVersion is the api-version that Call speaks: the newest that has all that
// pools of the Resource Manager may have.
const callVersion = "2024-07-01.20.0"

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// answer keeps what a handler writes.
type answer struct {
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
func (a *answer) WriteHeader(int)             {}
