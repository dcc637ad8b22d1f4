// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwkOf returns the members of key as JSON, changed by change.
func jwkOf(t testing.TB, key any, change map[string]any) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKey{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range change {
		members[name] = value
	}
	if text, err = json.Marshal(members); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestParseKeySet(t *testing.T) {
	t.Parallel()
	p256 := ecKey(t, elliptic.P256())
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change map[string]any) string { return jwkOf(t, p256.Public(), change) }
	for _, test := range []struct {
		name, key string
		used      bool
	}{
		{"plain", with(nil), true},
		{"with kid, alg and use", with(map[string]any{"kid": "a", "alg": "ES256", "use": "sig"}), true},
		{"with key_ops", with(map[string]any{"key_ops": []string{"verify"}}), true},
		{"with junk in x5c, which is not read", with(map[string]any{"x5c": []string{"junk"}, "x5t": "junk", "x5u": "::"}), true},
		{"with members of no meaning", with(map[string]any{"exp": 5, "issuer": "x"}), true},
		{"with its private half, of which the public one is taken", jwkOf(t, p256, nil), true},
		{"for encryption", with(map[string]any{"use": "enc"}), false},
		{"for signing alone", with(map[string]any{"key_ops": []string{"sign"}}), false},
		{"with no operation", with(map[string]any{"key_ops": []string{}}), false},
		{"for an algorithm for encryption", with(map[string]any{"alg": "ECDH-ES"}), false},
		{"for HS256", with(map[string]any{"alg": "HS256"}), false},
		{"a shared secret", `{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}`, false},
		{"of an unknown type", `{"kty":"XYZ"}`, false},
		{"of no type", `{"x":"AA","y":"AA"}`, false},
		{"on an unknown curve", with(map[string]any{"crv": "secp256k1"}), false},
		{"off its curve", with(map[string]any{"x": strings.Repeat("A", 43)}), false},
		{"with a member twice", `{"kty":"EC",` + with(nil)[1:], false},
		{"with a number for a kid", with(map[string]any{"kid": 1}), false},
		{"Ed448", `{"kty":"OKP","crv":"Ed448","x":"AAAA"}`, false},
		{"RSA of 1024 bits", jwkOf(t, small.Public(), nil), false},
		{"RSA of 16384 bits", `{"kty":"RSA","n":"` + strings.Repeat("_", 2730) + `8","e":"AQAB"}`, false},
		{"RSA without a modulus", `{"kty":"RSA","e":"AQAB"}`, false},
		{"RSA with an exponent of one", `{"kty":"RSA","n":"` + strings.Repeat("_", 342) + `","e":"AQ"}`, false},
		{"with text that is not UTF-8", strings.Replace(with(map[string]any{"name": "NAME"}), "NAME", "\xff", 1), true},
		{"with half a surrogate pair", strings.Replace(with(map[string]any{"name": "NAME"}), "NAME", `\ud800`, 1), true},
		{"with nulls", with(map[string]any{"kid": nil, "use": nil, "alg": nil, "key_ops": nil, "x5c": nil}), true},
		{"of a SPIFFE bundle, for tokens", with(map[string]any{"use": "jwt-svid"}), false},
		{"of a SPIFFE bundle, for certificates", with(map[string]any{"use": "x509-svid"}), false},
		{"a string", `"key"`, false},
		{"null", `null`, false},
	} {
		// A good key in the same set must remain usable.
		list, ignored, err := parseKeySet([]byte(`{"keys":[`+test.key+`,`+with(nil)+`],"keys2":1}`), false)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if used := len(list) == 2; used != test.used || len(list)+ignored != 2 {
			t.Errorf("a key %s: used %v, want %v", test.name, used, test.used)
		}
		for _, key := range list {
			if _, public := key.key.(*ecdsa.PublicKey); !public {
				t.Errorf("a key %s: became a %T", test.name, key.key)
			}
		}
	}
}

// TestSPIFFEBundle: a bundle's keys for JWT-SVIDs verify tokens, and its keys for X.509-SVIDs none.
func TestSPIFFEBundle(t *testing.T) {
	t.Parallel()
	key := func(use string) string {
		return jwkOf(t, ecKey(t, elliptic.P256()).Public(), map[string]any{"use": use, "kid": use})
	}
	list, ignored, err := parseKeySet([]byte(`{"keys":[`+key("x509-svid")+`,`+key("jwt-svid")+`]}`), true)
	if err != nil || ignored != 1 || len(list) != 1 || list[0].id != "jwt-svid" {
		t.Errorf("used %v, ignored %d: %v", list, ignored, err)
	}
}

func TestParseKeySetRefuses(t *testing.T) {
	t.Parallel()
	for name, document := range map[string]string{
		"nothing":             ``,
		"HTML":                `<html>`,
		"null":                `null`,
		"an array":            `[]`,
		"no keys":             `{"Keys":[]}`,
		"keys null":           `{"keys":null}`,
		"keys an object":      `{"keys":{}}`,
		"followed by another": `{"keys":[]}{"keys":[]}`,
	} {
		if list, _, err := parseKeySet([]byte(document), false); err == nil {
			t.Errorf("%s: accepted as %v", name, list)
		}
	}
}

func publicJWK(t *testing.T, alg string) jose.JSONWebKey {
	t.Helper()
	key := newProvider(t, provider.Config{IssuerURL: testIssuer, Algorithm: alg}).SigningKey()
	return key.Public()
}

func TestKeyFits(t *testing.T) {
	t.Parallel()
	algorithms := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	rsaKey, edKey := publicJWK(t, "RS256"), publicJWK(t, "EdDSA")
	for name, test := range map[string]struct {
		key  publicKey
		want string
	}{
		"RSA":           {publicKey{key: rsaKey.Key}, "RS256 RS384 RS512 PS256 PS384 PS512"},
		"RSA for PS384": {publicKey{key: rsaKey.Key, alg: "PS384"}, "PS384"},
		"RSA for ES256": {publicKey{key: rsaKey.Key, alg: "ES256"}, ""},
		"P-256":         {publicKey{key: ecKey(t, elliptic.P256()).Public()}, "ES256"},
		"P-384":         {publicKey{key: ecKey(t, elliptic.P384()).Public()}, "ES384"},
		"P-521":         {publicKey{key: ecKey(t, elliptic.P521()).Public()}, "ES512"},
		"P-224":         {publicKey{key: ecKey(t, elliptic.P224()).Public()}, ""},
		"Ed25519":       {publicKey{key: edKey.Key}, "EdDSA"},
		"a secret":      {publicKey{key: []byte("secret")}, ""},
		"nothing":       {publicKey{}, ""},
	} {
		var got []string
		for _, alg := range algorithms {
			if test.key.fits(alg) {
				got = append(got, alg)
			} else if test.key.alg == "" && test.key.verify(alg, []byte("input"), make([]byte, 64)) {
				t.Errorf("%s verified a signature of zeros with %s", name, alg)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s fits %v, want %s", name, got, test.want)
		}
	}
}

// site serves a discovery document and a key set of the test's choice.
func site(issuerURL, jwksURI, algorithms, keySet string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/.well-known/openid-configuration",
		body(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q%s}`, issuerURL, jwksURI, algorithms)))
	mux.Handle("/", body(keySet))
	return mux
}

func TestAlgorithmsOfDiscovery(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ listed, narrowed, want string }{
		{"", "", "RS256"}, {"HS256 none", "", "RS256"}, {"RS256 PS512 HS256 RS256", "", "RS256 PS512"}, {"PS512", "", "PS512"},
		{"RS256 PS512", "PS512", "PS512"}, {"RS256", "PS512", ""}, {"", "RS256", "RS256"},
	} {
		e := &entry{Issuer: Issuer{SigningAlgorithms: strings.Fields(test.narrowed)}}
		if got := strings.Join(e.accepted(strings.Fields(test.listed)), " "); got != test.want {
			t.Errorf("listed %s, narrowed to %s: %s, want %s", test.listed, test.narrowed, got, test.want)
		}
	}
}

func TestWhereKeysMayBe(t *testing.T) {
	t.Parallel()
	static, wildcard, listed := staticIssuer(testIssuer), wildcardIssuer("https://*.example"), wildcardIssuer("https://*.example")
	listed.JWKSHosts = []string{"keys.elsewhere.example", "Keys.Ports.example:8443"}
	confined := static
	confined.JWKSHosts = []string{"keys.elsewhere.example"}
	for _, test := range []struct {
		name          string
		issuer        Issuer
		jwksURI       string
		allowLoopback bool
		accepted      bool
	}{
		{"static, its own host", static, testIssuer + "/jwks", false, true},
		{"static, another host", static, "https://www.elsewhere.example/jwks", false, true},
		{"static, http", static, "http://issuer.example/jwks", false, false},
		{"static, http where loopback is allowed", static, "http://issuer.example/jwks", true, false},
		{"static, http on loopback", static, "http://127.0.0.1:99/jwks", false, false},
		{"static, http on loopback where allowed", static, "http://127.0.0.1:99/jwks", true, true},
		{"static, a file", static, "file:///etc/passwd", false, false},
		{"static, nothing", static, "", false, false},
		{"static, relative", static, "/jwks", false, false},
		{"static, user-info", static, "https://user@issuer.example/jwks", false, false},
		{"static and confined, its own host", confined, testIssuer + "/jwks", false, true},
		{"static and confined, a listed host", confined, "https://keys.elsewhere.example/jwks", false, true},
		{"static and confined, another host", confined, "https://www.elsewhere.example/jwks", false, false},
		{"wildcard, its own host", wildcard, testIssuer + "/jwks", false, true},
		{"wildcard, its own host with its port", wildcard, "https://ISSUER.example:443/jwks", false, true},
		{"wildcard, another port", wildcard, testIssuer + ":8443/jwks", false, false},
		{"wildcard, another host", wildcard, "https://www.elsewhere.example/jwks", false, false},
		{"wildcard, a subdomain", wildcard, "https://keys.issuer.example/jwks", false, false},
		{"wildcard, a listed host", listed, "https://keys.elsewhere.example/jwks", false, true},
		{"wildcard, a listed host and port", listed, "https://keys.ports.example:8443/jwks", false, true},
		{"wildcard, a listed host, another port", listed, "https://keys.ports.example/jwks", false, false},
	} {
		v := newTestVerifier(t, Config{Issuers: []Issuer{test.issuer}, AllowLoopback: test.allowLoopback}, newWeb())
		i := &issuer{shared: v.shared, url: testIssuer, entry: v.entries[0], pool: v.entries[0].pool}
		if err := i.checkJWKSURI(test.jwksURI); (err == nil) != test.accepted {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func FuzzParseKeySet(f *testing.F) {
	key := jwkOf(f, ecKey(f, elliptic.P256()).Public(), map[string]any{"kid": "a", "use": "sig"})
	for _, seed := range []string{
		`{"keys":[]}`, `{"keys":[` + key + `]}`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`,
		`{"keys":[{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"}]}`, `{"keys":[{"kty":"oct","k":"AA"},{"kty":"EC","crv":"P-256"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		list, _, _ := parseKeySet(document, len(document)%2 == 0)
		for i, key := range list {
			if key.unparsed != nil && i >= maxKeys {
				continue
			}
			fits := 0
			for _, alg := range []string{"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"} {
				if key.fits(alg) {
					fits++
				}
			}
			if key.alg == "" && fits == 0 {
				t.Errorf("a %T got through, which fits no algorithm", key.key)
			}
		}
	})
}
