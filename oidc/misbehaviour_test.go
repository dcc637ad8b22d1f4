// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

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
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	query := make([]byte, int(length[0])<<8|int(length[1]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return errors.New("not one question")
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	for _, text := range addresses {
		addr := netip.MustParseAddr(text)
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		switch {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
	return err
}

// TestSlowDrip: a fetch from an issuer that sends a byte a second stops after 5 s, and the request
// that waits for it sooner.
func TestSlowDrip(t *testing.T) {
	bubble(t, func(t *testing.T) {
		drip := roundTripper(func(req *http.Request) (*http.Response, error) {
			r, w := io.Pipe()
			go func() {
				for {
					select {
					case <-req.Context().Done():
						w.CloseWithError(req.Context().Err())
						return
					case <-time.After(time.Second):
						if _, err := w.Write([]byte(" ")); err != nil {
							return
						}
					}
				}
			}()
			return &http.Response{StatusCode: http.StatusOK, Body: r, Request: req, Header: http.Header{}}, nil
		})
		v, err := newVerifier(Config{Issuers: []Issuer{staticIssuer(testIssuer)}}, func(reach) http.RoundTripper { return drip })
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = v.Verify(t.Context(), mint(t, newProvider(t, provider.Config{IssuerURL: testIssuer}), nil), unknownClient)
		wantReason(t, err, refusal.IssuerUnreachable)
		if passed := time.Since(start); passed != maxWait {
			t.Errorf("the request waited %s", passed)
		}
		time.Sleep(fetchTimeout - maxWait)
		synctest.Wait()
		if status := v.Status()[0]; status.State != StateFailing || !strings.Contains(status.LastError, "deadline exceeded") {
			t.Errorf("status %+v", status)
		}
	})
}

// TestIssuerThatTurnsBad: after a good start, no fault in an issuer's documents removes the last
// good keys. The issuer is degraded, and recovers without intervention.
func TestIssuerThatTurnsBad(t *testing.T) {
	t.Parallel()
	lies := func(w *world) http.Handler {
		return site("https://evil.example", "https://evil.example/keys", "", `{"keys":[]}`)
	}
	keySet := func(text string) func(*world) http.Handler {
		return func(*world) http.Handler { return site(testIssuer, testIssuer+"/keys", "", text) }
	}
	for name, misbehave := range map[string]func(*world) http.Handler{
		"lies about its issuer":    lies,
		"hangs":                    func(*world) http.Handler { return http.HandlerFunc(hang) },
		"redirects elsewhere":      func(*world) http.Handler { return http.RedirectHandler("https://evil.example/", http.StatusFound) },
		"answers HTML":             func(*world) http.Handler { return body("<html>maintenance</html>") },
		"serves a huge key set":    keySet(`{"keys":["` + strings.Repeat("x", maxDocument) + `"]}`),
		"serves half a key set":    keySet(`{"keys":[`),
		"moves keys to plain text": func(*world) http.Handler { return site(testIssuer, "http://issuer.example/keys", "", `{"keys":[]}`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, provider.Config{Lifetime: 10 * time.Hour})
				evil := newProvider(t, provider.Config{IssuerURL: testIssuer})
				w.serve("https://evil.example", evil)
				defer w.run(t)()
				synctest.Wait()
				token := mint(t, w.provider, nil)
				w.serve(testIssuer, misbehave(w))
				time.Sleep(time.Hour)
				// After a document with false content, the key set is read at its old place, which
				// is empty now.
				empty := name == "lies about its issuer" || name == "moves keys to plain text"
				want := StateDegraded
				if empty {
					want = StateFailing
				}
				if status := w.verifier.Status()[0]; status.State != want || status.Usable == empty || status.LastError == "" {
					t.Errorf("status %+v", status)
				}
				if err := w.verify(t, token); err != nil && !empty {
					t.Errorf("the last good keys: %v", err)
				}
				if n := evil.Discoveries() + evil.KeyFetches(); n != 0 {
					t.Errorf("another host was asked %d times", n)
				}
				w.serve(testIssuer, w.provider)
				time.Sleep(maxBackoff + 2*fetchTimeout)
				if status := w.verifier.Status()[0]; status.State != StateOK || status.LastError != "" || status.KeyAge > maxBackoff+2*fetchTimeout {
					t.Errorf("afterwards: status %+v", status)
				}
				if err := w.verify(t, token); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

// TestCrowdDoesNotWait: most of many requests for an issuer that hangs are answered soon, which
// leaves places for other requests.
func TestCrowdDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		other := newProvider(t, provider.Config{IssuerURL: "https://other.example"})
		w := newWorld(t, Config{Issuers: []Issuer{staticIssuer(testIssuer), staticIssuer(other.IssuerURL())}}, provider.Config{})
		w.serve(testIssuer, http.HandlerFunc(hang))
		w.serve(other.IssuerURL(), other)
		token, start := mint(t, w.provider, nil), time.Now()
		var mu sync.Mutex
		waits := map[time.Duration]int{}
		var all sync.WaitGroup
		for range 400 {
			all.Go(func() {
				wantReason(t, w.verify(t, token), refusal.IssuerUnreachable)
				mu.Lock()
				defer mu.Unlock()
				waits[time.Since(start)]++
			})
		}
		synctest.Wait()
		if err := w.verify(t, mint(t, other, nil)); err != nil || time.Since(start) != 0 {
			t.Errorf("another issuer: %v after %s", err, time.Since(start))
		}
		all.Wait()
		if waits[maxWait] != maxWaiting/2 || waits[crowdedWait] != 400-maxWaiting/2 {
			t.Errorf("waits %v", waits)
		}
		time.Sleep(fetchTimeout)
	})
}

// TestDialledAddresses: each address of a name is checked when it is dialled. Only the settings for
// it permit an inner address, and none that of a metadata service.
func TestDialledAddresses(t *testing.T) {
	t.Parallel()
	plain := httptest.NewUnstartedServer(nil)
	_, port, err := net.SplitHostPort(plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, provider.Config{IssuerURL: "http://dex-idp:" + port + "/auth"})
	plain.Config.Handler = p
	plain.Start()
	defer plain.Close()
	_, secure := realWorld(t, nil)
	secure.Config.Handler.(*switchable).set(mimic("https://example.com", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/auth/keys"
		p.ServeHTTP(rw, r)
	}))) // the name in httptest's certificate
	proxyTo := func(r reach) http.RoundTripper {
		transport := newTransport(r).(*http.Transport)
		dial := transport.DialContext
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			if _, port, _ := net.SplitHostPort(secure.Listener.Addr().String()); host == "example.com" {
				address = net.JoinHostPort(host, port)
			}
			return dial(ctx, network, address)
		}
		return transport
	}

	https, private := staticIssuer("https://example.com"), staticIssuer("https://example.com")
	https.CACert, private.AllowPrivateNetwork = certPEM(secure), true
	listed, wildcard := staticIssuer(p.IssuerURL()), wildcardIssuer("https://*.com")
	insecure := Config{InsecureHosts: []string{"DEX-idp"}}
	for _, test := range []struct {
		cfg       Config
		issuer    Issuer
		addresses []string
		accepted  bool
	}{
		{Config{AllowLoopback: true}, https, []string{"127.0.0.1"}, true},
		{Config{}, https, []string{"127.0.0.1"}, false}, {Config{}, private, []string{"127.0.0.1"}, false}, {Config{}, wildcard, []string{"127.0.0.1"}, false},
		{Config{}, https, []string{"10.0.0.1"}, false}, {Config{}, wildcard, []string{"192.168.1.1", "fd00::1"}, false},
		{Config{AllowLoopback: true}, private, []string{"169.254.169.254"}, false}, {Config{AllowLoopback: true}, private, []string{"100.100.100.200"}, false},
		{Config{}, wildcard, []string{"64:ff9b::7f00:1"}, false}, {Config{}, https, []string{"172.16.0.1", "127.0.0.1", "::1"}, false},
		{insecure, listed, []string{"127.0.0.1"}, true}, {insecure, listed, []string{"169.254.169.254"}, false},
		{insecure, listed, []string{"168.63.129.16"}, false}, {insecure, listed, []string{"fd00:ec2::254"}, false},
		{insecure, listed, []string{"64:ff9b::a9fe:a9fe"}, false}, {insecure, listed, []string{"0.0.0.0"}, false},
	} {
		test.cfg.Issuers = []Issuer{test.issuer}
		v, err := newVerifier(test.cfg, func(r reach) http.RoundTripper {
			r.resolver = resolverTo(test.addresses...)
			return proxyTo(r)
		})
		if err != nil {
			t.Fatal(err)
		}
		iss := "https://example.com"
		if test.issuer.URL == listed.URL {
			iss = listed.URL
		}
		_, err = v.Verify(t.Context(), mint(t, p, map[string]any{"iss": iss}), unknownClient)
		if test.accepted {
			if err != nil {
				t.Errorf("%s at %v: %v", iss, test.addresses, err)
			}
			continue
		}
		if e := wantReason(t, err, refusal.IssuerUnreachable); !strings.Contains(e.Cause.Error(), "is refused for an issuer") || strings.Contains(e.Message, test.addresses[0]) {
			t.Errorf("%s at %v: message %q, cause %v", iss, test.addresses, e.Message, e.Cause)
		}
	}
}

// TestKeySetInside: the addresses of the host that a discovery document names for the keys are checked too.
func TestKeySetInside(t *testing.T) {
	t.Parallel()
	p := newProvider(t, provider.Config{IssuerURL: testIssuer})
	for _, address := range []string{"10.0.0.1", "127.0.0.1", "169.254.169.254", "fd00::1"} {
		good := newWeb()
		good.serve(testIssuer, site(testIssuer, "https://keys.elsewhere.example/jwks", "", `{"keys":[]}`))
		v, err := newVerifier(Config{Issuers: []Issuer{staticIssuer(testIssuer)}}, func(r reach) http.RoundTripper {
			r.resolver = resolverTo(address)
			real := newTransport(r)
			return roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.URL.Host == "issuer.example" {
					return good.RoundTrip(req)
				}
				return real.RoundTrip(req)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(t.Context(), mint(t, p, nil), unknownClient)
		if e := wantReason(t, err, refusal.IssuerUnreachable); !strings.Contains(e.Cause.Error(), "is refused for an issuer") {
			t.Errorf("%s: cause %v", address, e.Cause)
		}
	}
}
