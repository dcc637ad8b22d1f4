// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/collector"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// tracing adds traces of every request.
func tracing(c *collector.Collector) step {
	return func(t *testing.T, w *testworld.World) {
		setting(fmt.Sprintf("trace: {endpoint: %q, headers_file: headers, ratio: 1}", c.URL))(t, w)
		written("headers", "authorization: Bearer hunter2\n")(t, w)
	}
}

// traced returns the spans of each trace by the request ID of its root.
func traced(spans []*tracepb.Span) (roots map[string]*tracepb.Span, steps map[string][]string) {
	roots, steps = map[string]*tracepb.Span{}, map[string][]string{}
	for _, span := range spans {
		if len(span.GetParentSpanId()) > 0 {
			id := hex.EncodeToString(span.GetTraceId())
			steps[id] = append(steps[id], span.GetName())
			continue
		}
		roots[attributes(span)["mayfly.request_id"]] = span
	}
	return roots, steps
}

func attributes(span *tracepb.Span) map[string]string {
	all := map[string]string{}
	for _, a := range span.GetAttributes() {
		all[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return all
}

// Each request of an API becomes a trace with a span for each step. The same trace ID is in both lines of
// the request, and in the exemplars of its histograms. No trace has the name of the caller.
func TestTraces(t *testing.T) {
	t.Parallel()
	c := collector.New(t)
	w := newWorld(t, withAudit, tracing(c), edited("mayfly.yaml", "log: {format: text, level: error}", "log: {format: json, level: info}"))
	var r *running
	var exemplars string
	t.Cleanup(func() { checkTraces(t, w, c, r.log.String(), exemplars) }) // once the shutdown has sent the spans
	r = startAs(t, w, app.Options{ConfigFile: w.ConfigFile, Version: "v1"})
	for _, overGRPC := range []bool{false, true} {
		url := r.rest
		if overGRPC {
			url = r.grpc
		}
		if _, err := w.Request(t.Context(), must(client.New(client.Config{URL: url, GRPC: overGRPC}))(t), false); err != nil {
			t.Fatal(err)
		}
	}
	wantReason(t, r, map[string]any{"email_verified": false}, "EMAIL_UNVERIFIED")
	wantReason(t, r, map[string]any{"exp": 1}, "TOKEN_EXPIRED")
	fetch(t, r.rest+"/api/v2/trustBundle")
	fetch(t, r.rest+"/nothing")
	req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, r.ops+"/metrics", nil))(t)
	req.Header.Set("Accept", "application/openmetrics-text")
	resp := must(http.DefaultClient.Do(req))(t)
	defer resp.Body.Close()
	var body bytes.Buffer
	must(body.ReadFrom(resp.Body))(t)
	exemplars = body.String()
}

func checkTraces(t *testing.T, w *testworld.World, c *collector.Collector, log, metrics string) {
	const all = "outcome certificate log precertificate intent draft proof admission identity token"
	roots, steps := traced(c.Spans())
	want := map[string]string{ // by api, method and reason
		"rest_v2 CreateSigningCertificate OK":               all,
		"grpc CreateSigningCertificate OK":                  all,
		"rest_v2 CreateSigningCertificate EMAIL_UNVERIFIED": "identity token",
		"rest_v2 CreateSigningCertificate TOKEN_EXPIRED":    "token",
		"rest_v2 GetTrustBundle OK":                         "",
	}
	got := map[string]string{}
	for id, root := range roots {
		a := attributes(root)
		trace := hex.EncodeToString(root.GetTraceId())
		got[a["mayfly.api"]+" "+a["mayfly.method"]+" "+a["mayfly.reason"]] = strings.Join(steps[trace], " ")
		issued := strings.Join(steps[trace], " ") == all
		if issued != (a["mayfly.authority"] != "") || issued != (a["mayfly.log_id"] != "") || (len(steps[trace]) > 1) != (a["mayfly.issuer_entry"] == w.Provider.IssuerURL()) {
			t.Errorf("the attributes of a trace with the steps %q are %q", steps[trace], a)
		}
		lines := 0
		for line := range strings.Lines(log) {
			var record map[string]any
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatal(err)
			}
			if record["request_id"] == id {
				if lines++; record["trace_id"] != trace {
					t.Errorf("the trace ID should be %s: %s", trace, line)
				}
			}
		}
		if wantLines := map[bool]int{true: 2, false: 1}[issued]; lines != wantLines {
			t.Errorf("%d lines of the request, want %d", lines, wantLines)
		}
		if a["mayfly.api"] == "grpc" && !strings.Contains(metrics, `# {trace_id="`+trace+`"}`) { // the last one that this API answered
			t.Errorf("no exemplar has the trace ID %s:\n%s", trace, metrics)
		}
		for key := range a {
			name := strings.TrimPrefix(key, "mayfly.")
			if !slices.Contains([]string{"request_id", "api", "method", "reason", "issuer_entry", "authority", "log_id"}, name) {
				t.Errorf("a trace has the attribute %s", key)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("traces (-want +got):\n%s", diff)
	}
	if sent := fmt.Sprint(c.Spans()); strings.Contains(sent, "person") || strings.Contains(sent, "eyJ") {
		t.Errorf("a trace has the name of the caller, or a token: %s", sent)
	}
	if headers, _ := c.Last(); headers.Get("authorization")[0] != "Bearer hunter2" {
		t.Errorf("the headers are %v", headers)
	}
	if strings.Contains(log, "hunter2") {
		t.Errorf("the log has a header's value:\n%s", log)
	}
}

// A line of a request from a package below the edge has its IDs too.
func TestLinesBelowTheEdgeHaveTheIDs(t *testing.T) {
	t.Parallel()
	c := collector.New(t)
	w := newWorld(t, tracing(c), edited("mayfly.yaml", "log: {format: text, level: error}", "log: {format: json, level: info}"))
	r := start(t, w)
	wantReason(t, r, nil, "")
	w.Log.Fail(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadRequest); return true })
	wantReason(t, r, nil, "CT_UNAVAILABLE")
	ids := map[string]map[string]any{}
	for line := range strings.Lines(r.log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(fmt.Sprint(record["msg"]), ":")
		ids[name] = map[string]any{"request_id": record["request_id"], "trace_id": record["trace_id"]}
	}
	if diff := cmp.Diff(ids["request"], ids["Certificate Transparency log gave no SCT"]); diff != "" || ids["request"]["trace_id"] == nil {
		t.Errorf("the lines of one request (-request +log):\n%s\n%s", diff, r.log)
	}
}

// A file of headers with a mistake, or a missing one, prevents the start with its key's place, and so does a
// check.
func TestTraceHeadersAreChecked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]step{
		"no file":    removed("headers"),
		"no header":  written("headers", "hunter2"),
		"an old key": written("headers", "grpc-timeout: hunter2"),
	} {
		w := newWorld(t, setting("trace:\n  endpoint: https://otel.example:4317\n  headers_file: headers"), written("headers", "a: hunter2"), change)
		_, err := app.Build(context.WithoutCancel(t.Context()), app.Options{ConfigFile: w.ConfigFile})
		report := must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t)
		for _, err := range []error{err, errors.Join(report.Mistakes...)} {
			if err == nil || !strings.Contains(err.Error(), "mayfly.yaml:11:17: ") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
