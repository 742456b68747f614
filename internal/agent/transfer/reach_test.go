package transfer

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// stranger listens at an address that is not the server's, and counts who comes.
func stranger(t *testing.T) (address string, came *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	came = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			c.Close()
		}
	}()
	return l.Addr().String(), came
}

// TestTokensGoToTheServerOnly: a request with a token reaches the server that its own
// CA proves, or nobody.
func TestTokensGoToTheServerOnly(t *testing.T) {
	elsewhere, came := stranger(t)
	var tokens []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens = append(tokens, r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "https://"+elsewhere+"/c/b", http.StatusTemporaryRedirect)
		case "/plain":
			http.Redirect(w, r, "http://example.com/c/b", http.StatusTemporaryRedirect)
		}
	}))
	defer s.Close()
	// The certificate of httptest is for this name, and is its own CA.
	const host = "example.com"
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	reach := &Reach{}
	b := NewBlobs(reach, 10*time.Second)
	by := Credential(func(context.Context) (string, time.Time, error) { return "secret", time.Now().Add(time.Hour), nil })
	get := func(link string) error {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.Do(q, by)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		if !OutOfReach(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	all := func(what, base string) {
		t.Helper()
		refused(what+", one", get(base+"/c/b"))
		refused(what+", a list", b.List(t.Context(), base+"/c", by, "", func(string) error { return nil }))
		refused(what+", an upload", b.Put(t.Context(), base+"/c", by, "b", []byte("x")))
	}
	all("before the server said where it is", "https://"+elsewhere)
	all("before it said so, a name", "https://"+host)
	reach.Set(s.Listener.Addr().String(), ca, []string{host})
	all("another host", "https://"+elsewhere)
	refused("without TLS", get("http://"+host+"/c/b"))
	refused("another port", get("https://"+host+":8443/c/b"))

	if err := get("https://" + host + "/c/b"); err != nil || len(tokens) != 1 || tokens[0] != "Bearer secret" {
		t.Errorf("the server: %v, %q", err, tokens)
	}
	if err := b.Put(t.Context(), "https://"+host+"/c", by, "b", []byte("x")); err == nil || OutOfReach(err) || tokens[len(tokens)-1] != "Bearer secret" {
		t.Errorf("an upload to the server: %v, %q", err, tokens) // it answers 200 where 201 is wanted
	}
	refused("a redirection", get("https://"+host+"/away"))
	refused("a redirection to plain HTTP", get("https://"+host+"/plain"))

	reach.Set("", nil, nil)
	b.guarded.CloseIdleConnections()
	refused("after the server has gone", get("https://"+host+"/c/b"))
	other := bytes.Replace(ca, []byte("CERTIFICATE"), []byte("NONE"), 2)
	reach.Set(s.Listener.Addr().String(), other, []string{host})
	n := len(tokens)
	if err := get("https://" + host + "/c/b"); err == nil || len(tokens) != n {
		t.Errorf("a server that its CA does not prove got %q, %v", tokens[n:], err)
	}
	if came.Load() != 0 {
		t.Errorf("%d connections to somebody else", came.Load())
	}
}
