package managed

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// answering answers every question of a broker until the test ends, and counts them.
func answering(t testing.TB, b *Broker, answer func(*nodev1.TokenWanted) *nodev1.GiveTokenRequest) *int {
	t.Helper()
	count, stop, done := new(int), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		seen := map[string]bool{}
		for {
			list, changed := b.Pending()
			for _, q := range list {
				if seen[q.GetId()] {
					continue
				}
				seen[q.GetId()] = true
				*count++
				a := answer(q)
				a.Id = q.GetId()
				b.Answer(a)
			}
			select {
			case <-changed:
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	return count
}

func TestBroker(t *testing.T) {
	now := clock.NewManual(time.Unix(1000, 0))
	b := NewBroker(now)
	t.Run("no answer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := b.Get(ctx, Want{Resource: "r"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if list, _ := b.Pending(); len(list) != 0 {
			t.Errorf("%v still pending", list)
		}
		b.Answer(&nodev1.GiveTokenRequest{Id: "1", Token: "late"})
	})
	t.Run("kept while fresh", func(t *testing.T) {
		asked := answering(t, b, func(q *nodev1.TokenWanted) *nodev1.GiveTokenRequest {
			if q.GetClientId() == "none" {
				return &nodev1.GiveTokenRequest{Code: "invalid_request", Message: "Identity not found"}
			}
			return &nodev1.GiveTokenRequest{Token: "t-" + q.GetResource(), ClientId: "c", Expires: timestamppb.New(now.Now().Add(time.Hour))}
		})
		for range 3 {
			got, err := b.Get(context.Background(), Want{Resource: "r"})
			if err != nil || got.Access != "t-r" {
				t.Fatalf("%+v %v", got, err)
			}
		}
		now.Advance(56 * time.Minute)
		if _, err := b.Get(context.Background(), Want{Resource: "r"}); err != nil {
			t.Fatal(err)
		}
		var no *Refusal
		if _, err := b.Get(context.Background(), Want{Resource: "r", ClientID: "none"}); !errors.As(err, &no) || no.Retry || no.Code != "invalid_request" {
			t.Errorf("%v", err)
		}
		if *asked != 3 {
			t.Errorf("%d questions, want 3", *asked)
		}
	})
}

func TestHandler(t *testing.T) {
	b := NewBroker(clock.System{})
	answering(t, b, func(q *nodev1.TokenWanted) *nodev1.GiveTokenRequest {
		switch q.GetClientId() {
		case "down":
			return &nodev1.GiveTokenRequest{Code: "InternalError", Message: "later", Retry: true}
		case "none":
			return &nodev1.GiveTokenRequest{Code: "invalid_request", Message: "Identity not found"}
		}
		return &nodev1.GiveTokenRequest{Token: "secret", ClientId: "c", Expires: timestamppb.New(time.Now().Add(time.Hour))}
	})
	h := Handler(b, slog.New(slog.DiscardHandler))
	const at = "/metadata/identity/oauth2/token?api-version=2018-02-01"
	for _, c := range []struct {
		name, method, path string
		header             map[string]string
		status             int
	}{
		{"a token", "GET", at + "&resource=r", map[string]string{"Metadata": "True"}, 200},
		{"of one by name", "GET", at + "&resource=r&msi_res_id=x", map[string]string{"Metadata": "true"}, 200},
		{"the probe of the vendor's clients", "GET", at + "&resource=r", nil, 400},
		{"forwarded", "GET", at + "&resource=r", map[string]string{"Metadata": "true", "X-Forwarded-For": "1.2.3.4"}, 400},
		{"no resource", "GET", at, map[string]string{"Metadata": "true"}, 400},
		{"no version", "GET", "/metadata/identity/oauth2/token?resource=r", map[string]string{"Metadata": "true"}, 400},
		{"two names", "GET", at + "&resource=r&client_id=a&object_id=b", map[string]string{"Metadata": "true"}, 400},
		{"not assigned", "GET", at + "&resource=r&client_id=none", map[string]string{"Metadata": "true"}, 400},
		{"no server", "GET", at + "&resource=r&client_id=down", map[string]string{"Metadata": "true"}, 503},
		{"a post", "POST", at + "&resource=r", map[string]string{"Metadata": "true"}, 405},
		{"the rest of the service", "GET", "/metadata/instance?api-version=2021-02-01", map[string]string{"Metadata": "true"}, 404},
	} {
		q := httptest.NewRequest(c.method, c.path, nil)
		for k, v := range c.header {
			q.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		var body map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != c.status || (c.status == 200) != (body["access_token"] == "secret") {
			t.Errorf("%s: %d %s %v", c.name, w.Code, w.Body, err)
		}
	}
}

func FuzzHandler(f *testing.F) {
	f.Add("api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=x", "true")
	f.Add("api-version=1&resource=r&resource=s&msi_res_id=%00", "")
	b := NewBroker(clock.System{})
	answering(f, b, func(*nodev1.TokenWanted) *nodev1.GiveTokenRequest {
		return &nodev1.GiveTokenRequest{Token: "secret", Expires: timestamppb.New(time.Now().Add(time.Hour))}
	})
	h := Handler(b, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, query, metadata string) {
		q := &http.Request{Method: "GET", URL: &url.URL{Path: "/metadata/identity/oauth2/token", RawQuery: query}, Header: http.Header{"Metadata": {metadata}}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		var body map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatalf("%d %q: %v", w.Code, w.Body, err)
		}
		if w.Code == 200 && metadata == "" {
			t.Fatalf("a token without the header: %s", w.Body)
		}
	})
}
