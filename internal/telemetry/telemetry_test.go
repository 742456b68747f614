package telemetry

import (
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"millpond.dev/millpond/internal/telemetry/telemetrytest"
)

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
		r := telemetrytest.New(t)
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
		if len(r.Requests()) != 1 {
			t.Fatalf("%s: %d requests", by, len(r.Requests()))
		}
		rs := r.Requests()[0].GetResourceSpans()[0]
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
	r := telemetrytest.New(t)
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
