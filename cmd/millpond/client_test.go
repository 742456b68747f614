package main

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/directory"
)

// Whoever follows a job goes on, after the last event that came, with a server
// that listens elsewhere than the one before.
func TestFollowOverARestart(t *testing.T) {
	data := datadir.Dir(t.TempDir())
	check(t, directory.Credentials{TenantID: "t", ClientID: "c", ClientSecret: "s", SubscriptionID: "u"}.Write(data.Credentials()))
	var second *httptest.Server
	says := func(event string, after func()) *httptest.Server {
		return httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/token"):
				fmt.Fprint(w, `{"access_token": "x"}`)
			case strings.HasSuffix(r.URL.Path, "/batchAccounts"):
				fmt.Fprintf(w, `{"value": [{"name": "pond", "properties": {"accountEndpoint": "%s/batch/pond.westus2"}}]}`, r.Host)
			case r.URL.Path == "/batch/pond.westus2/millpond/events":
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprintf(w, "id: %s\nevent: task\ndata: {\"id\": \"%s after %s\"}\n\n", event, event, r.Header.Get("Last-Event-ID"))
				after()
			default:
				http.NotFound(w, r)
			}
		}))
	}
	at := func(s *httptest.Server) {
		if err := os.WriteFile(data.Endpoint(), []byte(strings.TrimPrefix(s.URL, "https://")+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
	second = says("2", func() {})
	defer second.Close()
	first := says("1", func() { at(second) })
	defer first.Close()
	check(t, os.WriteFile(data.CA(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first.Certificate().Raw}), 0o644))
	at(first)

	g := &Globals{Data: data}
	j, err := g.job(t.Context(), "Pond/j1")
	check(t, err)
	if j.path != "/batch/pond.westus2/jobs/j1" {
		t.Errorf("the job's path is %s", j.path)
	}
	var seen []string
	check(t, j.follow(t.Context(), g, j.endpoint, url.Values{}, "", func(v change, _ []byte) error {
		if seen = append(seen, v.ID); len(seen) == 2 {
			return errEnough
		}
		return nil
	}))
	if got := strings.Join(seen, ", "); got != "1 after , 2 after 1" {
		t.Errorf("events: %s", got)
	}
}

func TestNamesOfThings(t *testing.T) {
	g := &Globals{Data: datadir.Dir(t.TempDir())}
	for _, name := range []string{"", "j1", "/j1", "pond/"} {
		if _, err := g.job(t.Context(), name); err == nil || !strings.Contains(err.Error(), "ACCOUNT/JOB") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := g.pool(t.Context(), "pond/p1"); err == nil || !strings.Contains(err.Error(), "no server runs") {
		t.Errorf("without a server: %v", err)
	}
}

// TestServerThatWasKilled: its address is still there, and nobody answers.
func TestServerThatWasKilled(t *testing.T) {
	data := datadir.Dir(t.TempDir())
	check(t, directory.Credentials{TenantID: "t", ClientID: "c", ClientSecret: "s", SubscriptionID: "u"}.Write(data.Credentials()))
	s := httptest.NewTLSServer(http.NotFoundHandler())
	check(t, os.WriteFile(data.CA(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644))
	check(t, os.WriteFile(data.Endpoint(), []byte(strings.TrimPrefix(s.URL, "https://")+"\n"), 0o644))
	s.Close()
	c, err := dial(data)
	check(t, err)
	if _, err := c.token(t.Context(), batchResource); err == nil || !strings.Contains(err.Error(), "millpond serve --data "+string(data)) {
		t.Errorf("%v", err)
	}
}
