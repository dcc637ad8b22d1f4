// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// TestEveryReasonHasItsStatus is the table of the design: kind, gRPC code, HTTP status.
func TestEveryReasonHasItsStatus(t *testing.T) {
	t.Parallel()
	want := map[refusal.Kind]struct {
		code codes.Code
		http int
	}{
		refusal.Malformed:        {codes.InvalidArgument, 400},
		refusal.Unauthenticated:  {codes.Unauthenticated, 401},
		refusal.Denied:           {codes.PermissionDenied, 403},
		refusal.NotFound:         {codes.NotFound, 404},
		refusal.MethodNotAllowed: {codes.Unimplemented, 405},
		refusal.SlowDown:         {codes.ResourceExhausted, 429},
		refusal.Unavailable:      {codes.Unavailable, 503},
		refusal.Internal:         {codes.Internal, 500},
	}
	for kind, w := range want {
		if got := answers[kind]; got.code != w.code || got.http != w.http {
			t.Errorf("kind %d: %v, want %v", kind, got, w)
		}
	}
	run := serve(t, true, true, nil)
	grpcClient := fulciov2.NewCAClient(run.dial(t, "127.0.0.1"))
	for _, entry := range refusal.Table() {
		const sentence = "100 % of “ä”"
		refused := refusal.New(entry.Reason, "%s", sentence).Because(errors.New("inner secret"))
		refused.RetryAfter = 1500 * time.Millisecond
		run.refuse(refused)
		for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
			id := string(entry.Reason) + path[5:7]
			resp := run.do(t, "POST", path, strings.TrimSuffix(goodV1, "}")+","+goodV2[1:], "Authorization", "Bearer a.b.c", "X-Request-Id", id)
			level := "INFO"
			switch {
			case entry.Reason == refusal.IssuerUnreachable:
				level = "WARN" // a client without a token can cause it
			case resp.StatusCode == 500 || resp.StatusCode == 503:
				level = "ERROR"
			}
			slowDown := entry.Reason.Kind() == refusal.SlowDown // which has one line a second
			if slowDown && path == "/api/v1/signingCert" {
				if strings.Contains(run.log.String(), id) {
					t.Errorf("%s has a second line at once", entry.Reason)
				}
			} else if got := run.log.request(t, id)["level"]; got != level {
				t.Errorf("%s is of level %v, want %s", entry.Reason, got, level)
			}
			if message := checkRefusal(t, resp, entry.Reason); message != sentence {
				t.Errorf("message is %q", message)
			}
			retry := map[bool]string{true: "2"}[resp.StatusCode == 429 || resp.StatusCode == 503] // rounded up
			got := resp.Header.Get("Retry-After")
			if slowDown && got == "3" { // up to twice as long
				got = retry
			}
			if got != retry || (resp.Header.Get("WWW-Authenticate") == "Bearer") != (resp.StatusCode == 401) {
				t.Errorf("%s: header %v", entry.Reason, resp.Header)
			}
		}
		var header metadata.MD
		_, err := grpcClient.CreateSigningCertificate(t.Context(), csrRequest("a.b.c"), grpc.Header(&header))
		if message := checkStatus(t, status.Convert(err), strings.Join(header.Get("x-request-id"), ","), entry.Reason); message != sentence {
			t.Errorf("gRPC: message is %q", message)
		}
	}
}

// TestWhatNobodyMeantForAClientIsHidden: such as a key-management failure with the key's name.
func TestWhatNobodyMeantForAClientIsHidden(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"an ordinary error":             errors.New("opening awskms:///secret-key"),
		"a reason that the table lacks": refusal.New("SECRET_REASON", "opening awskms:///secret-key"),
		"a refusal's cause":             refusal.New(refusal.InternalError, "it failed").Because(errors.New("awskms:///secret-key")),
	} {
		f := newFixture(t, nil)
		f.refuse(err)
		resp := f.do(t, "POST", "/api/v2/signingCert", goodV2, "X-Request-Id", "id-1")
		if message := checkRefusal(t, resp, refusal.InternalError); strings.Contains(strings.ToLower(message), "secret") {
			t.Errorf("%s: message is %q", name, message)
		}
		record := f.log.request(t, "id-1")
		if cause, _ := record["cause"].(string); !strings.Contains(cause, "secret-key") || record["reason"] != "INTERNAL" {
			t.Errorf("%s: the operator's record is %v", name, record)
		}
	}
}

func TestPanicNeverReachesTheClient(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert", "/api/v2/trustBundle", "/api/v2/configuration"} {
		f := newFixture(t, func(c *Config) { c.Issuers = func() []IssuerInfo { panic("secret panic") } })
		f.issue = func(context.Context, ca.Request) (*ca.Issued, error) { panic("secret panic") }
		f.bundle = func() []*ca.Chain { panic(errors.New("secret panic")) }
		method := http.MethodGet
		if strings.HasSuffix(path, "signingCert") {
			method = http.MethodPost
		}
		resp := f.do(t, method, path, goodV1, "Authorization", "Bearer a.b.c", "X-Request-Id", "id-1") // v2 ignores unknown fields
		if message := checkRefusal(t, resp, refusal.InternalError); strings.Contains(message, "panic") {
			t.Errorf("%s: message is %q", path, message)
		}
		record := f.log.request(t, "id-1")
		if stack, _ := record["stack"].(string); record["cause"] == nil || !strings.Contains(stack, "request_test.go") {
			t.Errorf("%s: the operator's record lacks the panic: %v", path, record)
		}
		if len(f.slots) != 0 {
			t.Error("the slot was not given back")
		}
	}
}

func TestOneRequestTooManyIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.Limits.InFlight = 2 })
	entered, release := f.hold()
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			if resp := f.do(t, "POST", "/api/v2/signingCert", goodV2); resp.StatusCode != http.StatusOK {
				t.Errorf("status is %d", resp.StatusCode)
			}
		})
		<-entered
	}
	checkRefusal(t, f.do(t, "POST", "/api/v1/signingCert", goodV1), refusal.Overloaded)
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
		var refused error // the authority's own takes precedence over the deadline
		f.issue = func(ctx context.Context, req ca.Request) (*ca.Issued, error) {
			req.Caller.Token = &oidc.Token{Entry: "https://issuer.example"}
			<-ctx.Done()
			return nil, errors.Join(ctx.Err(), refused)
		}
		start := time.Now()
		resp := f.do(t, "POST", "/api/v2/signingCert", goodV2)
		if took := time.Since(start); took != 4500*time.Millisecond {
			t.Errorf("the answer took %v, want 4.5 s", took)
		}
		checkRefusal(t, resp, refusal.Overloaded)
		refused = refusal.New(refusal.CTUnavailable, "no log answered")
		checkRefusal(t, f.do(t, "POST", "/api/v2/signingCert", goodV2), refusal.CTUnavailable)
		// The client waited for both, so both count against the service level.
		want := `mayfly_verified_requests_total{reason="CT_UNAVAILABLE"} 1
mayfly_verified_requests_total{reason="OVERLOADED"} 1
`
		if got := f.metric(t, "mayfly_verified_requests_total"); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestAccessLogHasOneLineAndNoToken(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJub25lIn0.c2VjcmV0.c2ln"
	f := newFixture(t, nil)
	f.do(t, "POST", "/api/v2/signingCert", `{"credentials":{"oidcIdentityToken":"`+token+`"},"certificateSigningRequest":"AQID"}`, "X-Request-Id", "ok-1")
	f.refuse(refusal.New(refusal.TokenExpired, "the token expired").Because(errors.New("the cause")))
	f.do(t, "POST", "/api/v1/signingCert", goodV1, "Authorization", "Bearer "+token, "X-Request-Id", "no-1")
	f.do(t, "POST", "/api/v2/signingCert", `{"certificateSigningRequest":"`+token+`"}`, "X-Request-Id", "no-2")
	for id, want := range map[string]string{
		"ok-1": "INFO rest_v2 CreateSigningCertificate 192.0.2.1:1234 OK <nil>",
		"no-1": "INFO rest_v1 CreateSigningCertificate 192.0.2.1:1234 TOKEN_EXPIRED the cause",
	} {
		r := f.log.request(t, id)
		if got := fmt.Sprint(r["level"], " ", r["api"], " ", r["method"], " ", r["peer"], " ", r["reason"], " ", r["cause"]); got != want || r["duration"] == nil {
			t.Errorf("%s: record is %v, want %s", id, r, want)
		}
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
		f.issue = func(_ context.Context, req ca.Request) (*ca.Issued, error) {
			if outcome.verified {
				req.Caller.Token = &oidc.Token{}
			}
			return &ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root"), SCTEmbedded: true}, outcome.err
		}
		f.do(t, "POST", "/api/v2/signingCert", goodV2)
	}
	f.issue = func(_ context.Context, req ca.Request) (*ca.Issued, error) {
		req.Caller.Token = &oidc.Token{}
		panic("odd input")
	}
	f.do(t, "POST", "/api/v2/signingCert", goodV2)
	want := `mayfly_verified_requests_total{reason="CT_UNAVAILABLE"} 1
mayfly_verified_requests_total{reason="INTERNAL"} 2
mayfly_verified_requests_total{reason="OK"} 2
mayfly_verified_requests_total{reason="POLICY_DENIED"} 1
`
	if got := f.metric(t, "mayfly_verified_requests_total"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestAccessLogLevel: a request has its record only if the logger writes that level.
func TestAccessLogLevel(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.cfg.Logger = slog.New(slog.NewJSONHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelError}))
	readAll(t, f.do(t, "POST", "/api/v2/signingCert", goodV2))
	if lines := f.log.String(); lines != "" {
		t.Errorf("level error has the lines %s", lines)
	}
	f.refuse(errors.New("a fault"))
	readAll(t, f.do(t, "POST", "/api/v2/signingCert", goodV2, "X-Request-Id", "fault"))
	if record := f.log.request(t, "fault"); record["level"] != "ERROR" || record["time"] == nil {
		t.Errorf("the record is %v", record)
	}
}
