// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func TestAddressPolicy(t *testing.T) {
	t.Parallel()
	const public, private, loopback, testing, never = publicAddresses, privateAddresses, loopbackAddresses, testAddresses, 0
	for text, want := range map[string]addresses{
		"8.8.8.8": public, "2606:4700::1111": public, "::ffff:8.8.8.8": public, "64:ff9b::808:808": public,
		"10.1.2.3": private, "172.16.0.1": private, "172.31.255.255": private, "192.168.1.1": private,
		"100.64.0.1": private, "100.100.100.201": private, "fd00::1": private, "::ffff:10.0.0.1": private, "64:ff9b::a00:1": private,
		"127.0.0.1": loopback, "127.8.8.8": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback,
		"169.254.169.254": never, "fe80::1": never, "fe80::1%eth0": never, "::ffff:169.254.169.254": never, "64:ff9b::a9fe:a9fe": never,
		"100.100.100.200": never, "fd00:ec2::254": never, "168.63.129.16": never, "64:ff9b::6464:64c8": never,
		"0.0.0.0": never, "::": never, "0.1.2.3": never, "224.0.0.1": never, "255.255.255.255": never, "ff02::1": never, "240.0.0.1": never,
		"192.0.0.170": never, "192.0.2.1": testing, "198.18.0.1": testing, "198.51.100.1": testing, "203.0.113.1": testing,
		"::7f00:1": never, "2002:7f00:1::": never, "2001:0:1::": never, "2001:db8::1": testing, "fec0::1": never, "64:ff9b:1::a00:1": never,
		// Metadata services at private addresses, by provider, and other addresses in their networks.
		"fd00:ec2::23": never, "fd00:ec2::253": never, "fd20:ce::254": never, "fd00:c1::a9fe:a9fe": never, "fd00:42::42": never,
		"fd00:a9fe:a9fe::1": never, "fd00:100::100:200": never, "192.0.0.192": never, "169.254.170.2": never, "169.254.42.42": never,
		"fe80::a9fe:a9fe": never, "fd20:cf::254": private, "fd00:100:1::1": private,
		// Addresses of forbidden targets, translated: mapped, translated, NAT64, local NAT64, 6to4, Teredo
		// (server, and client with all bits inverted), compatible, ISATAP, and NAT64 by another prefix.
		"::ffff:100.100.100.200": never, "::ffff:168.63.129.16": never, "::ffff:0:169.254.169.254": never, "::ffff:0:10.0.0.1": never,
		"::ffff:0:127.0.0.1": never, "::ffff:0:8.8.8.8": never, "64:ff9b::a83f:8110": never, "64:ff9b::7f00:1": loopback, "64:ff9b::": never,
		"64:ff9b:1::a9fe:a9fe": never, "2002:a9fe:a9fe::1": never, "2002:a00:1::1": never, "2001:0:a9fe:a9fe::1": never,
		"2001:0:808:808:0:ffff:5601:5601": never, "::169.254.169.254": never, "fd00::5efe:169.254.169.254": never,
		"2606:4700::200:5efe:a00:1": never, "fd12:3456::169.254.169.254": never, "fd12:3456::6464:64c8": never, "2606:4700::a9fe:a9fe": never,
		"fd12:3456::10.0.0.1": private,
		"172.32.0.1":          public, "100.128.0.1": public, "2001:4860:4860::8888": public,
	} {
		if got := kindOf(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is of kind %d, want %d", text, got, want)
		}
	}
}

// realWorld serves a provider on a real loopback listener, with TLS.
func realWorld(t *testing.T, middleware func(http.Handler) http.Handler) (*provider.Provider, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	p := newProvider(t, provider.Config{IssuerURL: "https://" + server.Listener.Addr().String()})
	handler := &switchable{}
	handler.set(p)
	if middleware != nil {
		handler.set(middleware(p))
	}
	server.Config.Handler = handler
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return p, server
}

// switchable is a handler that a test can replace while it serves.
type switchable struct{ handler atomic.Value }

func (s *switchable) set(h http.Handler) { s.handler.Store(http.HandlerFunc(h.ServeHTTP)) }

func (s *switchable) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.handler.Load().(http.HandlerFunc)(rw, r)
}

func certPEM(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func TestUnknownCAIsRefused(t *testing.T) {
	t.Parallel()
	p, _ := realWorld(t, nil)
	v, err := New(Config{Issuers: []Issuer{staticIssuer(p.IssuerURL())}, AllowLoopback: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(t.Context(), mint(t, p, nil), unknownClient)
	wantReason(t, err, refusal.IssuerUnreachable)
}

// TestRedirectsStayOnTheOrigin: CVE-2026-49478, a discovery that follows redirects to another host.
func TestRedirectsStayOnTheOrigin(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		location func(path string) string
		accepted bool
	}{
		{"the same origin", func(path string) string { return testIssuer + "/moved" + path }, true},
		{"the same origin with its port", func(path string) string { return "https://ISSUER.example:443/moved" + path }, true},
		{"another host", func(path string) string { return "https://evil.example" + path }, false},
		{"another port", func(path string) string { return testIssuer + ":8443" + path }, false},
		{"another scheme", func(path string) string { return "http://issuer.example" + path }, false},
		{"a metadata service", func(string) string { return "http://169.254.169.254/latest/" }, false},
		{"itself", func(path string) string { return testIssuer + path }, false},
	} {
		for _, redirected := range []string{"/.well-known/openid-configuration", "/keys"} {
			t.Run(test.name+redirected, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, Config{AllowLoopback: true}, provider.Config{})
				w.serve(testIssuer, redirectOnce(w.provider, redirected, test.location(redirected)))
				evil := newProvider(t, provider.Config{IssuerURL: testIssuer})
				for _, elsewhere := range []string{"https://evil.example", testIssuer + ":8443", "http://issuer.example", "http://169.254.169.254"} {
					w.serve(elsewhere, evil)
				}
				_, err := w.verifier.Verify(t.Context(), mint(t, w.provider, nil), unknownClient)
				if test.accepted != (err == nil) {
					t.Fatalf("error %v", err)
				}
				if err != nil {
					wantReason(t, err, refusal.IssuerUnreachable)
				}
				if n := evil.Discoveries() + evil.KeyFetches(); n != 0 {
					t.Errorf("another origin was asked %d times", n)
				}
				if n := len(w.sent()); n > 2+maxRedirects {
					t.Errorf("%d requests", n)
				}
			})
		}
	}
}

// redirectOnce redirects path to location, and serves p under /moved as well.
func redirectOnce(p http.Handler, path, location string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			http.Redirect(rw, r, location, http.StatusFound)
			return
		}
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/moved")
		p.ServeHTTP(rw, r)
	})
}

func TestLimitedBodyReadsNoFurther(t *testing.T) {
	t.Parallel()
	source := strings.NewReader(strings.Repeat("x", 3*maxDocument))
	g := &guard{https: roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(source)}, nil
	})}
	if _, err := g.RoundTrip(httptest.NewRequest(http.MethodGet, testIssuer, nil)); err == nil || !strings.Contains(err.Error(), "exceeds") {
		t.Errorf("error %v", err)
	}
	if read := 3*maxDocument - source.Len(); read > maxDocument+1 {
		t.Errorf("%d bytes were read", read)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestErrorBodiesStayOut: errors do not contain the body that an issuer sends with an error status.
func TestErrorBodiesStayOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "SECRET", http.StatusTeapot)
	}))
	_, err := w.verifier.Verify(t.Context(), mint(t, w.provider, nil), unknownClient)
	if e := wantReason(t, err, refusal.IssuerUnreachable); strings.Contains(e.Error(), "SECRET") || !strings.Contains(e.Error(), "418") {
		t.Errorf("error %v", e)
	}
}

// TestProxyOfTheEnvironmentIsNotUsed: addresses are checked when this process dials, so it must
// dial itself.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", "http://"+proxy.Addr().String())
	transport, ok := newTransport(reach{allowed: publicAddresses}).(*http.Transport)
	used, _ := transport.Proxy(httptest.NewRequest(http.MethodGet, testIssuer, nil))
	if !ok || used != nil || transport.Protocols.HTTP2() {
		t.Error("the transport has a proxy or HTTP/2")
	}
	if _, err := transport.DialContext(context.Background(), "tcp", proxy.Addr().String()); err == nil {
		t.Error("a loopback address was dialled")
	}
}
