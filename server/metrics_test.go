// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// verified makes the authority answer as with a verified token of an entry: with err, or a certificate.
func (f *fixture) verified(entry string, err error) {
	answer := f.issue
	f.issue = func(ctx context.Context, req ca.Request) (*ca.Issued, error) {
		req.Caller.Token = &oidc.Token{Entry: entry}
		if err != nil {
			return nil, err
		}
		return answer(ctx, req)
	}
}

// families returns the metrics by name.
func (f *fixture) families(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	gathered, err := f.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]*dto.MetricFamily{}
	for _, family := range gathered {
		families[family.GetName()] = family
	}
	return families
}

// Whatever callers send, each label of each metric has its values from a set that does not grow.
func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.Mounts = []Mount{{Path: "/mounted/", Name: "mounted", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400 + rand.IntN(3))
		})}}
	})
	word := func() string { return fmt.Sprintf("x%d", rand.Uint64()) }
	methods := []string{"GET", "POST", "HEAD", "PUT", "OPTIONS", "X" + word()}
	paths := []string{"/api/v2/signingCert", "/api/v1/signingCert", "/api/v2/trustBundle", "/api/v2/configuration", "/api/v1/rootCert", "/mounted/", "/"}
	for i := range 2000 {
		f.issue = fixedIssue(&ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root"), SCTEmbedded: i%2 == 0})
		switch i % 4 {
		case 0:
			f.refuse(errors.New(word()))
		case 1:
			f.refuse(refusal.New(refusal.Reason(word()), "%s", word()))
		case 2:
			f.verified("https://issuer.example", refusal.New(refusal.Reason(word()), "%s", word()))
		default:
			f.verified("https://issuer.example", nil)
		}
		path := paths[rand.IntN(len(paths))]
		if i%3 == 0 {
			path += word()
		}
		headers := []string{word(), word(), "Traceparent", "00-" + word(), "X-Request-Id", word(), "Content-Type", word(), "Authorization", "Bearer " + word(), "Accept", word(), "Host", word(), "User-Agent", word()}
		f.do(t, methods[rand.IntN(len(methods))], path+"?"+word(), []string{goodV2, goodV1, word()}[rand.IntN(3)], headers...)
	}
	methodsOf := []string{methodCreate, methodTrust, methodConfig, methodUnknown}
	reasons := []string{reasonOK, reasonCanceled, "HTTP_400", "HTTP_401", "HTTP_402"}
	for _, entry := range refusal.Table() {
		reasons = append(reasons, string(entry.Reason))
	}
	apis := []string{apiGRPC, apiRESTv1, apiRESTv2, "mounted"}
	var steps []string
	for step := range ca.NumSteps {
		steps = append(steps, step.String())
	}
	allowed := map[string]map[string][]string{ // by family and label
		"mayfly_requests_total":               {"api": apis, "method": methodsOf, "reason": reasons},
		"mayfly_request_duration_seconds":     {"api": apis, "method": methodsOf},
		"mayfly_issue_step_duration_seconds":  {"step": steps},
		"mayfly_certificates_issued_total":    {"sct": {"embedded", "none"}},
		"mayfly_verified_requests_total":      {"reason": reasons},
		"mayfly_issuer_requests_total":        {"entry": {"https://issuer.example"}, "reason": reasons},
		"mayfly_proxy_protocol_refused_total": {"fault": {"address", "header"}},
		"fulcio_api_latency":                  {"api": apis[:3], "method": methodsOf[:3]},
		"http_requests_total":                 {"api": apis[1:], "method": methodsOf, "code": {"200", "201", "400", "401", "402", "404", "405", "429", "499", "500", "503"}},
	}
	families := f.families(t)
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if !slices.Contains(allowed[name][label.GetName()], label.GetValue()) {
					t.Errorf("%s has %s=%q", name, label.GetName(), label.GetValue())
				}
			}
		}
	}
	for name := range allowed {
		if families[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
}

// value returns the value, or the number of observations, of the series of a family with these values
// of labels, summed.
func value(family *dto.MetricFamily, labels ...string) (sum float64) {
	for _, metric := range family.GetMetric() {
		var values []string
		for _, label := range metric.GetLabel() {
			values = append(values, label.GetValue())
		}
		if !slices.ContainsFunc(labels, func(want string) bool { return !slices.Contains(values, want) }) {
			sum += metric.GetCounter().GetValue() + metric.GetUntyped().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// The metrics with Fulcio's names, and those by entry, count the requests of each API.
func TestFulciosMetrics(t *testing.T) {
	t.Parallel()
	f := serve(t, true, false, func(c *Config) {
		c.Mounts = []Mount{{Path: "/mounted", Name: "mounted", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) })}}
	})
	f.verified("https://a.example", nil)
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	f.do(t, "POST", "/api/v1/signingCert", goodV1, "Authorization", "Bearer a.b.c")
	if err := f.create(t); err != nil {
		t.Fatal(err)
	}
	f.refuse(refusal.New(refusal.TokenExpired, "late"))
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	_ = f.create(t)
	f.verified("https://b.example", refusal.New(refusal.CTUnavailable, "down"))
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	f.do(t, "GET", "/api/v2/trustBundle", "")
	f.do(t, "GET", "/mounted", "")
	f.do(t, "GET", "/other", "")
	if _, err := fulciov2.NewCAClient(f.dial(t, "127.0.0.1")).GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{}); err != nil {
		t.Fatal(err)
	}
	all := f.families(t)
	got := map[string]float64{
		"new certificates":      value(all["fulcio_new_certs"]),
		"latency":               value(all["fulcio_api_latency"]),
		"latency of gRPC":       value(all["fulcio_api_latency"], apiGRPC, methodCreate),
		"http":                  value(all["http_requests_total"]),
		"http 200":              value(all["http_requests_total"], "200"),
		"http 201":              value(all["http_requests_total"], "201", apiRESTv1),
		"http 401":              value(all["http_requests_total"], "401"),
		"http 403 of the mount": value(all["http_requests_total"], "403", "mounted"),
		"http 404":              value(all["http_requests_total"], "404", methodUnknown),
		"http 503":              value(all["http_requests_total"], "503"),
		"grpc":                  value(all["grpc_server_handled_total"], "unary", "dev.sigstore.fulcio.v2.CA"),
		"grpc OK":               value(all["grpc_server_handled_total"], "OK", methodCreate),
		"grpc Unauthenticated":  value(all["grpc_server_handled_total"], "Unauthenticated", methodCreate),
		"verified":              value(all["mayfly_verified_requests_total"]),
		"verified OK":           value(all["mayfly_verified_requests_total"], "OK"),
		"entry a":               value(all["mayfly_issuer_requests_total"], "https://a.example"),
		"entry b, no log":       value(all["mayfly_issuer_requests_total"], "https://b.example", "CT_UNAVAILABLE"),
	}
	want := map[string]float64{
		"new certificates": 3, "latency": 8, "latency of gRPC": 2, "http": 7, "http 200": 2, "http 201": 1, "http 401": 1, "http 403 of the mount": 1,
		"http 404": 1, "http 503": 1, "grpc": 3, "grpc OK": 1, "grpc Unauthenticated": 1, "verified": 4, "verified OK": 3, "entry a": 3, "entry b, no log": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A refused caller without a verified token changes no metric of steps; one with it does, up to the
// step that refused it.
func TestStepMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.refuse(refusal.New(refusal.TokenExpired, "late"))
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	if got := value(f.families(t)["mayfly_issue_step_duration_seconds"]); got != 0 {
		t.Errorf("an unknown caller caused %v observations", got)
	}
}

// In OpenMetrics, every counter but Fulcio's ends in _total, and Fulcio's keeps its name.
func TestOpenMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	resp := f.profile(t, "GET", "localhost", "/metrics", "Accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
	body := readAll(t, resp)
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/openmetrics-text") || !strings.HasSuffix(body, "# EOF\n") {
		t.Errorf("the media type is %s", kind)
	}
	for _, line := range []string{"\nfulcio_new_certs 1.0\n", "\nmayfly_certificates_issued_total{sct=\"embedded\"} 1.0\n", "\nhttp_requests_total{api=\"rest_v2\""} {
		if !strings.Contains(body, line) {
			t.Errorf("/metrics lacks %q:\n%s", line, body)
		}
	}
	if resp := f.ops(t, "/metrics"); !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("without Accept, the media type is %s", resp.Header.Get("Content-Type"))
	}
}

// BenchmarkSteps is what the metrics of steps add to a certificate, with as many requests at a time as there
// are cores; BenchmarkCount is what those of a request cost.
func BenchmarkSteps(b *testing.B) {
	f := newFixture(b, nil)
	b.RunParallel(func(pb *testing.PB) {
		q := &request{}
		for pb.Next() {
			for step := range ca.NumSteps {
				q.steps.End() // reads the clock, as for the begin of a step
				q.observe(f.metrics.steps[step], time.Millisecond)
			}
		}
	})
}

func BenchmarkCount(b *testing.B) {
	f := newFixture(b, nil)
	b.RunParallel(func(pb *testing.PB) {
		q := &request{route: routes["/api/v2/signingCert"]}
		for pb.Next() {
			f.metrics.count(q, reasonOK, time.Millisecond, nil)
		}
	})
}
