// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestMadeUpIssuersDriveOutNoGoodOne: callers choose the issuers under a wildcard.
func TestMadeUpIssuersDriveOutNoGoodOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example")}}, provider.Config{})
	token := mint(t, w.provider, nil)
	// Once is enough: made-up ones must not drive it out before it is asked for again.
	if err := w.verify(t, token); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxFound {
		wantReason(t, w.verify(t, mint(t, w.provider, map[string]any{"iss": fmt.Sprintf("https://made-up-%d.example", i)})), refusal.IssuerUnreachable)
	}
	if err := w.verify(t, token); err != nil {
		t.Fatal(err)
	}
	if n := w.provider.KeyFetches(); n != 1 {
		t.Errorf("%d key fetches, want 1", n)
	}
	cache := w.verifier.found
	if n := cache.others.order.Len(); n != maxFound || len(cache.others.byURL) != n {
		t.Errorf("%d made-up issuers are kept, want %d", n, maxFound)
	}
	if n := cache.proven.order.Len(); n != 1 {
		t.Errorf("%d good issuers are kept, want 1", n)
	}
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	t.Parallel()
	l := newLRU()
	for i := range maxFound {
		l.add(&source{issuerURL: fmt.Sprint(i)})
	}
	l.get("0")
	l.add(&source{issuerURL: "new"})
	if l.get("0") == nil || l.get("new") == nil || l.get("1") != nil {
		t.Error("the least recently used one was kept, or another was not")
	}
}

// TestFetchesForWildcardsAreBounded: beyond the limit, requests are refused, not queued.
func TestFetchesForWildcardsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example")}}, provider.Config{})
		token := func(i int) string {
			issuer := fmt.Sprintf("https://hanging-%d.example", i)
			w.serve(issuer, http.HandlerFunc(hang))
			return mint(t, w.provider, map[string]any{"iss": issuer})
		}
		for i := range maxFlights {
			raw := token(i)
			go func() { _, _ = w.verifier.Verify(t.Context(), raw) }()
		}
		synctest.Wait()
		start := time.Now()
		if e := wantReason(t, w.verify(t, token(maxFlights)), refusal.Overloaded); e.RetryAfter <= 0 || time.Since(start) != 0 {
			t.Errorf("refusal %+v after %s", e, time.Since(start))
		}
		time.Sleep(fetchTimeout)
		synctest.Wait()
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestMadeUpIssuersHoldUpNoGoodOne: a key that a good issuer has withdrawn would live for as
// long as somebody keeps all fetches busy with issuers that do not exist, and a cluster would
// be locked out by whoever floods another entry.
func TestMadeUpIssuersHoldUpNoGoodOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example"), wildcardIssuer("https://*.other.example")}}, provider.Config{})
		elsewhere := newProvider(t, provider.Config{IssuerURL: "https://new.other.example"})
		w.serve("https://new.other.example", elsewhere)
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultKeyRefresh)
		for i := range maxFlights {
			issuer := fmt.Sprintf("https://hanging-%d.example", i)
			w.serve(issuer, http.HandlerFunc(hang))
			raw := mint(t, w.provider, map[string]any{"iss": issuer})
			go func() { _, _ = w.verifier.Verify(t.Context(), raw) }()
		}
		synctest.Wait()
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil {
			t.Error(err)
		}
		if n := w.provider.KeyFetches(); n != 2 {
			t.Errorf("%d key fetches, want a second one at the age of refresh", n)
		}
		if err := w.verify(t, mint(t, elsewhere, nil)); err != nil {
			t.Errorf("a new issuer of another entry: %v", err)
		}
		time.Sleep(2 * fetchTimeout)
	})
}

// TestOneHangingIssuerHoldsFewRequests: what waits for it takes the server's room from the rest.
func TestOneHangingIssuerHoldsFewRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Issuers: []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.hanging.example")}}, provider.Config{})
		w.serve("https://x.hanging.example", http.HandlerFunc(hang))
		hanging := mint(t, w.provider, map[string]any{"iss": "https://x.hanging.example"})
		for range maxWaiting {
			go func() { _, _ = w.verifier.Verify(t.Context(), hanging) }()
		}
		synctest.Wait()
		start := time.Now()
		if e := wantReason(t, w.verify(t, hanging), refusal.Overloaded); e.RetryAfter <= 0 || time.Since(start) != 0 {
			t.Errorf("refusal %+v after %s", e, time.Since(start))
		}
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil {
			t.Errorf("another issuer: %v", err)
		}
		time.Sleep(2 * fetchTimeout)
		wantReason(t, w.verify(t, hanging), refusal.IssuerUnreachable)
		time.Sleep(2 * fetchTimeout)
	})
}

// TestFailedWildcardIsNotAskedAgainAtOnce: failures are remembered for a moment.
func TestFailedWildcardIsNotAskedAgainAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example")}}, provider.Config{})
		w.serve(testIssuer, nil)
		token := mint(t, w.provider, nil)
		for range 20 {
			wantReason(t, w.verify(t, token), refusal.IssuerUnreachable)
		}
		if n := len(w.sent()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		w.serve(testIssuer, w.provider)
		time.Sleep(firstBackoff)
		if err := w.verify(t, token); err != nil {
			t.Errorf("a second later: %v", err)
		}
	})
}
