// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestHangingIssuersDelayNoOther: a request gets keys that are no older than KeyRefresh, although more
// issuers hang than Run reads at a time.
func TestHangingIssuersDelayNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const hanging = 4 * maxBackground
		var outage atomic.Bool
		open := func(reach) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if outage.Load() && r.URL.Host != fmt.Sprintf("i%d.example", hanging) {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				base := "https://" + r.URL.Host
				body := fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`, base, base+"/keys")
				if r.URL.Path == "/keys" {
					body = `{"keys":[]}`
				}
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
			})
		}
		cfg := Config{KeyRefresh: time.Minute}
		for i := range hanging + 1 {
			cfg.Issuers = append(cfg.Issuers, Issuer{Key: fmt.Sprintf("https://i%d.example", i), Audiences: []string{"sigstore"}})
		}
		v := must(newVerifier(cfg, open))(t)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = v.Run(ctx) }()
		time.Sleep(20 * time.Second) // of the bubble's clock
		outage.Store(true)
		for range 8 * 60 {
			time.Sleep(time.Second)
			k := must(v.entries[hanging].issuer.keysFor(ctx, netip.Addr{}, time.Now()))(t)
			if age := time.Since(k.fetchedAt); age > cfg.KeyRefresh {
				t.Fatalf("a request got keys of %s", age)
			}
		}
		stop()
		<-done
		time.Sleep(20 * time.Second) // the last fetches end
	})
}

// TestStaticEntriesShareTheProxy: they have one pool of connections to it.
func TestStaticEntriesShareTheProxy(t *testing.T) {
	t.Parallel()
	cfg := Config{Proxy: "http://proxy.example:3128"}
	for i := range 3 {
		cfg.Issuers = append(cfg.Issuers, Issuer{Key: fmt.Sprintf("https://i%d.example", i), Audiences: []string{"sigstore"}})
	}
	pools := map[http.RoundTripper]bool{}
	for _, e := range must(New(cfg))(t).entries {
		pools[e.client.Transport.(*router).https.(*proxied).via] = true
	}
	if len(pools) != 1 {
		t.Errorf("%d pools for %d entries", len(pools), len(cfg.Issuers))
	}
}
