// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// web is the network of a test. It calls handlers by origin in place, so that a synctest bubble
// waits only for timers.
type web struct {
	mu       sync.Mutex
	sites    map[string]http.Handler
	requests []*http.Request
}

func newWeb() *web { return &web{sites: make(map[string]http.Handler)} }

// serve sets handler for the origin of rawURL; nil removes it from the network.
func (w *web) serve(rawURL string, handler http.Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sites[originOf(rawURL)] = handler
}

// sent returns the requests until now.
func (w *web) sent() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.requests)
}

func (w *web) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	site := w.sites[origin(req.URL)]
	w.requests = append(w.requests, req)
	w.mu.Unlock()
	if site == nil {
		return nil, fmt.Errorf("no route to %s", req.URL.Host)
	}
	recorder := httptest.NewRecorder()
	site.ServeHTTP(recorder, req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

func (w *web) transport(reach) http.RoundTripper { return w }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// hang answers nothing until the client cancels the request.
var hang = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })

// body answers every request with text.
func body(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// site serves a discovery document that lists ES256 and has more members, and a key set.
func site(issuerURL, jwksURI, more string, keySet http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/.well-known/openid-configuration", body(fmt.Sprintf(
		`{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]%s}`, issuerURL, jwksURI, more)))
	mux.Handle("/", keySet)
	return mux
}

// mimic serves p's keys under another issuer URL.
func mimic(issuerURL string, p http.Handler) http.Handler {
	return site(issuerURL, issuerURL+"/keys", "", p)
}

// unknownClient is the zero address, which counts as one client.
var unknownClient netip.Addr

// clientNumber returns an IPv4 address, each in another /24.
func clientNumber(i int) netip.Addr { return netip.AddrFrom4([4]byte{1, byte(i >> 8), byte(i), 7}) }

const testIssuer = "https://issuer.example"

// world is a verifier with one provider on a web of its own.
type world struct {
	*web
	verifier *Verifier
	provider *provider.Provider
}

// newWorld has the static issuer testIssuer, audience sigstore, unless cfg sets others.
func newWorld(t testing.TB, cfg Config, p provider.Config) *world {
	t.Helper()
	if p.IssuerURL == "" {
		p.IssuerURL = testIssuer
	}
	if cfg.Issuers == nil {
		cfg.Issuers = issuers(p.IssuerURL)
	}
	w := &world{web: newWeb(), provider: newProvider(t, p)}
	w.serve(p.IssuerURL, w.provider)
	w.verifier = newTestVerifier(t, cfg, w.transport)
	return w
}

// wildWorld has the patterns https://*.example, with the provider of testIssuer under it, and
// https://*.other, with the provider that it returns.
func wildWorld(t testing.TB) (*world, *provider.Provider) {
	w := newWorld(t, Config{Issuers: issuers("https://*.example", "https://*.other")}, provider.Config{Lifetime: 10 * time.Hour})
	other := newProvider(t, provider.Config{IssuerURL: "https://b.other", Lifetime: 10 * time.Hour})
	w.serve(other.IssuerURL(), other)
	return w, other
}

func newProvider(t testing.TB, cfg provider.Config) *provider.Provider {
	t.Helper()
	if cfg.Algorithm == "" {
		cfg.Algorithm = "ES256" // its keys are fast to create
	}
	return must(provider.New(cfg))(t)
}

func newTestVerifier(t testing.TB, cfg Config, transport transportFunc) *Verifier {
	t.Helper()
	return must(newVerifier(cfg, transport))(t)
}

// must fails the test if a call returned an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// issuers returns entries for issuer URLs and patterns.
func issuers(keys ...string) (list []Issuer) {
	for _, key := range keys {
		list = append(list, Issuer{Key: key, Wildcard: strings.Contains(key, "*"), Audiences: []string{"sigstore"}})
	}
	return list
}

// bothKinds runs test in a bubble for testIssuer as a static issuer and under a pattern.
func bothKinds(t *testing.T, test func(t *testing.T, issuer []Issuer)) {
	for _, key := range []string{testIssuer, "https://*.example"} {
		t.Run(key, func(t *testing.T) {
			bubble(t, func(t *testing.T) { test(t, issuers(key)) })
		})
	}
}

// bubble runs a parallel test with a clock of its own.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

// run starts Run for the rest of the bubble, and waits for the first fetches; the returned function
// stops it.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.verifier.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		time.Sleep(2 * fetchTimeout) // until its fetches have ended
	}
}

func (w *world) rotate(t testing.TB) {
	t.Helper()
	must(w.provider.Rotate())(t)
}

// verify returns the refusal of a token from an unknown client.
func (w *world) verify(t *testing.T, token string) error {
	return w.verifyFrom(t, unknownClient, token)
}

func (w *world) verifyFrom(t *testing.T, client netip.Addr, token string) error {
	_, err := w.verifier.Verify(t.Context(), token, client)
	return err
}

// accept fails unless the token is accepted, without waiting.
func (w *world) accept(t *testing.T, token string) {
	t.Helper()
	start := time.Now()
	if err := w.verify(t, token); err != nil || time.Since(start) > maxWait {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

// refuse fails unless the token is refused for reason.
func (w *world) refuse(t *testing.T, token string, reason refusal.Reason) *refusal.Error {
	t.Helper()
	return wantReason(t, w.verify(t, token), reason)
}

// tokenOf returns a token of an issuer with the provider's keys.
func (w *world) tokenOf(t testing.TB, issuerURL string) string {
	return mint(t, w.provider, map[string]any{"iss": issuerURL})
}

func mint(t testing.TB, p *provider.Provider, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"sub": "someone"}
	maps.Copy(all, claims)
	return must(p.Mint(all))(t)
}

// sign creates a token from any payload and header.
func sign(t testing.TB, key jose.JSONWebKey, header map[jose.HeaderKey]any, payload string) string {
	t.Helper()
	options := &jose.SignerOptions{ExtraHeaders: header}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, options))(t)
	return must(must(signer.Sign([]byte(payload)))(t).CompactSerialize())(t)
}

// payload is a set of claims for testIssuer as JSON text, valid for ten hours, with extra members.
func payload(extra string) string {
	return fmt.Sprintf(`{"iss":%q,"sub":"someone","aud":"sigstore","exp":%d%s}`, testIssuer, time.Now().Add(10*time.Hour).Unix(), extra)
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(curve, rand.Reader))(t)
}

// jwkOf returns the members of key as JSON, changed by change.
func jwkOf(t testing.TB, key any, change map[string]any) string {
	t.Helper()
	members := map[string]any{}
	if err := json.Unmarshal(must(json.Marshal(jose.JSONWebKey{Key: key}))(t), &members); err != nil {
		t.Fatal(err)
	}
	maps.Copy(members, change)
	return string(must(json.Marshal(members))(t))
}

// wantReason fails unless err is a refusal for reason, and returns it.
func wantReason(t testing.TB, err error, reason refusal.Reason) *refusal.Error {
	t.Helper()
	var e *refusal.Error
	if !errors.As(err, &e) || e.Reason != reason {
		t.Fatalf("error %v, want a refusal %s", err, reason)
	}
	return e
}

// wantTemporary fails unless err is the refusal of a bad token: final if the keys are new, and
// otherwise with a Retry-After before the next fetch.
func wantTemporary(t testing.TB, err error) {
	t.Helper()
	e := refusal.From(err)
	if (e.Reason == refusal.IssuerUnreachable || e.Reason.Kind() == refusal.SlowDown) && 0 < e.RetryAfter && e.RetryAfter <= checkInterval+checkJitter {
		return
	}
	wantReason(t, err, refusal.SignatureInvalid)
}

// rows returns the lines of a file in testdata that are not comments, each split at white space.
func rows(t testing.TB, name string) (list [][]string) {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile("testdata/" + name))(t))) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "#" {
			list = append(list, fields)
		}
	}
	if len(list) < 10 {
		t.Fatalf("testdata/%s has %d rows only", name, len(list))
	}
	return list
}
