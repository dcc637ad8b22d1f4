// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func TestAddressPolicy(t *testing.T) {
	t.Parallel()
	kinds := map[string]addresses{"public": publicAddresses, "private": privateAddresses, "loopback": loopbackAddresses, "testing": testAddresses, "never": 0}
	for _, row := range rows(t, "addresses.txt") {
		for _, text := range row[1:] {
			if got := kindOf(netip.MustParseAddr(text)); got != kinds[row[0]] {
				t.Errorf("%s is of kind %d, want %s", text, got, row[0])
			}
		}
	}
}

// realWorld serves a provider on a real loopback listener, with TLS.
func realWorld(t *testing.T, middleware func(http.Handler) http.Handler) (*provider.Provider, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	p := newProvider(t, provider.Config{IssuerURL: "https://" + server.Listener.Addr().String()})
	server.Config.Handler = middleware(p)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return p, server
}

// as returns a middleware that serves a provider's keys under another issuer URL.
func as(issuerURL string) func(http.Handler) http.Handler {
	return func(p http.Handler) http.Handler { return mimic(issuerURL, p) }
}

func certPEM(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// resolverTo answers every address query with those of addresses that have its family.
func resolverTo(addresses ...string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for answerDNS(server, addresses) == nil {
			}
		}()
		return client, nil
	}}
}

// answerDNS answers one question as over TCP (RFC 1035, section 4.2.2).
func answerDNS(conn io.ReadWriter, addresses []string) error {
	query := make([]byte, 2)
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	query = make([]byte, int(query[0])<<8|int(query[1]))
	var m dnsmessage.Message
	if _, err := io.ReadFull(conn, query); err != nil || m.Unpack(query) != nil || len(m.Questions) != 1 {
		return errors.New("not one question")
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	for _, text := range addresses {
		answer := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}}
		switch addr := netip.MustParseAddr(text); {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			answer.Body = &dnsmessage.AResource{A: addr.As4()}
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			answer.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, answer)
	}
	answer, err := m.Pack()
	if err == nil {
		_, err = conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
	}
	return err
}

// wantRefusedAddress fails unless err is an outage of the issuer because of its address, which the
// message does not show.
func wantRefusedAddress(t *testing.T, err error, address string) {
	t.Helper()
	if e := wantReason(t, err, refusal.IssuerUnreachable); !strings.Contains(e.Cause.Error(), "is refused for an issuer") || strings.Contains(e.Message, address) {
		t.Errorf("%s: message %q, cause %v", address, e.Message, e.Cause)
	} else if private := regexp.MustCompile(`address (10[.]|172[.]|192[.]168[.]|fd00::1 )`); private.MatchString(e.Cause.Error()) != strings.Contains(e.Cause.Error(), "allow-private-network") {
		t.Errorf("%s: cause %v", address, e.Cause)
	}
}

// TestDialledAddresses: each address of a name is checked when it is dialled, that of a jwks_uri too.
// Only the settings for it permit an inner address, and none that of a metadata service.
func TestDialledAddresses(t *testing.T) {
	t.Parallel()
	const https = "https://example.com" // the name in httptest's certificate
	p, secure := realWorld(t, as(https))
	_, port, _ := net.SplitHostPort(secure.Listener.Addr().String())
	plain := httptest.NewUnstartedServer(nil)
	_, plainPort, _ := net.SplitHostPort(plain.Listener.Addr().String())
	listed := "http://dex-idp:" + plainPort
	plain.Config.Handler = mimic(listed, p)
	plain.Start()
	t.Cleanup(plain.Close)
	elsewhere := site(https, "https://keys.elsewhere.example/jwks", "", body("{}"))
	for _, test := range []struct {
		cfg       Config
		change    Issuer
		issuerURL string
		addresses string
		accepted  bool
	}{
		{Config{AllowLoopback: true}, Issuer{Key: https, CACert: certPEM(secure)}, https, "127.0.0.1", true},
		{Config{}, Issuer{Key: https}, https, "127.0.0.1", false},
		{Config{}, Issuer{Key: https, AllowPrivateNetwork: true}, https, "127.0.0.1", false},
		{Config{}, Issuer{Key: "https://*.com", Wildcard: true}, https, "192.168.1.1 fd00::1", false},
		{Config{}, Issuer{Key: https}, https, "172.16.0.1 127.0.0.1 ::1", false},
		{Config{AllowLoopback: true}, Issuer{Key: https, AllowPrivateNetwork: true}, https, "169.254.169.254", false},
		{Config{AllowLoopback: true}, Issuer{Key: https, AllowPrivateNetwork: true}, https, "100.100.100.200", false},
		{Config{}, Issuer{Key: "https://*.com", Wildcard: true}, https, "64:ff9b::7f00:1", false},
		{Config{InsecureHosts: []string{"DEX-idp"}}, Issuer{Key: listed}, listed, "127.0.0.1", true},
		{Config{InsecureHosts: []string{"DEX-idp"}}, Issuer{Key: listed}, listed, "169.254.169.254", false},
		{Config{InsecureHosts: []string{"DEX-idp"}}, Issuer{Key: listed}, listed, "fd00:ec2::254", false},
		{Config{}, Issuer{Key: https, JWKSHosts: []string{"keys.elsewhere.example"}}, https, "10.0.0.1", false}, // of the key set
	} {
		test.change.Audiences = []string{"sigstore"}
		test.cfg.Issuers = []Issuer{test.change}
		w := &world{verifier: newTestVerifier(t, test.cfg, func(r reach) http.RoundTripper {
			r.resolver = resolverTo(strings.Fields(test.addresses)...)
			transport := newTransport(r).(*http.Transport)
			dial := transport.DialContext
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				return dial(ctx, network, strings.Replace(address, "example.com:443", "example.com:"+port, 1))
			}
			return roundTripper(func(req *http.Request) (*http.Response, error) {
				if test.change.JWKSHosts != nil && req.URL.Host == "example.com" {
					recorder := httptest.NewRecorder()
					elsewhere.ServeHTTP(recorder, req)
					return recorder.Result(), nil
				}
				return transport.RoundTrip(req)
			})
		})}
		err := w.verify(t, mint(t, p, map[string]any{"iss": test.issuerURL}))
		if !test.accepted {
			wantRefusedAddress(t, err, strings.Fields(test.addresses)[0])
		} else if err != nil {
			t.Errorf("%s at %s: %v", test.issuerURL, test.addresses, err)
		}
	}
}

// TestInsecureHostsAlone: the exception is only for the listed hosts. Other hosts are reached as
// without it. Keys of an https issuer are not read by http, even from a listed host.
func TestInsecureHostsAlone(t *testing.T) {
	t.Parallel()
	const listed = "http://dex-idp:8888"
	w := newWorld(t, Config{}, provider.Config{})
	secure := w.RoundTrip
	w.verifier = newTestVerifier(t, Config{Issuers: issuers(testIssuer, listed), InsecureHosts: []string{"dex-idp"}}, func(r reach) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if private := r.allowed.contain(netip.MustParseAddr("10.0.0.5")); private != (req.URL.Hostname() == "dex-idp") {
				t.Errorf("%s is reached at private addresses: %t", req.URL, private)
			}
			return secure(req)
		})
	})
	w.serve(listed, mimic(listed, w.provider))
	w.accept(t, w.tokenOf(t, listed))
	before := len(w.sent())
	w.serve(testIssuer, site(testIssuer, listed+"/keys", "", w.provider))
	w.refuse(t, mint(t, w.provider, nil), refusal.IssuerUnreachable)
	if sent := w.sent()[before:]; len(sent) != 1 {
		t.Errorf("%d requests, for the keys too", len(sent))
	}
}

// TestRedirectsStayOnTheOrigin: CVE-2026-49478, a discovery that follows redirects to another host.
func TestRedirectsStayOnTheOrigin(t *testing.T) {
	t.Parallel()
	for location, accepted := range map[string]bool{
		testIssuer + "/moved%s":              true,
		"https://ISSUER.example:443/moved%s": true,
		"https://evil.example%s":             false,
		testIssuer + ":8443%s":               false,
		"http://issuer.example%s":            false,
		"http://169.254.169.254/latest%s":    false,
		testIssuer + "%s":                    false, // a loop
	} {
		for _, redirected := range []string{"/.well-known/openid-configuration", "/keys"} {
			w := newWorld(t, Config{AllowLoopback: true}, provider.Config{})
			w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == redirected {
					http.Redirect(rw, r, fmt.Sprintf(location, redirected), http.StatusFound)
					return
				}
				r.URL.Path = strings.TrimPrefix(r.URL.Path, "/moved")
				w.provider.ServeHTTP(rw, r)
			}))
			evil := newProvider(t, provider.Config{IssuerURL: testIssuer})
			for _, elsewhere := range []string{"https://evil.example", testIssuer + ":8443", "http://issuer.example", "http://169.254.169.254"} {
				w.serve(elsewhere, evil)
			}
			err := w.verify(t, mint(t, w.provider, nil))
			if accepted != (err == nil) || err != nil && refusal.From(err).Reason != refusal.IssuerUnreachable {
				t.Errorf("%s to %s: %v", redirected, location, err)
			}
			if n := evil.Discoveries.Load() + evil.KeyFetches.Load(); n != 0 || len(w.sent()) > 2+maxRedirects {
				t.Errorf("%s to %s: another origin was asked %d times, %d requests", redirected, location, n, len(w.sent()))
			}
		}
	}
}

// TestErrorBodiesStayOut: errors do not contain the body that an issuer sends with an error status.
func TestErrorBodiesStayOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "SECRET", http.StatusTeapot)
	}))
	e := w.refuse(t, mint(t, w.provider, nil), refusal.IssuerUnreachable)
	if strings.Contains(e.Error(), "SECRET") || !strings.Contains(e.Error(), "418") {
		t.Errorf("error %v", e)
	}
}

// TestProxyOfTheEnvironmentIsNotUsed: addresses are checked when this process dials, so it must
// dial itself.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	transport := newTransport(reach{allowed: publicAddresses}).(*http.Transport)
	if used, _ := transport.Proxy(httptest.NewRequest(http.MethodGet, testIssuer, nil)); used != nil || transport.Protocols.HTTP2() {
		t.Error("the transport has a proxy or HTTP/2")
	}
}

// TestFigureHugeDocument: less than 1 MiB is read of a document of 200 MiB, for the keys as for
// discovery, from a server that offers HTTP/2. Its certificate must be of a known CA.
func TestFigureHugeDocument(t *testing.T) {
	t.Parallel()
	for _, huge := range []string{"/keys", "/.well-known/openid-configuration"} {
		var sent, read atomic.Int64
		p, server := realWorld(t, func(p http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != huge {
					p.ServeHTTP(rw, r)
					return
				}
				_, _ = io.WriteString(rw, `{"issuer":"`)
				for range 200 << 4 {
					n, err := rw.Write(make([]byte, 64<<10))
					if sent.Add(int64(n)); err != nil {
						return
					}
				}
			})
		})
		w := &world{verifier: newTestVerifier(t, Config{Issuers: issuers(p.IssuerURL()), AllowLoopback: true}, newTransport)}
		w.refuse(t, mint(t, p, nil), refusal.IssuerUnreachable)
		if sent.Load() != 0 {
			t.Error("an unknown CA is trusted")
		}
		w.verifier = newTestVerifier(t, Config{Issuers: issuers(p.IssuerURL()), AllowLoopback: true}, func(r reach) http.RoundTripper {
			r.roots = x509.NewCertPool()
			r.roots.AddCert(server.Certificate())
			transport := newTransport(r).(*http.Transport)
			dial := transport.DialContext
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				return &countingConn{Conn: conn, read: &read}, err
			}
			return transport
		})
		w.refuse(t, mint(t, p, nil), refusal.IssuerUnreachable)
		server.CloseClientConnections()
		server.Close()
		t.Logf("a document of 200 MiB at %s: %d KiB read from the connection, %d KiB sent by the issuer", huge, read.Load()>>10, sent.Load()>>10)
		if sent.Load() == 0 || read.Load() >= 1<<20 {
			t.Errorf("%d bytes were read, %d sent", read.Load(), sent.Load())
		}
	}
}

// countingConn counts the bytes that are read, including those of TLS.
type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}
