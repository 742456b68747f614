package portal

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/reconcile"
)

func TestPagesShowLoopsCountsAndCapacity(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := clock.NewManual(now)
	p, err := New(Source{Version: "v1", Started: now.Add(-time.Hour), Launcher: "fake", Clock: c,
		Loops: func() []reconcile.LastRun {
			return []reconcile.LastRun{{Name: "allocator", Runs: 3, Started: now.Add(-time.Second), Duration: time.Millisecond, Err: "no <room>"}}
		},
		Counts:   func(context.Context) ([]Count, error) { return []Count{{"node", "idle", 2}}, nil },
		Capacity: func(context.Context) (Capacity, error) { return Capacity{VMs: 4, UsedVMs: 2}, nil },
		Images: func(context.Context) ([]Image, error) {
			return []Image{{"/galleries/g/images/i/versions/1.0.0", []millpond.Finding{
				{Code: "UsersKept", Severity: millpond.SeverityWarning, Seen: "The user <bob> is left.", Why: "Each node has it.", Fix: "Remove it."},
				{Code: "ExtensionsInstalled", Severity: millpond.SeverityError, Seen: "It had extensions.", Why: "They run again.", Fix: "Delete them."},
			}}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"/status": {"allocator", "no &lt;room&gt;", "1s ago", "idle", "2 of 4",
			"/galleries/g/images/i/versions/1.0.0</td>", "<p>UsersKept: The user &lt;bob&gt; is left. Each node has it. Remove it.</p>", `<p class="bad">ExtensionsInstalled: It had extensions.`},
		"/status.json": {`"noun":"node"`, `"Runs":3`, `"images":[{"version":"/galleries/g/images/i/versions/1.0.0","findings":[{"code":"UsersKept","severity":"warning",`,
			`{"code":"ExtensionsInstalled","severity":"error","seen":"It had extensions.","why":"They run again.","fix":"Delete them."}]}]`},
	} {
		w := httptest.NewRecorder()
		p.Status.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		for _, s := range want {
			if !strings.Contains(w.Body.String(), s) {
				t.Errorf("%s lacks %q:\n%s", path, s, w.Body)
			}
		}
	}
	w := httptest.NewRecorder()
	p.Metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, s := range []string{`millpond_objects{noun="node",state="idle"} 2`, `millpond_loop_last_ok{loop="allocator"} 0`, `millpond_launcher_vms{kind="used"} 2`} {
		if !strings.Contains(w.Body.String(), s) {
			t.Errorf("metrics lack %q", s)
		}
	}
}

// TestNamesAreForThoseWhoMayReadThem: the page is open, and names nothing to whoever
// may not read it.
func TestNamesAreForThoseWhoMayReadThem(t *testing.T) {
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	readers := map[string]Reader{"": {}, "host": {Host: true}, "a": {Reads: func(v string) (bool, error) { return v == "/of-a", nil }}}
	p, err := New(Source{Clock: c,
		Loops: func() []reconcile.LastRun {
			return []reconcile.LastRun{{Name: "jobs", Err: "job secret-job: no"}, {Name: "disks", Status: "2 disks"}}
		},
		Counts:   func(context.Context) ([]Count, error) { return nil, nil },
		Capacity: func(context.Context) (Capacity, error) { return Capacity{}, nil },
		Images: func(context.Context) ([]Image, error) {
			f := []millpond.Finding{{Code: "UsersKept", Seen: "The user bob is left."}}
			return []Image{{"/of-a", f}, {"/of-b", f}}, nil
		},
		Reader: func(r *http.Request) (Reader, error) {
			reader, known := readers[r.Header.Get("Authorization")]
			if !known {
				return reader, millpond.Errorf(millpond.Unauthenticated, "InvalidAuthenticationToken", "Not a token.")
			}
			return reader, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/status", "/status.json"} {
		for who, shown := range map[string]struct{ a, b, job, rest bool }{"": {rest: true}, "host": {job: true, rest: true}, "a": {a: true, rest: true}, "forged": {}} {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set("Authorization", who)
			w := httptest.NewRecorder()
			p.Status.ServeHTTP(w, r)
			for text, want := range map[string]bool{"/of-a": shown.a, "/of-b": shown.b, "secret-job": shown.job, "2 disks": shown.rest} {
				if strings.Contains(w.Body.String(), text) != want {
					t.Errorf("%s to %q: %d, shows %q: %t, want %t\n%s", path, who, w.Code, text, !want, want, w.Body)
				}
			}
			if (w.Code == http.StatusUnauthorized) != (who == "forged") {
				t.Errorf("%s to %q: %d", path, who, w.Code)
			}
		}
	}
}
