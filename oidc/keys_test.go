// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/elliptic"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// publishedKey is a key, and where and how an issuer publishes it.
type publishedKey struct {
	jose.JSONWebKey
	jwksURI string
}

func (k publishedKey) serve(t testing.TB, w *world) {
	public := k.Public()
	members := map[string]any{"kid": k.KeyID}
	if k.KeyID == "" {
		delete(members, "kid")
	}
	w.serve(testIssuer, served{
		fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":[%q]}`, testIssuer, k.jwksURI, k.Algorithm),
		`{"keys":[` + jwkOf(t, public.Key, members) + `]}`,
	})
}

// forEachChange runs test in a bubble for each way to replace a key, for a static issuer and for
// one under a pattern. The issuer has published before; one of its tokens has passed, and no fetch is due.
func forEachChange(t *testing.T, test func(t *testing.T, w *world, before, after publishedKey)) {
	t.Parallel()
	ec := func(id string, curve elliptic.Curve, alg string) publishedKey {
		return publishedKey{jose.JSONWebKey{Key: ecKey(t, curve), KeyID: id, Algorithm: alg}, testIssuer + "/keys"}
	}
	p256 := func(id string) publishedKey { return ec(id, elliptic.P256(), "ES256") }
	moved := p256("a")
	moved.jwksURI = testIssuer + "/moved"
	rsaKey := newProvider(t, provider.Config{IssuerURL: testIssuer, Algorithm: "RS256"}).SigningKey()
	for name, keys := range map[string][2]publishedKey{
		"under a new kid":                         {p256("a"), p256("b")},
		"under the same kid":                      {p256("a"), p256("a")},
		"without a kid":                           {p256(""), p256("")},
		"of another algorithm under the same kid": {p256("a"), ec("a", elliptic.P384(), "ES384")},
		"of another algorithm under a new kid":    {p256("a"), ec("b", elliptic.P384(), "ES384")},
		"of another type under the same kid":      {p256("key-1"), {rsaKey, testIssuer + "/keys"}},
		"at another place":                        {p256("a"), moved},
	} {
		t.Run(name, func(t *testing.T) {
			bothKinds(t, func(t *testing.T, issuer []Issuer) {
				w := newWorld(t, Config{Issuers: issuer}, provider.Config{})
				keys[0].serve(t, w)
				t.Cleanup(w.run(t))
				w.accept(t, sign(t, keys[0].JSONWebKey, nil, payload("")))
				test(t, w, keys[0], keys[1])
			})
		})
	}
}

// TestNewKeyIsFound: for every replacement of a key, the next token passes at once, or when the key
// set is 5 s old; then the old key is refused.
func TestNewKeyIsFound(t *testing.T) {
	forEachChange(t, func(t *testing.T, w *world, before, after publishedKey) {
		token := sign(t, after.JSONWebKey, nil, payload(""))
		if after.KeyID == before.KeyID { // an unknown kid would be checked at once
			time.Sleep(time.Second)
			w.refuse(t, token, refusal.SignatureInvalid)
			time.Sleep(settled)
		}
		after.serve(t, w)
		w.accept(t, token)
		w.refuse(t, sign(t, before.JSONWebKey, nil, payload("")), refusal.SignatureInvalid)
	})
}

// TestNewKeyAmongHostileTokens: tokens that no key verifies delay a new key by less than 35 s.
// Until then its tokens get a refusal that clients retry, with the time of the next fetch.
func TestNewKeyAmongHostileTokens(t *testing.T) {
	forEachChange(t, func(t *testing.T, w *world, before, after publishedKey) {
		var hostile []string
		for _, id := range []string{"invented", before.KeyID} {
			key := jose.JSONWebKey{Key: ecKey(t, elliptic.P256()), KeyID: id, Algorithm: "ES256"}
			hostile = append(hostile, sign(t, key, nil, payload("")))
		}
		attack := func() {
			for _, token := range hostile {
				wantTemporary(t, w.verify(t, token))
			}
			time.Sleep(time.Second)
		}
		for range 100 {
			attack()
		}
		token := sign(t, after.JSONWebKey, nil, payload(""))
		for start := len(w.sent()); len(w.sent()) == start; {
			attack()
		}
		time.Sleep(settled)
		after.serve(t, w) // just after a fetch: the longest wait
		replaced := time.Now()
		e := w.refuse(t, token, refusal.IssuerUnreachable)
		for until := replaced.Add(e.RetryAfter); time.Now().Before(until.Add(-time.Second)); attack() {
			w.refuse(t, token, refusal.IssuerUnreachable)
		}
		time.Sleep(2 * time.Second)
		w.accept(t, token)
		if took := time.Since(replaced); took > 35*time.Second {
			t.Errorf("the new key was kept out for %s", took)
		}
	})
}

// TestKeyReplacedAgain: the second of two replacements within a minute is found as soon as the first
// one. The third waits for the limiter, and never causes a final refusal.
func TestKeyReplacedAgain(t *testing.T) {
	bothKinds(t, func(t *testing.T, issuer []Issuer) {
		w := newWorld(t, Config{Issuers: issuer}, provider.Config{Lifetime: time.Hour})
		defer w.run(t)()
		w.accept(t, mint(t, w.provider, nil))
		for i := range 3 {
			time.Sleep(settled + time.Millisecond)
			w.rotate(t)
			token := mint(t, w.provider, nil)
			if i == 2 {
				e := w.refuse(t, token, refusal.IssuerUnreachable)
				wantTemporary(t, e)
				time.Sleep(e.RetryAfter)
			}
			w.accept(t, token)
		}
	})
}

// TestTotalOfAPattern: bad tokens that name many real issuers of a pattern cause fetches within the
// pattern's total, of which one client gets half. Beyond it the refusal can be retried. The new key
// of another client's issuer is found at once.
func TestTotalOfAPattern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _ := wildWorld(t)
		w.accept(t, mint(t, w.provider, nil))
		stranger := newProvider(t, provider.Config{IssuerURL: testIssuer, Lifetime: time.Hour})
		var bad []string
		for i := range 2 * maxChecks {
			issuer := fmt.Sprintf("https://real-%d.example", i)
			w.serve(issuer, mimic(issuer, w.provider))
			time.Sleep(time.Second)
			w.accept(t, w.tokenOf(t, issuer))
			bad = append(bad, mint(t, stranger, map[string]any{"iss": issuer}))
		}
		time.Sleep(settled + time.Second)
		before := w.provider.KeyFetches.Load()
		for _, token := range bad {
			wantTemporary(t, w.verify(t, token))
		}
		if n := w.provider.KeyFetches.Load() - before; n != maxChecks/2 {
			t.Errorf("%d fetches for one client, want %d", n, maxChecks/2)
		}
		w.rotate(t)
		if err := w.verifyFrom(t, clientNumber(7), mint(t, w.provider, nil)); err != nil {
			t.Errorf("another client's issuer: %v", err)
		}
	})
}

// The limits that issuer discovery must keep, each with a provider that counts its requests. `make
// figures-oidc` prints them.

// TestFigureBadTokens: 1,000 tokens with bad signatures, with different unknown kids, or without a
// kid, cause at most 2 fetches a minute; with a known kid, none within 5 s of the last one.
func TestFigureBadTokens(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, issuer []Issuer) {
		w := newWorld(t, Config{Issuers: issuer}, provider.Config{Lifetime: time.Hour})
		defer w.run(t)()
		good := mint(t, w.provider, nil)
		w.accept(t, good)
		stranger := newProvider(t, provider.Config{IssuerURL: testIssuer, Lifetime: time.Hour}) // its first key has the same kid
		tokens := make([]string, 1000)
		for i := range tokens {
			tokens[i] = mint(t, stranger, nil)
			if i%3 == 1 {
				key := stranger.SigningKey()
				key.KeyID = ""
				tokens[i] = sign(t, key, nil, payload(""))
			}
			if i%3 == 2 {
				must(stranger.Rotate())(t)
			}
		}
		for range 1000 {
			w.refuse(t, tokens[0], refusal.SignatureInvalid)
		}
		if n := w.provider.KeyFetches.Load(); n != 1 {
			t.Errorf("%d fetches, with those for bad tokens with a known kid just after a fetch", n)
		}
		time.Sleep(settled + time.Second)
		before, start, worst := w.provider.KeyFetches.Load(), time.Now(), int64(0)
		for range 5 { // minutes
			minute := w.provider.KeyFetches.Load()
			for i := range 59 {
				crowd := tokens[:6]
				if i == 0 {
					crowd = tokens
				}
				var all sync.WaitGroup
				for _, token := range crowd {
					all.Go(func() { wantTemporary(t, w.verify(t, token)) })
				}
				all.Wait()
				time.Sleep(time.Second)
			}
			w.accept(t, good)
			worst = max(worst, w.provider.KeyFetches.Load()-minute)
			time.Sleep(time.Second)
		}
		n := w.provider.KeyFetches.Load() - before
		t.Logf("%s, bad tokens every second for 5 minutes: %d fetches in all, %d at most in a minute", issuer[0].Key, n, worst)
		if most := int64(time.Since(start)/checkInterval) + 1; n > most || n < 8 || worst > 2 || w.provider.Discoveries.Load() > n+2 {
			t.Errorf("%d fetches in all, %d in one minute, %d discoveries", n, worst, w.provider.Discoveries.Load())
		}
	})
}

// TestFigureIssuerDown: 50 requests at once to an issuer that is down, in any way, cause at most
// one fetch, and 503 ISSUER_UNREACHABLE.
func TestFigureIssuerDown(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]http.Handler{"refuses connections": nil, "hangs": hang, "answers 404": http.NotFoundHandler()} {
		t.Run(name, func(t *testing.T) {
			bothKinds(t, func(t *testing.T, issuer []Issuer) {
				w := newWorld(t, Config{Issuers: issuer}, provider.Config{Lifetime: time.Hour})
				w.serve(testIssuer, down)
				defer w.run(t)()
				time.Sleep(10 * time.Minute) // the outage is long
				token, before, start := mint(t, w.provider, nil), len(w.sent()), time.Now()
				var all sync.WaitGroup
				for range 50 {
					all.Go(func() {
						if e := w.refuse(t, token, refusal.IssuerUnreachable); e.RetryAfter <= 0 {
							t.Error("there is no Retry-After")
						}
					})
				}
				all.Wait()
				n, waited := len(w.sent())-before, time.Since(start)
				t.Logf("%s %s, 50 requests at once: %d fetches, answered within %s", issuer[0].Key, name, n, waited)
				if n > 1 || waited > maxWait {
					t.Errorf("%s: %d fetches, %s", name, n, waited)
				}
				time.Sleep(2 * fetchTimeout)
			})
		})
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
