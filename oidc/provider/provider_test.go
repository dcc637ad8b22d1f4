// SPDX-License-Identifier: Apache-2.0

package provider_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func newProvider(t *testing.T, cfg provider.Config) *provider.Provider {
	t.Helper()
	if cfg.IssuerURL == "" {
		cfg.IssuerURL = "https://issuer.example/dev/oidc"
	}
	if cfg.Algorithm == "" {
		cfg.Algorithm = "ES256"
	}
	p, err := provider.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// get returns the status and the decoded JSON that p serves at path.
func get[T any](t *testing.T, p *provider.Provider, path string) (status int, document T) {
	t.Helper()
	recorder := httptest.NewRecorder()
	p.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
	if recorder.Code == http.StatusOK {
		if got := recorder.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s has Content-Type %q", path, got)
		}
		if err := json.Unmarshal(recorder.Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
	}
	return recorder.Code, document
}

func TestServesBelowItsIssuerURL(t *testing.T) {
	t.Parallel()
	for issuerURL, base := range map[string]string{
		"https://issuer.example": "", "https://issuer.example/": "", "https://issuer.example/dev/oidc": "/dev/oidc", "http://127.0.0.1:5555/a/": "/a",
	} {
		p := newProvider(t, provider.Config{IssuerURL: issuerURL})
		status, document := get[map[string]any](t, p, base+"/.well-known/openid-configuration")
		want := map[string]any{
			"issuer": issuerURL, "jwks_uri": strings.TrimSuffix(issuerURL, "/") + "/keys",
			"response_types_supported": []any{"id_token"}, "subject_types_supported": []any{"public"},
			"id_token_signing_alg_values_supported": []any{"ES256"},
		}
		if diff := cmp.Diff(want, document); status != http.StatusOK || diff != "" {
			t.Errorf("%s: status %d, %s", issuerURL, status, diff)
		}
		status, set := get[jose.JSONWebKeySet](t, p, base+"/keys")
		if status != http.StatusOK || len(set.Keys) != 1 || !set.Keys[0].IsPublic() || set.Keys[0].Use != "sig" {
			t.Errorf("%s: status %d, keys %+v", issuerURL, status, set)
		}
		for _, path := range []string{"/", "/other", base + "/keys/", base + "/auth"} {
			if status, _ := get[any](t, p, path); status != http.StatusNotFound {
				t.Errorf("%s: %s has status %d", issuerURL, path, status)
			}
		}
	}
}

func claimsOf(t *testing.T, p *provider.Provider, token string, alg jose.SignatureAlgorithm) map[string]any {
	t.Helper()
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{alg})
	if err != nil {
		t.Fatal(err)
	}
	key := p.SigningKey()
	payload, err := jws.Verify(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if got := jws.Signatures[0].Header; got.KeyID != key.KeyID || got.ExtraHeaders["typ"] != "JWT" {
		t.Errorf("header %+v", got)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []provider.Config{{}, {IssuerURL: "issuer.example"}, {IssuerURL: "https://issuer.example?x"}, {IssuerURL: "https://a\x00b"}, {IssuerURL: "https://issuer.example", Algorithm: "HS256"}} {
		if _, err := provider.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
