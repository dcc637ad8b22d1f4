// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// run starts Run for the rest of the bubble; the returned function stops it.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.verifier.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		time.Sleep(2 * fetchTimeout) // until its fetches have ended
	}
}

// accept fails unless v accepts the token.
func accept(t testing.TB, v *Verifier, token string) {
	t.Helper()
	if _, err := v.Verify(t.Context(), token, unknownClient); err != nil {
		t.Error(err)
	}
}

func (w *world) accept(t testing.TB, token string) {
	t.Helper()
	accept(t, w.verifier, token)
}

func (w *world) rotate(t testing.TB) {
	t.Helper()
	if _, err := w.provider.Rotate(); err != nil {
		t.Fatal(err)
	}
}

// bubble runs a parallel test with a clock of its own.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

func (w *world) verify(t *testing.T, token string) error {
	t.Helper()
	return w.verifyFrom(t, unknownClient, token)
}

func (w *world) verifyFrom(t *testing.T, client netip.Addr, token string) error {
	t.Helper()
	_, err := w.verifier.Verify(t.Context(), token, client)
	return err
}

// TestHangingIssuersDelayNobody: three hanging issuers once delayed a start by 30 s.
func TestHangingIssuersDelayNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := Config{Issuers: []Issuer{staticIssuer(testIssuer)}}
		for i := range 3 {
			cfg.Issuers = append(cfg.Issuers, staticIssuer(fmt.Sprintf("https://hanging%d.example", i)))
		}
		w := newWorld(t, cfg, provider.Config{})
		for _, issuer := range cfg.Issuers[1:] {
			w.serve(issuer.URL, http.HandlerFunc(hang))
		}
		defer w.run(t)()
		synctest.Wait()

		start := time.Now()
		w.accept(t, mint(t, w.provider, nil))
		if passed := time.Since(start); passed != 0 {
			t.Errorf("a good issuer's token took %s", passed)
		}
		// A token of a hanging issuer waits, but not for long, and the client may retry.
		err := w.verify(t, mint(t, w.provider, map[string]any{"iss": cfg.Issuers[1].URL}))
		e := wantReason(t, err, refusal.IssuerUnreachable)
		if passed := time.Since(start); passed != maxWait {
			t.Errorf("a hanging issuer's token took %s, want %s", passed, maxWait)
		}
		if !strings.Contains(e.Message, cfg.Issuers[1].URL) || strings.Contains(e.Message, "context") || e.Cause == nil || e.RetryAfter <= 0 {
			t.Errorf("refusal %+v", e)
		}
	})
}

// TestLastGoodKeysAreKeptAndAge: an outage has no effect for Config.KeyLifetime; then tokens are refused,
// until the issuer recovers.
func TestLastGoodKeysAreKeptAndAge(t *testing.T) {
	t.Parallel()
	for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{Issuers: []Issuer{issuer}, KeyLifetime: 4 * time.Hour}, provider.Config{Lifetime: 100 * time.Hour})
			defer w.run(t)()
			synctest.Wait()
			token := mint(t, w.provider, nil)
			w.accept(t, token)
			w.serve(testIssuer, nil)
			start := time.Now()
			for time.Since(start) < 3*time.Hour {
				time.Sleep(time.Hour)
				if err := w.verify(t, token); err != nil {
					t.Fatalf("after %s: %v", time.Since(start), err)
				}
				synctest.Wait()
			}
			time.Sleep(time.Hour + time.Second)
			wantReason(t, w.verify(t, token), refusal.IssuerUnreachable)
			if status := w.verifier.Status()[0]; status.State != StateFailing && issuer.URL != "" || status.Usable != (issuer.URL == "") || status.LastError == "" {
				t.Errorf("status %+v", status)
			}
			w.serve(testIssuer, w.provider)
			time.Sleep(maxBackoff)
			synctest.Wait()
			if err := w.verify(t, token); err != nil {
				t.Errorf("after the outage: %v", err)
			}
			if status := w.verifier.Status()[0]; status.State != StateOK || !status.Usable || status.LastError != "" {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// TestWildcardKeysAreRefreshedByUse: requests neither wait nor fetch while keys are young; a
// hanging issuer then delays at most one round of requests. A withdrawn key stops working.
func TestWildcardKeysAreRefreshedByUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{Issuers: []Issuer{wildcardIssuer("https://*.example")}}, provider.Config{Lifetime: 10 * time.Hour})
		token := mint(t, w.provider, nil)
		verify := func(wantFetches int64, wantWait time.Duration) {
			t.Helper()
			start := time.Now()
			w.accept(t, token)
			if passed := time.Since(start); passed != wantWait {
				t.Errorf("waited %s, want %s", passed, wantWait)
			}
			synctest.Wait()
			if n := w.provider.KeyFetches(); n != wantFetches {
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
		w.serve(testIssuer, http.HandlerFunc(hang))
		time.Sleep(defaultKeyRefresh)
		verify(3, maxWait)
		time.Sleep(10 * time.Second)
		verify(3, 0)
		time.Sleep(2 * fetchTimeout) // until the fetch that the last one started has timed out
		time.Sleep(maxBackoff)
		w.serve(testIssuer, w.provider)
		verify(4, 0) // in the background; the issuer has recovered
		if err := w.provider.Withdraw(w.provider.SigningKey().KeyID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultKeyRefresh)
		wantReason(t, w.verify(t, token), refusal.SignatureInvalid)
	})
}

// TestRetriesBackOff: a static issuer that is down gets about two requests a minute.
func TestRetriesBackOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{}, provider.Config{})
		w.serve(testIssuer, nil)
		defer w.run(t)()
		time.Sleep(time.Hour)
		if n := len(w.sent()); n < 100 || n > 170 {
			t.Errorf("%d requests in an hour of outage, want about 120 to 160", n)
		}
		// Requests during the outage cause no further fetches and do not wait.
		before, start := len(w.sent()), time.Now()
		for range 100 {
			wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.IssuerUnreachable)
		}
		if n := len(w.sent()) - before; n > 1 || time.Since(start) > maxWait {
			t.Errorf("100 tokens caused %d requests and waited %s", n, time.Since(start))
		}
		w.serve(testIssuer, w.provider)
		time.Sleep(maxBackoff)
		if err := w.verify(t, mint(t, w.provider, nil)); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	})
}

func TestEndOfTheRequestEndsTheWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{}, provider.Config{})
		w.serve(testIssuer, http.HandlerFunc(hang))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := w.verifier.Verify(ctx, mint(t, w.provider, nil), unknownClient)
		wantReason(t, err, refusal.IssuerUnreachable)
		if passed := time.Since(start); passed != time.Second {
			t.Errorf("waited %s, want 1s", passed)
		}
		time.Sleep(fetchTimeout) // the fetch itself continues, for the next request
	})
}

// TestPanicOnAnAnswerIsAFailure: the panic must not stop the process.
func TestPanicOnAnAnswerIsAFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	w.serve(testIssuer, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("odd input") }))
	e := wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.IssuerUnreachable)
	if strings.Contains(e.Message, "odd input") || !strings.Contains(e.Cause.Error(), "odd input") {
		t.Errorf("refusal %v", e)
	}
}

func TestStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{
			Issuers: []Issuer{staticIssuer(testIssuer), staticIssuer("https://down.example"), wildcardIssuer("https://*.wild.example")},
		}, provider.Config{})
		for _, status := range w.verifier.Status() {
			if status.State != StatePending || status.Usable != (status.IssuerURL == "") {
				t.Errorf("before Run: %+v", status)
			}
		}
		defer w.run(t)()
		synctest.Wait()
		got, now := w.verifier.Status(), time.Now()
		for i := range got {
			if (got[i].LastError != "") != (i == 1) {
				t.Errorf("last error of %+v", got[i])
			}
			got[i].LastError = ""
		}
		if diff := cmp.Diff([]IssuerStatus{
			{Entry: testIssuer, IssuerURL: testIssuer, State: StateOK, Usable: true, LastSuccess: now, Keys: 1},
			{Entry: "https://down.example", IssuerURL: "https://down.example", State: StateFailing, LastFailure: now},
			{Entry: "https://*.wild.example", State: StatePending, Usable: true},
		}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// An issuer with a readable key set but no usable key is failing.
func TestStatusWithoutKeys(t *testing.T) {
	t.Parallel()
	for name, keySet := range map[string]string{
		"no keys": `{"keys":[]}`, "certificates only": `{"keys":[{"kty":"RSA","kid":"key-1","x5c":["MIIB"]}]}`, "for encryption": `{"keys":[{"kty":"OKP","use":"enc","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, provider.Config{})
				w.serve(testIssuer, site(testIssuer, testIssuer+"/keys", "", keySet))
				stop := w.run(t)
				synctest.Wait()
				status := w.verifier.Status()[0]
				if status.State != StateFailing || status.Usable || status.Keys != 0 || !strings.Contains(status.LastError, "no key that tokens can be verified with") {
					t.Errorf("status %+v", status)
				}
				wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.SignatureInvalid)

				w.serve(testIssuer, w.provider)
				time.Sleep(time.Hour)
				if status := w.verifier.Status()[0]; status.State != StateOK || !status.Usable || status.Keys != 1 || status.LastError != "" {
					t.Errorf("with keys again: %+v", status)
				}
				stop()
			})
		})
	}
}
