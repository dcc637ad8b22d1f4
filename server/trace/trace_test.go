// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"context"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/test/collector"
)

// fixture is a Tracer with its collector, metrics and log.
type fixture struct {
	*Tracer
	collector *collector.Collector
	log       bytes.Buffer
}

func newFixture(t *testing.T, ratio float64, headers map[string]string) *fixture {
	t.Helper()
	f := &fixture{collector: collector.New(t)}
	var err error
	f.Tracer, err = New(t.Context(), Config{Endpoint: f.collector.URL, Ratio: ratio}, headers, Options{
		Version: "v1.2.3", Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(&f.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// stop flushes the spans, and compares how many were exported, failed and dropped.
func (f *fixture) stop(t *testing.T, exported, failed, dropped float64) {
	t.Helper()
	if err := f.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	var got []float64
	for _, result := range []string{"exported", "failed", "dropped"} {
		got = append(got, testutil.ToFloat64(f.exporter.spans.WithLabelValues(result)))
	}
	if diff := cmp.Diff([]float64{exported, failed, dropped}, got); diff != "" {
		t.Errorf("spans exported, failed and dropped (-want +got):\n%s\n%s", diff, f.log.String())
	}
}

// A trace reaches the collector with its times, attributes, headers and resource.
func TestSpans(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 1, map[string]string{"authorization": "Bearer hunter2"})
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	span := f.Start("Method", at, nil)
	span.Step("token", at.Add(time.Millisecond), at.Add(2*time.Millisecond))
	span.End(at.Add(3*time.Millisecond), true, "reason", "INTERNAL", "authority", "")
	f.stop(t, 2, 0, 0)
	spans := f.collector.Spans()
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	step, root := spans[0], spans[1]
	if id := hex.EncodeToString(root.GetTraceId()); id != span.ID() || !bytes.Equal(step.GetTraceId(), root.GetTraceId()) || !bytes.Equal(step.GetParentSpanId(), root.GetSpanId()) ||
		len(root.GetParentSpanId()) != 0 || len(root.GetLinks()) != 0 || root.GetTraceState() != "" {
		t.Errorf("the trace %s is\n%v\n%v", span.ID(), root, step)
	}
	start := uint64(at.UnixNano())
	if root.GetName() != "Method" || root.GetStartTimeUnixNano() != start || root.GetEndTimeUnixNano() != start+3e6 || root.GetStatus().GetCode() != 2 ||
		step.GetName() != "token" || step.GetStartTimeUnixNano() != start+1e6 || step.GetEndTimeUnixNano() != start+2e6 || step.GetStatus().GetCode() != 0 {
		t.Errorf("the spans are\n%v\n%v", root, step)
	}
	if len(root.GetAttributes()) != 1 || root.GetAttributes()[0].GetKey() != "mayfly.reason" || root.GetAttributes()[0].GetValue().GetStringValue() != "INTERNAL" {
		t.Errorf("the attributes are %v", root.GetAttributes())
	}
	headers, resource := f.collector.Last()
	if got := headers.Get("authorization"); len(got) != 1 || got[0] != "Bearer hunter2" {
		t.Errorf("the header is %q", got)
	}
	if resource["service.name"] != "mayfly" || resource["service.version"] != "v1.2.3" || resource["host.name"] == "" {
		t.Errorf("the resource is %q", resource)
	}
}

// A well-formed traceparent is linked, with nothing but its two IDs. It never decides the sample.
func TestCallersTrace(t *testing.T) {
	t.Parallel()
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for header, linked := range map[string]bool{
		"00-" + trace + "-" + parent + "-00": true,
		"00-" + trace + "-" + parent + "-01": true,
		"":                                   false,
		"00-" + trace + "-" + parent:         false,
		"00-" + strings.Repeat("0", 32) + "-" + parent + "-01":          false,
		"00-" + strings.ToUpper(trace) + "-" + parent + "-01":           false,
		"ff-" + trace + "-" + parent + "-01":                            false,
		"00-" + trace + "-" + parent + "-01\r\nauthorization: x":        false,
		"00-" + strings.Repeat(trace, 1000) + "-" + parent + "-01":      false,
		strings.Repeat("-", 16000):                                      false,
		"00-" + trace + "-" + parent + "-01,00-" + trace + parent + "-": false,
	} {
		f := newFixture(t, 1, nil)
		span := f.Start("Method", time.Now(), []string{header})
		if span.ID() == trace {
			t.Errorf("%q decides the trace ID", header)
		}
		span.End(time.Now(), false)
		f.stop(t, 1, 0, 0)
		links := f.collector.Spans()[0].GetLinks()
		if (len(links) == 1) != linked {
			t.Errorf("%q: %d links", header, len(links))
		}
		for _, link := range links {
			// Of the flags, OTLP has the remark that the caller is remote.
			if hex.EncodeToString(link.GetTraceId()) != trace || hex.EncodeToString(link.GetSpanId()) != parent || link.GetFlags()&0xff != 0 || link.GetTraceState() != "" || len(link.GetAttributes()) != 0 {
				t.Errorf("%q: the link is %v", header, link)
			}
		}
	}
	f := newFixture(t, 1e-12, nil)
	for range 1000 {
		if f.Start("Method", time.Now(), []string{"00-" + trace + "-" + parent + "-01"}) != nil {
			t.Fatal("a caller's flag forces a sample")
		}
	}
	if s := callersSpan([]string{"00-" + trace + "-" + parent + "-01", "00-" + trace + "-" + parent + "-01"}); s.IsValid() {
		t.Error("of two headers one is linked")
	}
	f.stop(t, 0, 0, 0)
}

// FuzzTraceparent tests that of any header, either nothing or exactly its two IDs are used.
func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future")
	f.Fuzz(func(t *testing.T, header string) {
		s := callersSpan([]string{header})
		if s.TraceFlags() != 0 || s.TraceState().Len() != 0 {
			t.Errorf("%q: %v", header, s)
		}
		if s.IsValid() && !strings.Contains(header, s.TraceID().String()+"-"+s.SpanID().String()) {
			t.Errorf("%q has not the IDs %s and %s", header, s.TraceID(), s.SpanID())
		}
	})
}

// Without a collector, spans beyond the limit are dropped and the others fail. All are counted, few
// lines are logged, and the shutdown does not wait for long.
func TestCollectorIsDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 1, nil)
	held := make(chan struct{})
	f.collector.Refuse(func(ctx context.Context) error {
		select {
		case <-held:
		case <-ctx.Done():
		}
		return status.Error(codes.Unimplemented, "no traces here")
	})
	const more = 100
	for range maxWaiting + more {
		f.Start("Method", time.Now(), nil).End(time.Now(), false)
	}
	if got := testutil.ToFloat64(f.exporter.spans.WithLabelValues("dropped")); got != more {
		t.Errorf("%v spans were dropped, want %d", got, more)
	}
	close(held)
	f.stop(t, 0, maxWaiting, more)
	if log := f.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "no traces here") {
		t.Errorf("the log is\n%s", log)
	}
}

// A collector that does not answer delays the shutdown by its limit only, and no goroutine of an export
// is left: the connection is closed.
func TestCollectorHangs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, 1, nil)
	ended := make(chan struct{})
	f.collector.Refuse(func(ctx context.Context) error {
		defer close(ended)
		<-ctx.Done()
		return ctx.Err()
	})
	f.Start("Method", time.Now(), nil).End(time.Now(), false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	<-ended
}

// The functions of a request that is not traced do nothing.
func TestNoTrace(t *testing.T) {
	t.Parallel()
	var none *Tracer
	if span := none.Start("Method", time.Now(), nil); span != nil {
		t.Errorf("there is a trace %q", span.ID())
	}
	if err := none.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		"authorization: Bearer hunter2":                   {"authorization": "Bearer hunter2"},
		"\ufeffX-Scope: a:b \r\n Authorization:Basic x\n": {"x-scope": "a:b", "authorization": "Basic x"},
		"":                                   nil,
		"a: hunter2\n\nb: hunter2":           nil,
		"\n":                                 nil,
		"hunter2":                            nil,
		"authorization:":                     nil,
		": hunter2":                          nil,
		"a b: hunter2":                       nil,
		"a: hunter2\nA: hunter2":             nil,
		"a: hunter2\x00":                     nil,
		"a: hunter2é":                        nil,
		"grpc-timeout: hunter2":              nil,
		"key-bin: hunter2":                   nil,
		":authority: hunter2":                nil,
		"content-type: hunter2":              nil,
		strings.Repeat("a: hunter2\n", 2000): nil,
	} {
		file := filepath.Join(t.TempDir(), "headers")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, warning, err := ReadHeaders(file)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want != nil) || warning != nil {
			t.Errorf("%.40q: %v, %v (-want +got):\n%s", text, warning, err, diff)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), file)) {
			t.Errorf("%.40q: the error shows a value, or not the file: %v", text, err)
		}
		_ = os.Chmod(file, 0o644)
		if _, warning, err := ReadHeaders(file); err == nil && warning == nil {
			t.Errorf("%.40q: no warning that every user can read the file", text)
		}
	}
}

// FuzzHeaders tests that headers are what gRPC takes, and that reading them again changes nothing.
func FuzzHeaders(f *testing.F) {
	f.Add("authorization: Bearer x\nx-scope-orgid: 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		headers, err := parseHeaders(text)
		if err != nil {
			return
		}
		var again strings.Builder
		for name, value := range headers {
			again.WriteString(name + ": " + value + "\n")
		}
		if got, err := parseHeaders(again.String()); err != nil || !cmp.Equal(got, headers) {
			t.Errorf("%q becomes %q, %v", headers, got, err)
		}
	})
}
