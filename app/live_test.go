// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// Run starts every generation, stops the replaced ones when no request can need them any more, and
// leaves nothing behind: a remaining goroutine would fail the bubble.
func TestLiveRunEndsEveryGeneration(t *testing.T) {
	t.Parallel()
	issuers, _, err := config.ParseIssuers("f", []byte("meta-issuers: {https://*.example.com: {client-id: a, type: email}}"), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		l := &live{swapped: make(chan struct{}, 1)}
		swap := func(number uint64) {
			t.Helper()
			trust, err := newTrust(&config.Server{}, issuers, slog.New(slog.DiscardHandler), trustObserver{})
			if err != nil {
				t.Fatal(err)
			}
			l.current.Store(&generation{number: number, verifier: trust.verifier})
			select {
			case l.swapped <- struct{}{}:
			default:
			}
		}
		swap(1)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		synctest.Wait()
		for number := uint64(2); number < 20; number++ {
			swap(number)
			if number%5 == 0 { // Run never starts the others in between
				synctest.Wait()
				time.Sleep(linger / 2)
			}
		}
		time.Sleep(3 * linger)
		stop()
		<-done
	})
}

// TestIssuersAreReachedThroughTheProxy tests that the secret of the configuration gets to the verifier, and that an https
// proxy needs a certificate of the CA that is configured for it.
func TestIssuersAreReachedThroughTheProxy(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 8)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusBadGateway)
	})
	plain, secured := httptest.NewServer(handler), httptest.NewUnstartedServer(handler)
	secured.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // for the handshakes that fail
	secured.StartTLS()
	defer plain.Close()
	defer secured.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(secured.Certificate())
	for _, test := range []struct {
		proxy string
		roots *x509.CertPool
		want  string
	}{
		{plain.URL, nil, "CONNECT issuer.example:443"},
		{secured.URL, trusted, "CONNECT issuer.example:443"},
		{secured.URL, nil, ""},
		{secured.URL, x509.NewCertPool(), ""},
	} {
		cfg, _, err := config.ParseServer("m", []byte("issuers: i\nca: {set: s}\nct: {disabled: true}\n"), []string{"MAYFLY_OIDC_PROXY=" + test.proxy})
		if err != nil {
			t.Fatal(err)
		}
		cfg.OIDC.ProxyRoots = test.roots
		const entry = "oidc-issuers: {https://issuer.example: {issuer-url: https://issuer.example, client-id: a, type: email}}"
		issuers, _, err := config.ParseIssuers("f", []byte(entry), false, nil)
		if err != nil {
			t.Fatal(err)
		}
		trust, err := newTrust(cfg, issuers, slog.New(slog.DiscardHandler), trustObserver{})
		if err != nil {
			t.Fatal(err)
		}
		trust.verifier.Probe(t.Context())
		got := ""
		select {
		case got = <-asked:
		default:
		}
		if got != test.want {
			t.Errorf("the proxy %s got %q, want %q", test.proxy, got, test.want)
		}
	}
}
