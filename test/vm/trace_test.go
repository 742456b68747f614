//go:build e2e

package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"millpond.dev/millpond/internal/telemetry/telemetrytest"
	"millpond.dev/millpond/test/lab"
)

// spans are those that a collector has.
type spans struct{ *telemetrytest.Collector }

// roots are the boots that have come, with their attributes.
func (c spans) roots() (out []*tracepb.Span) {
	for _, s := range c.Spans() {
		if len(s.GetParentSpanId()) == 0 {
			out = append(out, s)
		}
	}
	return out
}

func (c spans) parts(of *tracepb.Span) (out []*tracepb.Span) {
	for _, s := range c.Spans() {
		if bytes.Equal(s.GetParentSpanId(), of.GetSpanId()) && bytes.Equal(s.GetTraceId(), of.GetTraceId()) {
			out = append(out, s)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].GetStartTimeUnixNano() < out[j].GetStartTimeUnixNano() })
	return out
}

// names is a boot's tree as text; it logs it with times.
func (c spans) names(t *testing.T, of *tracepb.Span, depth int, from uint64) string {
	t.Logf("%s%s: %.1f +%.1f ms", strings.Repeat("  ", depth), of.GetName(), float64(of.GetStartTimeUnixNano()-from)/1e6, float64(of.GetEndTimeUnixNano()-of.GetStartTimeUnixNano())/1e6)
	var names []string
	for _, p := range c.parts(of) {
		if p.GetStartTimeUnixNano() < of.GetStartTimeUnixNano() || p.GetEndTimeUnixNano() > of.GetEndTimeUnixNano() {
			t.Errorf("%s does not lie in %s", p.GetName(), of.GetName())
		}
		names = append(names, c.names(t, p, depth+1, from))
	}
	if len(names) == 0 {
		return of.GetName()
	}
	return of.GetName() + "(" + strings.Join(names, " ") + ")"
}

func attributes(s *tracepb.Span) map[string]string {
	out := map[string]string{}
	for _, a := range s.GetAttributes() {
		out[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return out
}

// TestTraces has a collector get the boots of a pool: the first, and one that a named
// request asked for, of real machines from a spare.
func TestTraces(t *testing.T) {
	for name, args := range map[string][]string{"fake": {"--launcher", "fake"}, "tiny": nil} {
		t.Run(name, func(t *testing.T) {
			c := spans{telemetrytest.New(t)}
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
			s := lab.New(t, args...)
			if err := os.WriteFile(filepath.Join(s.Data, "millpond.yaml"), []byte("fake: {bootDelay: 300ms}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Serve()
			l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
			body := l.PoolBody("p", 1)
			if args == nil {
				body["metadata"] = items("millpond:spares", "1")
			}
			l.AddPool(body, 3*time.Minute)
			if args == nil {
				untilSpares(t, l, "p", 1)
			}
			b, _ := json.Marshal(map[string]any{"targetDedicatedNodes": 2})
			q, err := http.NewRequest(http.MethodPost, l.BatchURL()+"/pools/p/resize?api-version=2024-07-01.20.0", bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			q.Header.Set("Authorization", "Bearer "+s.Token(s.Admin(), lab.Batch))
			q.Header.Set("Content-Type", "application/json; odata=minimalmetadata")
			q.Header.Set("client-request-id", "the-resize-of-mine")
			resp, err := s.HTTPClient().Do(q)
			if err != nil || resp.StatusCode != http.StatusAccepted {
				t.Fatalf("%v %v", resp, err)
			}
			resp.Body.Close()
			l.WaitIdle("p", 2, 2*time.Minute)
			lab.Wait(t, 30*time.Second, "two boots", func() (bool, string) { return len(c.roots()) == 2, fmt.Sprint(len(c.roots())) })
			for i, r := range c.roots() {
				a := attributes(r)
				tree := c.names(t, r, 0, r.GetStartTimeUnixNano())
				t.Logf("%v", a)
				if a["millpond.pool"] != "p" || a["millpond.account"] == "" || a["millpond.node"] == "" || !strings.Contains(a["millpond.image"], "/versions/") || a["millpond.request_id"] == "" {
					t.Errorf("%v", a)
				}
				wantKind, wantParts := "cold", "firmware kernel agent"
				if i == 1 {
					if a["millpond.client_request_id"] != "the-resize-of-mine" {
						t.Errorf("%v", a)
					}
					wantKind, wantParts = "spare", "personalise) boot"
				}
				if args == nil && (a["millpond.boot.kind"] != wantKind || !strings.Contains(tree, wantParts) || !strings.Contains(tree, "launch(")) {
					t.Errorf("boot %d is %s: %s", i, a["millpond.boot.kind"], tree)
				}
			}
			for _, n := range l.Nodes("p") {
				out := s.RunBin("node", "trace", "labbatch/p", n.ID)
				t.Logf("%s", out.Stdout)
				if out.Code != 0 || !strings.Contains(out.Stdout, "boot") || !strings.Contains(out.Stdout, n.ID) {
					t.Errorf("%+v", out)
				}
			}
		})
	}
}
