// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"encoding/base64"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestVerifyReturnsWhatTheTokenSays(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	w := newWorld(t, Config{Now: func() time.Time { return now }}, provider.Config{Now: func() time.Time { return now }})
	raw := mint(t, w.provider, map[string]any{
		"aud": []string{"other", "sigstore"}, "n": 1.5, "big": 12345678901234567, "ok": true,
		"kubernetes.io": map[string]any{"namespace": "ns", "list": []any{"a"}},
	})
	token, err := w.verifier.Verify(t.Context(), " \n"+raw+"\r\n\t", unknownClient)
	if err != nil {
		t.Fatal(err)
	}
	want := &Token{
		Entry: testIssuer, IssuerURL: testIssuer, Subject: "someone", Audience: []string{"other", "sigstore"},
		Expiry: now.Add(10 * time.Minute),
		Claims: Claims{
			"iss": testIssuer, "sub": "someone", "aud": []any{"other", "sigstore"}, "ok": true,
			"iat": Number("1800000000"), "exp": Number("1800000600"), "n": Number("1.5"), "big": Number("12345678901234567"),
			"kubernetes.io": Claims{"namespace": "ns", "list": []any{"a"}},
		},
	}
	if diff := cmp.Diff(want, token); diff != "" {
		t.Error(diff)
	}
}

// TestTokenOfMillionsOfDots: CVE-2025-66506, splitting of a token before its size is checked.
func TestTokenOfMillionsOfDots(t *testing.T) { // not parallel: counts allocated bytes
	w := newWorld(t, Config{}, provider.Config{})
	for name, raw := range map[string]string{
		"nothing but dots":     strings.Repeat(".", 8<<20),
		"dots up to the limit": strings.Repeat(".", MaxTokenSize),
		"dots in white space":  strings.Repeat(" ", 1<<20) + strings.Repeat(".", 1<<20) + strings.Repeat("\n", 1<<20),
		"one long segment":     strings.Repeat("A", 8<<20),
	} {
		// Other work of the process can only increase a count, so the smallest one is Verify's.
		least := uint64(math.MaxUint64)
		for range 10 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := w.verifier.Verify(t.Context(), raw, unknownClient)
			runtime.ReadMemStats(&after)
			wantReason(t, err, refusal.TokenMalformed)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		if least > 4096 {
			t.Errorf("%s: %d bytes were allocated, want at most 4096", name, least)
		}
	}
}

// TestTokenShape has the shapes with a reason of their own; conformance has many more.
func TestTokenShape(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	good := mint(t, w.provider, nil)
	part := strings.Split(good, ".")
	with := func(header string) string { return b64(header) + "." + part[1] + "." + part[2] }
	claims := func(text string) string { return part[0] + "." + b64(text) + "." + part[2] }

	for _, test := range []struct {
		name, raw string
		want      refusal.Reason
	}{
		{"empty", "", refusal.TokenMissing},
		{"white space alone", " \r\n\t ", refusal.TokenMissing},
		{"two segments", part[0] + "." + part[1], refusal.TokenMalformed},
		{"four segments", good + ".", refusal.TokenMalformed},
		{"five segments, a JWE", good + ".a.b", refusal.TokenMalformed},
		{"too large", good + strings.Repeat("A", MaxTokenSize), refusal.TokenMalformed},
		{"a line break inside", part[0] + ".\n" + part[1] + "." + part[2], refusal.TokenMalformed},
		{"a space in the signature", part[0] + "." + part[1] + ". " + part[2], refusal.TokenMalformed},
		{"stray bits in the header", strings.TrimSuffix(b64(`{"alg":"ES256","a":12}`), "Q") + "R." + part[1] + "." + part[2], refusal.TokenMalformed},
		{"no signature", part[0] + "." + part[1] + ".", refusal.SignatureInvalid},
		{"header with alg twice", with(`{"alg":"ES256","alg":"ES256"}`), refusal.TokenMalformed},
		{"crit", with(`{"alg":"ES256","crit":["exp"]}`), refusal.TokenMalformed},
		{"b64 without crit", with(`{"alg":"ES256","b64":false}`), refusal.TokenMalformed},
		{"alg none", with(`{"alg":"none"}`), refusal.SignatureInvalid},
		{"a claim twice", claims(payload(`,"sub":"someone"`)), refusal.TokenMalformed},
		{"a claim twice but for case", claims(payload(`,"ISS":"https://good.example"`)), refusal.TokenMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			token, err := w.verifier.Verify(t.Context(), test.raw, unknownClient)
			if token != nil {
				t.Error("a token was returned")
			}
			e := wantReason(t, err, test.want)
			if strings.Contains(e.Message, part[2]) || len(e.Message) > 500 {
				t.Errorf("message %q has too much of the token", e.Message)
			}
		})
	}
	if got := len(w.sent()); got != 0 {
		t.Errorf("%d requests were sent for malformed tokens", got)
	}
}

// TestHeaderCannotChooseItsKey: jku, jwk, x5u and x5c have no effect.
func TestHeaderCannotChooseItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	evil := newProvider(t, provider.Config{IssuerURL: "https://evil.example"})
	w.serve("https://evil.example", evil)
	evilKey, goodKey := evil.SigningKey(), w.provider.SigningKey()
	header := map[jose.HeaderKey]any{"jku": "https://evil.example/keys", "x5u": "https://evil.example/keys", "jwk": evilKey.Public()}

	_, err := w.verifier.Verify(t.Context(), sign(t, evilKey, header, payload("")), unknownClient)
	wantReason(t, err, refusal.SignatureInvalid)
	if _, err := w.verifier.Verify(t.Context(), sign(t, goodKey, header, payload("")), unknownClient); err != nil {
		t.Errorf("signed by the issuer: %v", err)
	}
	if n := evil.KeyFetches() + evil.Discoveries(); n != 0 {
		t.Errorf("the attacker's host was asked %d times", n)
	}
}

func FuzzParseToken(f *testing.F) {
	good := mint(f, newProvider(f, provider.Config{IssuerURL: testIssuer}), githubClaims())
	for _, seed := range []string{
		good, "", "..", "a.b.c", strings.Repeat(".", 100), good + "=", "\n" + good,
		b64(`{"alg":"none"}`) + "." + b64(`{}`) + ".", b64(`{"alg":"RS256","crit":["b64"],"b64":false}`) + ".e30.e30",
		b64(`{"alg":"ES256","jwk":{"kty":"EC"}}`) + "." + b64(payload("")) + ".AAAA",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		token, err := parseToken(raw)
		if err != nil {
			var e *refusal.Error
			if !errors.As(err, &e) || e.Reason.Kind() != refusal.Unauthenticated {
				t.Fatalf("error %v is no refusal of kind Unauthenticated", err)
			}
			return
		}
		if !supportedAlgorithm(token.alg) {
			t.Errorf("alg %q got through", token.alg)
		}
		// A text that parses is the only encoding of its parts.
		part := strings.Split(strings.TrimSpace(raw), ".")
		if len(part) != 3 || len(token.raw) > MaxTokenSize {
			t.Fatalf("%d segments, %d bytes got through", len(part), len(token.raw))
		}
		for _, p := range part {
			decoded, err := base64.RawURLEncoding.DecodeString(p)
			if err != nil || base64.RawURLEncoding.EncodeToString(decoded) != p {
				t.Errorf("segment %q is not the base64url of what it decodes to", p)
			}
		}
	})
}
