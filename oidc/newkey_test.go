// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/elliptic"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// lasting returns claims for testIssuer that are valid for ten hours.
func lasting() string {
	return fmt.Sprintf(`{"iss":%q,"sub":"someone","aud":"sigstore","exp":%d}`, testIssuer, time.Now().Add(10*time.Hour).Unix())
}

// change is a way in which an issuer replaces its key: the published keys before and after.
type change struct {
	name          string
	before, after publishedKey
}

// publishedKey is a key, and where and how an issuer publishes it.
type publishedKey struct {
	jose.JSONWebKey
	jwksURI string
}

func (k publishedKey) site(t testing.TB) http.Handler {
	members := map[string]any{}
	if k.KeyID != "" {
		members["kid"] = k.KeyID
	}
	public := k.Public()
	return site(testIssuer, k.jwksURI, `,"id_token_signing_alg_values_supported":["`+k.Algorithm+`"]`,
		`{"keys":[`+jwkOf(t, public.Key, members)+`]}`)
}

func keyChanges(t testing.TB) []change {
	key := func(id string, curve elliptic.Curve, uri string) publishedKey {
		alg := map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384"}[curve]
		return publishedKey{jose.JSONWebKey{Key: ecKey(t, curve), KeyID: id, Algorithm: alg}, uri}
	}
	rsaKey := newProvider(t, provider.Config{IssuerURL: testIssuer, Algorithm: "RS256"}).SigningKey()
	const uri = testIssuer + "/keys"
	return []change{
		{"under a new kid", key("a", elliptic.P256(), uri), key("b", elliptic.P256(), uri)},
		{"under the same kid", key("a", elliptic.P256(), uri), key("a", elliptic.P256(), uri)},
		{"without a kid", key("", elliptic.P256(), uri), key("", elliptic.P256(), uri)},
		{"of another algorithm under the same kid", key("a", elliptic.P256(), uri), key("a", elliptic.P384(), uri)},
		{"of another algorithm under a new kid", key("a", elliptic.P256(), uri), key("b", elliptic.P384(), uri)},
		{"of another type under the same kid", key("key-1", elliptic.P256(), uri), publishedKey{rsaKey, uri}},
		{"at another place", key("a", elliptic.P256(), uri), key("a", elliptic.P256(), testIssuer+"/moved")},
	}
}

// keyWorld returns a world in a bubble. Its issuer, static or under a pattern, has published
// c.before; one of its tokens has passed, and no fetch is due.
func keyWorld(t *testing.T, issuer Issuer, c change) *world {
	w := &world{web: newWeb()}
	w.serve(testIssuer, c.before.site(t))
	w.verifier = newTestVerifier(t, Config{Issuers: []Issuer{issuer}}, w.web)
	t.Cleanup(w.run(t))
	synctest.Wait()
	w.accept(t, sign(t, c.before.JSONWebKey, nil, lasting()))
	return w
}

// forEachChange runs test in a bubble for each way to replace a key, for a static issuer and for
// one under a pattern.
func forEachChange(t *testing.T, test func(t *testing.T, issuer Issuer, c change)) {
	for _, c := range keyChanges(t) {
		for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
			t.Run(c.name+" of "+issuer.Key, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { test(t, issuer, c) })
			})
		}
	}
}

// TestNewKeyIsFound: for every replacement of a key, the next token passes at once, or when the key
// set is 5 s old; then the old key is refused.
func TestNewKeyIsFound(t *testing.T) {
	t.Parallel()
	forEachChange(t, func(t *testing.T, issuer Issuer, c change) {
		w := keyWorld(t, issuer, c)
		token := sign(t, c.after.JSONWebKey, nil, lasting())
		if c.after.KeyID == c.before.KeyID { // an unknown kid would be checked at once
			time.Sleep(time.Second)
			wantReason(t, w.verify(t, token), refusal.SignatureInvalid)
			time.Sleep(settled)
		}
		w.serve(testIssuer, c.after.site(t))
		if err := w.verify(t, token); err != nil {
			t.Errorf("a token of the new key: %v", err)
		}
		wantReason(t, w.verify(t, sign(t, c.before.JSONWebKey, nil, lasting())), refusal.SignatureInvalid)
	})
}

// TestNewKeyAmongHostileTokens: tokens that no key verifies delay a new key by less than 35 s.
// Until then its tokens get a refusal that clients retry, with the time of the next fetch.
func TestNewKeyAmongHostileTokens(t *testing.T) {
	t.Parallel()
	forEachChange(t, func(t *testing.T, issuer Issuer, c change) {
		w := keyWorld(t, issuer, c)
		hostile := []string{}
		for _, id := range []string{"invented", c.before.KeyID} {
			key := jose.JSONWebKey{Key: ecKey(t, elliptic.P256()), KeyID: id, Algorithm: "ES256"}
			hostile = append(hostile, sign(t, key, nil, lasting()))
		}
		attack := func() {
			for _, token := range hostile {
				wantTemporary(t, w.verify(t, token))
			}
		}
		for range 100 {
			attack()
			time.Sleep(time.Second)
		}
		token := sign(t, c.after.JSONWebKey, nil, lasting())
		for start := len(w.sent()); len(w.sent()) == start; time.Sleep(time.Second) {
			attack()
		}
		time.Sleep(settled)
		w.serve(testIssuer, c.after.site(t)) // just after a fetch: the longest wait
		replaced := time.Now()
		err := w.verify(t, token)
		e := wantReason(t, err, refusal.IssuerUnreachable)
		for until := time.Now().Add(e.RetryAfter); time.Now().Before(until.Add(-time.Second)); time.Sleep(time.Second) {
			attack()
			wantReason(t, w.verify(t, token), refusal.IssuerUnreachable)
		}
		time.Sleep(2 * time.Second)
		if err := w.verify(t, token); err != nil {
			t.Errorf("after Retry-After (%s): %v", e.RetryAfter, err)
		}
		if took := time.Since(replaced); took > 35*time.Second {
			t.Errorf("the new key was kept out for %s", took)
		}
	})
}

// TestKeyReplacedAgain: the second of two replacements within a minute is found as soon as the
// first one. The third waits for the limiter, and never causes a final refusal.
func TestKeyReplacedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := keyChanges(t)[1]
		w := keyWorld(t, staticIssuer(testIssuer), c)
		time.Sleep(10 * time.Minute)
		for i := range 3 {
			next := publishedKey{jose.JSONWebKey{Key: ecKey(t, elliptic.P256()), KeyID: "a", Algorithm: "ES256"}, testIssuer + "/keys"}
			w.serve(testIssuer, next.site(t))
			token := sign(t, next.JSONWebKey, nil, lasting())
			err := w.verify(t, token)
			if i == 2 {
				e := wantReason(t, err, refusal.IssuerUnreachable)
				if e.RetryAfter > checkInterval+checkJitter {
					t.Errorf("Retry-After is %s", e.RetryAfter)
				}
				time.Sleep(e.RetryAfter)
				err = w.verify(t, token)
			}
			if err != nil {
				t.Errorf("replacement %d: %v", i+1, err)
			}
			time.Sleep(settled + time.Millisecond)
		}
	})
}

// TestTotalOfAPattern: bad tokens that name many real issuers of a pattern cause fetches within the
// pattern's total, of which one client gets half. Beyond it the refusal can be retried. The new key
// of another client's issuer is found at once.
func TestTotalOfAPattern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := wildWorld(t)
		w.accept(t, mint(t, w.provider, nil))
		stranger := newProvider(t, provider.Config{IssuerURL: testIssuer, Lifetime: time.Hour})
		var bad []string
		for i := range 2 * maxChecks {
			issuer := fmt.Sprintf("https://real-%d.example", i)
			w.serve(issuer, mimic(issuer, w.provider))
			time.Sleep(time.Second)
			w.accept(t, mint(t, w.provider, map[string]any{"iss": issuer}))
			bad = append(bad, mint(t, stranger, map[string]any{"iss": issuer}))
		}
		time.Sleep(settled + time.Second)
		before := w.provider.KeyFetches()
		for _, token := range bad {
			wantTemporary(t, w.verify(t, token))
		}
		if n := w.provider.KeyFetches() - before; n != maxChecks/2 {
			t.Errorf("%d fetches for one client, want %d", n, maxChecks/2)
		}
		w.rotate(t)
		if _, err := w.verifier.Verify(t.Context(), mint(t, w.provider, nil), netip.MustParseAddr("192.0.2.7")); err != nil {
			t.Errorf("another client's issuer: %v", err)
		}
	})
}

// TestUnknownKeyWhileTheIssuerIsDown: the refusal does not blame the caller.
func TestUnknownKeyWhileTheIssuerIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	old := mint(t, w.provider, nil)
	w.accept(t, old)
	w.rotate(t)
	w.serve(testIssuer, nil)
	for range 2 { // the second is within the limit on fetches
		wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.IssuerUnreachable)
	}
	if err := w.verify(t, old); err != nil {
		t.Errorf("the known key: %v", err)
	}
}
