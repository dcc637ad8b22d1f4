// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// clientNumber returns an IPv4 address, each in another /24.
func clientNumber(i int) netip.Addr {
	var octets [4]byte
	binary.BigEndian.PutUint32(octets[:], 1<<24+uint32(i)<<8+7)
	return netip.AddrFrom4(octets)
}

// realIssuer puts a new issuer of the pattern on the network, and returns a token of it.
func (w *world) realIssuer(t *testing.T, name string) string {
	t.Helper()
	issuer := "https://" + name + ".example"
	w.serve(issuer, mimic(issuer, w.provider))
	return mint(t, w.provider, map[string]any{"iss": issuer})
}

// hanging puts an issuer on the network that never answers, and returns a token of it.
func (w *world) hanging(t *testing.T, i int) string {
	t.Helper()
	issuer := fmt.Sprintf("https://hanging-%d.example", i)
	w.serve(issuer, http.HandlerFunc(hang))
	return mint(t, w.provider, map[string]any{"iss": issuer})
}

// TestOneCallerKeepsNoNewIssuerOut: one client floods a pattern with invented issuers, or with
// issuers that hang. For another client, the token of a new real issuer still passes at the first
// try. The first client gets RATE_LIMITED.
func TestOneCallerKeepsNoNewIssuerOut(t *testing.T) {
	t.Parallel()
	attacker, honest := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	always := func(client netip.Addr) func(int) netip.Addr { return func(int) netip.Addr { return client } }
	for _, test := range []struct {
		name     string
		rate     int // requests a second
		hang     bool
		attacker func(i int) netip.Addr
		honest   func(i int) netip.Addr
	}{
		{"1,000 a second", 1000, false, func(int) netip.Addr { return attacker }, always(honest)},
		{"1,000 a second that hang", 1000, true, func(int) netip.Addr { return attacker }, always(honest)},
		{"addresses of one /64", 1000, true, func(i int) netip.Addr {
			return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1::%x", i+1))
		}, always(netip.MustParseAddr("2001:db8:0:2::1"))},
		{"networks of one /48", 1000, true, func(i int) netip.Addr {
			return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", i%0x10000))
		}, clientNumber},
		{"addresses of one /24", 1000, false, func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		}, clientNumber},
		{"ten addresses in the /24 of the honest client", 1000, true, func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i%10)})
		}, always(honest)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := wildWorld(t)
				token := w.madeUp
				if test.hang {
					token = w.hanging
				}
				var mu sync.Mutex
				reasons := map[refusal.Reason]int{}
				var flood sync.WaitGroup
				const seconds = 3
				for i := range seconds * test.rate {
					raw := token(t, i%500)
					flood.Go(func() {
						_, err := w.verifier.Verify(t.Context(), raw, test.attacker(i))
						mu.Lock()
						defer mu.Unlock()
						reasons[refusal.From(err).Reason]++
					})
					time.Sleep(time.Second / time.Duration(test.rate))
					if i%test.rate == test.rate-1 {
						synctest.Wait()
						if err := w.verifyFrom(t, test.honest(i), w.realIssuer(t, fmt.Sprintf("real-%d", i))); err != nil {
							t.Errorf("a new issuer after %d requests: %v", i+1, err)
						}
					}
				}
				flood.Wait()
				// Only an address that has used its share is blamed; a /48 has one for each
				// request.
				blamed := reasons[refusal.RateLimited] > 0
				if several := test.name != "networks of one /48"; blamed != several || reasons[refusal.IssuerUnreachable] == 0 {
					t.Errorf("the attacker got %v", reasons)
				}
				// Afterwards every place is free again; one client gets half of them.
				pool := w.verifier.wildcards[0].pool
				time.Sleep(maxBackoff)
				for want, places := range map[int]*share.Places{
					lookupBurst / 2: pool.begun, maxLookups / 2: pool.lookups, maxRefreshes / 2: pool.refreshes, maxWaiting / 2: pool.entry.waiting,
				} {
					got := 0
					for places.Take(attacker, time.Now()) {
						got++
					}
					if got != want {
						t.Errorf("afterwards one client gets %d places, want %d", got, want)
					}
				}
			})
		})
	}
}

// TestOneClientWaitsForFewIssuers: over all patterns, the waiting requests of one client leave
// places for other clients.
func TestOneClientWaitsForFewIssuers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := Config{MaxWaiting: 40}
		for i := range 10 {
			cfg.Issuers = append(cfg.Issuers, wildcardIssuer(fmt.Sprintf("https://*.p%d.example", i)))
		}
		w := newWorld(t, cfg, provider.Config{IssuerURL: "https://a.p0.example"})
		start := time.Now()
		var all sync.WaitGroup
		var waited, refused atomic.Int64
		for i := range 100 {
			issuer := fmt.Sprintf("https://hangs.p%d.example", i%10)
			w.serve(issuer, http.HandlerFunc(hang))
			raw := mint(t, w.provider, map[string]any{"iss": issuer})
			all.Go(func() {
				_ = w.verifyFrom(t, clientNumber(1), raw)
				if time.Since(start) > 0 {
					waited.Add(1)
				} else {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if err := w.verifyFrom(t, clientNumber(2), mint(t, w.provider, nil)); err != nil || time.Since(start) != 0 {
			t.Errorf("another client: %v after %s", err, time.Since(start))
		}
		if all.Wait(); waited.Load() != 20 || refused.Load() != 80 {
			t.Errorf("%d requests of one client waited, and %d were refused", waited.Load(), refused.Load())
		}
		time.Sleep(2 * fetchTimeout)
	})
}

// TestOneAddressForAllIsOverloaded: if every request comes from one address, it may be a proxy's,
// and no client is blamed.
func TestOneAddressForAllIsOverloaded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		proxy, direct := clientNumber(1), clientNumber(2)
		flood := func(from int) error {
			for i := range lookupBurst {
				if err := w.verifyFrom(t, proxy, w.madeUp(t, from+i)); refusal.From(err).Reason != refusal.IssuerUnreachable {
					return err
				}
			}
			return nil
		}
		if e := wantReason(t, flood(0), refusal.Overloaded); e.RetryAfter != lookupBurst/lookupRate*time.Second {
			t.Errorf("retry after %s, want when the first place is free", e.RetryAfter)
		}
		// A second client shows that addresses belong to clients; a long time without one ends
		// this.
		wantReason(t, w.verifyFrom(t, direct, "no token"), refusal.TokenMalformed)
		if e := wantReason(t, flood(1000), refusal.RateLimited); e.RetryAfter <= 0 {
			t.Errorf("retry after %s", e.RetryAfter)
		}
		time.Sleep(severalFor + time.Second)
		wantReason(t, flood(2000), refusal.Overloaded)
		// If proxies are known, one address is one client.
		w.verifier = newTestVerifier(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example")}, ProxiesKnown: true}, w.web)
		wantReason(t, flood(3000), refusal.RateLimited)
	})
}
