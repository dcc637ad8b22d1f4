// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// The limits that issuer discovery must keep, each with a provider that counts its requests. `make
// figures-oidc` prints them.

// TestFigureNewKeys: 1,000 bad tokens with a known kid cause no fetch within 5 s of the last one.
func TestFigureNewKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{}, provider.Config{})
		defer w.run(t)()
		synctest.Wait()
		stranger := newProvider(t, provider.Config{IssuerURL: testIssuer}) // its key has the same kid
		bad, before, start := mint(t, stranger, nil), len(w.sent()), time.Now()
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { wantReason(t, w.verify(t, bad), refusal.SignatureInvalid) })
		}
		all.Wait()
		n := len(w.sent()) - before
		t.Logf("1,000 bad tokens with a known kid, just after a fetch: %d fetches", n)
		if n != 0 || time.Since(start) != 0 {
			t.Errorf("%d fetches and %s of waiting, want none", n, time.Since(start))
		}
	})
}

// TestFigureBadTokens: 1,000 tokens with bad signatures, with different unknown kids, or without a
// kid, cause at most 2 fetches a minute. The issuer is static or under a pattern.
func TestFigureBadTokens(t *testing.T) {
	t.Parallel()
	for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{Issuers: []Issuer{issuer}}, provider.Config{Lifetime: time.Hour})
			defer w.run(t)()
			synctest.Wait()
			good := mint(t, w.provider, nil)
			w.accept(t, good)
			stranger := newProvider(t, provider.Config{IssuerURL: testIssuer, Lifetime: time.Hour}) // its first key has the same kid
			tokens := make([]string, 1000)
			for i := range tokens {
				tokens[i] = mint(t, stranger, nil)
				if i%3 == 1 {
					key := stranger.SigningKey()
					key.KeyID = ""
					tokens[i] = sign(t, key, nil, lasting())
				}
				if i%3 == 2 {
					if _, err := stranger.Rotate(); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(settled + time.Second)
			before, start, worst := w.provider.KeyFetches(), time.Now(), int64(0)
			for range 5 { // minutes
				minute := w.provider.KeyFetches()
				for i := range 59 {
					var all sync.WaitGroup
					crowd := tokens[:6]
					if i == 0 {
						crowd = tokens
					}
					for _, token := range crowd {
						all.Go(func() { wantTemporary(t, w.verify(t, token)) })
					}
					all.Wait()
					time.Sleep(time.Second)
				}
				if err := w.verify(t, good); err != nil {
					t.Errorf("a good token among the bad ones: %v", err)
				}
				worst = max(worst, w.provider.KeyFetches()-minute)
				time.Sleep(time.Second)
			}
			n := w.provider.KeyFetches() - before
			t.Logf("%s, bad tokens every second for 5 minutes: %d fetches in all, %d at most in a minute", issuer.Key, n, worst)
			if most := int64(time.Since(start)/checkInterval) + 1; n > most || n < 8 || worst > 2 || w.provider.Discoveries() > n+2 {
				t.Errorf("%d fetches in all, %d in one minute, %d discoveries", n, worst, w.provider.Discoveries())
			}
		})
	}
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

// TestFigureIssuerDown: 50 requests at once to an issuer that is down, in any way, cause at most
// one fetch, and 503 ISSUER_UNREACHABLE.
func TestFigureIssuerDown(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]http.Handler{
		"refuses connections": nil,
		"hangs":               http.HandlerFunc(hang),
		"answers 500":         http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) }),
	} {
		for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{Issuers: []Issuer{issuer}}, provider.Config{Lifetime: time.Hour})
				w.serve(testIssuer, down)
				defer w.run(t)()
				time.Sleep(10 * time.Minute) // the outage is long
				token, before, start := mint(t, w.provider, nil), len(w.sent()), time.Now()
				var all sync.WaitGroup
				for range 50 {
					all.Go(func() {
						if e := wantReason(t, w.verify(t, token), refusal.IssuerUnreachable); e.RetryAfter <= 0 {
							t.Error("there is no Retry-After")
						}
					})
				}
				all.Wait()
				n, waited := len(w.sent())-before, time.Since(start)
				t.Logf("%s %s, 50 requests at once: %d fetches, answered within %s", issuer.Key, name, n, waited)
				if n > 1 || waited > maxWait {
					t.Errorf("%s: %d fetches, %s", name, n, waited)
				}
				time.Sleep(2 * fetchTimeout)
			})
		}
	}
}

// TestFigureWithdrawnKey: a withdrawn key is refused within the refresh interval, at any moment and
// max-age, even if the issuer takes 4 s for an answer.
func TestFigureWithdrawnKey(t *testing.T) {
	t.Parallel()
	var worst atomic.Int64
	for _, moment := range []time.Duration{time.Second, 5 * time.Minute, 11*time.Minute + 50*time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, provider.Config{Lifetime: 10 * time.Hour})
			w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Cache-Control", "max-age=86400")
				w.provider.ServeHTTP(rw, r)
				time.Sleep(4 * time.Second)
			}))
			defer w.run(t)()
			time.Sleep(8 * time.Second) // of the bubble's clock, like all others
			synctest.Wait()
			token := mint(t, w.provider, nil)
			time.Sleep(moment)
			w.accept(t, token)
			if err := w.provider.Withdraw(w.provider.SigningKey().KeyID); err != nil {
				t.Fatal(err)
			}
			withdrawn := time.Now()
			for time.Since(withdrawn) < time.Hour && w.verify(t, token) == nil {
				time.Sleep(time.Second)
				synctest.Wait()
			}
			took := time.Since(withdrawn)
			wantTemporary(t, w.verify(t, token))
			time.Sleep(2 * fetchTimeout) // until a fetch that the refused token caused has ended
			if worst.Store(max(worst.Load(), int64(took))); took > defaultKeyRefresh {
				t.Errorf("a key withdrawn %s after the fetch was accepted for %s", moment, took)
			}
		})
	}
	t.Logf("a withdrawn key is refused after %s at most (interval %s)", time.Duration(worst.Load()), defaultKeyRefresh)
}

// TestFigureHugeDocument: less than 1 MiB is read of a document of 200 MiB, from servers with and
// without HTTP/2, with and without an announced length, for the keys as for discovery.
func TestFigureHugeDocument(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		for _, test := range []struct{ announced, keys bool }{{false, false}, {true, false}, {false, true}} {
			var sent, read atomic.Int64
			server := httptest.NewUnstartedServer(endless(test.announced, &sent))
			if test.keys {
				server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/keys" {
						endless(test.announced, &sent).ServeHTTP(rw, r)
						return
					}
					_, _ = fmt.Fprintf(rw, `{"issuer":"https://%[1]s","jwks_uri":"https://%[1]s/keys"}`, r.Host)
				})
			}
			server.EnableHTTP2 = h2
			server.StartTLS()
			issuer := staticIssuer("https://" + server.Listener.Addr().String())
			v, err := newVerifier(Config{Issuers: []Issuer{issuer}, AllowLoopback: true}, countingTransport(server, &read))
			if err != nil {
				t.Fatal(err)
			}
			_, err = v.Verify(t.Context(), mint(t, newProvider(t, provider.Config{IssuerURL: issuer.URL}), nil), unknownClient)
			wantReason(t, err, refusal.IssuerUnreachable)
			server.CloseClientConnections()
			server.Close()
			t.Logf("a document of 200 MiB (keys %v, HTTP/2 offered %v, length announced %v): %d KiB read from the connection, %d KiB sent by the issuer", test.keys, h2, test.announced, read.Load()>>10, sent.Load()>>10)
			if sent.Load() == 0 || read.Load() >= 1<<20 {
				t.Errorf("%d bytes were read, %d sent", read.Load(), sent.Load())
			}
		}
	}
}

// endless answers with 200 MiB, and counts the bytes that it has sent or is sending.
func endless(announced bool, sent *atomic.Int64) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		if announced {
			rw.Header().Set("Content-Length", "209715200")
		}
		_, _ = io.WriteString(rw, `{"issuer":"`)
		chunk := make([]byte, 64<<10)
		for range 200 << 20 / len(chunk) {
			n, err := rw.Write(chunk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}
}

// countingTransport counts the bytes that are read from connections, including those of TLS.
func countingTransport(server *httptest.Server, read *atomic.Int64) transportFunc {
	return func(r reach) http.RoundTripper {
		r.roots = x509.NewCertPool()
		r.roots.AddCert(server.Certificate())
		transport := newTransport(r).(*http.Transport)
		dial := transport.DialContext
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return &countingConn{Conn: conn, read: read}, err
		}
		return transport
	}
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}
