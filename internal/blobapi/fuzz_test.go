package blobapi_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/compute"
)

// FuzzPageRequests sends what a holder of a signed URL can send: Put Page, Put
// Blob, Get Page Ranges, ranged reads. Whatever the headers, the answer is one
// of the protocol's and no failure of the server, and an answer has as many
// bytes as it says.
func FuzzPageRequests(f *testing.F) {
	f.Add("PUT", "page", "bytes=0-511", "", "update", "", "", "", "", "", bytes.Repeat([]byte{1}, 512))
	f.Add("PUT", "page", "bytes=20971520-20972031", "", "update", "", "", "", "", "1B2M2Y8AsgTpgAmY7PhCfg==", bytes.Repeat([]byte{1}, 512))
	f.Add("PUT", "page", "", "bytes=512-1023", "clear", "", "", "", "", "", []byte{})
	f.Add("PUT", "page", "bytes=512-9223372036854775807", "", "update", "", "", "", "", "", []byte("x"))
	f.Add("PUT", "", "", "", "", "PageBlob", "20972032", "", "", "", []byte{})
	f.Add("PUT", "properties", "", "", "", "", "", "", "", "", []byte{})
	f.Add("GET", "pagelist", "bytes=0-", "", "", "", "", "512", "1", "", []byte{})
	f.Add("GET", "pagelist", "", "", "", "", "", "-1", "0", "", []byte{})
	f.Add("GET", "", "bytes=-512", "", "", "", "", "", "", "true", []byte{})
	f.Add("GET", "", "bytes=-9223372036854775808", "bytes=0-0", "", "", "", "", "", "", []byte{})
	f.Add("HEAD", "", "", "", "", "", "", "", "", "", []byte{})
	ctx := context.Background()
	comp, srv := serve(f)
	id, _ := millpond.ParseResourceID(path)
	if _, _, err := comp.PutDisk(ctx, millpond.Caller{}, compute.Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"},
		Creation: millpond.CreationData{Option: millpond.CreateUpload, UploadBytes: size + 512}}}); err != nil {
		f.Fatal(err)
	}
	a, err := comp.Grant(ctx, id, true, 24*time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, comp, xrange, plain, write, kind, length, marker, most, md5 string, body []byte) {
		switch method {
		case "GET", "HEAD", "PUT", "POST", "DELETE":
		default:
			return
		}
		q := url.Values{"comp": {comp}, "marker": {marker}, "maxresults": {most}}
		r := httptest.NewRequest(method, "/blob"+a.Path()+"&"+q.Encode(), bytes.NewReader(body))
		for k, v := range map[string]string{"x-ms-range": xrange, "Range": plain, "x-ms-page-write": write, "x-ms-blob-type": kind, "x-ms-blob-content-length": length,
			"Content-MD5": md5, "x-ms-range-get-content-md5": md5, "x-ms-content-crc64": marker} {
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		w := httptest.NewRecorder()
		srv.Config.Handler.ServeHTTP(w, r)
		res := w.Result()
		if res.StatusCode >= 500 {
			t.Fatalf("%d %s", res.StatusCode, w.Body)
		}
		if res.StatusCode >= 400 && res.Header.Get("x-ms-error-code") == "" {
			t.Fatalf("%d without a code", res.StatusCode)
		}
		if n, err := strconv.Atoi(res.Header.Get("Content-Length")); err == nil && method == http.MethodGet && res.StatusCode < 300 && n != w.Body.Len() {
			t.Fatalf("%d bytes, and %d were said", w.Body.Len(), n)
		}
		if res.StatusCode == http.StatusPartialContent {
			from, rest, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Content-Range"), "bytes "), "-")
			to, all, _ := strings.Cut(rest, "/")
			off, _ := strconv.ParseInt(from, 10, 64)
			end, _ := strconv.ParseInt(to, 10, 64)
			if off < 0 || end >= size+512 || end-off+1 != int64(w.Body.Len()) || all != strconv.Itoa(size+512) {
				t.Fatalf("%d bytes as %s", w.Body.Len(), res.Header.Get("Content-Range"))
			}
		}
		if method == http.MethodPut && comp == "page" && strings.EqualFold(write, "update") && res.StatusCode == http.StatusCreated && len(body) < 512 {
			t.Fatalf("%d bytes were taken for pages", len(body))
		}
	})
}
