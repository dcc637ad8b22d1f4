// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestInCluster: the transport uses the cluster's CA and token, reads them again, and sends the
// token to no other server; it reads keys at the fixed path.
func TestInCluster(t *testing.T) {
	t.Parallel()
	var jwksURI, token atomic.Value
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

	issuer := staticIssuer(p.IssuerURL())
	issuer.Kubernetes = true
	v, err := New(Config{
		Issuers: []Issuer{issuer, staticIssuer(inClusterURL)}, AllowLoopback: true,
		Kubernetes: Kubernetes{CAFile: caFile, TokenFile: tokenFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, v, mint(t, p, nil))
	if got := jwksURI.Load(); got != "fixed" {
		t.Errorf("keys were read %v", got)
	}
	// The token and a key have rotated.
	write(tokenFile, []byte("second"))
	token.Store("Bearer second")
	if _, err := p.Rotate(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), mint(t, p, nil), unknownClient); err != nil {
		t.Errorf("after rotation: %v", err)
	}

}

func TestClusterTransport(t *testing.T) {
	t.Parallel()
	_, server := realWorld(t, nil)
	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	network := newWeb()
	network.serve("https://api.example", body("{}"))
	network.serve("https://keys.example", body("{}"))
	c := &clusterTransport{
		caFile: caFile, tokenFile: tokenFile, origin: "https://api.example",
		open: func(*x509.CertPool) http.RoundTripper { return network },
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
}

// TestWhoseTokenItIs: the cluster's token is only for its own API server, and for no other cluster.
func TestWhoseTokenItIs(t *testing.T) {
	t.Parallel()
	const named = "https://api.internal.example:6443/path"
	for issuerURL, want := range map[string]bool{
		"https://kubernetes.default.svc":                      true,
		"https://kubernetes.default.svc:443/":                 true,
		"https://kubernetes.default.svc.cluster.local":        true,
		"https://api.internal.example:6443":                   true,
		"https://10.96.0.1":                                   true,
		"https://127.0.0.1:6443":                              true,
		"https://[fd00::1]":                                   true,
		"https://oidc.eks.eu-west-1.amazonaws.com/id/ABC":     false,
		"https://container.googleapis.com/v1/projects/p":      false,
		"https://kubernetes.default.svc.evil.example":         false,
		"https://kubernetes.default.svc:6443":                 false,
		"https://kubernetes.default.svc@evil.example":         false,
		"https://evil.example/https://kubernetes.default.svc": false,
		"https://api.internal.example":                        false,
		"http://kubernetes.default.svc":                       false,
		"https://8.8.8.8":                                     false,
		"https://169.254.169.254":                             false,
		"":                                                    false,
	} {
		issuer := Issuer{URL: issuerURL, Kubernetes: true}
		if got := isAPIServer(issuer, named, true); got != want {
			t.Errorf("%s: %v, want %v", issuerURL, got, want)
		}
		issuer.Kubernetes = false
		if isAPIServer(issuer, named, true) {
			t.Errorf("%s of another type gets the token", issuerURL)
		}
	}
	private := Issuer{URL: "https://10.96.0.1", Kubernetes: true}
	if isAPIServer(private, "", false) {
		t.Error("a private address gets the token outside of a cluster")
	}
	for _, another := range []Issuer{{CACert: []byte("x")}, {AllowPrivateNetwork: true}} {
		another.URL, another.Kubernetes = private.URL, true
		if isAPIServer(another, "", true) {
			t.Errorf("another cluster's private address gets the token: %+v", another)
		}
	}
}

// TestTheTokenNeedsTheClustersCA: a server with a certificate of another CA does not get the token,
// even if the system or an entry trusts that CA.
func TestTheTokenNeedsTheClustersCA(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	p, _ := realWorld(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			next.ServeHTTP(rw, r)
		})
	})
	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	anotherCA := clusterCA(t)
	for name, content := range map[string][]byte{caFile: anotherCA, tokenFile: []byte("secret")} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issuer := staticIssuer(p.IssuerURL())
	issuer.Kubernetes = true
	v, err := New(Config{
		Issuers: []Issuer{issuer, staticIssuer(inClusterURL)}, AllowLoopback: true,
		Kubernetes: Kubernetes{CAFile: caFile, TokenFile: tokenFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(t.Context(), mint(t, p, nil), unknownClient)
	if e := wantReason(t, err, refusal.IssuerUnreachable); !strings.Contains(e.Cause.Error(), "certificate") || asked.Load() != 0 {
		t.Errorf("asked %d times, cause %v", asked.Load(), e.Cause)
	}
}

// TestClustersElsewhere: only the cluster's own API server is read at private addresses, and gets
// the token; an issuer of another cluster is read like any other.
func TestClustersElsewhere(t *testing.T) {
	t.Parallel()
	w := newWeb()
	p := newProvider(t, provider.Config{IssuerURL: "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC"})
	w.serve(p.IssuerURL(), p)
	issuer, cluster := staticIssuer(p.IssuerURL()), staticIssuer(inClusterURL)
	issuer.Kubernetes, cluster.Kubernetes = true, true
	dir := t.TempDir()
	caFile, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	for name, content := range map[string][]byte{caFile: clusterCA(t), tokenFile: []byte("secret")} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v, err := newVerifier(Config{
		Issuers: []Issuer{issuer, cluster}, Kubernetes: Kubernetes{CAFile: caFile, TokenFile: tokenFile},
	}, func(r reach) http.RoundTripper {
		if private := r.allowed&privateAddresses != 0; private != (r.roots != nil) {
			t.Errorf("reach %+v", r)
		}
		return w
	})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, v, mint(t, p, nil))
	_, err = v.Verify(t.Context(), mint(t, p, map[string]any{"iss": inClusterURL}), unknownClient)
	wantReason(t, err, refusal.IssuerUnreachable)
	seen := make(map[string]bool)
	for _, r := range w.sent() {
		seen[origin(r.URL)] = true
		if got := r.Header.Get("Authorization") != ""; got != (origin(r.URL) == inClusterURL) {
			t.Errorf("%s got the cluster's token: %v", r.URL, got)
		}
	}
	if len(seen) != 2 {
		t.Errorf("requests to %v", seen)
	}
}

// clusterCA returns a CA certificate that has signed nothing.
func clusterCA(t *testing.T) []byte {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
