// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// wildWorld has the patterns https://*.example, with the provider of testIssuer under it, and
// https://*.other.
func wildWorld(t *testing.T) *world {
	return newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example"), wildcardIssuer("https://*.other")}},
		provider.Config{Lifetime: time.Hour})
}

// madeUp returns a token of an issuer that is not on the network.
func (w *world) madeUp(t *testing.T, i int) string {
	t.Helper()
	return mint(t, w.provider, map[string]any{"iss": fmt.Sprintf("https://made-up-%d.example", i)})
}

// TestMadeUpIssuers: callers choose the issuers under a wildcard. Invented ones cost a bounded
// number of bytes and of fetches, at most one each. They replace no good issuer and affect no other
// pattern.
func TestMadeUpIssuers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		other := newProvider(t, provider.Config{IssuerURL: "https://b.other"})
		w.serve(other.IssuerURL(), other)
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
		if passed := time.Since(start); passed != 0 || looked > lookupBurst || looked+refused != 3*maxUnproven {
			t.Errorf("%d lookups and %d refusals in %s", looked, refused, passed)
		}
		if n := len(w.sent()) - before; n != looked {
			t.Errorf("%d requests for %d lookups", n, looked)
		}
		// The good issuer and another pattern work as before.
		before = len(w.sent())
		if err := w.verify(t, good); err != nil || len(w.sent()) != before {
			t.Errorf("the good issuer during the flood: %v, %d requests", err, len(w.sent())-before)
		}
		if err := w.verify(t, mint(t, other, nil)); err != nil {
			t.Errorf("another pattern's new issuer during the flood: %v", err)
		}
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
		pool := w.verifier.wildcards[0].pool
		if n := pool.count(unproven); n != maxUnproven {
			t.Errorf("%d made-up issuers are kept, want %d", n, maxUnproven)
		}
		if n := pool.count(proven); n != 1 {
			t.Errorf("%d good issuers are kept, want 1", n)
		}
	})
}

// TestManyIssuersOfOnePattern: one pattern's good issuers replace each other, and none of another
// pattern.
func TestManyIssuersOfOnePattern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		other := newProvider(t, provider.Config{IssuerURL: "https://b.other", Lifetime: time.Hour})
		w.serve(other.IssuerURL(), other)
		tokenOfOther := mint(t, other, nil)
		w.accept(t, tokenOfOther)
		for i := range maxProven + 10 {
			time.Sleep(2 * time.Second / lookupRate) // one client has half of the lookups
			issuer := fmt.Sprintf("https://real-%d.example", i)
			w.serve(issuer, mimic(issuer, w.provider))
			w.accept(t, mint(t, w.provider, map[string]any{"iss": issuer}))
		}
		if n := w.verifier.wildcards[0].pool.count(proven) + w.verifier.wildcards[1].pool.count(proven); n != maxProven+1 {
			t.Errorf("%d issuers are kept, want %d", n, maxProven+1)
		}
		before := len(w.sent())
		if err := w.verify(t, tokenOfOther); err != nil || len(w.sent()) != before {
			t.Errorf("the other pattern's issuer: %v, %d requests", err, len(w.sent())-before)
		}
	})
}

// mimic serves p's keys under another issuer URL.
func mimic(issuer string, p http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/.well-known/openid-configuration", body(fmt.Sprintf(
		`{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`, issuer, issuer+"/keys")))
	mux.Handle("/keys", p)
	return mux
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	t.Parallel()
	p := newPool(&shared{}, &entry{})
	issuers := make([]*issuer, maxProven+1)
	for n := range issuers {
		issuers[n] = &issuer{url: fmt.Sprint(n)}
	}
	p.keep(&kept{issuer: &issuer{url: "unproven"}}, unproven)
	for _, i := range issuers[:maxProven] {
		p.keep(&kept{issuer: i}, proven)
	}
	if i, err := p.issuer("0", unknownClient, time.Now()); i != issuers[0] || err != nil {
		t.Fatal(i, err)
	}
	p.keep(&kept{issuer: issuers[maxProven]}, proven)
	if p.kept["0"] == nil || p.kept[fmt.Sprint(maxProven)] == nil || p.kept["1"] != nil || p.kept["unproven"] == nil {
		t.Error("the least recently used one was kept, or another was not")
	}
}

// count returns the number of issuers of a class.
func (p *pool) count(c class) (n int) {
	for _, k := range p.kept {
		if k.class == c {
			n++
		}
	}
	return n
}

// TestFetchesForWildcardsAreBounded: beyond the limit, requests are refused, not queued. Refreshes
// and requests of another pattern are not refused.
func TestFetchesForWildcardsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		good := mint(t, w.provider, nil)
		w.accept(t, good)
		token := func(i int) string {
			issuer := fmt.Sprintf("https://hanging-%d.example", i)
			w.serve(issuer, http.HandlerFunc(hang))
			return mint(t, w.provider, map[string]any{"iss": issuer})
		}
		w.rotate(t)
		var all sync.WaitGroup
		for i := range maxLookups {
			raw := token(i)
			all.Go(func() { wantReason(t, w.verifyFrom(t, clientNumber(i), raw), refusal.IssuerUnreachable) })
		}
		synctest.Wait()
		start := time.Now()
		if e := wantReason(t, w.verifyFrom(t, clientNumber(maxLookups), token(maxLookups)), refusal.Overloaded); e.RetryAfter <= 0 || time.Since(start) != 0 {
			t.Errorf("refusal %+v after %s", e, time.Since(start))
		}
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil {
			t.Errorf("a new key of a good issuer meanwhile: %v", err)
		}
		other := newProvider(t, provider.Config{IssuerURL: "https://b.other"})
		w.serve(other.IssuerURL(), other)
		if err := w.verify(t, mint(t, other, nil)); err != nil {
			t.Errorf("another pattern meanwhile: %v", err)
		}
		all.Wait()
		if passed := time.Since(start); passed != maxWait {
			t.Errorf("requests waited %s, want %s", passed, maxWait)
		}
		time.Sleep(fetchTimeout)
		synctest.Wait()
		w.serve("https://hanging-1.example", mimic("https://hanging-1.example", w.provider))
		if err := w.verify(t, token(maxLookups+1)); refusal.From(err).Reason != refusal.IssuerUnreachable {
			t.Errorf("afterwards: %v", err)
		}
		time.Sleep(fetchTimeout)
	})
}

// TestFailedWildcardIsNotAskedAgainAtOnce: failures are remembered for a moment, and longer after
// each further one.
func TestFailedWildcardIsNotAskedAgainAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		w.serve(testIssuer, nil)
		token := mint(t, w.provider, nil)
		for range 20 {
			wantReason(t, w.verify(t, token), refusal.IssuerUnreachable)
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
		if err := w.verify(t, token); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestLongIssuerURLsAreNobodys: the kept data of an invented issuer is bounded too.
func TestLongIssuerURLsAreNobodys(t *testing.T) {
	t.Parallel()
	w := wildWorld(t)
	long := "https://" + strings.Repeat("a", maxIssuerURL) + ".example"
	wantReason(t, w.verify(t, mint(t, w.provider, map[string]any{"iss": long})), refusal.IssuerNotConfigured)
	if n := len(w.sent()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestStatusOfAPattern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
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
