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
	for range 2 {
		if err := w.verify(t, token); err != nil {
			t.Fatal(err)
		}
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
