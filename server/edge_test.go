// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

func TestOneRequestTooManyIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.Limits.InFlight = 2 })
	entered, release := make(chan struct{}), make(chan struct{})
	f.authority.issue = func(context.Context, ca.Request) (*ca.Issued, error) {
		entered <- struct{}{}
		<-release
		return &ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root")}, nil
	}
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			if resp := f.do(t, "POST", "/api/v2/signingCert", goodV2); resp.StatusCode != http.StatusOK {
				t.Errorf("status is %d", resp.StatusCode)
			}
		})
		<-entered
	}
	for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
		resp := f.do(t, "POST", path, goodV2, "Authorization", "Bearer a.b.c")
		checkRefusal(t, resp, refusal.Overloaded)
		if got := resp.Header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After is %q", got)
		}
	}
	if resp := f.do(t, "GET", "/healthz", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("health was refused for want of room: %d", resp.StatusCode)
	}
	close(release)
	busy.Wait()
	if resp := f.do(t, "GET", "/api/v2/trustBundle", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("the slots were not given back: %d", resp.StatusCode)
	}
}

func TestAnswerHasADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		f.authority.issue = func(ctx context.Context, _ ca.Request) (*ca.Issued, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		resp := f.do(t, "POST", "/api/v2/signingCert", goodV2)
		if took := time.Since(start); took != 4500*time.Millisecond {
			t.Errorf("the answer took %v, want 4.5 s", took)
		}
		checkRefusal(t, resp, refusal.Overloaded)

		// The authority's own error takes precedence over the deadline.
		f.authority.issue = func(ctx context.Context, _ ca.Request) (*ca.Issued, error) {
			<-ctx.Done()
			return nil, refusal.New(refusal.CTUnavailable, "no log answered").Because(ctx.Err())
		}
		checkRefusal(t, f.do(t, "POST", "/api/v2/signingCert", goodV2), refusal.CTUnavailable)
	})
}

func TestPanicNeverReachesTheClient(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert", "/api/v2/trustBundle", "/api/v1/rootCert", "/api/v2/configuration"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(c *Config) { c.Issuers = func() []IssuerInfo { panic("secret panic") } })
			f.authority.issue = func(context.Context, ca.Request) (*ca.Issued, error) { panic("secret panic") }
			f.authority.bundle = func() []*ca.Chain { panic(errors.New("secret panic")) }
			method, body := http.MethodGet, ""
			if strings.HasSuffix(path, "signingCert") {
				method, body = http.MethodPost, goodV1 // v2 ignores unknown fields
			}
			resp := f.do(t, method, path, body, "Authorization", "Bearer a.b.c", "X-Request-Id", "id-1")
			if message := checkRefusal(t, resp, refusal.InternalError); strings.Contains(message, "panic") {
				t.Errorf("message is %q", message)
			}
			record := f.log.request(t, "id-1")
			stack, _ := record["stack"].(string)
			if record["cause"] == nil || !strings.Contains(stack, "edge_test.go") || record["level"] != "ERROR" {
				t.Errorf("the operator's record lacks the panic: %v", record)
			}
			if len(f.slots) != 0 {
				t.Error("the slot was not given back")
			}
		})
	}
}

func TestClientThatWentAwayIsNobodysFault(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	f.authority.issue = func(ctx context.Context, _ ca.Request) (*ca.Issued, error) {
		cancel()
		return nil, refusal.New(refusal.CTUnavailable, "no log answered").Because(ctx.Err())
	}
	r := httptest.NewRequestWithContext(ctx, "POST", "/api/v2/signingCert", strings.NewReader(goodV2))
	r.Header.Set("X-Request-Id", "id-1")
	f.Handler().ServeHTTP(httptest.NewRecorder(), r)
	if got := f.count(t, "rest_v2", "CreateSigningCertificate", "CANCELED"); got != 1 {
		t.Errorf("counted %v times as CANCELED", got)
	}
	if record := f.log.request(t, "id-1"); record["level"] != "INFO" || record["reason"] != "CANCELED" {
		t.Errorf("record is %v", record)
	}
}

func TestAccessLogHasOneLineAndNoToken(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJub25lIn0.c2VjcmV0.c2ln"
	f := newFixture(t, nil)
	f.do(t, "POST", "/api/v2/signingCert", `{"credentials":{"oidcIdentityToken":"`+token+`"},"certificateSigningRequest":"AQID"}`, "X-Request-Id", "ok-1")
	f.refuse(refusal.New(refusal.TokenExpired, "the token expired").Because(errors.New("the cause")))
	f.do(t, "POST", "/api/v1/signingCert", goodV1, "Authorization", "Bearer "+token, "X-Request-Id", "no-1")
	f.do(t, "POST", "/api/v2/signingCert", `{"certificateSigningRequest":"`+token+`"}`, "X-Request-Id", "no-2")

	ok := f.log.request(t, "ok-1")
	for key, want := range map[string]string{"api": "rest_v2", "method": "CreateSigningCertificate", "peer": "192.0.2.1:1234", "reason": "OK", "level": "INFO"} {
		if ok[key] != want {
			t.Errorf("%s is %v, want %s", key, ok[key], want)
		}
	}
	if _, has := ok["duration"]; !has {
		t.Error("no duration")
	}
	no := f.log.request(t, "no-1")
	if no["reason"] != "TOKEN_EXPIRED" || no["cause"] != "the cause" || no["level"] != "INFO" || no["api"] != "rest_v1" {
		t.Errorf("record is %v", no)
	}
	if got := strings.Count(f.log.String(), "\n"); got != 3 {
		t.Errorf("%d lines, want 3", got)
	}
	for _, part := range strings.Split(token, ".") {
		if strings.Contains(f.log.String(), part) {
			t.Errorf("the log has a part of the token, %q", part)
		}
	}
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, path := range []string{"/a", "/b", "/api/v1/c", "/api/v2/d"} {
		f.do(t, "GET", path, "")
		f.do(t, "X"+path[1:2], path, "")
	}
	if got := f.count(t, "rest_v2", "unknown", "NOT_FOUND") + f.count(t, "rest_v1", "unknown", "NOT_FOUND"); got != 8 {
		t.Errorf("counted %v, want 8", got)
	}
}

// TestLevelOfARecord: a failure that a client without a token can cause is not logged as an error.
func TestLevelOfARecord(t *testing.T) {
	t.Parallel()
	for reason, want := range map[refusal.Reason]string{
		refusal.SignatureInvalid: "INFO", refusal.RateLimited: "INFO", refusal.IssuerUnreachable: "WARN",
		refusal.CTUnavailable: "ERROR", refusal.InternalError: "ERROR",
	} {
		f := newFixture(t, nil)
		f.refuse(refusal.New(reason, "refused"))
		f.do(t, "POST", "/api/v2/signingCert", goodV2, "X-Request-Id", "id-1")
		if level := f.log.request(t, "id-1")["level"]; level != want {
			t.Errorf("%s is of level %v, want %s", reason, level, want)
		}
	}
}

// TestVerifiedRequestsAreCounted: an outage that any client without a token can pretend is not
// counted with those of clients with a token.
func TestVerifiedRequestsAreCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, outcome := range []struct {
		verified bool
		err      error
	}{
		{true, nil}, {true, nil}, {false, refusal.New(refusal.IssuerUnreachable, "down")}, {false, refusal.New(refusal.SignatureInvalid, "bad")},
		{true, refusal.New(refusal.CTUnavailable, "down")}, {true, refusal.New(refusal.PolicyDenied, "denied")}, {true, errors.New("fault")},
	} {
		f.authority.issue = func(_ context.Context, req ca.Request) (*ca.Issued, error) {
			if outcome.verified {
				req.Verified()
			}
			return &ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root"), SCTEmbedded: true}, outcome.err
		}
		f.do(t, "POST", "/api/v2/signingCert", goodV2)
	}
	f.authority.issue = func(_ context.Context, req ca.Request) (*ca.Issued, error) {
		req.Verified()
		panic("odd input")
	}
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	var got []string
	for line := range strings.Lines(readAll(t, f.ops(t, "/metrics"))) {
		if strings.HasPrefix(line, "mayfly_verified_requests_total{") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`mayfly_verified_requests_total{reason="CT_UNAVAILABLE"} 1`, `mayfly_verified_requests_total{reason="INTERNAL"} 2`,
		`mayfly_verified_requests_total{reason="OK"} 2`, `mayfly_verified_requests_total{reason="POLICY_DENIED"} 1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
