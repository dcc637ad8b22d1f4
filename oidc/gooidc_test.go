// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// anyKey is a gooidc.KeySet that accepts every signature of the payload.
type anyKey []byte

func (k anyKey) VerifySignature(context.Context, string) ([]byte, error) { return k, nil }

// goOIDC returns what go-oidc makes of a payload.
func goOIDC(t testing.TB, issuerURL any, payload []byte) (*gooidc.IDToken, error) {
	t.Helper()
	issuer, _ := issuerURL.(string)
	verifier := gooidc.NewVerifier(issuer, anyKey(payload), &gooidc.Config{SkipClientIDCheck: true, Now: func() time.Time { return time.Unix(1000, 0) }})
	return verifier.Verify(t.Context(), "eyJhbGciOiJSUzI1NiJ9..")
}

// FuzzRegistered checks that go-oidc decides about the registered claims alone as about all claims.
func FuzzRegistered(f *testing.F) {
	for _, name := range []string{
		"iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "at_hash", "_claim_names", "_claim_sources", "jti", "azp", "acr", "amr", "auth_time",
		"c_hash", "s_hash", "cnf", "act", "scope", "client_id", "may_act", "email", "ISS", "NONCE", "at_haſh", `iat`, "Exp", "a\tb",
	} {
		for _, value := range []string{`1`, `"x"`, `[1]`, `{"a":1}`, `null`, `true`, `1e300`, ` "\\u0041" `} {
			f.Add([]byte(fmt.Sprintf(`{"iss":"i","sub":"s","aud":"a","exp":2000,"more":[1,{"iss":2}] , %q : %s }`, name, value)))
			f.Add([]byte(fmt.Sprintf(`{%q:%s,"exp":2000}`, name, value)))
		}
	}
	f.Add([]byte(`{"exp":1999.5,"_claim_names":{"a":"b"},"_claim_sources":{"b":{"endpoint":"e"}}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		p := new(claimsParser)
		claims, err := p.parse(document)
		if err != nil || p.registered == nil {
			return
		}
		want, wantErr := goOIDC(t, claims["iss"], document)
		got, err := goOIDC(t, claims["iss"], append(p.registered, '}'))
		if fmt.Sprint(err) != fmt.Sprint(wantErr) && (err == nil || wantErr == nil) {
			t.Fatalf("%s: %v, and without the other claims %v", document, wantErr, err)
		}
		if err != nil {
			return
		}
		for i := range reflect.TypeFor[gooidc.IDToken]().NumField() {
			field := reflect.TypeFor[gooidc.IDToken]().Field(i)
			a, b := reflect.ValueOf(want).Elem().Field(i), reflect.ValueOf(got).Elem().Field(i)
			if field.Name != "claims" && fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%s: %s is %v, and without the other claims %v", document, field.Name, a, b)
			}
		}
	})
}

// TestAcceptedHeader: the header of an accepted token changes the result of no other token.
func TestAcceptedHeader(t *testing.T) {
	t.Parallel()
	p := newProvider(t, provider.Config{IssuerURL: testIssuer})
	key := p.SigningKey()
	other := newProvider(t, provider.Config{IssuerURL: testIssuer}).SigningKey()
	other.KeyID = key.KeyID
	fresh := func() *keys {
		return &keys{issuerURL: testIssuer, algorithms: []string{"ES256"}, list: []publicKey{{id: key.KeyID, key: key.Public().Key}}}
	}
	reason := func(k *keys, token *idToken) string {
		if err := k.verify(t.Context(), token, time.Now()); err != nil {
			return string(refusal.From(err).Reason)
		}
		return ""
	}
	var tokens []*idToken
	for _, signer := range []jose.JSONWebKey{key, other} {
		for _, header := range []map[jose.HeaderKey]any{nil, {"typ": "JWT"}, {"x5c": []string{"junk"}}, {"x5c": "junk"}, {"nonce": 1}, {"x": 1}, {"jwk": 1}} {
			for _, claims := range []string{"", `,"nonce":1`, `,"a":1`} {
				tokens = append(tokens, must(parseToken(sign(t, signer, header, payload(claims))))(t))
			}
		}
	}
	accepted := 0
	for _, first := range tokens {
		for _, second := range tokens {
			k := fresh()
			before := reason(k, first)
			if want, got := reason(fresh(), second), reason(k, second); got != want || before != reason(fresh(), first) {
				t.Errorf("%s after %s: %q, want %q", second.raw, first.raw, got, want)
			}
			if remembered := k.header.Load(); before == "" {
				accepted++
			} else if remembered != nil && remembered.protected == first.protected && remembered.protected != second.protected {
				t.Errorf("the header of a refused token is remembered: %s", first.raw)
			}
		}
	}
	if accepted == 0 || accepted == len(tokens)*len(tokens) {
		t.Errorf("%d of %d tokens were accepted first", accepted, len(tokens)*len(tokens))
	}
}
