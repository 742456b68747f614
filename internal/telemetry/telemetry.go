// Package telemetry sends traces to a collector by OTLP over HTTP, if the operator
// names one: in the configuration, or by the variables that OpenTelemetry has for it.
// It is for cmd/millpond. It knows nothing that is traced, and without a collector it
// does nothing and costs nothing.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config says where traces go.
type Config struct {
	// Endpoint is the collector's address, such as http://127.0.0.1:4318; traces go to
	// /v1/traces below it. Empty: what the environment says.
	Endpoint string
	// Getenv reads the environment, such as os.Getenv. OTEL_EXPORTER_OTLP_ENDPOINT and
	// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT name a collector, OTEL_SDK_DISABLED=true
	// switches all off; the exporter reads its headers, certificates and limits there.
	Getenv  func(string) string
	Version string
	Log     *slog.Logger
}

// below is the address of traces at a collector, as the standard variable has it too.
func below(endpoint string) string { return strings.TrimSuffix(endpoint, "/") + "/v1/traces" }

// endLimit bounds the sending of what is left at the end.
const endLimit = 5 * time.Second

// Start gives the tracer of the process, nil without a collector, and the function
// that sends what is left. A collector that is not there is no error: traces are
// dropped, and the log says so.
func Start(ctx context.Context, c Config) (trace.Tracer, func(), error) {
	none := func() {}
	named := c.Endpoint != "" || c.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || c.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	if !named || c.Getenv("OTEL_SDK_DISABLED") == "true" || c.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, none, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if p := c.Getenv(name); p != "" && p != "http/protobuf" {
			return nil, none, fmt.Errorf("%s is %s; traces are sent by http/protobuf only, which collectors take at port 4318", name, p)
		}
	}
	var options []otlptracehttp.Option
	if c.Endpoint != "" {
		options = append(options, otlptracehttp.WithEndpointURL(below(c.Endpoint)))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, none, fmt.Errorf("send traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "millpond"), attribute.String("service.version", c.Version)), resource.WithFromEnv(), resource.WithHost())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, none, fmt.Errorf("send traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { c.Log.Warn("traces were not sent", "err", err) }))
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	end := func() {
		ctx, cancel := context.WithTimeout(context.Background(), endLimit)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			c.Log.Warn("the last traces were not sent", "err", err)
		}
	}
	return provider.Tracer("millpond.dev/millpond"), end, nil
}
