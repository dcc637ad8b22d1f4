// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"compress/gzip"
	"crypto/elliptic"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

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
	rsaKey := publicJWK(t, "RS256")
	const mark = "\ufeff"
	document := func(extra string) string {
		return fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%s/keys","id_token_signing_alg_values_supported":["RS256","PS256","ES256"]%s}`, testIssuer, testIssuer, extra)
	}
	keySet := func(before, after string) string { return `{"keys":[` + before + good + after + `]}` }
	another := func(change map[string]any) string { return jwkOf(t, ecKey(t, elliptic.P256()).Public(), change) }

	for name, docs := range map[string]served{
		"plain":                                 {document(""), keySet("", "")},
		"byte order marks":                      {mark + document(""), mark + keySet("", "")},
		"white space around":                    {" \n" + document("") + "\n\n", "\t\r\n" + keySet("", "") + "\r\n "},
		"a byte order mark before white space":  {mark + "\n" + document(""), mark + "\n" + keySet("", "")},
		"nulls in the document":                 {document(`,"scopes_supported":null,"userinfo_endpoint":null`), keySet("", "")},
		"text that is not UTF-8":                {document(`,"name":"` + "\xff" + `"`), `{"name":"` + "\xff" + `","keys":[` + good + `]}`},
		"members twice":                         {document(`,"scopes_supported":[],"scopes_supported":[]`), `{"a":1,"a":2,"keys":[` + good + `]}`},
		"unknown types, curves and algorithms":  {document(""), keySet(`{"kty":"AKP","alg":"ML-DSA-65","pub":"AA"},{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"EC","crv":"secp256k1"},null,`, `,{"kty":"RSA","alg":"RSA-OAEP"}`)},
		"RSA and ECDSA keys":                    {document(""), keySet(jwkOf(t, rsaKey.Key, map[string]any{"kid": "rsa"})+",", "")},
		"other keys with the same kid":          {document(""), keySet(another(map[string]any{"kid": "good"})+","+jwkOf(t, rsaKey.Key, map[string]any{"kid": "good"})+",", "")},
		"an encryption key with the same kid":   {document(""), keySet(another(map[string]any{"kid": "good", "use": "enc"})+",", "")},
		"certificates":                          {document(""), `{"keys":[` + jwkOf(t, key.Public().Key, map[string]any{"kid": "good", "x5c": []string{"MIIB..."}, "x5t": "?", "x5t#S256": 1}) + `]}`},
		"a SPIFFE bundle with sig":              {document(""), `{"spiffe_sequence":1,"spiffe_refresh_hint":300,"keys":[` + good + `]}`},
		"200 keys, the good one last":           {document(""), keySet(strings.Repeat(another(map[string]any{"kid": "x"})+",", 200), "")},
		"200 keys with its kid":                 {document(""), keySet("", strings.Repeat(","+another(map[string]any{"kid": "good"}), 200))},
		"200 keys of no use, the good one last": {document(""), keySet(strings.Repeat(another(map[string]any{"kid": "good", "use": "x509-svid"})+",", 200), "")},
	} {
		for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
			t.Run(name+" of "+issuer.Key, func(t *testing.T) {
				t.Parallel()
				w := &world{web: newWeb()}
				w.serve(testIssuer, docs)
				w.verifier = newTestVerifier(t, Config{Issuers: []Issuer{issuer}}, w.web)
				w.accept(t, token)
			})
		}
	}
}

// TestCompressedDocuments: a server with only compressed copies works, within the limits on bytes.
func TestCompressedDocuments(t *testing.T) {
	t.Parallel()
	compress := func(plain http.Handler, padding int) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			recorder := httptest.NewRecorder()
			plain.ServeHTTP(recorder, r)
			rw.Header().Set("Content-Encoding", "gzip")
			zipped := gzip.NewWriter(rw)
			_, _ = zipped.Write(recorder.Body.Bytes())
			_, _ = zipped.Write(bytes.Repeat([]byte(" "), padding))
			_ = zipped.Close()
		})
	}
	for padding, accepted := range map[int]bool{0: true, maxDocument / 2: true, maxDocument: false, 10 * maxDocument: false} {
		w := newWorld(t, Config{}, provider.Config{})
		w.serve(testIssuer, compress(w.provider, padding))
		err := w.verify(t, mint(t, w.provider, nil))
		if accepted {
			if err != nil {
				t.Errorf("with %d bytes of padding: %v", padding, err)
			}
			continue
		}
		wantReason(t, err, refusal.IssuerUnreachable)
	}
	w := newWorld(t, Config{}, provider.Config{})
	w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Encoding", "gzip")
		w.provider.ServeHTTP(rw, r)
	}))
	wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.IssuerUnreachable)
}

// TestLargeKeySets: a key beyond the first 64 verifies only tokens that name it, and causes a
// warning. Of a pattern's issuers with so many keys, only a few are kept.
func TestLargeKeySets(t *testing.T) {
	t.Parallel()
	p := newProvider(t, provider.Config{IssuerURL: testIssuer})
	key := p.SigningKey()
	filler := jwkOf(t, ecKey(t, elliptic.P256()).Public(), map[string]any{"kid": "x"})
	keySet := `{"keys":[` + strings.Repeat(filler+",", 3*maxKeys) + jwkOf(t, key.Public().Key, map[string]any{"kid": key.KeyID}) + `]}`
	var log bytes.Buffer
	w := newWorld(t, Config{
		Issuers: []Issuer{wildcardIssuer("https://*.example")}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}, provider.Config{})
	for i := range maxLarge + 8 {
		issuer := fmt.Sprintf("https://large-%d.example", i)
		w.serve(issuer, site(issuer, issuer+"/keys", `,"id_token_signing_alg_values_supported":["ES256"]`, keySet))
		w.accept(t, mint(t, p, map[string]any{"iss": issuer}))
	}
	w.serve(testIssuer, site(testIssuer, testIssuer+"/keys", `,"id_token_signing_alg_values_supported":["ES256"]`, keySet))
	key.KeyID = ""
	wantReason(t, w.verify(t, sign(t, key, nil, payload(""))), refusal.SignatureInvalid)
	if !strings.Contains(log.String(), "level=WARN") {
		t.Error("there is no warning")
	}
	pool := w.verifier.wildcards[0].pool
	if large, others := pool.count(large), pool.count(proven)+pool.count(unproven); large != maxLarge || others != 0 {
		t.Errorf("%d issuers with large key sets are kept, and %d others", large, others)
	}
	if status := w.verifier.Status()[0]; status.Issuers != maxLarge || status.State != StateOK {
		t.Errorf("status %+v", status)
	}
}
