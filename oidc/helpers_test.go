// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"testing"
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
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sites[origin(u)] = handler
}

// sent returns the requests until now.
func (w *web) sent() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*http.Request(nil), w.requests...)
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

// hang answers nothing until the client cancels the request.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// unknownClient is the zero address, which counts as one client.
var unknownClient netip.Addr

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
	if p.Algorithm == "" {
		p.Algorithm = "ES256" // its keys are fast to create
	}
	if cfg.Issuers == nil {
		cfg.Issuers = []Issuer{staticIssuer(p.IssuerURL)}
	}
	w := &world{web: newWeb()}
	w.provider = newProvider(t, p)
	w.serve(p.IssuerURL, w.provider)
	w.verifier = newTestVerifier(t, cfg, w.web)
	return w
}

func newProvider(t testing.TB, cfg provider.Config) *provider.Provider {
	t.Helper()
	if cfg.Algorithm == "" {
		cfg.Algorithm = "ES256"
	}
	p, err := provider.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newTestVerifier(t testing.TB, cfg Config, w *web) *Verifier {
	t.Helper()
	v, err := newVerifier(cfg, w.transport)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func staticIssuer(issuerURL string) Issuer {
	return Issuer{Key: issuerURL, URL: issuerURL, Audiences: []string{"sigstore"}}
}

func wildcardIssuer(pattern string) Issuer {
	return Issuer{Key: pattern, Pattern: pattern, Audiences: []string{"sigstore"}}
}

func mint(t testing.TB, p *provider.Provider, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"sub": "someone"}
	for name, value := range claims {
		all[name] = value
	}
	token, err := p.Mint(all)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sign creates a token from any payload and header.
func sign(t testing.TB, key jose.JSONWebKey, header map[jose.HeaderKey]any, payload string) string {
	t.Helper()
	options := &jose.SignerOptions{ExtraHeaders: header}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// payload is a valid set of claims for testIssuer as JSON text, with extra members.
func payload(extra string) string {
	return fmt.Sprintf(`{"iss":%q,"sub":"someone","aud":"sigstore","exp":%d%s}`,
		testIssuer, time.Now().Add(time.Minute).Unix(), extra)
}

// wantReason fails unless err is a refusal for reason, and returns it.
func wantReason(t testing.TB, err error, reason refusal.Reason) *refusal.Error {
	t.Helper()
	var e *refusal.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want a refusal %s", err, reason)
	}
	if e.Reason != reason {
		t.Fatalf("refusal %v, want %s", e, reason)
	}
	return e
}

// body answers every request with text.
func body(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}
