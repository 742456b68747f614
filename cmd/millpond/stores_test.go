package main

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/datadir"
)

// A store that takes connections and never answers, one that refuses them and one
// without its bucket keep the server neither from starting nor from stopping; the
// status and the log name them.
func TestStoresThatAreAway(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer silent.Close()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	gone := refusing.Addr().String()
	check(t, refusing.Close())
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	place := func(address string) string {
		return "s3://images?region=us-east-1&endpoint=http://" + address
	}

	start := func(log io.Writer, regions ...config.Region) (*server, time.Duration) {
		data := datadir.Dir(t.TempDir())
		release, err := data.Lock()
		check(t, err)
		t.Cleanup(release)
		cfg := config.Default()
		cfg.Launcher, cfg.Regions = "fake", regions
		began := time.Now()
		s, err := newServer(t.Context(), cfg, data, "127.0.0.1:8443", slog.New(slog.NewTextHandler(log, nil)))
		check(t, err)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		s.start(t.Context(), l)
		return s, time.Since(began)
	}
	// What a start takes by itself depends on what else the machine does.
	plain, usual := start(io.Discard, config.Region{Name: "westus2", Stores: []string{t.TempDir()}})
	check(t, plain.stop("stop"))
	var log lines
	s, took := start(&log,
		config.Region{Name: "westus2", Stores: []string{t.TempDir(), place(silent.Addr().String())}},
		config.Region{Name: "eastus", Stores: []string{place(gone), place(strings.TrimPrefix(empty.URL, "http://"))}})
	if took > 30*time.Second+2*usual {
		t.Errorf("the start took %s, and %s without such stores", took, usual)
	}
	var status string
	for limit := time.Now().Add(time.Minute); ; {
		for _, r := range s.driver.LastRuns() {
			if r.Name == "image stores" {
				status = r.Status
			}
		}
		if status != "" || time.Now().After(limit) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, part := range []string{"1 of 4 stores answer", "westus2-1", "does not answer within", "eastus-0", "connection refused", "eastus-1", "no such bucket"} {
		if !strings.Contains(status, part) {
			t.Errorf("the status does not say %q: %s", part, status)
		}
	}
	for _, name := range []string{"westus2-1", "eastus-0", "eastus-1"} {
		if !strings.Contains(log.String(), "a store cannot be used") || !strings.Contains(log.String(), "store="+name) {
			t.Errorf("the log does not name %s", name)
		}
	}
	began := time.Now()
	if err := s.stop("stop"); err != nil {
		t.Log(err)
	}
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
