// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// TestThroughAProxy: a configured proxy is used, and no other. The proxy resolves names, proxied
// checks addresses, and no text shows the proxy's password.
func TestThroughAProxy(t *testing.T) {
	t.Parallel()
	p, server := realWorld(t, nil)
	issuer := staticIssuer("https://example.com")
	issuer.CACert = certPEM(server)
	server.Config.Handler.(*switchable).set(mimic(issuer.URL, p))
	inside := staticIssuer("https://10.1.2.3")
	loopback := staticIssuer(p.IssuerURL())
	exempt := staticIssuer("https://exempt.example")
	exempt.AllowPrivateNetwork = true
	proxy := newConnectProxy(t, server.Listener.Addr().String())
	v, err := newVerifier(Config{
		Issuers: []Issuer{issuer, inside, loopback, exempt}, AllowLoopback: true,
		Proxy: "http://user:hunter2@" + proxy.address,
	}, func(r reach) http.RoundTripper {
		r.resolver = resolverTo("169.254.1.1") // this process must not resolve names
		return newTransport(r)
	})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, v, mint(t, p, map[string]any{"iss": issuer.URL}))
	for _, refused := range []Issuer{inside, exempt} {
		_, err := v.Verify(t.Context(), mint(t, p, map[string]any{"iss": refused.URL}), unknownClient)
		if e := wantReason(t, err, refusal.IssuerUnreachable); !strings.Contains(e.Cause.Error(), "is refused for an issuer") {
			t.Errorf("%s: cause %v", refused.URL, e.Cause)
		}
	}
	_, err = v.Verify(t.Context(), mint(t, p, nil), unknownClient)
	wantReason(t, err, refusal.IssuerUnreachable) // its certificate is not trusted, and the connection is direct
	if asked := proxy.asked(); len(asked) == 0 || slices.ContainsFunc(asked, func(host string) bool { return host != "example.com:443" }) {
		t.Errorf("the proxy was asked for %v", asked)
	}
	proxy.close()
	stranger := staticIssuer("https://stranger.example")
	v, err = New(Config{Issuers: []Issuer{stranger}, Proxy: "http://user:hunter2@" + proxy.address})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(t.Context(), mint(t, p, map[string]any{"iss": stranger.URL}), unknownClient)
	if e := wantReason(t, err, refusal.IssuerUnreachable); strings.Contains(e.Error(), "hunter2") {
		t.Errorf("the password shows: %v", e)
	}
	for _, bad := range []string{"socks5://proxy:1", "http://", "proxy:3128", "http://hunter2@proxy/path", "http://hunter2:%zz@proxy"} {
		if _, err := New(Config{Issuers: []Issuer{stranger}, Proxy: bad}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("proxy %q: %v", bad, err)
		}
	}
}

// connectProxy forwards every CONNECT to one address.
type connectProxy struct {
	address string
	close   func()
	mu      sync.Mutex
	hosts   []string
}

func newConnectProxy(t *testing.T, target string) *connectProxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &connectProxy{address: listener.Addr().String()}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.hosts = append(p.hosts, r.Host)
		p.mu.Unlock()
		if user, password, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); r.Method != http.MethodConnect || !ok || user+password != "userhunter2" {
			http.Error(rw, "no", http.StatusForbidden)
			return
		}
		there, err := net.Dial("tcp", target)
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
	})}
	go func() { _ = server.Serve(listener) }()
	p.close = func() { _ = server.Close() }
	t.Cleanup(p.close)
	return p
}

func (p *connectProxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.hosts...)
}

// TestAddressesAsProxiesReadThem: a proxy may read an address in a form that netip does not.
func TestAddressesAsProxiesReadThem(t *testing.T) {
	t.Parallel()
	reached := transportFunc(func(reach) http.RoundTripper {
		return roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("reached") })
	})
	p := &proxied{allowed: publicAddresses, via: reached(reach{}), direct: newTransport(reach{allowed: publicAddresses})}
	for host, passes := range map[string]bool{
		"issuer.example": true, "issuer.example.": true, "8.8.8.8": true, "bücher.example": true, "xn--bcher-kva.example": true, "0x.example": true, "1.issuer.example": true, "[2606:4700::1111]": true, "issuer_1": true,
		"2852039166": false, "0xa9fea9fe": false, "0XA9FEA9FE": false, "025177524776": false, "169.254.43518": false, "169.254.169.254.": false, "0251.0376.0251.0376": false,
		"0xa9.0xfe.0xa9.0xfe": false, "１６９.254.169.254": false, "169。254。169。254": false, "①⑥⑨.254.169.254": false, "127.1": false, "localhost.": false, "LOCALHOST": false, "issuer.localhost": false,
		"169.254.169.254": false, "[::ffff:169.254.169.254]": false, "[fe80::1%25eth0]": false, "[fd00:ec2::254]": false,
	} {
		req, err := http.NewRequest(http.MethodGet, "https://"+host+":443/keys", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.RoundTrip(req); (err.Error() == "reached") != passes {
			t.Errorf("%s: %v, want that it passes: %t", host, err, passes)
		}
	}
}
