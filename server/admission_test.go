// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/ratelimit"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// admitting makes the authority admit callers as package ca does. The ID token is ISSUER.NAME.ORG.
func (f *fixture) admitting() {
	answer := f.issue
	f.issue = func(ctx context.Context, req ca.Request) (*ca.Issued, error) {
		parts := strings.SplitN(req.IDToken, ".", 3)
		req.Caller.Token = &oidc.Token{IssuerURL: parts[0], Entry: "entry", Claims: oidc.Claims{"org": parts[2], "n": oidc.Number("7"), "list": []any{"x"}}}
		req.Caller.Identity = &identity.Identity{SAN: certs.SAN{Value: parts[1]}}
		req.Caller.Identity.Extensions[certs.SourceRepositoryOwnerURI] = parts[2]
		if err := req.Admit(req.Caller); err != nil {
			return nil, err
		}
		return answer(ctx, req)
	}
}

func (f *fixture) limit(t testing.TB, rules ...ratelimit.Rule) {
	t.Helper()
	limits, err := ratelimit.New(rules, f.cfg.Registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.cfg.RateLimits = limits
}

// send requests a certificate with a token.
func (f *fixture) send(t testing.TB, token string) *http.Response {
	t.Helper()
	return f.do(t, "POST", "/api/v2/signingCert", strings.Replace(goodV2, "a.b.c", token, 1))
}

// unreadable is a body that must not be read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// A request beyond the limit of its address, or of the server, is refused before its body is read.
func TestRefusedBeforeTheBodyIsRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.Limits.InFlight = 1 })
	f.limit(t, ratelimit.Rule{Name: "address", By: "address", Rate: "1/h", Burst: 1})
	unread := func(path, contentType string) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://ca.example"+path, unreadable{t})
		r.ContentLength = 100
		r.Header.Set("Content-Type", contentType)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		w := httptest.NewRecorder()
		f.Handler().ServeHTTP(w, r)
		return w.Result()
	}
	if resp := f.send(t, "i.n.o"); resp.StatusCode != http.StatusOK {
		t.Fatalf("status is %d", resp.StatusCode)
	}
	refusedAs := func(reason refusal.Reason) {
		t.Helper()
		checkRefusal(t, unread("/api/v2/signingCert", typeJSON), reason)
		checkRefusal(t, unread("/api/v1/signingCert", typeJSON), reason)
		if got := unread("/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate", "application/grpc").Trailer.Get("Grpc-Status"); got != "8" {
			t.Errorf("%s: gRPC status %q; 8 is expected", reason, got)
		}
	}
	refusedAs(refusal.RateLimited)
	if resp := f.do(t, "GET", "/api/v2/trustBundle", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("a read is limited too: %d", resp.StatusCode)
	}
	f.slots <- struct{}{}
	refusedAs(refusal.Overloaded)
}

func TestLimitsOfCallers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.admitting()
	f.limit(t, ratelimit.Rule{Name: "org", By: "claim", Claim: "org", Rate: "1/h", Burst: 2}, ratelimit.Rule{Name: "list", By: "claim", Claim: "list", Rate: "1/h", Burst: 1},
		ratelimit.Rule{Name: "number", By: "claim", Claim: "n", Rate: "1/h", Burst: 3})
	for i, token := range []string{"i.a.one", "i.b.one", "i.c.two"} {
		if resp := f.send(t, token); resp.StatusCode != http.StatusOK {
			t.Errorf("request %d: %d", i, resp.StatusCode)
		}
	}
	resp := f.send(t, "i.d.one")
	if message := checkRefusal(t, resp, refusal.RateLimited); !strings.Contains(message, `"org"`) || !strings.Contains(message, "1/h") {
		t.Errorf("message %q must name the rule and its limit", message)
	}
	if after := resp.Header.Get("Retry-After"); after < "3600" || after > "7200" || len(after) != 4 {
		t.Errorf("Retry-After is %s; one to two hours are expected", after)
	}
	if message := checkRefusal(t, f.send(t, "i.d.three"), refusal.RateLimited); !strings.Contains(message, `"number"`) {
		t.Errorf("message %q must name the rule of the number", message)
	}
	if resp := f.send(t, "j.d.three"); resp.StatusCode != http.StatusOK {
		t.Errorf("another issuer shares the budget: %d", resp.StatusCode)
	}
}

// A verified caller with many requests leaves places to the others, and waits for its turn.
func TestCallersTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 16 }) // 8 places, and 8 in the queue
		release := make(chan struct{})
		f.issue = func(context.Context, ca.Request) (*ca.Issued, error) {
			<-release
			return &ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root"), SCTEmbedded: true}, nil
		}
		f.admitting()
		var all sync.WaitGroup
		var mu sync.Mutex
		statuses := map[string]int{}
		send := func(org string) {
			all.Go(func() {
				resp := f.send(t, "i."+org+"."+org)
				mu.Lock()
				defer mu.Unlock()
				statuses[fmt.Sprint(org, " ", resp.StatusCode)]++
			})
			synctest.Wait()
		}
		for range 40 {
			send("noisy")
		}
		send("quiet")
		if taken, waiting := f.turns.State(); taken != 8 || waiting != 5 || len(f.slots) != 13 {
			t.Errorf("%d places are taken, %d requests wait, %d slots are taken; 8, 5 and 13 are expected", taken, waiting, len(f.slots))
		}
		release <- struct{}{} // the next turn is the quiet one's: noisy has had one more
		release <- struct{}{}
		synctest.Wait()
		if _, waiting := f.turns.State(); waiting != 3 {
			t.Errorf("%d requests wait; 3 are expected", waiting)
		}
		time.Sleep(turnPatience)
		synctest.Wait()
		close(release)
		all.Wait()
		if diff := cmp.Diff(map[string]int{"noisy 200": 9, "noisy 429": 31, "quiet 200": 1}, statuses); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		const counted = `mayfly_verified_requests_total{reason="OK"} 10
mayfly_verified_requests_total{reason="OWN_SHARE_EXCEEDED"} 31
`
		if diff := cmp.Diff(counted, f.metric(t, "mayfly_verified_requests_total")); diff != "" {
			t.Errorf("what the noisy one did to itself must not count as OVERLOADED (-want +got):\n%s", diff)
		}
		if taken, waiting := f.turns.State(); taken != 0 || waiting != 0 || len(f.slots) != 0 {
			t.Errorf("%d places, %d requests and %d slots are left", taken, waiting, len(f.slots))
		}
	})
}

// A token that comes again is counted and recorded, and not refused.
func TestReusedTokens(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.admitting()
	for range 3 {
		if resp := f.send(t, "i.same.o"); resp.StatusCode != http.StatusOK {
			t.Errorf("status is %d", resp.StatusCode)
		}
	}
	f.send(t, "i.other.o")
	const counted = `mayfly_token_reused_total{entry="entry"} 2`
	if got := strings.TrimSpace(f.metric(t, "mayfly_token_reused_total")); got != counted {
		t.Errorf("counted %s, want %s", got, counted)
	}
	r := newFixture(t, nil).reused
	// Signatures of one token may differ: in ECDSA's two forms, or as the issuer signs again.
	if r.again("a.b.c") || !r.again("a.b.d") || !r.again(" a.b.c ") || r.again("a.c.c") {
		t.Error("what was signed must count, and nothing else")
	}
	for i := range maxReused + 10 {
		r.again(fmt.Sprint("x.", i, ".y"))
	}
	if r.seen.Len() != maxReused {
		t.Errorf("%d tokens are remembered, at most %d are expected", r.seen.Len(), maxReused)
	}
}

// A flood that is refused fills no log. Each refusal is counted, for the audit log too.
func TestRefusedFloodIsFewLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		audited := 0
		f := newFixture(t, func(c *Config) { c.Limits.InFlight, c.Refused = 1, func(string) { audited++ } })
		f.slots <- struct{}{}
		for range 3 {
			for range 100 {
				f.send(t, "i.n.o")
			}
			time.Sleep(time.Second)
		}
		if got := strings.Count(f.log.String(), "\n"); got != 3 || strings.Count(f.log.String(), `"left_out":99`) != 2 {
			t.Errorf("%d lines for 300 refusals in three seconds; three are expected, which count the others:\n%s", got, f.log.String())
		}
		const counted = `mayfly_requests_total{api="rest_v2",method="CreateSigningCertificate",reason="OVERLOADED"} 300`
		if got := strings.TrimSpace(f.metric(t, "mayfly_requests_total")); got != counted || audited != 300 {
			t.Errorf("counted %s, and %d for the audit log; want %s", got, audited, counted)
		}
	})
}

// Clients that are refused together do not come back together.
func TestRetryAfterDiffers(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 100 {
		e := jittered(errOverloaded())
		if e.RetryAfter < time.Second || e.RetryAfter >= 2*time.Second {
			t.Errorf("RetryAfter is %v; one to two seconds are expected", e.RetryAfter)
		}
		seen[e.RetryAfter] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d times for 100 clients", len(seen))
	}
	for _, reason := range []refusal.Reason{refusal.CTUnavailable, refusal.TokenMissing} {
		if e := refusal.New(reason, "x"); jittered(e) != e {
			t.Errorf("%s has changed", reason)
		}
	}
}

// The more callers wait, the later one more is told to come back: over the time in which the server answers them.
func TestBacklog(t *testing.T) {
	t.Parallel()
	b := &backlog{start: time.Now(), most: 10}
	at := func(seconds float64) time.Time { return b.start.Add(time.Duration(seconds * float64(time.Second))) }
	refuse := func(times int, seconds float64) (last time.Duration) {
		for range times {
			last = b.refused(time.Second, at(seconds))
		}
		return last
	}
	for _, step := range []struct {
		answers, refusals int
		at                float64
		want              time.Duration // of the last refusal
	}{
		{0, 1, 0, time.Second},
		{0, 10, 0.1, time.Second},     // as many as the server takes at a time
		{0, 20, 0.2, 3 * time.Second}, // 30 wait
		{0, 1000, 0.3, longestRetryAfter * time.Second},
		{100, 1, 40, time.Second},             // all have come back
		{0, 200, 40.5, 2 * time.Second},       // 100 answers in this second
		{0, 1, 41.5, 2010 * time.Millisecond}, // 100 answers in the second before
		{0, 1, 42.5, time.Second},             // two have not come back
		{0, 1, 9000, time.Second},
	} {
		for range step.answers {
			b.answered(at(step.at))
		}
		if got := refuse(step.refusals, step.at).Round(time.Millisecond); got != step.want {
			t.Errorf("after %v s: %v; %v is expected", step.at, got, step.want)
		}
	}
}

// The clients of a server that refuses many get a later time in the answer.
func TestBacklogIsInTheAnswer(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.Limits.InFlight = 1 })
	f.slots <- struct{}{}
	first := f.send(t, "i.n.o").Header.Get("Retry-After")
	for range 20 {
		f.send(t, "i.n.o")
	}
	if last := f.send(t, "i.n.o").Header.Get("Retry-After"); first != "2" || last != "8" {
		t.Errorf("Retry-After is %s, and %s with 21 callers that wait; 2 and 8 are expected", first, last)
	}
}

// appendStatus writes what protojson writes.
func TestStatusInJSON(t *testing.T) {
	t.Parallel()
	for _, entry := range refusal.Table() {
		e := refusal.New(entry.Reason, "100 %% of “ä”, \"quoted\" \\ \n\t<&> \xff\u2028")
		e.RetryAfter = 1234 * time.Millisecond
		var got spb.Status
		if err := protojson.Unmarshal(appendStatus(nil, e, "id-1"), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(statusOf(e, "id-1"), status.FromProto(&got).Proto(), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-statusOf +appendStatus):\n%s", entry.Reason, diff)
		}
	}
}

// BenchmarkRefusal is the cost of a refusal in the handler when all slots are taken.
func BenchmarkRefusal(b *testing.B) {
	f := newFixture(b, func(c *Config) { c.Limits.InFlight = 1 })
	f.slots <- struct{}{}
	handler := f.Handler()
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "http://ca.example/api/v2/signingCert", strings.NewReader(goodV2))
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
}

// A connection is not read from while it is paused, and can be closed meanwhile.
func TestPausedConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 1 })
		f.refusals.SetLimit(1)
		f.refusals.SetBurst(1)
		pipes, stop := f.servePipes(t)
		f.slots <- struct{}{}
		client := pipes.open(t, "")
		answers := make(chan time.Duration, 10)
		begin := time.Now()
		go func() {
			reader := bufio.NewReader(client)
			for {
				resp, err := http.ReadResponse(reader, nil)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				answers <- time.Since(begin).Round(time.Millisecond)
			}
		}()
		var got []time.Duration
		for range 3 {
			if _, err := fmt.Fprintf(client, "POST /api/v2/signingCert HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(goodV2), goodV2); err != nil {
				t.Fatal(err)
			}
			got = append(got, <-answers)
		}
		if diff := cmp.Diff([]time.Duration{0, 0, longestPause}, got); diff != "" {
			t.Errorf("the times of three refusals at one a second (-want +got):\n%s", diff)
		}
		_ = client.Close()
		<-f.slots
		stop()
	})
}
