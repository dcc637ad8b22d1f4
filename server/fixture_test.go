// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// fakeAuthority answers with its functions. Without them it answers with a certificate of the
// fixture's chain, and with that chain.
type fakeAuthority struct {
	issue  func(context.Context, ca.Request) (*ca.Issued, error)
	bundle func() []*ca.Chain
}

func (f *fakeAuthority) Issue(ctx context.Context, req ca.Request) (*ca.Issued, error) {
	return f.issue(ctx, req)
}
func (f *fakeAuthority) TrustBundle() []*ca.Chain { return f.bundle() }

// fixture is a Server over a fake authority, with its logs and metrics.
type fixture struct {
	*Server
	config    Config
	authority *fakeAuthority
	log       *logBuffer
	registry  *prometheus.Registry

	mu   sync.Mutex
	seen []ca.Request // requests to the authority; guarded by mu
}

// newFixture returns a fixture; change, if not nil, changes its Config first.
func newFixture(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{log: new(logBuffer), registry: prometheus.NewRegistry()}
	chain := fakeChain("intermediate", "root")
	f.authority = &fakeAuthority{
		issue: func(_ context.Context, req ca.Request) (*ca.Issued, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			req.Verified = nil
			f.seen = append(f.seen, req)
			return &ca.Issued{Certificate: []byte("leaf"), Chain: chain, SCTEmbedded: true}, nil
		},
		bundle: func() []*ca.Chain { return []*ca.Chain{chain} },
	}
	f.config = Config{
		Issue:       f.authority.Issue,
		TrustBundle: f.authority.TrustBundle,
		Issuers:     func() []IssuerInfo { return nil },
		Registry:    f.registry,
		Logger:      slog.New(slog.NewJSONHandler(f.log, nil)),
	}
	if change != nil {
		change(&f.config)
	}
	s, err := New(f.config)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = s
	return f
}

// asked returns the one request that the authority got.
func (f *fixture) asked(t testing.TB) ca.Request {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) != 1 {
		t.Fatalf("the authority was asked %d times, want once", len(f.seen))
	}
	return f.seen[0]
}

// refuse makes the authority refuse every request with err.
func (f *fixture) refuse(err error) {
	f.authority.issue = func(context.Context, ca.Request) (*ca.Issued, error) { return nil, err }
}

// do sends a request to the server's handler. headers are name, value, name, value.
func (f *fixture) do(t testing.TB, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://ca.example/", strings.NewReader(body))
	r.URL.Path, r.RequestURI = path, path
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w.Result()
}

// count returns how many requests were counted with these labels.
func (f *fixture) count(t testing.TB, api, method, reason string) float64 {
	t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"api": api, "method": method, "reason": reason}
	for _, family := range families {
		if family.GetName() != "mayfly_requests_total" {
			continue
		}
	metrics:
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if want[l.GetName()] != l.GetValue() {
					continue metrics
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	return 0
}

// fakeChain is a chain of fake certificates, which do not parse.
func fakeChain(names ...string) *ca.Chain {
	c := &ca.Chain{}
	for _, name := range names {
		c.DER = append(c.DER, []byte(name))
		c.PEM = append(c.PEM, fakePEM(name))
	}
	return c
}

// fakePEM is the PEM of a fake certificate, without a newline at its end.
func fakePEM(name string) string {
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)})))
}

// logBuffer holds log records, one JSON object a line.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// request returns the access log's record of the request with this ID.
func (l *logBuffer) request(t testing.TB, id string) map[string]any {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] == "request" && record["request_id"] == id {
			return record
		}
	}
	t.Fatalf("no record of request %q in %s", id, l)
	return nil
}

// readAll returns an answer's body.
func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// decodeJSON returns an answer's body, which must be a JSON object.
func decodeJSON(t testing.TB, resp *http.Response) map[string]any {
	t.Helper()
	body := readAll(t, resp)
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q, want application/json", got)
	}
	return v
}

// checkRefusal checks all properties that every refusal over HTTP must have, and returns its
// message.
func checkRefusal(t testing.TB, resp *http.Response, reason refusal.Reason) string {
	t.Helper()
	code, status := codeOf(reason.Kind())
	if resp.StatusCode != status {
		t.Errorf("HTTP status is %d, want %d", resp.StatusCode, status)
	}
	id := resp.Header.Get("X-Request-Id")
	if id == "" {
		t.Error("no X-Request-Id")
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "Grpc-") {
			t.Errorf("header %s in the answer", name)
		}
	}
	body := decodeJSON(t, resp)
	if len(body) != 3 {
		t.Errorf("the error has %d members, want code, message and details: %v", len(body), body)
	}
	if got, _ := body["code"].(float64); codes.Code(got) != code {
		t.Errorf("code is %v, want %d", body["code"], code)
	}
	details, _ := body["details"].([]any)
	var gotReason, gotID string
	for _, d := range details {
		detail, _ := d.(map[string]any)
		switch detail["@type"] {
		case "type.googleapis.com/google.rpc.ErrorInfo":
			gotReason, _ = detail["reason"].(string)
			if detail["domain"] != "mayfly-ca.dev" {
				t.Errorf("domain is %v", detail["domain"])
			}
		case "type.googleapis.com/google.rpc.RequestInfo":
			gotID, _ = detail["requestId"].(string)
		}
	}
	if gotReason != string(reason) {
		t.Errorf("reason is %q, want %q", gotReason, reason)
	}
	if gotID != id {
		t.Errorf("RequestInfo has %q, and X-Request-Id is %q", gotID, id)
	}
	message, _ := body["message"].(string)
	if message == "" {
		t.Error("no message")
	}
	return message
}

// doWithLength posts a body and announces its length as length; -1 announces none.
func (f *fixture) doWithLength(t testing.TB, path, body string, length int64) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", path, io.MultiReader(strings.NewReader(body)))
	r.ContentLength = length
	r.Header.Set("Authorization", "Bearer a.b.c")
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w.Result()
}

// fixedIssue returns the same certificate for every request.
func fixedIssue(issued *ca.Issued) func(context.Context, ca.Request) (*ca.Issued, error) {
	return func(context.Context, ca.Request) (*ca.Issued, error) { return issued, nil }
}
