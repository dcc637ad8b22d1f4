// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// badIssuer is an issuer on a real socket that counts its requests, and misbehaves.
type badIssuer struct {
	*httptest.Server
	asked atomic.Int64
}

func newBadIssuer(t *testing.T, misbehave http.HandlerFunc) *badIssuer {
	b := &badIssuer{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		misbehave(rw, r)
	}))
	t.Cleanup(b.Close)
	return b
}

func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func answers500(rw http.ResponseWriter, _ *http.Request) {
	http.Error(rw, "down", http.StatusInternalServerError)
}

// token is a token in the issuer's name.
func (b *badIssuer) token(t *testing.T) string {
	t.Helper()
	p, err := provider.New(provider.Config{IssuerURL: b.URL})
	if err != nil {
		t.Fatal(err)
	}
	return mintEmail(t, p)
}

func mintEmail(t *testing.T, p *provider.Provider) string {
	t.Helper()
	token, err := p.Mint(map[string]any{"sub": "person-1", "email": "person@example.com", "email_verified": true})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// served is a complete server, on real sockets, built from files.
type served struct {
	world     *testworld.World
	rest, ops string
	took      time.Duration // from the start until ready
}

// serveIssuers serves a demo world with further static issuers of type email, and meta-issuers.
func serveIssuers(t *testing.T, static []string, meta ...string) *served {
	t.Helper()
	s := &served{}
	var err error
	if s.world, err = testworld.New(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.world.Close)
	issuers := "oidc-issuers:\n"
	for _, issuer := range append(static, s.world.Provider.IssuerURL()) {
		issuers += fmt.Sprintf("  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n", issuer)
	}
	if len(meta) > 0 {
		issuers += "meta-issuers:\n"
	}
	for _, pattern := range meta {
		issuers += fmt.Sprintf("  %q: {client-id: sigstore, type: email}\n", pattern)
	}
	if err := os.WriteFile(filepath.Join(s.world.Dir, "issuers.yaml"), []byte(issuers), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	running, err := app.Build(ctx, app.Options{ConfigFile: s.world.ConfigFile, LogOutput: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := running.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s.rest, s.ops = "http://"+listeners.HTTP.Addr().String(), "http://"+listeners.Ops.Addr().String()
	done := make(chan error, 1)
	go func() { done <- running.Run(ctx, listeners) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	s.until(t, "readiness", func() bool { status, _ := s.get(t, s.rest+"/readyz"); return status == http.StatusOK })
	s.took = time.Since(start)
	return s
}

// until polls a condition for ten seconds.
func (s *served) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("%s did not come about in time", what)
		}
	}
}

func (s *served) get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// certify requests a certificate and verifies it.
func (s *served) certify(t *testing.T, token string) error {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := client.New(client.Config{URL: s.rest})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.SigningCertificate(t.Context(), client.Request{IDToken: token, Signer: key})
	if err != nil {
		return err
	}
	return s.world.Verify(certificate.PEM)
}

// refused posts a request that only its token decides, and returns the server's answer.
func (s *served) refused(t *testing.T, token string) (status int, reason string, header http.Header) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"credentials":      map[string]any{"oidcIdentityToken": token},
		"publicKeyRequest": map[string]any{"publicKey": map[string]any{"content": "-----BEGIN PUBLIC KEY-----\n"}, "proofOfPossession": "AA=="},
	})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.rest+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return 0, "", nil
	}
	defer response.Body.Close()
	var answer struct {
		Details []struct {
			Reason string `json:"reason"`
		} `json:"details"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Error(err)
	}
	for _, detail := range answer.Details {
		reason += detail.Reason
	}
	return response.StatusCode, reason, response.Header
}

// TestFigureHangingIssuers: while three issuers hang, the server is ready, issues for the others,
// and reports the state of each.
func TestFigureHangingIssuers(t *testing.T) {
	t.Parallel()
	var hanging []string
	for range 3 {
		hanging = append(hanging, newBadIssuer(t, hangs).URL)
	}
	s := serveIssuers(t, hanging)
	t.Logf("three hanging issuers: from reading the configuration to ready in %s", s.took)
	if err := s.certify(t, mintEmail(t, s.world.Provider)); err != nil {
		t.Errorf("a good issuer: %v", err)
	}
	good := s.world.Provider.IssuerURL()
	state := func(issuer, state string) bool {
		_, metrics := s.get(t, s.ops+"/metrics")
		return strings.Contains(metrics, fmt.Sprintf("mayfly_oidc_issuer_state{entry=%q,state=%q} 1\n", issuer, state))
	}
	if !state(good, "ok") {
		t.Error("the metrics do not say that the good issuer is ok")
	}
	for _, issuer := range hanging {
		if !state(issuer, "pending") && !state(issuer, "failing") {
			t.Errorf("the metrics do not say that %s is pending, or has failed by now", issuer)
		}
	}
	for _, issuer := range hanging {
		// The first fetch times out after 5 s.
		s.until(t, "the failure of "+issuer, func() bool { return state(issuer, "failing") })
		s.until(t, "the report of "+issuer, func() bool {
			status, report := s.get(t, s.rest+"/readyz?verbose")
			return status == http.StatusOK && strings.Contains(report, issuer+": failing, no keys yet") && strings.Contains(report, good+": ok, keys ")
		})
	}
	if _, report := s.get(t, s.rest+"/readyz?verbose"); strings.Contains(report, "openid-configuration") {
		t.Errorf("the causes are for the operator alone: %s", report)
	}
	if _, report := s.get(t, s.ops+"/readyz?verbose"); !strings.Contains(report, "openid-configuration") {
		t.Errorf("the operator is not told the causes: %s", report)
	}
	_, metrics := s.get(t, s.ops+"/metrics")
	for _, pattern := range []string{
		`mayfly_oidc_issuer_last_success_timestamp_seconds\{entry="` + good + `"\} 1\.\d+e\+09`,
		`mayfly_oidc_issuer_last_success_timestamp_seconds\{entry="` + hanging[0] + `"\} 0`,
		`mayfly_oidc_issuer_key_age_seconds\{entry="` + good + `"\} \d`,
		`mayfly_oidc_fetch_duration_seconds_count\{document="keys",entry="` + good + `"\} 1`,
		`mayfly_oidc_fetches_total\{document="discovery",entry="` + hanging[0] + `",result="error"\} \d`,
	} {
		if !regexp.MustCompile(pattern).MatchString(metrics) {
			t.Errorf("the metrics lack %s", pattern)
		}
	}
}

// TestFigureIssuerDown: 50 concurrent requests for an issuer that is down cause one fetch at most.
// The answer is 503 ISSUER_UNREACHABLE, with Retry-After.
func TestFigureIssuerDown(t *testing.T) {
	t.Parallel()
	for name, misbehave := range map[string]http.HandlerFunc{"answers 500": answers500, "hangs": hangs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Under a pattern, requests cause the first fetch; a static issuer's backoff decides its
			// fetches, which a test of package oidc checks with its own clock.
			down := newBadIssuer(t, misbehave)
			s := serveIssuers(t, nil, down.URL+"/*")
			p, err := provider.New(provider.Config{IssuerURL: down.URL + "/tenant"})
			if err != nil {
				t.Fatal(err)
			}
			token, start := mintEmail(t, p), time.Now()
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					status, reason, header := s.refused(t, token)
					if status != http.StatusServiceUnavailable || reason != "ISSUER_UNREACHABLE" || header.Get("Retry-After") == "" {
						t.Errorf("status %d, reason %s, header %v", status, reason, header)
					}
				})
			}
			all.Wait()
			n, took := down.asked.Load(), time.Since(start)
			t.Logf("an issuer that %s, 50 requests at once: %d fetches, answers within %s", name, n, took)
			// Another fetch is due a second after the first has failed, with jitter. This matters on a
			// machine that is slow to send 50 requests.
			if most := 1 + int64(took/(700*time.Millisecond)); n > most {
				t.Errorf("%d fetches, %d at most", n, most)
			}
			if err := s.certify(t, mintEmail(t, s.world.Provider)); err != nil {
				t.Errorf("a good issuer: %v", err)
			}
		})
	}
}

// TestStaticIssuerDown: the same for a static issuer, while its own retries continue.
func TestStaticIssuerDown(t *testing.T) {
	t.Parallel()
	down := newBadIssuer(t, answers500)
	s := serveIssuers(t, []string{down.URL})
	s.until(t, "the third attempt", func() bool { return down.asked.Load() >= 3 })
	// The next fetch is due in four seconds.
	token, before := down.token(t), down.asked.Load()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if status, reason, _ := s.refused(t, token); status != http.StatusServiceUnavailable || reason != "ISSUER_UNREACHABLE" {
				t.Errorf("status %d, reason %s", status, reason)
			}
		})
	}
	all.Wait()
	if n := down.asked.Load() - before; n > 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestFloodOfNames: unknown issuers under a pattern cost one fetch each at most. If there are too
// many, their clients must retry later. Other clients are not affected.
func TestFloodOfNames(t *testing.T) {
	t.Parallel()
	unknown := newBadIssuer(t, func(rw http.ResponseWriter, r *http.Request) { http.NotFound(rw, r) })
	s := serveIssuers(t, nil, unknown.URL+"/*")
	const names = 400
	reasons := map[string]int{}
	for i := range names {
		p, err := provider.New(provider.Config{IssuerURL: fmt.Sprintf("%s/made-up-%d", unknown.URL, i), Algorithm: "ES256"})
		if err != nil {
			t.Fatal(err)
		}
		_, reason, _ := s.refused(t, mintEmail(t, p))
		reasons[reason]++
	}
	t.Logf("%d made-up issuers: %d fetches, answers %v", names, unknown.asked.Load(), reasons)
	if n := unknown.asked.Load(); n > int64(reasons["ISSUER_UNREACHABLE"]) || reasons["ISSUER_UNREACHABLE"]+reasons["OVERLOADED"] != names {
		t.Errorf("%d fetches, answers %v", n, reasons)
	}
	if err := s.certify(t, mintEmail(t, s.world.Provider)); err != nil {
		t.Errorf("a good issuer: %v", err)
	}
	var refused *client.Error
	if err := s.certify(t, unknown.token(t)); !errors.As(err, &refused) {
		t.Errorf("an issuer that is not configured: %v", err)
	}
}
