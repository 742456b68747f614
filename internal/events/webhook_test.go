package events

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/sqlite"
)

// sink is an endpoint that can fail.
type sink struct {
	mu     sync.Mutex
	got    []string
	bad    int // refuse the next, with this status
	origin string
	fault  string
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodOptions {
		if s.origin != "" {
			w.Header().Set("WebHook-Allowed-Origin", s.origin)
		}
		return
	}
	body, _ := io.ReadAll(r.Body)
	t, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get(SignatureHeader), "t="), ",")
	at, _ := strconv.ParseInt(t, 10, 64)
	if r.Header.Get(SignatureHeader) != Sign("0123456789abcdef", time.Unix(at, 0), body) || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents-batch+json") {
		s.fault = fmt.Sprint(r.Header)
	}
	if s.bad != 0 {
		w.WriteHeader(s.bad)
		return
	}
	var list []CloudEvent
	if err := json.Unmarshal(body, &list); err != nil || len(list) > 3 {
		s.fault = string(body)
	}
	for _, e := range list {
		s.got = append(s.got, e.Subject)
	}
}

func (s *sink) set(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = status
}

func eventually(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !fn(); {
		if time.Now().After(deadline) {
			t.Fatalf("not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestWebhook: every event that is wanted is posted once and in order, over
// failures and restarts; an endpoint that is dead is disabled, with the reason, and
// goes on where it stopped.
func TestWebhook(t *testing.T) {
	ctx := context.Background()
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"), clock.System{})
	l := openLog(t, db, clock.System{}, Config{})
	end := &sink{}
	server := httptest.NewServer(end)
	defer server.Close()
	cfg := HooksConfig{Batch: 3, FirstPause: time.Millisecond, LastPause: 20 * time.Millisecond, Patience: 300 * time.Millisecond}
	var want []string
	n := 0
	add := func(count int) {
		t.Helper()
		for range count {
			n++
			id := fmt.Sprint("p", n)
			want = append(want, "/pools/"+id)
			if err := db.Update(ctx, func(tx *sqlite.Tx) error {
				for _, acct := range []millpond.AccountName{"a", "b"} {
					if err := tx.InsertPool(millpond.Pool{Account: acct, Spec: millpond.PoolSpec{ID: millpond.PoolID(id)}, State: millpond.PoolActive}); err != nil {
						return err
					}
				}
				return tx.InsertJob(millpond.Job{Account: "a", Spec: millpond.JobSpec{ID: millpond.JobID(id)}, State: millpond.JobActive})
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := func() (*Hooks, func()) {
		h := NewHooks(l, server.Client(), cfg)
		own, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); h.Run(own) }()
		return h, func() { cancel(); <-done }
	}
	h, stop := run()
	hook := Webhook{ID: "Hook", Account: "a", Source: "https://a.westus2.batch.azure.com/", URL: server.URL + "/x?token=1", Secret: "0123456789abcdef", Filter: Filter{Kinds: []Kind{Pool}}}
	for _, bad := range []func(*Webhook){func(w *Webhook) { w.URL = "ftp://x/" }, func(w *Webhook) { w.URL = "" }, func(w *Webhook) { w.ID = "a b" }, func(w *Webhook) { w.Secret = "short" }} {
		w := hook
		bad(&w)
		if _, _, err := h.Put(ctx, w, nil, false); millpond.KindOf(err) != millpond.Invalid {
			t.Errorf("%+v: %v", w, err)
		}
	}
	if _, _, err := h.Put(ctx, hook, nil, true); err == nil || millpond.AsError(err).Code != "WebhookValidationFailed" {
		t.Errorf("an endpoint that does not agree: %v", err)
	}
	end.origin = "a.westus2.batch.azure.com"
	if _, added, err := h.Put(ctx, hook, nil, true); err != nil || !added {
		t.Fatal(added, err)
	}
	all := func() bool {
		end.mu.Lock()
		defer end.mu.Unlock()
		return strings.Join(end.got, " ") == strings.Join(want, " ")
	}
	add(10)
	eventually(t, "all are posted", all)
	end.set(500)
	add(5)
	eventually(t, "it fails", func() bool { s, err := h.Get(ctx, "a", "hook"); return err == nil && s.Status.LastError != "" })
	stop()
	end.set(0)
	add(5)
	h, stop = run()
	eventually(t, "all are posted after a restart", all)

	end.set(503)
	add(1)
	eventually(t, "it is disabled", func() bool {
		s, err := h.Get(ctx, "A", "HOOK")
		return err == nil && strings.Contains(s.Status.Disabled, "503")
	})
	end.set(0)
	add(1)
	if err := h.Enable(ctx, "a", "hook"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on where it stopped", all)
	end.set(410)
	add(1)
	eventually(t, "410 disables it", func() bool {
		s, err := h.Get(ctx, "a", "hook")
		return err == nil && strings.Contains(s.Status.Disabled, "410")
	})
	if err := h.Delete(ctx, "a", "hook"); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(ctx, "a", "hook"); millpond.KindOf(err) != millpond.NotFound {
		t.Error(err)
	}
	stop()
	if end.fault != "" {
		t.Errorf("a delivery is wrong: %s", end.fault)
	}
}
