// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	maxWaiting    = 2048             // spans that wait for the collector; about 2 KiB each
	maxBatch      = 512              // spans in one export
	batchAge      = 5 * time.Second  // how long a span waits for others
	exportTimeout = 10 * time.Second // of one export with its retries
	// retries makes an export wait for the connection, and repeats it while the collector is unavailable.
	retries = `{"methodConfig": [{"name": [{"service": "opentelemetry.proto.collector.trace.v1.TraceService"}], "waitForReady": true, "retryPolicy":
		{"maxAttempts": 4, "initialBackoff": "1s", "maxBackoff": "4s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
)

// client sends spans. OpenTelemetry's own client registers gzip with grpc-go for the whole process, whose
// gRPC listener would then accept compressed requests.
type client struct {
	conn    *grpc.ClientConn
	headers metadata.MD
}

// Start implements otlptrace.Client.
func (client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client. It ends the exports that are under way.
func (c client) Stop(context.Context) error { return c.conn.Close() }

// UploadTraces implements otlptrace.Client.
func (c client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	answer, err := coltracepb.NewTraceServiceClient(c.conn).Export(metadata.NewOutgoingContext(ctx, c.headers), &coltracepb.ExportTraceServiceRequest{ResourceSpans: spans})
	if refused := answer.GetPartialSuccess(); err == nil && refused.GetRejectedSpans() > 0 {
		return fmt.Errorf("the collector refused %d of the spans: %s", refused.GetRejectedSpans(), refused.GetErrorMessage())
	}
	return err
}

// exporter counts the spans that the collector gets or does not get.
type exporter struct {
	sdktrace.SpanExporter
	waiting atomic.Int64
	spans   *prometheus.CounterVec
	log     breaker.Sparing
}

func newExporter(remote sdktrace.SpanExporter, o Options) *exporter {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_trace_spans_total",
		Help: "Spans of traces by result: exported (the collector has them), failed (it refused some of the export, or could not be reached in time), or dropped (too many were waiting for it).",
	}, []string{"result"})
	for _, result := range []string{"exported", "failed", "dropped"} {
		spans.WithLabelValues(result)
	}
	o.Registerer.MustRegister(spans)
	return &exporter{SpanExporter: remote, spans: spans, log: breaker.Sparing{Logger: o.Logger, Interval: time.Minute}}
}

// ExportSpans implements sdktrace.SpanExporter. It returns no error, which OpenTelemetry would pass to
// the one handler that the process has for it.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	result := "exported"
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		result = "failed"
		e.log.Log(ctx, slog.LevelWarn, "the collector did not take traces", slog.String("error", err.Error()))
	}
	e.waiting.Add(-int64(len(spans)))
	e.spans.WithLabelValues(result).Add(float64(len(spans)))
	return nil
}

// queue limits the spans that wait, before it passes them to a batch processor, whose own limit drops
// spans uncounted.
type queue struct {
	sdktrace.SpanProcessor
	*exporter
}

// OnEnd implements sdktrace.SpanProcessor.
func (q queue) OnEnd(span sdktrace.ReadOnlySpan) {
	if q.waiting.Add(1) > maxWaiting {
		q.waiting.Add(-1)
		q.spans.WithLabelValues("dropped").Inc()
		return
	}
	q.SpanProcessor.OnEnd(span)
}
