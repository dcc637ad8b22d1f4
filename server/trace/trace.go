// SPDX-License-Identifier: Apache-2.0

// Package trace sends traces of sampled requests to an OpenTelemetry collector. It keeps no state
// for the whole process: it sets neither OpenTelemetry's global tracer nor its propagator, so that no
// library of this process sends a span, or a trace ID to another service.
//
// Packages server, config and app may import it.
package trace

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Config is `trace`: where traces of requests are sent. Without it, there are none.
type Config struct {
	// Endpoint is the URL of a collector that takes OTLP over gRPC, with its port, as in
	// https://otel.example:4317. http is for a collector on this machine.
	Endpoint string `key:"endpoint" required:"it is the URL of an OpenTelemetry collector"`
	// HeadersFile holds headers that each export carries, such as the collector's token: one in a
	// line, as in `authorization: Bearer …`.
	HeadersFile string `key:"headers_file" kind:"path"`
	// Ratio is the part of the requests that is traced, above 0 and at most 1. A caller has no
	// influence on it.
	Ratio float64 `key:"ratio" default:"0.01"`
}

// flushTimeout limits Shutdown.
const flushTimeout = 3 * time.Second

// Tracer starts the traces of requests. A nil Tracer starts none. It is safe for concurrent use.
type Tracer struct {
	ratio    float64
	provider *sdktrace.TracerProvider
	tracer   oteltrace.Tracer
	exporter *exporter
}

// Options are what a Tracer uses of its process.
type Options struct {
	// Version is the version of mayfly.
	Version string
	// Registerer registers the counter of spans.
	Registerer prometheus.Registerer
	// Logger gets at most one line a minute about failing exports.
	Logger *slog.Logger
}

// New returns a Tracer with settings that package config has checked, and headers from ReadHeaders.
// It connects when the first span has ended.
func New(ctx context.Context, cfg Config, headers map[string]string, o Options) (*Tracer, error) {
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	security := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	if endpoint.Scheme == "http" {
		security = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("dns:///"+endpoint.Host, grpc.WithTransportCredentials(security), grpc.WithDefaultServiceConfig(retries))
	if err != nil {
		return nil, err
	}
	remote, err := otlptrace.New(ctx, client{conn, metadata.New(headers)})
	if err != nil {
		return nil, err
	}
	e := newExporter(remote, o)
	host, _ := os.Hostname() // "" if it is unknown
	about := resource.NewSchemaless(attribute.String("service.name", "mayfly"), attribute.String("service.version", o.Version), attribute.String("host.name", host))
	batches := sdktrace.NewBatchSpanProcessor(e, sdktrace.WithMaxQueueSize(maxWaiting), sdktrace.WithMaxExportBatchSize(maxBatch),
		sdktrace.WithBatchTimeout(batchAge), sdktrace.WithExportTimeout(exportTimeout))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), // Start has decided
		sdktrace.WithSpanProcessor(queue{batches, e}), sdktrace.WithResource(about))
	return &Tracer{cfg.Ratio, provider, provider.Tracer("github.com/mayfly-ca/mayfly"), e}, nil
}

// Shutdown sends the spans that wait, for flushTimeout at most, and closes the connection.
func (t *Tracer) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	err := t.provider.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return t.exporter.SpanExporter.Shutdown(context.WithoutCancel(ctx)) // stops the export under way; its spans count as failed
	}
	return err
}

// Span is the trace of one request. It is for one goroutine.
type Span struct {
	tracer oteltrace.Tracer
	ctx    context.Context // with span, for the spans of steps
	span   oteltrace.Span
}

// Start returns the span of a request that began at a time if the request is in the sample, otherwise
// nil. traceparent has the values of that header: a well-formed one is linked. Its flags have no
// effect.
func (t *Tracer) Start(name string, at time.Time, traceparent []string) *Span {
	if t == nil || rand.Float64() >= t.ratio {
		return nil
	}
	options := []oteltrace.SpanStartOption{oteltrace.WithNewRoot(), oteltrace.WithTimestamp(at), oteltrace.WithSpanKind(oteltrace.SpanKindServer)}
	if caller := callersSpan(traceparent); caller.IsValid() {
		options = append(options, oteltrace.WithLinks(oteltrace.Link{SpanContext: caller}))
	}
	ctx, span := t.tracer.Start(context.Background(), name, options...)
	return &Span{t.tracer, ctx, span}
}

// callersSpan returns the trace ID and the span ID in a header traceparent (W3C Trace Context, section
// 3.2), and nothing else of it; the zero value if it is malformed or there is more than one.
func callersSpan(traceparent []string) oteltrace.SpanContext {
	if len(traceparent) != 1 {
		return oteltrace.SpanContext{}
	}
	carrier := propagation.MapCarrier{"traceparent": traceparent[0]}
	caller := oteltrace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
	return oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: caller.TraceID(), SpanID: caller.SpanID(), Remote: true})
}

// ID returns the trace ID in hexadecimal digits.
func (s *Span) ID() string { return s.span.SpanContext().TraceID().String() }

// Step adds a span for a step of the request.
func (s *Span) Step(name string, begin, end time.Time) {
	_, step := s.tracer.Start(s.ctx, name, oteltrace.WithTimestamp(begin))
	step.End(oteltrace.WithTimestamp(end))
}

// End ends the span with attributes: key, value, …. It leaves out empty values. failed states that the
// operator must act.
func (s *Span) End(at time.Time, failed bool, attributes ...string) {
	for i := 0; i < len(attributes); i += 2 {
		if attributes[i+1] != "" {
			s.span.SetAttributes(attribute.String("mayfly."+attributes[i], attributes[i+1]))
		}
	}
	if failed {
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End(oteltrace.WithTimestamp(at))
}
