package telemetry

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is a collector that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []*collector.ExportTraceServiceRequest
}

func receive(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
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
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, m)
	}))
	t.Cleanup(r.Close)
	return r
}

func config(endpoint string, env map[string]string) Config {
	return Config{Endpoint: endpoint, Getenv: func(k string) string { return env[k] }, Version: "v1", Log: slog.New(slog.DiscardHandler)}
}

func TestOff(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"nothing named": {},
		"disabled":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
		"no exporter":   {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		tracer, end, err := Start(t.Context(), config("", env))
		if tracer != nil || end == nil || err != nil {
			t.Errorf("%s: %v, %v", name, tracer, err)
		}
		end()
	}
	if _, _, err := Start(t.Context(), config("http://127.0.0.1:1", map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})); err == nil {
		t.Error("gRPC was taken")
	}
}

func TestSent(t *testing.T) {
	for _, by := range []string{"configuration", "environment"} {
		r := receive(t)
		env, endpoint := map[string]string{}, r.URL+"/"
		if by == "environment" {
			// The exporter reads the process's own.
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
			env["OTEL_EXPORTER_OTLP_ENDPOINT"], endpoint = r.URL, ""
		}
		tracer, end, err := Start(t.Context(), config(endpoint, env))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		_, s := tracer.Start(t.Context(), "boot", trace.WithTimestamp(began))
		s.End(trace.WithTimestamp(began.Add(time.Second)))
		end()
		if len(r.got) != 1 {
			t.Fatalf("%s: %d requests", by, len(r.got))
		}
		rs := r.got[0].GetResourceSpans()[0]
		about := map[string]string{}
		for _, a := range rs.GetResource().GetAttributes() {
			about[a.GetKey()] = a.GetValue().GetStringValue()
		}
		x := rs.GetScopeSpans()[0].GetSpans()[0]
		if x.GetName() != "boot" || x.GetEndTimeUnixNano()-x.GetStartTimeUnixNano() != uint64(time.Second) || about["service.name"] != "millpond" || about["service.version"] != "v1" {
			t.Errorf("%s: %v of %v", by, x, about)
		}
	}
}

// TestNobodyListens: a collector that is not there costs nothing but the traces.
func TestNobodyListens(t *testing.T) {
	r := receive(t)
	r.Close()
	tracer, end, err := Start(t.Context(), config(r.URL, map[string]string{}))
	if err != nil {
		t.Fatal(err)
	}
	_, s := tracer.Start(t.Context(), "boot")
	s.End()
	began := time.Now()
	end()
	if took := time.Since(began); took > 3*endLimit {
		t.Errorf("the end took %s", took)
	}
}
