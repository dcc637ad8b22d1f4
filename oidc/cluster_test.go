// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestWhoseTokenItIs: the cluster's token is only for its own API server, and for no other cluster.
func TestWhoseTokenItIs(t *testing.T) {
	t.Parallel()
	const named = "https://api.internal.example:6443/path"
	for urls, want := range map[string]bool{
		`https://kubernetes.default.svc https://kubernetes.default.svc:443/ https://kubernetes.default.svc.cluster.local
		https://api.internal.example:6443 https://10.96.0.1 https://127.0.0.1:6443 https://[fd00::1]`: true,
		`https://oidc.eks.eu-west-1.amazonaws.com/id/ABC https://container.googleapis.com/v1/projects/p https://kubernetes.default.svc.evil.example
		https://kubernetes.default.svc:6443 https://kubernetes.default.svc@evil.example https://evil.example/https://kubernetes.default.svc
		https://api.internal.example http://kubernetes.default.svc https://8.8.8.8 https://169.254.169.254 kubernetes.default.svc`: false,
	} {
		for issuerURL := range strings.FieldsSeq(urls) {
			if got := isAPIServer(Issuer{Key: issuerURL, Kubernetes: true}, named, true); got != want {
				t.Errorf("%s: %v, want %v", issuerURL, got, want)
			}
			if isAPIServer(Issuer{Key: issuerURL}, named, true) || isAPIServer(Issuer{Key: issuerURL, Kubernetes: true, Wildcard: true}, named, true) {
				t.Errorf("%s of another type, or as a pattern, gets the token", issuerURL)
			}
		}
	}
	private := Issuer{Key: "https://10.96.0.1", Kubernetes: true}
	if isAPIServer(private, "", false) {
		t.Error("a private address gets the token outside of a cluster")
	}
	for _, another := range []Issuer{{CACert: []byte("x")}, {AllowPrivateNetwork: true}} {
		another.Key, another.Kubernetes = private.Key, true
		if isAPIServer(another, "", true) {
			t.Errorf("another cluster's private address gets the token: %+v", another)
		}
	}
}

// clusterFiles writes the files of a cluster, and returns settings with its API server at issuerURL.
func clusterFiles(t *testing.T, issuerURL, ca, token string) Config {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{
		Issuers: issuers(issuerURL, inClusterURL), AllowLoopback: true,
		Kubernetes: Kubernetes{CAFile: dir + "/ca.crt", TokenFile: dir + "/token"},
	}
	cfg.Issuers[0].Kubernetes, cfg.Issuers[1].Kubernetes = true, true
	write(t, cfg.Kubernetes.CAFile, ca)
	write(t, cfg.Kubernetes.TokenFile, token)
	return cfg
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestInCluster: the transport uses the cluster's CA and token, and reads them again; it reads keys at
// the fixed path. A server with a certificate of another CA gets no request.
func TestInCluster(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	p, server := realWorld(t, func(p http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, r.Header.Get("Authorization")+" "+r.URL.Path)
			mu.Unlock()
			r.URL.Path = strings.Replace(r.URL.Path, "/openid/v1/jwks", "/keys", 1)
			p.ServeHTTP(rw, r)
		})
	})
	cfg := clusterFiles(t, p.IssuerURL(), clusterCA(t), "first\n")
	w := &world{provider: p}
	w.verifier = must(New(cfg))(t)
	if e := w.refuse(t, mint(t, p, nil), refusal.IssuerUnreachable); !strings.Contains(e.Cause.Error(), "certificate") || len(asked) != 0 {
		t.Errorf("asked for %v, cause %v", asked, e.Cause)
	}
	write(t, cfg.Kubernetes.CAFile, string(certPEM(server)))
	w.verifier = must(New(cfg))(t)
	w.accept(t, mint(t, p, nil))
	write(t, cfg.Kubernetes.TokenFile, "second")
	w.rotate(t)
	w.accept(t, mint(t, p, nil))
	const discovery, keys = " /.well-known/openid-configuration", " /openid/v1/jwks"
	if want := []string{"Bearer first" + discovery, "Bearer first" + keys, "Bearer second" + discovery, "Bearer second" + keys}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

// TestClusterTransport: without its files there is no request, and only the issuer's origin gets the
// token.
func TestClusterTransport(t *testing.T) {
	t.Parallel()
	network := newWeb()
	for _, origin := range []string{"https://api.example", "https://keys.example"} {
		network.serve(origin, body("{}"))
	}
	get := func(ca, token, rawURL string) error {
		cfg := clusterFiles(t, "https://api.example", ca, token)
		c := &clusterTransport{
			caFile: cfg.Kubernetes.CAFile, tokenFile: cfg.Kubernetes.TokenFile, origin: "https://api.example",
			open: func(roots *x509.CertPool) http.RoundTripper {
				only := x509.NewCertPool()
				if only.AppendCertsFromPEM([]byte(ca)); !roots.Equal(only) {
					t.Error("more than the cluster's CA is trusted")
				}
				return network
			},
		}
		_, err := c.RoundTrip(httptest.NewRequest(http.MethodGet, rawURL, nil))
		return err
	}
	ca := clusterCA(t)
	for _, files := range [][2]string{{"", "secret"}, {"junk", "secret"}, {ca, " \n"}} {
		if err := get(files[0], files[1], "https://api.example/x"); err == nil {
			t.Errorf("with files %q", files)
		}
	}
	for _, rawURL := range []string{"https://api.example/x", "https://API.example:443/x", "https://keys.example/x", "https://api.example:8443/x"} {
		_ = get(ca, "secret", rawURL)
	}
	if n := len(network.sent()); n != 4 {
		t.Errorf("%d requests", n)
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

// TestClustersElsewhere: only the cluster's own API server is read at private addresses, and gets
// the token; an issuer of another cluster is read like any other.
func TestClustersElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{IssuerURL: "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC"})
	w.verifier = newTestVerifier(t, clusterFiles(t, w.provider.IssuerURL(), clusterCA(t), "secret"), func(r reach) http.RoundTripper {
		if private := r.allowed&privateAddresses != 0; private && r.roots == nil && r.allowed&testAddresses == 0 {
			return roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("without the cluster's CA") })
		}
		return w
	})
	w.accept(t, mint(t, w.provider, nil))
	w.refuse(t, w.tokenOf(t, inClusterURL), refusal.IssuerUnreachable)
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
func clusterCA(t *testing.T) string {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestThroughAProxy: a configured proxy is used, and no other. The proxy resolves names, proxied
// checks addresses, and no text shows the proxy's password.
func TestThroughAProxy(t *testing.T) {
	t.Parallel()
	const named, inside, exempt = "https://example.com", "https://10.1.2.3", "https://exempt.example"
	p, server := realWorld(t, as(named))
	loopback := p.IssuerURL()
	entries := issuers(named, inside, exempt, loopback)
	entries[0].CACert, entries[2].AllowPrivateNetwork = certPEM(server), true
	proxy, asked := connectProxy(t, server.Listener.Addr().String())
	w := &world{provider: p, verifier: newTestVerifier(t, Config{Issuers: entries, AllowLoopback: true, Proxy: proxy.URL}, func(r reach) http.RoundTripper {
		r.resolver = resolverTo("169.254.1.1") // this process must not resolve names
		return newTransport(r)
	})}
	w.accept(t, w.tokenOf(t, named))
	for _, refused := range []string{inside, exempt} {
		wantRefusedAddress(t, w.verify(t, w.tokenOf(t, refused)), "169.254")
	}
	w.refuse(t, w.tokenOf(t, loopback), refusal.IssuerUnreachable) // its certificate is not trusted, and the connection is direct
	if hosts := asked(); len(hosts) == 0 || slices.ContainsFunc(hosts, func(host string) bool { return host != "example.com:443" }) {
		t.Errorf("the proxy was asked for %v", hosts)
	}
	proxy.Close()
	w.verifier = must(New(Config{Issuers: issuers(named), Proxy: proxy.URL}))(t)
	if e := w.refuse(t, w.tokenOf(t, named), refusal.IssuerUnreachable); strings.Contains(e.Error(), "hunter2") {
		t.Errorf("the password shows: %v", e)
	}
	for _, bad := range []string{"socks5://proxy:1", "http://", "proxy:3128", "http://hunter2@proxy/path", "http://hunter2:%zz@proxy"} {
		if _, err := New(Config{Issuers: issuers(named), Proxy: bad}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("proxy %q: %v", bad, err)
		}
	}
}

// connectProxy starts a proxy that forwards every CONNECT of a user to one address. asked returns
// the hosts that it was asked for.
func connectProxy(t *testing.T, target string) (proxy *httptest.Server, asked func() []string) {
	var mu sync.Mutex
	var hosts []string
	proxy = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hosts = append(hosts, r.Host)
		mu.Unlock()
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != "Basic dXNlcjpodW50ZXIy" { // user:hunter2
			http.Error(rw, "no", http.StatusForbidden)
			return
		}
		there, err := net.DialTimeout("tcp", target, time.Minute)
		if err != nil {
			http.Error(rw, "no", http.StatusBadGateway)
			return
		}
		here, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { defer there.Close(); _, _ = io.Copy(there, here) }()
		go func() { defer here.Close(); _, _ = io.Copy(here, there) }()
	}))
	t.Cleanup(proxy.Close)
	proxy.URL = strings.Replace(proxy.URL, "http://", "http://user:hunter2@", 1)
	return proxy, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(hosts)
	}
}

// TestAddressesAsProxiesReadThem: a proxy may read an address in a form that netip does not.
func TestAddressesAsProxiesReadThem(t *testing.T) {
	t.Parallel()
	reached := roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("reached") })
	p := &proxied{allowed: publicAddresses, via: reached, direct: newTransport(reach{allowed: publicAddresses})}
	if _, err := (&router{https: reached}).RoundTrip(httptest.NewRequest(http.MethodGet, "http://issuer.example/", nil)); err.Error() == "reached" {
		t.Error("a request by http passes")
	}
	for hosts, passes := range map[string]bool{
		"issuer.example issuer.example. 8.8.8.8 bücher.example xn--bcher-kva.example 0x.example 1.issuer.example [2606:4700::1111] issuer_1": true,
		"2852039166 0xa9fea9fe 0XA9FEA9FE 025177524776 169.254.43518 169.254.169.254. 0251.0376.0251.0376 0xa9.0xfe.0xa9.0xfe":               false,
		"１６９.254.169.254 169。254。169。254 ①⑥⑨.254.169.254 127.1 localhost. LOCALHOST issuer.localhost":                                        false,
		"169.254.169.254 [::ffff:169.254.169.254] [fe80::1%25eth0] [fd00:ec2::254]":                                                          false,
	} {
		for host := range strings.FieldsSeq(hosts) {
			req := must(http.NewRequest(http.MethodGet, "https://"+host+":443/keys", nil))(t)
			if _, err := p.RoundTrip(req); (err.Error() == "reached") != passes {
				t.Errorf("%s: %v, want that it passes: %t", host, err, passes)
			}
		}
	}
}
