// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func TestRegisteredClaims(t *testing.T) {
	t.Parallel()
	const now = 1_800_000_000
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	// half a second past now: `exp` has no leeway, not even that of rounding
	clock := func() time.Time { return time.Unix(now, 500_000_000) }
	w := newWorld(t, Config{Now: clock}, provider.Config{Now: clock})

	for _, test := range []struct {
		name   string
		claims map[string]any
		want   refusal.Reason // "" for accepted
	}{
		{"exp in the next second", map[string]any{"exp": now + 1}, ""},
		{"exp in this second", map[string]any{"exp": now}, refusal.TokenExpired},
		{"exp a while ago", map[string]any{"exp": now - 3600}, refusal.TokenExpired},
		{"exp with a fraction", map[string]any{"exp": raw("1800000001.25")}, ""},
		{"exp whose fraction does not count", map[string]any{"exp": raw("1800000000.99")}, refusal.TokenExpired},
		{"exp with an exponent", map[string]any{"exp": raw("1.8000001e9")}, ""},
		{"exp far in the future", map[string]any{"exp": raw("9007199254740991")}, ""},
		{"exp of 2^53", map[string]any{"exp": raw("9007199254740992")}, refusal.TokenMalformed},
		{"exp of the greatest int64", map[string]any{"exp": raw("9223372036854775807")}, refusal.TokenMalformed},
		{"exp beyond int64", map[string]any{"exp": raw("1e300")}, refusal.TokenMalformed},
		{"exp beyond float64", map[string]any{"exp": raw("1e400")}, refusal.TokenMalformed},
		{"exp below int64", map[string]any{"exp": raw("-1e300")}, refusal.TokenMalformed},
		{"nbf in five minutes", map[string]any{"nbf": now + 300}, ""},
		{"nbf a second later", map[string]any{"nbf": now + 301}, refusal.TokenNotYetValid},
		{"nbf in upper case, which go-oidc reads", map[string]any{"NBF": now + 3600}, refusal.TokenMalformed},
		{"aud many others", map[string]any{"aud": []string{"a", "b", "c", "d", "e"}}, refusal.AudienceMismatch},
		{"iss with a slash at the end", map[string]any{"iss": testIssuer + "/"}, refusal.IssuerNotConfigured},
		{"iss very long", map[string]any{"iss": "https://" + strings.Repeat("a", 5000)}, refusal.IssuerNotConfigured},
		{"iss with controls", map[string]any{"iss": "https://a\n\x1b[31m"}, refusal.IssuerNotConfigured},
		{"nonce a number, which go-oidc refuses", map[string]any{"nonce": 5}, refusal.TokenMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := w.verifier.Verify(t.Context(), mint(t, w.provider, test.claims), unknownClient)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if e := wantReason(t, err, test.want); len(e.Message) > 400 || strings.ContainsAny(e.Message, "\n\x1b") {
				t.Errorf("message %q", e.Message)
			}
		})
	}
}

// TestCheapChecksCauseNoFetch: an expired or misdirected token causes no fetch.
func TestCheapChecksCauseNoFetch(t *testing.T) {
	t.Parallel()
	w := wildWorld(t)
	for _, claims := range []map[string]any{
		{"exp": 1}, {"aud": "other"}, {"sub": nil}, {"nbf": time.Now().Add(time.Hour).Unix()}, {"iss": "https://nobody.elsewhere"},
	} {
		if _, err := w.verifier.Verify(t.Context(), mint(t, w.provider, claims), unknownClient); err == nil {
			t.Errorf("%v was accepted", claims)
		}
	}
	if n := len(w.verifier.wildcards[0].pool.kept) + len(w.sent()); n != 0 {
		t.Errorf("%d requests were sent and issuers kept", n)
	}
}
