// Package telemetrytest has a collector of traces for tests. It keeps what it gets by
// OTLP over HTTP and refuses what is not that. Only tests call it.
package telemetrytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector keeps what it gets. It is safe for concurrent use.
type Collector struct {
	*httptest.Server
	mu  sync.Mutex
	got []*collector.ExportTraceServiceRequest
}

// New starts a collector, which ends with the test.
func New(t testing.TB) *Collector {
	c := &Collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		m := &collector.ExportTraceServiceRequest{}
		if err == nil {
			err = proto.Unmarshal(body, m)
		}
		if err != nil || q.URL.Path != "/v1/traces" || q.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", q.URL.Path, q.Header.Get("Content-Type"), err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got = append(c.got, m)
	}))
	t.Cleanup(c.Close)
	return c
}

// Requests are those that have come.
func (c *Collector) Requests() []*collector.ExportTraceServiceRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*collector.ExportTraceServiceRequest(nil), c.got...)
}

// Spans are all that have come, in the order in which they came.
func (c *Collector) Spans() (out []*tracepb.Span) {
	for _, q := range c.Requests() {
		for _, r := range q.GetResourceSpans() {
			for _, s := range r.GetScopeSpans() {
				out = append(out, s.GetSpans()...)
			}
		}
	}
	return out
}
