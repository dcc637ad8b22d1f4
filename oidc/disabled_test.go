// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestDisabled: the tokens of a disabled entry are refused as such, no less specific pattern accepts
// them, and nothing is requested from its issuers.
func TestDisabled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const narrow, wide = "https://*.ci.example", "https://*.*.example"
		list := issuers(testIssuer, narrow, wide, "https://*.example")
		list[0].Disabled, list[1].Disabled = true, true
		w := newWorld(t, Config{Issuers: list}, provider.Config{})
		for _, issuerURL := range []string{"https://a.ci.example", "https://a.id.example", "https://other.example"} {
			w.serve(issuerURL, mimic(issuerURL, w.provider))
		}
		stop := w.run(t)
		w.verifier.Probe(t.Context())
		for _, issuerURL := range []string{testIssuer, "https://a.ci.example"} {
			e := w.refuse(t, w.tokenOf(t, issuerURL), refusal.IssuerNotConfigured)
			if !strings.Contains(e.Message, "has disabled") || !strings.Contains(e.Message, issuerURL) {
				t.Errorf("%s is refused with %s", issuerURL, e.Message)
			}
			w.refuse(t, mint(t, w.provider, map[string]any{"iss": issuerURL, "aud": "x", "exp": 1}), refusal.IssuerNotConfigured)
		}
		time.Sleep(time.Hour)
		if sent := w.sent(); len(sent) > 0 {
			t.Errorf("%d requests, the first to %s", len(sent), sent[0].URL)
		}
		w.accept(t, w.tokenOf(t, "https://a.id.example"))
		w.accept(t, w.tokenOf(t, "https://other.example"))
		var states []State
		for _, status := range w.verifier.Status() {
			states = append(states, status.State)
			if status.Usable != (status.State == StateOK) || status.LastError != "" {
				t.Errorf("status %+v", status)
			}
		}
		if diff := cmp.Diff([]State{StateDisabled, StateDisabled, StateOK, StateOK}, states); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		stop()
	})
}

// TestJudgeDisabled: Judge reports that the entry is disabled, and continues as if it were not.
func TestJudgeDisabled(t *testing.T) {
	t.Parallel()
	list := issuers(testIssuer)
	list[0].Disabled = true
	v := newTestVerifier(t, Config{Issuers: list}, newWeb().transport)
	var failed, passed []string
	token, err := v.Judge(Claims{"iss": testIssuer, "aud": "sigstore", "sub": "someone"}, func(s Step) {
		if s.Err != nil {
			failed = append(failed, s.Name)
			wantReason(t, s.Err, refusal.IssuerNotConfigured)
		} else {
			passed = append(passed, s.Name)
		}
	})
	if err != nil || token.Entry != testIssuer || !slices.Equal(failed, []string{"issuer"}) || !slices.Equal(passed, []string{"audience", "subject"}) {
		t.Errorf("%+v, %v: failed %v, passed %v", token, err, failed, passed)
	}
}
