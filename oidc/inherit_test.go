// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// A reload fetches nothing for entries with unchanged connections, static or wildcard, and
// continues their pauses.
func TestInheritFetchesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const wild, changed, down = "https://tenant.wild.example", "https://changed.example", "https://down.example"
		issuers := []Issuer{staticIssuer(testIssuer), staticIssuer(changed), staticIssuer(down), wildcardIssuer("https://*.wild.example")}
		w := newWorld(t, Config{Issuers: issuers}, provider.Config{})
		tenant, other := newProvider(t, provider.Config{IssuerURL: wild}), newProvider(t, provider.Config{IssuerURL: changed})
		w.serve(wild, tenant)
		w.serve(changed, other)
		stop := w.run(t)
		synctest.Wait()
		w.accept(t, mint(t, tenant, nil))
		wantReason(t, w.verify(t, mint(t, newProvider(t, provider.Config{IssuerURL: down}), nil)), refusal.IssuerUnreachable)
		before := len(w.sent())

		// One entry has other audiences, which do not affect its keys; one has other connection
		// settings; the others stay.
		issuers[0].Audiences = []string{"another"}
		issuers[1].SigningAlgorithms = []string{"ES256"}
		next := newTestVerifier(t, Config{Issuers: issuers}, w.web)
		next.Inherit(w.verifier)
		if next.static[testIssuer].issuer != w.verifier.static[testIssuer].issuer || next.wildcards[0].pool != w.verifier.wildcards[0].pool ||
			next.clients != w.verifier.clients || next.waiting != w.verifier.waiting {
			t.Error("an issuer, or what is known of clients, is not inherited with its limits")
		}
		w.verifier = next
		stopNext := w.run(t) // requests under the old settings go on for a while
		synctest.Wait()
		fetched := map[string]int{}
		for _, r := range w.sent()[before:] {
			fetched[r.URL.Host]++
		}
		if diff := cmp.Diff(map[string]int{"changed.example": 2}, fetched); diff != "" {
			t.Errorf("fetches after the reload (-want +got):\n%s", diff)
		}
		before = len(w.sent())
		for _, token := range []string{
			mint(t, w.provider, map[string]any{"aud": "another"}), mint(t, tenant, nil), mint(t, other, nil),
		} {
			w.accept(t, token)
		}
		wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.AudienceMismatch)
		if sent := w.sent()[before:]; len(sent) > 0 {
			t.Errorf("tokens of inherited issuers caused %d fetches", len(sent))
		}
		for _, status := range next.Status() {
			if want := map[string]State{down: StateFailing}[status.Entry]; want != "" && status.State != want || want == "" && status.State != StateOK {
				t.Errorf("%s: %s", status.Entry, status.State)
			}
		}

		// The keys are refreshed when the old verifier would have refreshed them, not later.
		time.Sleep(defaultKeyRefresh)
		synctest.Wait()
		refreshed := 0
		for _, r := range w.sent()[before:] {
			if r.URL.Host == "issuer.example" {
				refreshed++
			}
		}
		if refreshed != 2 {
			t.Errorf("%d fetches of the inherited issuer within its refresh interval, want 2", refreshed)
		}
		stop()
		stopNext()
	})
}

// A reload that changes how an issuer is reached, or which keys count, keeps nothing of it.
func TestChangedIssuersAreNotInherited(t *testing.T) {
	t.Parallel()
	_, server := realWorld(t, nil)
	for name, change := range map[string]func(*Issuer){
		"nothing":               func(*Issuer) {},
		"ca-cert":               func(i *Issuer) { i.CACert = certPEM(server) },
		"allow-private-network": func(i *Issuer) { i.AllowPrivateNetwork = true },
		"type spiffe":           func(i *Issuer) { i.SPIFFE = true },
		"signing-algorithms":    func(i *Issuer) { i.SigningAlgorithms = []string{"ES256"} },
		"jwks-hosts":            func(i *Issuer) { i.JWKSHosts = []string{"keys.example"} },
	} {
		before, after := staticIssuer(testIssuer), staticIssuer(testIssuer)
		change(&after)
		old := newTestVerifier(t, Config{Issuers: []Issuer{before}}, newWeb())
		next := newTestVerifier(t, Config{Issuers: []Issuer{after}}, newWeb())
		next.Inherit(old)
		if kept := next.static[testIssuer].issuer == old.static[testIssuer].issuer; kept != (name == "nothing") {
			t.Errorf("%s changed: inherited %v", name, kept)
		}
	}
}

func TestProfilesAreToldByAudience(t *testing.T) {
	t.Parallel()
	issuer := staticIssuer(testIssuer)
	issuer.Profiles = []Profile{{"deploy", []string{"deploy", "ship"}}, {"build", []string{"build"}}}
	w := newWorld(t, Config{Issuers: []Issuer{issuer}}, provider.Config{})
	for _, test := range []struct {
		audience any
		profile  string
		accepted bool
	}{
		{"sigstore", "", true}, {"ship", "deploy", true}, {[]string{"deploy", "ship", "unknown"}, "deploy", true}, {[]string{"build"}, "build", true},
		{[]string{"build", "ship"}, "", false}, {[]string{"sigstore", "build"}, "", false}, {"unknown", "", false},
	} {
		token, err := w.verifier.Verify(t.Context(), mint(t, w.provider, map[string]any{"aud": test.audience}), unknownClient)
		if !test.accepted {
			wantReason(t, err, refusal.AudienceMismatch)
		} else if err != nil || token.Profile != test.profile {
			t.Errorf("%v: %+v, %v", test.audience, token, err)
		}
	}
	issuer.Profiles = []Profile{{"", []string{"a"}}, {"b", nil}, {"c", []string{"sigstore"}}, {"d", []string{"a"}}}
	_, err := New(Config{Issuers: []Issuer{issuer}})
	for _, want := range []string{"profiles: 0: name", "profiles: 1: client-id", "profiles: 2: client-id: the audience \"sigstore\"", "profiles: 3: client-id"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no mistake at %s", err, want)
		}
	}
}

// A trace shows every step up to the failure, and never the token.
func TestTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	good := mint(t, w.provider, nil)
	forged := mint(t, newProvider(t, provider.Config{IssuerURL: testIssuer}), nil)
	for name, test := range map[string]struct {
		token string
		steps []string
	}{
		"good":       {good, []string{"form", "issuer", "times", "audience", "subject", "keys", "signature"}},
		"forged":     {forged, []string{"form", "issuer", "times", "audience", "subject", "keys", "signature failed"}},
		"stranger":   {mint(t, newProvider(t, provider.Config{IssuerURL: "https://stranger.example"}), nil), []string{"form", "issuer failed"}},
		"no token":   {"nonsense", []string{"form failed"}},
		"expired":    {mint(t, w.provider, map[string]any{"exp": 1}), []string{"form", "issuer", "times failed"}},
		"wrong aud":  {mint(t, w.provider, map[string]any{"aud": "x"}), []string{"form", "issuer", "times", "audience failed"}},
		"no subject": {mint(t, w.provider, map[string]any{"sub": ""}), []string{"form", "issuer", "times", "audience", "subject failed"}},
	} {
		var steps []string
		token, err := w.verifier.Trace(t.Context(), test.token, func(s Step) {
			name := s.Name
			if s.Err != nil {
				name += " failed"
			} else if s.Found == "" {
				t.Errorf("%s: step %s says nothing", name, s.Name)
			}
			if parts := strings.Split(test.token, "."); len(parts) == 3 && strings.Contains(s.Found, parts[1]) {
				t.Errorf("%s: step %s holds the token", name, s.Name)
			}
			steps = append(steps, name)
		})
		if diff := cmp.Diff(test.steps, steps); diff != "" || (err == nil) != (token != nil) {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestProbe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Config{Issuers: []Issuer{staticIssuer(testIssuer), staticIssuer("https://down.example"), staticIssuer("https://slow.example")}}, provider.Config{})
		w.serve("https://slow.example", http.HandlerFunc(hang))
		w.verifier.Probe(t.Context())
		got := map[string]State{}
		for _, status := range w.verifier.Status() {
			got[status.Entry] = status.State
		}
		want := map[string]State{testIssuer: StateOK, "https://down.example": StateFailing, "https://slow.example": StateFailing}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
	})
}
