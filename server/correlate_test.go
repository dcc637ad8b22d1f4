// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server/trace"
	"github.com/mayfly-ca/mayfly/test/collector"
)

// newTracer returns a tracer of every request.
func newTracer(t *testing.T, c *collector.Collector) *trace.Tracer {
	t.Helper()
	tracer, err := trace.New(t.Context(), trace.Config{Endpoint: c.URL, Ratio: 1}, nil, trace.Options{Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// The trace of a caller is linked over REST, over gRPC on its own port, and over gRPC on a shared port. Its
// other headers do not enter the trace.
func TestTraceOfTheCallerIsLinked(t *testing.T) {
	t.Parallel()
	const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
	headers := []string{"traceparent", "00-" + caller + "-00f067aa0ba902b7-01", "tracestate", "secret=1", "baggage", "secret=2"}
	for _, shared := range []bool{false, true} {
		c := collector.New(t)
		tracer := newTracer(t, c)
		run := serve(t, shared, false, func(cfg *Config) { cfg.Tracer = tracer })
		run.do(t, "GET", "/api/v2/trustBundle", "", headers...)
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs(headers...))
		if _, err := fulciov2.NewCAClient(run.dial(t, "127.0.0.1")).GetTrustBundle(ctx, &fulciov2.GetTrustBundleRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := tracer.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		spans := c.Spans()
		if len(spans) != 2 || strings.Contains(fmt.Sprint(spans), "secret") {
			t.Errorf("shared %t: the spans are %v", shared, spans)
		}
		for _, span := range spans {
			links := span.GetLinks()
			if len(links) != 1 || hex.EncodeToString(links[0].GetTraceId()) != caller || hex.EncodeToString(span.GetTraceId()) == caller {
				t.Errorf("shared %t: the links of %s are %v", shared, span.GetName(), links)
			}
		}
	}
}

// A logger with attributes of its own keeps the IDs of a request, each once.
func TestCorrelate(t *testing.T) {
	t.Parallel()
	tracer := newTracer(t, collector.New(t))
	var lines bytes.Buffer
	logger := slog.New(Correlate(slog.NewTextHandler(&lines, nil)))
	q := &request{id: "id-1", span: tracer.Start("Method", time.Now(), nil)}
	ctx := q.with(t.Context())
	logger.InfoContext(t.Context(), "none")
	logger.InfoContext(ctx, "both")
	logger.With("a", 1).InfoContext(ctx, "own", "request_id", "id-1")
	logger.WithGroup("g").InfoContext(ctx, "grouped")
	q.span.End(time.Now(), false)
	id := q.span.ID()
	q.span = nil
	logger.InfoContext(ctx, "untraced")
	got := ""
	for line := range strings.Lines(lines.String()) {
		_, message, _ := strings.Cut(line, "msg=")
		got += strings.ReplaceAll(message, id, "TRACE")
	}
	want := `none
both request_id=id-1 trace_id=TRACE
own a=1 request_id=id-1 trace_id=TRACE
grouped g.request_id=id-1 g.trace_id=TRACE
untraced request_id=id-1
`
	if got != want {
		t.Errorf("the lines are\n%swant\n%s", got, want)
	}
	if err := tracer.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}
