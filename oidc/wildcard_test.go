// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
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

// madeUp returns a token of an issuer that is not on the network.
func (w *world) madeUp(t *testing.T, i int) string {
	return w.tokenOf(t, fmt.Sprintf("https://made-up-%d.example", i))
}

// hanging puts an issuer on the network that never answers, and returns a token of it.
func (w *world) hanging(t *testing.T, i int) string {
	issuer := fmt.Sprintf("https://hanging-%d.example", i)
	w.serve(issuer, hang)
	return w.tokenOf(t, issuer)
}

// realIssuer puts a new issuer of the pattern on the network, and returns a token of it.
func (w *world) realIssuer(t *testing.T, i int) string {
	issuer := fmt.Sprintf("https://real-%d.example", i)
	w.serve(issuer, mimic(issuer, w.provider))
	return w.tokenOf(t, issuer)
}

// count returns the number of issuers whose keys have been read, or of the others.
func (p *pool) count(proven bool) (n int) {
	for _, i := range p.kept {
		if i.proven == proven {
			n++
		}
	}
	return n
}

// TestMadeUpIssuers: callers choose the issuers under a wildcard. Invented ones cost a bounded
// number of bytes and of fetches, at most one each. They replace no good issuer and affect no other
// pattern.
func TestMadeUpIssuers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, other := wildWorld(t)
		good := mint(t, w.provider, nil)
		w.accept(t, good)
		before, start := len(w.sent()), time.Now()
		looked, refused := 0, 0
		for i := range 3 * maxUnproven {
			err := w.verify(t, w.madeUp(t, i))
			if r := refusal.From(err); r.Reason == refusal.IssuerUnreachable {
				looked++
			} else if wantReason(t, err, refusal.Overloaded).RetryAfter > 0 {
				refused++
			}
		}
		if passed := time.Since(start); passed != 0 || looked > lookupBurst || looked+refused != 3*maxUnproven || len(w.sent())-before != looked {
			t.Errorf("%d lookups with %d requests and %d refusals in %s", looked, len(w.sent())-before, refused, passed)
		}
		// The good issuer and another pattern work as before.
		before = len(w.sent())
		if w.accept(t, good); len(w.sent()) != before {
			t.Errorf("the good issuer during the flood: %d requests", len(w.sent())-before)
		}
		w.accept(t, mint(t, other, nil))
		// A minute of it causes only the fetches that the clock permits, and keeps no more than the
		// limit.
		before = len(w.sent())
		for i := range 60 {
			time.Sleep(time.Second)
			for j := range 2 * lookupRate {
				_ = w.verify(t, w.madeUp(t, 2*lookupRate*i+j))
			}
		}
		if n := len(w.sent()) - before; n > 60*lookupRate {
			t.Errorf("%d requests in a minute", n)
		}
		if pool := w.verifier.wildcards[0].pool; pool.count(false) != maxUnproven || pool.count(true) != 1 {
			t.Errorf("%d made-up issuers and %d good ones are kept", pool.count(false), pool.count(true))
		}
	})
}

// TestManyIssuersOfOnePattern: one pattern's good issuers replace each other, the least recently used
// one first, and none of another pattern.
func TestManyIssuersOfOnePattern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, other := wildWorld(t)
		tokenOfOther := mint(t, other, nil)
		w.accept(t, tokenOfOther)
		for i := range maxProven + 1 {
			time.Sleep(2 * time.Second / lookupRate) // one client has half of the lookups
			w.accept(t, w.realIssuer(t, i))
			if i == maxProven-1 {
				w.accept(t, w.realIssuer(t, 0))
			}
		}
		synctest.Wait() // a token may be accepted before the pool has recorded the fetch of its keys
		kept := w.verifier.wildcards[0].pool.kept
		if len(kept) != maxProven || kept["https://real-0.example"] == nil || kept["https://real-1.example"] != nil {
			t.Errorf("%d issuers are kept, want %d without the least recently used one", len(kept), maxProven)
		}
		before := len(w.sent())
		if w.accept(t, tokenOfOther); len(w.sent()) != before {
			t.Errorf("the other pattern's issuer: %d requests", len(w.sent())-before)
		}
	})
}

// TestFetchesForWildcardsAreBounded: beyond the limit, requests are refused, not queued. Refreshes
// and requests of another pattern are not refused.
func TestFetchesForWildcardsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, other := wildWorld(t)
		w.accept(t, mint(t, w.provider, nil))
		w.rotate(t)
		var all sync.WaitGroup
		for i := range maxLookups {
			raw := w.hanging(t, i)
			all.Go(func() { wantReason(t, w.verifyFrom(t, clientNumber(i), raw), refusal.IssuerUnreachable) })
		}
		synctest.Wait()
		start := time.Now()
		if e := wantReason(t, w.verifyFrom(t, clientNumber(maxLookups), w.hanging(t, maxLookups)), refusal.Overloaded); e.RetryAfter <= 0 || time.Since(start) != 0 {
			t.Errorf("refusal %+v after %s", e, time.Since(start))
		}
		w.accept(t, mint(t, w.provider, nil)) // a new key of a good issuer
		w.accept(t, mint(t, other, nil))
		if all.Wait(); time.Since(start) != maxWait {
			t.Errorf("requests waited %s, want %s", time.Since(start), maxWait)
		}
		time.Sleep(fetchTimeout)
		w.accept(t, w.realIssuer(t, 1))
	})
}

// TestFailedWildcardIsNotAskedAgainAtOnce: failures are remembered for a moment, and longer after
// each further one.
func TestFailedWildcardIsNotAskedAgainAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _ := wildWorld(t)
		w.serve(testIssuer, nil)
		token := mint(t, w.provider, nil)
		for range 20 {
			w.refuse(t, token, refusal.IssuerUnreachable)
		}
		if n := len(w.sent()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		for range 600 {
			time.Sleep(time.Second)
			_ = w.verify(t, token)
		}
		if n := len(w.sent()); n > 30 {
			t.Errorf("%d requests in ten minutes", n)
		}
		w.serve(testIssuer, w.provider)
		time.Sleep(maxBackoff)
		w.accept(t, token)
	})
}

func TestStatusOfAPattern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _ := wildWorld(t)
		want := func(state State, issuers int) {
			t.Helper()
			status := w.verifier.Status()[0]
			if status.State != state || status.Issuers != issuers || !status.Usable || (status.LastError != "") != (state == StateFailing || state == StateDegraded) {
				t.Errorf("status %+v, want %s with %d issuers", status, state, issuers)
			}
		}
		want(StatePending, 0)
		_ = w.verify(t, w.madeUp(t, 1))
		want(StateFailing, 0)
		token := mint(t, w.provider, nil)
		w.accept(t, token)
		want(StateOK, 1)
		_ = w.verify(t, w.madeUp(t, 2))
		want(StateOK, 1)
		w.serve(testIssuer, nil)
		time.Sleep(defaultKeyRefresh)
		w.accept(t, token)
		want(StateDegraded, 1)
		time.Sleep(defaultKeyLifetime)
		want(StateFailing, 0)
	})
}

// TestOneCallerKeepsNoNewIssuerOut: one client floods a pattern with invented issuers, or with
// issuers that hang. For another client, the token of a new real issuer still passes at the first
// try. The first client gets RATE_LIMITED.
func TestOneCallerKeepsNoNewIssuerOut(t *testing.T) {
	t.Parallel()
	v4 := func(last int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(last)}) }
	v6 := func(network, host int) netip.Addr {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::%x", network, host))
	}
	for name, test := range map[string]struct {
		hang             bool
		attacker, honest func(i int) netip.Addr
	}{
		"one address":                                   {false, func(int) netip.Addr { return v4(1) }, func(int) netip.Addr { return v4(2) }},
		"one address, issuers that hang":                {true, func(int) netip.Addr { return v4(1) }, func(int) netip.Addr { return v4(2) }},
		"addresses of one /64":                          {true, func(i int) netip.Addr { return v6(1, i+1) }, func(int) netip.Addr { return v6(2, 1) }},
		"networks of one /48":                           {true, func(i int) netip.Addr { return v6(i%0x10000, 1) }, clientNumber},
		"addresses of one /24":                          {false, v4, clientNumber},
		"ten addresses in the /24 of the honest client": {true, func(i int) netip.Addr { return v4(100 + i%10) }, func(int) netip.Addr { return v4(2) }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, _ := wildWorld(t)
				token := w.madeUp
				if test.hang {
					token = w.hanging
				}
				var mu sync.Mutex
				reasons := map[refusal.Reason]int{}
				var flood sync.WaitGroup
				const rate = 1000 // a second
				for i := range 3 * rate {
					raw := token(t, i%500)
					flood.Go(func() {
						err := w.verifyFrom(t, test.attacker(i), raw)
						mu.Lock()
						defer mu.Unlock()
						reasons[refusal.From(err).Reason]++
					})
					time.Sleep(time.Second / rate)
					if i%rate == rate-1 {
						synctest.Wait()
						if err := w.verifyFrom(t, test.honest(i), w.realIssuer(t, i)); err != nil {
							t.Errorf("a new issuer after %d requests: %v", i+1, err)
						}
					}
				}
				flood.Wait()
				// Only an address that has used its share is blamed; a /48 has one for each
				// request.
				blamed := reasons[refusal.RateLimited] > 0
				if several := name != "networks of one /48"; blamed != several || reasons[refusal.IssuerUnreachable] == 0 {
					t.Errorf("the attacker got %v", reasons)
				}
				// Afterwards every place is free again; one client gets half of them.
				pool := w.verifier.wildcards[0].pool
				time.Sleep(maxBackoff)
				for want, places := range map[int]*share.Places{
					lookupBurst / 2: pool.begun, maxLookups / 2: pool.lookups, maxRefreshes / 2: pool.refreshes, maxWaiting / 2: pool.entry.waiting,
				} {
					got := 0
					for places.Take(v4(1), time.Now()) {
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
			cfg.Issuers = append(cfg.Issuers, issuers(fmt.Sprintf("https://*.p%d.example", i))...)
		}
		w := newWorld(t, cfg, provider.Config{IssuerURL: "https://a.p0.example"})
		start := time.Now()
		var all sync.WaitGroup
		var waited atomic.Int64
		for i := range 100 {
			issuer := fmt.Sprintf("https://hangs.p%d.example", i%10)
			w.serve(issuer, hang)
			raw := w.tokenOf(t, issuer)
			all.Go(func() {
				if _ = w.verifyFrom(t, clientNumber(1), raw); time.Since(start) > 0 {
					waited.Add(1)
				}
			})
		}
		synctest.Wait()
		if err := w.verifyFrom(t, clientNumber(2), mint(t, w.provider, nil)); err != nil || time.Since(start) != 0 {
			t.Errorf("another client: %v after %s", err, time.Since(start))
		}
		if all.Wait(); waited.Load() != 20 {
			t.Errorf("%d requests of one client waited", waited.Load())
		}
		time.Sleep(2 * fetchTimeout)
	})
}

// TestOneAddressForAllIsOverloaded: if every request comes from one address, it may be a proxy's,
// and no client is blamed, unless proxies are known.
func TestOneAddressForAllIsOverloaded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _ := wildWorld(t)
		flood := func(from int) error {
			for i := range lookupBurst {
				if err := w.verifyFrom(t, clientNumber(1), w.madeUp(t, from+i)); refusal.From(err).Reason != refusal.IssuerUnreachable {
					return err
				}
			}
			return nil
		}
		if e := wantReason(t, flood(0), refusal.Overloaded); e.RetryAfter != lookupBurst/lookupRate*time.Second {
			t.Errorf("retry after %s, want when the first place is free", e.RetryAfter)
		}
		// A place of a second client shows that addresses belong to clients.
		_ = w.verifyFrom(t, clientNumber(2), w.madeUp(t, lookupBurst))
		wantReason(t, flood(1000), refusal.RateLimited)
		time.Sleep(lookupBurst / lookupRate * time.Second)
		wantReason(t, flood(2000), refusal.Overloaded)
		w.verifier = newTestVerifier(t, Config{Issuers: issuers("https://*.example"), ProxiesKnown: true}, w.transport)
		wantReason(t, flood(3000), refusal.RateLimited)
	})
}
