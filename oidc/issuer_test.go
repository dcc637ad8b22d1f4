// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestHangingIssuersDelayNobody: three hanging issuers once delayed a start by 30 s.
func TestHangingIssuersDelayNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const hanging = "https://hanging.example"
		w := newWorld(t, Config{Issuers: issuers(hanging, testIssuer)}, provider.Config{})
		w.serve(hanging, hang)
		defer w.run(t)()
		start := time.Now()
		w.accept(t, mint(t, w.provider, nil))
		if passed := time.Since(start); passed != 0 {
			t.Errorf("a good issuer's token took %s", passed)
		}
		// A token of a hanging issuer waits, but not for long, and the client may retry. The end of its
		// request ends the wait.
		token := w.tokenOf(t, hanging)
		e := w.refuse(t, token, refusal.IssuerUnreachable)
		if passed := time.Since(start); passed != maxWait {
			t.Errorf("a hanging issuer's token took %s, want %s", passed, maxWait)
		}
		if !strings.Contains(e.Message, hanging) || strings.Contains(e.Message, "context") || e.Cause == nil || e.RetryAfter <= 0 {
			t.Errorf("refusal %+v", e)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.verifier.Verify(ctx, token, unknownClient)
		wantReason(t, err, refusal.IssuerUnreachable)
		if passed := time.Since(start); passed != maxWait+time.Second {
			t.Errorf("the end of the request after 1s ended its wait after %s", passed-maxWait)
		}
	})
}

// TestLastGoodKeysAreKeptAndAge: an outage has no effect for Config.KeyLifetime; then tokens are refused,
// until the issuer recovers.
func TestLastGoodKeysAreKeptAndAge(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, issuer []Issuer) {
		w := newWorld(t, Config{Issuers: issuer, KeyLifetime: 4 * time.Hour}, provider.Config{Lifetime: 100 * time.Hour})
		defer w.run(t)()
		token := mint(t, w.provider, nil)
		w.accept(t, token)
		w.serve(testIssuer, nil)
		for range 3 {
			time.Sleep(time.Hour)
			w.accept(t, token)
			synctest.Wait()
		}
		time.Sleep(time.Hour + time.Second)
		w.refuse(t, token, refusal.IssuerUnreachable)
		if status := w.verifier.Status()[0]; status.State != StateFailing || status.Usable != issuer[0].Wildcard || status.LastError == "" {
			t.Errorf("status %+v", status)
		}
		w.serve(testIssuer, w.provider)
		time.Sleep(maxBackoff)
		synctest.Wait()
		w.accept(t, token)
		if status := w.verifier.Status()[0]; status.State != StateOK || !status.Usable || status.LastError != "" {
			t.Errorf("status %+v", status)
		}
	})
}

// TestWildcardKeysAreRefreshedByUse: requests neither wait nor fetch while keys are young; a
// hanging issuer then delays at most one round of requests. A withdrawn key stops working.
func TestWildcardKeysAreRefreshedByUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, _ := wildWorld(t)
		token := mint(t, w.provider, nil)
		verify := func(wantFetches int64, wantWait time.Duration) {
			t.Helper()
			start := time.Now()
			w.accept(t, token)
			if passed := time.Since(start); passed != wantWait {
				t.Errorf("waited %s, want %s", passed, wantWait)
			}
			synctest.Wait()
			if n := w.provider.KeyFetches.Load(); n != wantFetches {
				t.Errorf("%d key fetches, want %d", n, wantFetches)
			}
		}
		verify(1, 0)
		time.Sleep(defaultKeyRefresh/2 - time.Second)
		verify(1, 0)
		time.Sleep(time.Second)
		verify(2, 0) // in the background
		time.Sleep(defaultKeyRefresh)
		verify(3, 0) // while the request waits
		w.serve(testIssuer, hang)
		time.Sleep(defaultKeyRefresh)
		verify(3, maxWait)
		time.Sleep(10 * time.Second)
		verify(3, 0)
		time.Sleep(2*fetchTimeout + maxBackoff) // until the fetch that the last one started has timed out
		w.serve(testIssuer, w.provider)
		verify(4, 0) // in the background; the issuer has recovered
		if err := w.provider.Withdraw(w.provider.SigningKey().KeyID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultKeyRefresh)
		w.refuse(t, token, refusal.SignatureInvalid)
	})
}

// TestRetriesBackOff: a static issuer that is down gets about two requests a minute, and requests for
// it cause no more. The refusal of an unknown key does not blame the caller, and known keys stay in use.
func TestRetriesBackOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{}, provider.Config{Lifetime: 10 * time.Hour})
		defer w.run(t)()
		old := mint(t, w.provider, nil)
		w.rotate(t)
		w.serve(testIssuer, nil)
		for range 2 { // the second is within the limit on fetches
			w.refuse(t, mint(t, w.provider, nil), refusal.IssuerUnreachable)
		}
		time.Sleep(defaultKeyRefresh)
		before := len(w.sent())
		time.Sleep(time.Hour)
		if n := len(w.sent()) - before; n < 200 || n > 340 { // two documents
			t.Errorf("%d requests in an hour of outage, want about 240 to 320", n)
		}
		before, start := len(w.sent()), time.Now()
		for range 100 {
			w.refuse(t, mint(t, w.provider, nil), refusal.IssuerUnreachable)
		}
		if n := len(w.sent()) - before; n > 2 || time.Since(start) > maxWait {
			t.Errorf("100 tokens caused %d requests and waited %s", n, time.Since(start))
		}
		w.accept(t, old)
		w.serve(testIssuer, w.provider)
		time.Sleep(maxBackoff)
		w.accept(t, mint(t, w.provider, nil))
	})
}

// TestStatus has the states of entries before and after their first fetch, in the order of the settings.
func TestStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const down, slow, wild = "https://down.example", "https://slow.example", "https://*.wild.example"
		w := newWorld(t, Config{Issuers: issuers(testIssuer, down, slow, wild)}, provider.Config{})
		w.serve(slow, hang)
		for _, status := range w.verifier.Status() {
			if status.State != StatePending || status.Usable != (status.IssuerURL == "") {
				t.Errorf("before Probe: %+v", status)
			}
		}
		start := time.Now()
		w.verifier.Probe(t.Context())
		got := w.verifier.Status()
		for i := range got {
			if (got[i].LastError != "") != (i == 1 || i == 2) {
				t.Errorf("last error of %+v", got[i])
			}
			if (got[i].LastFailure != nil) != (got[i].LastError != "") {
				t.Errorf("last failure of %+v", got[i])
			}
			got[i].LastError, got[i].LastFailure = "", nil
		}
		late := start.Add(fetchTimeout)
		if diff := cmp.Diff([]IssuerStatus{
			{Entry: testIssuer, IssuerURL: testIssuer, State: StateOK, Usable: true, LastSuccess: start, Keys: 1, KeyAge: fetchTimeout, Since: start},
			{Entry: down, IssuerURL: down, State: StateFailing, Since: start, LastFailureAt: start},
			{Entry: slow, IssuerURL: slow, State: StateFailing, Since: late, LastFailureAt: late},
			{Entry: wild, State: StatePending, Usable: true, Since: start},
		}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		w.serve(slow, w.provider)
		time.Sleep(maxBackoff)
		w.verifier.Probe(t.Context())
		if s := w.verifier.Status()[2]; s.State != StateFailing || s.LastFailure == nil || s.Since != late || s.LastFailureAt == late {
			t.Errorf("after a further failure, with another issuer's documents: %+v", s)
		}
		probe := func(h http.Handler, wait time.Duration) IssuerStatus {
			w.serve(testIssuer, h)
			time.Sleep(wait)
			w.verifier.Probe(t.Context())
			return w.verifier.Status()[0]
		}
		degraded := probe(nil, defaultKeyRefresh)
		if degraded.State != StateDegraded || degraded.LastFailure == nil || degraded.LastFailureAt != degraded.Since {
			t.Errorf("down: %+v", degraded)
		}
		if s := probe(w.provider, maxBackoff); s.State != StateOK || !s.Since.After(degraded.Since) || s.LastError != "" || s.LastFailure != degraded.LastFailure || s.LastFailureAt != degraded.Since {
			t.Errorf("recovered: %+v", s)
		}
	})
}

// TestIssuerThatTurnsBad: after a good start, no fault in an issuer's documents removes the last
// good keys, unless the key set has none that can be used. The issuer recovers without intervention,
// and its operator sees one line for each change.
func TestIssuerThatTurnsBad(t *testing.T) {
	t.Parallel()
	keySet := func(text string) http.Handler { return site(testIssuer, testIssuer+"/keys", "", body(text)) }
	bad := map[string]http.Handler{
		"hangs":                 hang,
		"redirects elsewhere":   http.RedirectHandler("https://evil.example/", http.StatusFound),
		"answers HTML":          body("<html>maintenance</html>"),
		"serves a huge key set": keySet(`{"keys":["` + strings.Repeat("x", maxDocument) + `"]}`),
		"serves half a key set": keySet(`{"keys":[`),
		"panics":                http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("odd input") }),
	}
	empty := map[string]http.Handler{
		// The key set is read at its old place, which is empty now.
		"lies about its issuer":    site("https://evil.example", "https://evil.example/keys", "", body(`{"keys":[]}`)),
		"moves keys to plain text": site(testIssuer, "http://issuer.example/keys", "", body(`{"keys":[]}`)),
		"publishes no keys":        keySet(`{"keys":[]}`),
		"publishes certificates":   keySet(`{"keys":[{"kty":"RSA","kid":"key-1","x5c":["MIIB"]}]}`),
		"publishes other keys":     keySet(`{"keys":[{"kty":"OKP","use":"enc","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`),
	}
	all := maps.Clone(bad)
	maps.Copy(all, empty)
	for name, handler := range all {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var log logLines
				w := newWorld(t, Config{Logger: log.logger()}, provider.Config{Lifetime: 10 * time.Hour})
				evil := newProvider(t, provider.Config{IssuerURL: testIssuer})
				w.serve("https://evil.example", evil)
				defer w.run(t)()
				token, want := mint(t, w.provider, nil), StateDegraded
				w.serve(testIssuer, handler)
				time.Sleep(3 * time.Hour)
				err := w.verify(t, token)
				if empty[name] != nil {
					want = StateFailing
					wantTemporary(t, err)
				} else if err != nil {
					t.Errorf("the last good keys: %v", err)
				}
				if status := w.verifier.Status()[0]; status.State != want || status.Usable != (err == nil) || status.LastError == "" {
					t.Errorf("status %+v", status)
				}
				if n := evil.Discoveries.Load() + evil.KeyFetches.Load(); n != 0 {
					t.Errorf("another host was asked %d times", n)
				}
				w.serve(testIssuer, w.provider)
				time.Sleep(defaultKeyRefresh)
				if status := w.verifier.Status()[0]; status.State != StateOK || status.LastError != "" {
					t.Errorf("afterwards: status %+v", status)
				}
				w.accept(t, token)
				if lines, _ := log.take(); len(lines) != 2 {
					t.Errorf("%d lines: %s", len(lines), strings.Join(lines, "\n"))
				}
			})
		})
	}
}

// TestCrowdDoesNotWait: most of many requests for an issuer that hangs are answered soon, which
// leaves places for other requests.
func TestCrowdDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const hanging = "https://hanging.example"
		w := newWorld(t, Config{Issuers: issuers(hanging, testIssuer)}, provider.Config{})
		w.serve(hanging, hang)
		token, start := w.tokenOf(t, hanging), time.Now()
		var mu sync.Mutex
		waits := map[time.Duration]int{}
		var all sync.WaitGroup
		for range 400 {
			all.Go(func() {
				w.refuse(t, token, refusal.IssuerUnreachable)
				mu.Lock()
				defer mu.Unlock()
				waits[time.Since(start)]++
			})
		}
		synctest.Wait()
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil || time.Since(start) != 0 {
			t.Errorf("another issuer: %v after %s", err, time.Since(start))
		}
		all.Wait()
		if diff := cmp.Diff(map[time.Duration]int{maxWait: maxWaiting / 2, crowdedWait: 400 - maxWaiting/2}, waits); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
		time.Sleep(fetchTimeout)
	})
}

// A reload fetches nothing for entries with unchanged connections, static or wildcard, and
// continues their pauses.
func TestInheritFetchesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const wild, changed, down = "https://tenant.wild.example", "https://changed.example", "https://down.example"
		entries := issuers(testIssuer, changed, down, "https://*.wild.example")
		w := newWorld(t, Config{Issuers: entries}, provider.Config{})
		w.serve(wild, mimic(wild, w.provider))
		w.serve(changed, mimic(changed, w.provider))
		stop := w.run(t)
		w.accept(t, w.tokenOf(t, wild))
		w.refuse(t, w.tokenOf(t, down), refusal.IssuerUnreachable)
		before := len(w.sent())
		fetched := func() map[string]int {
			synctest.Wait()
			hosts := map[string]int{}
			for _, r := range w.sent()[before:] {
				hosts[r.URL.Host]++
			}
			before = len(w.sent())
			return hosts
		}

		// One entry has other audiences, which do not affect its keys; one has other connection
		// settings; the others stay.
		entries[0].Audiences = []string{"another"}
		entries[1].SigningAlgorithms = []string{"ES256"}
		next := newTestVerifier(t, Config{Issuers: entries}, w.transport)
		next.Inherit(w.verifier)
		if next.static[testIssuer].issuer != w.verifier.static[testIssuer].issuer || next.wildcards[0].pool != w.verifier.wildcards[0].pool || next.waiting != w.verifier.waiting {
			t.Error("an issuer is not inherited with its limits")
		}
		w.verifier = next
		stopNext := w.run(t) // requests under the old settings go on for a while
		if diff := cmp.Diff(map[string]int{"changed.example": 2}, fetched()); diff != "" {
			t.Errorf("fetches after the reload (-want +got):\n%s", diff)
		}
		w.accept(t, mint(t, w.provider, map[string]any{"aud": "another"}))
		w.accept(t, w.tokenOf(t, wild))
		w.accept(t, w.tokenOf(t, changed))
		w.refuse(t, mint(t, w.provider, nil), refusal.AudienceMismatch)
		if hosts := fetched(); len(hosts) > 0 {
			t.Errorf("tokens of inherited issuers caused fetches: %v", hosts)
		}
		for _, status := range next.Status() {
			if (status.State == StateOK) != (status.Entry != down) {
				t.Errorf("%s: %s", status.Entry, status.State)
			}
		}
		// The keys are refreshed when the old verifier would have refreshed them, not later.
		time.Sleep(defaultKeyRefresh)
		if n := fetched()["issuer.example"]; n != 2 {
			t.Errorf("%d fetches of the inherited issuer within its refresh interval, want 2", n)
		}
		stop()
		stopNext()
	})
}

// A reload that changes how an issuer is reached, or which keys count, keeps nothing of it.
func TestChangedIssuersAreNotInherited(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]Issuer{
		"nothing":               {},
		"ca-cert":               {CACert: []byte(clusterCA(t))},
		"allow-private-network": {AllowPrivateNetwork: true},
		"type spiffe":           {SPIFFE: true},
		"signing-algorithms":    {SigningAlgorithms: []string{"ES256"}},
		"jwks-hosts":            {JWKSHosts: []string{"keys.example"}},
		"disabled":              {Disabled: true},
	} {
		change.Key, change.Audiences = testIssuer, []string{"sigstore"}
		old := newTestVerifier(t, Config{Issuers: issuers(testIssuer)}, newWeb().transport)
		next := newTestVerifier(t, Config{Issuers: []Issuer{change}}, newWeb().transport)
		next.Inherit(old)
		if kept := next.static[testIssuer].issuer == old.static[testIssuer].issuer; kept != (name == "nothing") {
			t.Errorf("%s changed: inherited %v", name, kept)
		}
	}
}
