// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"encoding/base64"
	"encoding/json"
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
	want := &Token{
		Entry: testIssuer, IssuerURL: testIssuer, Subject: "someone", Audience: []string{"other", "sigstore"},
		Expiry: now.Add(10 * time.Minute),
		Claims: Claims{
			"iss": testIssuer, "sub": "someone", "aud": []any{"other", "sigstore"}, "ok": true,
			"iat": Number("1800000000"), "exp": Number("1800000600"), "n": Number("1.5"), "big": Number("12345678901234567"),
			"kubernetes.io": Claims{"namespace": "ns", "list": []any{"a"}},
		},
	}
	if diff := cmp.Diff(want, must(w.verifier.Verify(t.Context(), " \n"+raw+"\r\n\t", unknownClient))(t)); diff != "" {
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
			err := w.verify(t, raw)
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
	for raw, want := range map[string]refusal.Reason{
		" \r\n\t ":                               refusal.TokenMissing,
		good + ".":                               refusal.TokenMalformed,
		good + strings.Repeat("A", MaxTokenSize): refusal.TokenMalformed,
		part[0] + ".\n" + part[1] + "." + part[2]: refusal.TokenMalformed,
		// stray bits in the header
		strings.TrimSuffix(b64(`{"alg":"ES256","a":12}`), "Q") + "R." + part[1] + "." + part[2]: refusal.TokenMalformed,
		part[0] + "." + part[1] + ".":          refusal.SignatureInvalid,
		with(`{"alg":"ES256","crit":["exp"]}`): refusal.TokenMalformed,
		with(`{"alg":"ES256","b64":false}`):    refusal.TokenMalformed,
		with(`{"alg":"ES256","kid":1}`):        refusal.TokenMalformed,
		with(`{"alg":"none"}`):                 refusal.SignatureInvalid,
		part[0] + "." + b64(payload(`,"ISS":"https://good.example"`)) + "." + part[2]: refusal.TokenMalformed,
	} {
		if e := w.refuse(t, raw, want); strings.Contains(e.Message, part[2]) || len(e.Message) > 500 {
			t.Errorf("message %q has too much of the token", e.Message)
		}
	}
	if got := len(w.sent()); got != 0 {
		t.Errorf("%d requests were sent for malformed tokens", got)
	}
}

// TestHeaderCannotChooseItsKey: jku, jwk, x5u and x5c have no effect, and alg is one that the issuer
// lists and the entry accepts; the entry's list causes no fetch.
func TestHeaderCannotChooseItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	evil := newProvider(t, provider.Config{IssuerURL: "https://evil.example"})
	w.serve("https://evil.example", evil)
	evilKey := evil.SigningKey()
	header := map[jose.HeaderKey]any{"jku": "https://evil.example/keys", "x5u": "https://evil.example/keys", "jwk": evilKey.Public()}
	w.refuse(t, sign(t, evilKey, header, payload("")), refusal.SignatureInvalid)
	w.accept(t, sign(t, w.provider.SigningKey(), header, payload("")))
	if n := evil.KeyFetches.Load() + evil.Discoveries.Load(); n != 0 {
		t.Errorf("the attacker's host was asked %d times", n)
	}
	w = newWorld(t, Config{}, provider.Config{Algorithm: "RS256"})
	key := w.provider.SigningKey()
	public := jwkOf(t, key.Public().Key, map[string]any{"kid": key.KeyID}) // for any algorithm of RSA
	w.serve(testIssuer, site(testIssuer, testIssuer+"/keys", "", body(`{"keys":[`+public+`]}`)))
	w.refuse(t, mint(t, w.provider, nil), refusal.SignatureInvalid)
	narrow := issuers(testIssuer)
	narrow[0].SigningAlgorithms = []string{"PS256"}
	w = newWorld(t, Config{Issuers: narrow}, provider.Config{})
	w.refuse(t, mint(t, w.provider, nil), refusal.SignatureInvalid)
	if n := len(w.sent()); n != 0 {
		t.Errorf("%d requests for an algorithm that the entry does not accept", n)
	}
}

func TestRegisteredClaims(t *testing.T) {
	t.Parallel()
	const now = 1_800_000_000
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	// half a second past now: `exp` has no leeway, not even that of rounding
	clock := func() time.Time { return time.Unix(now, 500_000_000) }
	w := newWorld(t, Config{Now: clock}, provider.Config{Now: clock})
	for _, test := range []struct {
		claim string
		value any
		want  refusal.Reason // "" for accepted
	}{
		{"exp", now + 1, ""},
		{"exp", now, refusal.TokenExpired},
		{"exp", raw("1800000001.25"), ""},
		{"exp", raw("1800000000.99"), refusal.TokenExpired},
		{"exp", raw("1.8000001e9"), ""},
		{"exp", raw("9007199254740991"), ""},
		{"exp", raw("9007199254740992"), refusal.TokenMalformed}, // 2^53
		{"exp", raw("9223372036854775807"), refusal.TokenMalformed},
		{"exp", raw("1e400"), refusal.TokenMalformed},
		{"exp", raw("-1e300"), refusal.TokenMalformed},
		{"nbf", now + 300, ""},
		{"nbf", now + 301, refusal.TokenNotYetValid},
		{"NBF", now + 3600, refusal.TokenMalformed}, // go-oidc reads it
		{"iat", "x", refusal.TokenMalformed},
		{"sub", "", refusal.ClaimMissing},
		{"aud", []string{"a", "b", "c", "d", "e"}, refusal.AudienceMismatch},
		{"iss", testIssuer + "/", refusal.IssuerNotConfigured},
		{"iss", "https://" + strings.Repeat("a", 5000), refusal.IssuerNotConfigured},
		{"iss", "https://a\n\x1b[31m", refusal.IssuerNotConfigured},
		{"nonce", 5, refusal.TokenMalformed}, // go-oidc refuses it
	} {
		err := w.verify(t, mint(t, w.provider, map[string]any{test.claim: test.value}))
		if test.want == "" && err != nil {
			t.Errorf("%s %s: %v", test.claim, test.value, err)
		} else if test.want != "" {
			if e := wantReason(t, err, test.want); len(e.Message) > 400 || strings.ContainsAny(e.Message, "\n\x1b") {
				t.Errorf("message %q", e.Message)
			}
		}
	}
	for text, claims := range map[string]map[string]any{"expired 3 days ago, at 2027-01-12T": {"exp": now - 3*86400}, "on (nbf), in 3 hours;": {"nbf": now + 3*3600}} {
		if err := w.verify(t, mint(t, w.provider, claims)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s", err, text)
		}
	}
}

// TestCheapChecksCauseNoFetch: an expired or misdirected token causes no fetch.
func TestCheapChecksCauseNoFetch(t *testing.T) {
	t.Parallel()
	w, _ := wildWorld(t)
	long := "https://" + strings.Repeat("a", maxIssuerURL) + ".example"
	for _, claims := range []map[string]any{
		{"exp": 1}, {"aud": "other"}, {"sub": nil}, {"nbf": time.Now().Add(time.Hour).Unix()}, {"iss": "https://nobody.elsewhere"}, {"iss": long},
	} {
		if err := w.verify(t, mint(t, w.provider, claims)); err == nil {
			t.Errorf("%v was accepted", claims)
		}
	}
	if n := len(w.verifier.wildcards[0].pool.kept) + len(w.sent()); n != 0 {
		t.Errorf("%d requests were sent and issuers kept", n)
	}
}

func TestProfilesAreToldByAudience(t *testing.T) {
	t.Parallel()
	entry := issuers(testIssuer)
	entry[0].Profiles = []Profile{{"deploy", []string{"deploy", "ship"}}, {"build", []string{"build"}}}
	w := newWorld(t, Config{Issuers: entry}, provider.Config{})
	for _, test := range []struct {
		audience []string
		profile  string
		accepted bool
	}{
		{[]string{"sigstore"}, "", true}, {[]string{"deploy", "ship", "unknown"}, "deploy", true}, {[]string{"build"}, "build", true},
		{[]string{"build", "ship"}, "", false}, {[]string{"sigstore", "build"}, "", false}, {[]string{"unknown"}, "", false},
	} {
		token, err := w.verifier.Verify(t.Context(), mint(t, w.provider, map[string]any{"aud": test.audience}), unknownClient)
		if !test.accepted {
			wantReason(t, err, refusal.AudienceMismatch)
		} else if err != nil || token.Profile != test.profile {
			t.Errorf("%v: %+v, %v", test.audience, token, err)
		}
	}
}

// A trace shows every step up to the failure, and never the token.
func TestTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	all := strings.Fields("form issuer times audience subject keys signature")
	for token, failed := range map[string]string{
		mint(t, w.provider, nil): "",
		mint(t, newProvider(t, provider.Config{IssuerURL: testIssuer}), nil): "signature",
		w.tokenOf(t, "https://stranger.example"):                             "issuer",
		"nonsense":                                                           "form",
		mint(t, w.provider, map[string]any{"exp": 1}):                        "times",
		mint(t, w.provider, map[string]any{"aud": "x"}):                      "audience",
		mint(t, w.provider, map[string]any{"sub": ""}):                       "subject",
	} {
		var steps []string
		result, err := w.verifier.Trace(t.Context(), token, func(s Step) {
			steps = append(steps, s.Name)
			if (s.Err != nil) != (s.Name == failed) || s.Err == nil && s.Found == "" || strings.Contains(s.Found, token[len(token)-8:]) {
				t.Errorf("%s failed: step %+v", failed, s)
			}
			if s.Name == failed {
				steps = append(steps, all[len(steps):]...)
			}
		})
		if diff := cmp.Diff(all, steps); diff != "" || (err == nil) != (result != nil) || (err == nil) != (failed == "") {
			t.Errorf("%s failed: %v (-want +got):\n%s", failed, err, diff)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	good := mint(f, newProvider(f, provider.Config{IssuerURL: testIssuer}), githubClaims())
	for _, seed := range []string{
		good, "", "..", strings.Repeat(".", 100), good + "=", "\n" + good, b64(`{"alg":"RS256","crit":["b64"],"b64":false}`) + ".e30.e30",
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
		// A text that parses is the only encoding of its parts.
		part := strings.Split(strings.TrimSpace(raw), ".")
		if len(part) != 3 || len(token.raw) > MaxTokenSize || !supportedAlgorithm(token.alg) {
			t.Fatalf("%d segments, %d bytes, alg %q got through", len(part), len(token.raw), token.alg)
		}
		for _, p := range part {
			decoded, err := base64.RawURLEncoding.DecodeString(p)
			if err != nil || base64.RawURLEncoding.EncodeToString(decoded) != p {
				t.Errorf("segment %q is not the base64url of what it decodes to", p)
			}
		}
	})
}
