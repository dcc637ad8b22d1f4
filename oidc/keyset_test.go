// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestParseKeySet: of the keys in testdata/keys.txt, those that can verify tokens are used, and
// none blocks the good key after it.
func TestParseKeySet(t *testing.T) {
	t.Parallel()
	good := jwkOf(t, ecKey(t, elliptic.P256()).Public(), nil)
	modulus := func(text string) string {
		bits, _ := strconv.Atoi(strings.Trim(text, "RSA()"))
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits))
		return base64.RawURLEncoding.EncodeToString(n.Sub(n, big.NewInt(1)).Bytes())
	}
	for _, row := range rows(t, "keys.txt") {
		key := strings.NewReplacer("EC,", good[1:len(good)-1]+",", "EC}", good[1:], "FF", "\xff").Replace(row[1])
		key = regexp.MustCompile(`RSA\(\d+\)`).ReplaceAllStringFunc(key, modulus)
		for _, spiffe := range []bool{false, true} {
			list, err := parseKeySet([]byte(`{"keys":[`+key+`,`+good+`],"keys2":1}`), spiffe, 9)
			want := row[0] == "used" || row[0] == "spiffe" && spiffe
			if used := len(list) == 2; err != nil || used != want {
				t.Errorf("%s: %v, %v, want %s", row[1], list, err, row[0])
			}
			for _, key := range list {
				if _, private := key.key.(*ecdsa.PrivateKey); private {
					t.Errorf("%s: became a %T", row[1], key.key)
				}
			}
		}
	}
	if list, err := parseKeySet([]byte(`{"keys":[`+strings.Repeat(good+",", 99)+good+`]}`), false, maxKeys); len(list) != maxKeys || err != nil {
		t.Errorf("%d of 100 keys are kept: %v", len(list), err)
	}
	for _, document := range []string{``, `<html>`, `null`, `[]`, `{"Keys":[]}`, `{"keys":null}`, `{"keys":{}}`, `{"keys":[]}{"keys":[]}`} {
		if list, err := parseKeySet([]byte(document), false, 9); err == nil {
			t.Errorf("%s: accepted as %v", document, list)
		}
	}
}

func FuzzParseKeySet(f *testing.F) {
	key := jwkOf(f, ecKey(f, elliptic.P256()).Public(), map[string]any{"kid": "a", "use": "sig"})
	f.Add([]byte(`{"keys":[` + key + `]}`))
	for _, row := range rows(f, "keys.txt") {
		f.Add([]byte(`{"keys":[` + row[1] + `]}`))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		list, _ := parseKeySet(document, len(document)%2 == 0, len(document))
		for _, key := range list {
			switch key.key.(type) {
			case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
			default:
				t.Errorf("a %T got through, which fits no algorithm", key.key)
			}
		}
	})
}

// TestKeyFits: a signature verifies with its key and algorithm only, whatever algorithm the token names.
func TestKeyFits(t *testing.T) {
	t.Parallel()
	all := strings.Fields("RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA")
	var keys []jose.JSONWebKey
	for _, alg := range []string{"RS256", "ES256", "ES384", "ES512", "EdDSA"} {
		keys = append(keys, newProvider(t, provider.Config{IssuerURL: testIssuer, Algorithm: alg}).SigningKey())
	}
	for _, signer := range keys {
		for _, alg := range all {
			signer.Algorithm = alg
			if family := keyFamily(signer); !strings.Contains(family, alg) {
				continue
			}
			token := must(parseToken(sign(t, signer, nil, payload(""))))(t)
			input := token.raw[:strings.LastIndexByte(token.raw, '.')]
			for _, key := range keys {
				for _, named := range all {
					for only, fits := range map[string]bool{"": true, alg: true, "HS256": false} {
						public := publicKey{alg: only, key: key.Public().Key}
						want := fits && named == alg && keyFamily(key) == keyFamily(signer)
						if got := public.verify(named, input, token.signature); got != want {
							t.Errorf("%s by %T for %q, under a %T and %s: %t", alg, signer.Key, only, key.Key, named, got)
						}
					}
				}
			}
		}
	}
	// Of a shorter curve, R and S fit into a signature of another algorithm.
	short, digest, signature := ecKey(t, elliptic.P224()), sha256.Sum256(nil), make([]byte, 64)
	r, s, err := ecdsa.Sign(rand.Reader, short, digest[:])
	if r.FillBytes(signature[:32]); err != nil || (publicKey{key: short.Public()}).verify("ES256", "", append(signature[:32], s.FillBytes(signature[32:])...)) {
		t.Errorf("a key on P-224 verified: %v", err)
	}
}

// keyFamily returns the algorithms that a key can sign with.
func keyFamily(key jose.JSONWebKey) string {
	switch key := key.Key.(type) {
	case *rsa.PrivateKey:
		return "RS256 RS384 RS512 PS256 PS384 PS512"
	case *ecdsa.PrivateKey:
		return map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[key.Params().BitSize]
	default:
		return "EdDSA"
	}
}

func TestAlgorithmsOfDiscovery(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ listed, narrowed, want string }{
		{"", "", "RS256"}, {"HS256 none", "", "RS256"}, {"RS256 PS512 HS256", "", "RS256 PS512"}, {"PS512", "", "PS512"},
		{"RS256 PS512", "PS512", "PS512"}, {"RS256", "PS512", ""}, {"", "RS256", "RS256"},
	} {
		e := &entry{Issuer: Issuer{SigningAlgorithms: strings.Fields(test.narrowed)}}
		if got := strings.Join(e.accepted(strings.Fields(test.listed)), " "); got != test.want {
			t.Errorf("listed %s, narrowed to %s: %s, want %s", test.listed, test.narrowed, got, test.want)
		}
	}
}

// TestWhereKeysMayBe: the jwks_uri of a static issuer may be anywhere by https, unless it has
// jwks-hosts; that of a pattern's issuer is on its own host and port, or on one of these.
func TestWhereKeysMayBe(t *testing.T) {
	t.Parallel()
	list := map[string]Issuer{"static": issuers(testIssuer)[0], "confined": issuers(testIssuer)[0], "wildcard": issuers("https://*.example")[0], "listed": issuers("https://*.example")[0]}
	for _, row := range rows(t, "jwksuris.txt") {
		settings := list[row[1]]
		if row[1] == "confined" || row[1] == "listed" {
			settings.JWKSHosts = []string{"keys.elsewhere.example", "Keys.Ports.example:8443"}
		}
		v := newTestVerifier(t, Config{Issuers: []Issuer{settings}, AllowLoopback: row[2] == "loopback"}, newWeb().transport)
		i := &issuer{shared: v.shared, url: testIssuer, entry: v.entries[0], pool: v.entries[0].pool}
		if err := i.checkJWKSURI(row[3]); (err == nil) != (row[0] == "accepted") {
			t.Errorf("%v: %v", row, err)
		}
	}
}

// served is a provider's pair of documents.
type served struct{ discovery, keySet string }

func (s served) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	text := s.keySet
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		text = s.discovery
	}
	_, _ = rw.Write([]byte(text))
}

// TestDocumentsAsProvidersServeThem: other content around a good key does not block its tokens.
func TestDocumentsAsProvidersServeThem(t *testing.T) {
	t.Parallel()
	key := jose.JSONWebKey{Key: ecKey(t, elliptic.P256()), KeyID: "good", Algorithm: "ES256"}
	token := sign(t, key, nil, payload(""))
	good := jwkOf(t, key.Public().Key, map[string]any{"kid": "good"})
	const mark = "\ufeff"
	document := func(extra string) string {
		return fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%s/keys","id_token_signing_alg_values_supported":["RS256","PS256","ES256"]%s}`, testIssuer, testIssuer, extra)
	}
	keySet := func(before, after string) string { return `{"keys":[` + before + good + after + `]}` }
	another := func(change map[string]any) string { return jwkOf(t, ecKey(t, elliptic.P256()).Public(), change) }

	for name, docs := range map[string]served{
		"byte order marks":                      {mark + document(""), mark + keySet("", "")},
		"a byte order mark before white space":  {mark + "\n" + document("") + "\n\n", mark + "\t\r\n" + keySet("", "") + "\r\n "},
		"nulls in the document":                 {document(`,"scopes_supported":null,"userinfo_endpoint":null`), keySet("", "")},
		"text that is not UTF-8":                {document(`,"name":"` + "\xff" + `"`), `{"name":"` + "\xff" + `","keys":[` + good + `]}`},
		"members twice":                         {document(`,"scopes_supported":[],"scopes_supported":[]`), `{"a":1,"a":2,"keys":[` + good + `]}`},
		"unknown types, curves and algorithms":  {document(""), keySet(`{"kty":"AKP","alg":"ML-DSA-65","pub":"AA"},{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"EC","crv":"secp256k1"},null,`, `,{"kty":"RSA","alg":"RSA-OAEP"}`)},
		"other keys with the same kid":          {document(""), keySet(another(map[string]any{"kid": "good"})+","+another(map[string]any{"kid": "good", "use": "enc"})+",", "")},
		"a SPIFFE bundle with sig":              {document(""), `{"spiffe_sequence":1,"spiffe_refresh_hint":300,"keys":[` + good + `]}`},
		"200 keys with its kid":                 {document(""), keySet("", strings.Repeat(","+another(map[string]any{"kid": "good"}), 200))},
		"200 keys of no use, the good one last": {document(""), keySet(strings.Repeat(another(map[string]any{"kid": "good", "use": "x509-svid"})+",", 200), "")},
		"200 keys, the good one last":           {document(""), keySet(strings.Repeat(another(map[string]any{"kid": "x"})+",", 200), "")},
	} {
		for _, entry := range issuers(testIssuer, "https://*.example") {
			w := &world{web: newWeb()}
			w.serve(testIssuer, docs)
			var log logLines
			w.verifier = newTestVerifier(t, Config{Issuers: []Issuer{entry}, Logger: log.logger()}, w.transport)
			// Of an issuer that callers choose, only the first keys are kept.
			if err := w.verify(t, token); (err == nil) != (!entry.Wildcard || name != "200 keys, the good one last") {
				t.Errorf("%s of %s: %v", name, entry.Key, err)
			}
			large := name == "200 keys with its kid" || name == "200 keys, the good one last"
			if lines := log.buffer.String(); strings.Contains(lines, "unusually large") != large {
				t.Errorf("%s of %s: the log has %q", name, entry.Key, lines)
			}
		}
	}
}

// TestManyKeysAreFewTries: a token without a kid is tried with the first keys of a set only.
func TestManyKeysAreFewTries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Config{}, provider.Config{})
	key := w.provider.SigningKey()
	filler := jwkOf(t, ecKey(t, elliptic.P256()).Public(), nil) + ","
	for before, accepted := range map[int]bool{maxKeys - 1: true, maxKeys: false} {
		k := &keys{issuerURL: testIssuer, algorithms: []string{"ES256"}}
		document := `{"keys":[` + strings.Repeat(filler, before) + jwkOf(t, key.Public().Key, nil) + `]}`
		k.list = must(parseKeySet([]byte(document), false, len(document)))(t)
		key.KeyID = ""
		token := must(parseToken(sign(t, key, nil, payload(""))))(t)
		if err := k.verify(t.Context(), token, w.verifier.cfg.Now()); (err == nil) != accepted {
			t.Errorf("behind %d other keys: %v", before, err)
		}
	}
}

// TestCompressedDocuments: a server with only compressed copies works, within the limits on bytes.
func TestCompressedDocuments(t *testing.T) {
	t.Parallel()
	for padding, accepted := range map[int]bool{0: true, maxDocument / 2: true, maxDocument: false, 10 * maxDocument: false, -1: false} {
		w := newWorld(t, Config{}, provider.Config{})
		w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			if padding < 0 {
				w.provider.ServeHTTP(rw, r)
				return
			}
			recorder := httptest.NewRecorder()
			w.provider.ServeHTTP(recorder, r)
			zipped := gzip.NewWriter(rw)
			_, _ = zipped.Write(append(recorder.Body.Bytes(), bytes.Repeat([]byte(" "), padding)...))
			if _ = zipped.Flush(); padding < 10*maxDocument { // its end is never read
				_ = zipped.Close()
			}
		}))
		if err := w.verify(t, mint(t, w.provider, nil)); accepted && err != nil {
			t.Errorf("with %d bytes of padding: %v", padding, err)
		} else if e := refusal.From(err); !accepted && (e.Reason != refusal.IssuerUnreachable || padding > 0 && !strings.Contains(e.Cause.Error(), "exceeds")) {
			t.Errorf("with %d bytes of padding: %v", padding, e)
		}
	}
}
