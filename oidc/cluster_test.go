// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestInCluster: the cluster's CA and token are used, read anew, and the token goes nowhere
// else; keys are read at the fixed path.
func TestInCluster(t *testing.T) {
	t.Parallel()
	var jwksURI, token atomic.Value
	elsewhere := newProvider(t, provider.Config{IssuerURL: "https://elsewhere.example"})
	p, server := realWorld(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != token.Load() {
				http.Error(rw, "who are you", http.StatusForbidden)
				return
			}
			if r.URL.Path == "/openid/v1/jwks" {
				r.URL.Path = "/keys"
				jwksURI.Store("fixed")
			} else if r.URL.Path == "/keys" {
				jwksURI.Store("as discovered")
			}
			next.ServeHTTP(rw, r)
		})
	})
	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(caFile, certPEM(server))
	write(tokenFile, []byte("first\n"))
	token.Store("Bearer first")

	other := staticIssuer(elsewhere.IssuerURL())
	issuer := staticIssuer(p.IssuerURL())
	issuer.Kubernetes = true
	network := newWeb()
	network.serve(other.URL, elsewhere)
	cfg := Config{
		Issuers: []Issuer{issuer, other, staticIssuer(inClusterURL)}, AllowLoopback: true,
		KubernetesCAFile: caFile, KubernetesTokenFile: tokenFile,
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), mint(t, p, nil)); err != nil {
		t.Fatal(err)
	}
	if got := jwksURI.Load(); got != "fixed" {
		t.Errorf("keys were read %v", got)
	}
	// The token has rotated, and so has a key.
	write(tokenFile, []byte("second"))
	token.Store("Bearer second")
	if _, err := p.Rotate(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), mint(t, p, nil)); err != nil {
		t.Errorf("after rotation: %v", err)
	}

	// Another issuer gets no token.
	w := newTestVerifier(t, cfg, network)
	if _, err := w.Verify(t.Context(), mint(t, elsewhere, nil)); err != nil {
		t.Fatal(err)
	}
	for _, r := range network.sent() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s got the cluster's token", r.URL)
		}
	}
}

func TestClusterTransport(t *testing.T) {
	t.Parallel()
	_, server := realWorld(t, nil)
	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	network, opened := newWeb(), 0
	network.serve("https://api.example", body("{}"))
	network.serve("https://keys.example", body("{}"))
	c := &clusterTransport{
		caFile: caFile, tokenFile: tokenFile, issuerURL: "https://api.example",
		open: func(*x509.CertPool) http.RoundTripper { opened++; return network },
	}
	get := func(rawURL string) error {
		resp, err := c.RoundTrip(httptest.NewRequest(http.MethodGet, rawURL, nil))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get("https://api.example/x"); err == nil || !strings.Contains(err.Error(), "reading cluster CA") {
		t.Errorf("without a CA file: %v", err)
	}
	if err := os.WriteFile(caFile, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get("https://api.example/x"); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
		t.Errorf("with junk in the CA file: %v", err)
	}
	if err := os.WriteFile(caFile, certPEM(server), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get("https://api.example/x"); err == nil || !strings.Contains(err.Error(), "service account token") {
		t.Errorf("without a token: %v", err)
	}
	if err := os.WriteFile(tokenFile, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, rawURL := range []string{"https://api.example/x", "https://API.example:443/x", "https://keys.example/x", "https://api.example:8443/x"} {
		_ = get(rawURL)
	}
	for _, r := range network.sent() {
		want := ""
		if origin(r.URL) == "https://api.example" {
			want = "Bearer secret"
		}
		if got := r.Header.Get("Authorization"); got != want {
			t.Errorf("%s got %q, want %q", r.URL, got, want)
		}
	}
	if opened != 1 {
		t.Errorf("%d transports were made for one CA", opened)
	}
	_, second := realWorld(t, nil)
	if err := os.WriteFile(caFile, append(certPEM(server), certPEM(second)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get("https://api.example/x"); err != nil || opened != 2 {
		t.Errorf("after a new CA: %v, %d transports", err, opened)
	}
}
