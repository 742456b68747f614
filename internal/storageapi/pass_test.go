package storageapi

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestPlainNames: metadata whose names are small letters reach the service behind and
// the client as they were given. Clients look for them as they wrote them.
func TestPlainNames(t *testing.T) {
	encryption, one := strings.ToLower("X-Ms-Meta-Encryptiondata"), strings.ToLower("X-Ms-Meta-One")
	in := http.Header{"X-Ms-Meta-Encryptiondata": {"a"}, "X-Ms-Version": {"b"}}
	plainNames(in)
	if v := in[encryption]; !slices.Equal(v, []string{"a"}) || len(in) != 2 || in["X-Ms-Version"] == nil {
		t.Errorf("%v", in)
	}

	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()[one] = []string{"1"}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer behind.Close()
	to, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }}).ServeHTTP(plainWriter{rec}, httptest.NewRequest(http.MethodGet, "/", nil))
	if h := rec.Header(); rec.Code != http.StatusAccepted || strings.Join(h[one], "") != "1" || h["X-Ms-Meta-One"] != nil {
		t.Errorf("%d %v", rec.Code, h)
	}
}
