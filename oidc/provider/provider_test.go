// SPDX-License-Identifier: Apache-2.0

package provider_test

import (
	stdcmp "cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

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

const (
	signInIssuer = "http://127.0.0.1:5555/dev/oidc"
	callback     = "http://localhost:1234/auth/callback?keep=1"
	verifier     = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG" // 43 characters
)

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func newSignIn(t *testing.T, now func() time.Time) *provider.Provider {
	t.Helper()
	return newProvider(t, provider.Config{IssuerURL: signInIssuer, SignIn: true, Now: now})
}

// change returns a copy of the values in which the pairs are set; "" deletes.
func change(values url.Values, pairs ...string) url.Values {
	changed := maps.Clone(values)
	for i := 0; i < len(pairs); i += 2 {
		if changed.Set(pairs[i], pairs[i+1]); pairs[i+1] == "" {
			changed.Del(pairs[i])
		}
	}
	return changed
}

func authorization(pairs ...string) url.Values {
	return change(url.Values{
		"response_type": {"code"}, "client_id": {"sigstore"}, "redirect_uri": {callback}, "scope": {"openid email"},
		"state": {"the state"}, "nonce": {"n-1"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}, pairs...)
}

func serve(p http.Handler, method, path string, form url.Values, header ...string) *http.Response {
	request := httptest.NewRequest(method, path+"?"+form.Encode(), nil)
	if method == http.MethodPost {
		request = httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	recorder := httptest.NewRecorder()
	p.ServeHTTP(recorder, request)
	return recorder.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	content, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// signInAs returns the code from the redirect of the browser.
func signInAs(t *testing.T, p http.Handler, email string) string {
	t.Helper()
	response := serve(p, http.MethodPost, "/dev/oidc/auth", authorization("email", email))
	location, err := response.Location()
	if err != nil || response.StatusCode != http.StatusSeeOther {
		t.Fatalf("%s: %v: %s", response.Status, err, body(t, response))
	}
	query := location.Query()
	if query.Get("state") != "the state" || query.Get("keep") != "1" || location.Host != "localhost:1234" {
		t.Errorf("redirected to %s", location)
	}
	return query.Get("code")
}

func tokenRequest(code string, pairs ...string) url.Values {
	return change(url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback},
		"client_id": {"sigstore"}, "code_verifier": {verifier},
	}, pairs...)
}

func TestSignInGivesAnIDToken(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	_, document := get[map[string]any](t, p, "/dev/oidc/.well-known/openid-configuration")
	if document["authorization_endpoint"] != signInIssuer+"/auth" || document["token_endpoint"] != signInIssuer+"/token" {
		t.Errorf("discovery document %v", document)
	}
	page := serve(p, http.MethodGet, "/dev/oidc/auth", authorization("login_hint", `"><script>`))
	if text := body(t, page); page.StatusCode != http.StatusOK || strings.Contains(text, "<script>") || strings.Contains(text, "exposed") || !strings.Contains(text, `<form method="post">`) {
		t.Errorf("%s: %s", page.Status, text)
	}
	for _, basic := range []bool{false, true} {
		request := tokenRequest(signInAs(t, p, " alice@example.com "))
		var header []string
		if basic { // golang.org/x/oauth2 tries this first
			request.Del("client_id")
			header = []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("sigstore:"))}
		}
		response := serve(p, http.MethodPost, "/dev/oidc/token", request, header...)
		var answer map[string]any
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response.Status, err)
		}
		if response.Header.Get("Cache-Control") != "no-store" || answer["token_type"] != "Bearer" || answer["access_token"] == nil {
			t.Errorf("%v %+v", response.Header, answer)
		}
		claims := claimsOf(t, p, answer["id_token"].(string), jose.ES256)
		delete(claims, "iat")
		delete(claims, "exp")
		if diff := cmp.Diff(map[string]any{"iss": signInIssuer, "aud": "sigstore", "sub": "alice@example.com",
			"email": "alice@example.com", "email_verified": true, "nonce": "n-1"}, claims); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSignInOutOfBandShowsTheCode(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	const oob = "urn:ietf:wg:oauth:2.0:oob"
	response := serve(p, http.MethodPost, "/dev/oidc/auth", authorization("redirect_uri", oob, "email", "a@example.com"))
	_, rest, _ := strings.Cut(body(t, response), `<code id="code">`)
	code, _, _ := strings.Cut(rest, "<")
	if got := serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(code, "redirect_uri", oob)); got.StatusCode != http.StatusOK {
		t.Error(got.Status, body(t, got))
	}
}

// A provider's warning is on the form, on the page with a code, and on the page with a problem.
func TestSignInWarns(t *testing.T) {
	t.Parallel()
	p := newProvider(t, provider.Config{IssuerURL: signInIssuer, SignIn: true, Warning: "<b>anybody</b> signs"})
	for name, response := range map[string]*http.Response{
		"form":    serve(p, http.MethodGet, "/dev/oidc/auth", authorization()),
		"code":    serve(p, http.MethodPost, "/dev/oidc/auth", authorization("redirect_uri", "urn:ietf:wg:oauth:2.0:oob", "email", "a@example.com")),
		"problem": serve(p, http.MethodGet, "/dev/oidc/auth", authorization("client_id", "other")),
	} {
		if text := body(t, response); !strings.Contains(text, `<p class="note" id="exposed">&lt;b&gt;anybody&lt;/b&gt; signs</p>`) {
			t.Errorf("the %s lacks the warning: %s", name, text)
		}
	}
}

func TestSignInRefusesRequests(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	for name, test := range map[string]struct {
		pairs, header []string
		method        string
		status        int    // of the page; 0 for a redirect
		want          string // this error, or these words
	}{
		"another client":           {pairs: []string{"client_id", "other"}, status: 400, want: "client_id"},
		"no redirect URI":          {pairs: []string{"redirect_uri", ""}, status: 400, want: "redirect_uri"},
		"a redirect elsewhere":     {pairs: []string{"redirect_uri", "http://evil.example/"}, status: 400, want: "on this machine"},
		"user info in redirect":    {pairs: []string{"redirect_uri", "http://localhost@evil.example/"}, status: 400, want: "on this machine"},
		"a redirect to a script":   {pairs: []string{"redirect_uri", "javascript://localhost/%0aalert(1)"}, status: 400, want: "on this machine"},
		"from another site":        {method: http.MethodPost, header: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, want: "another site"},
		"another method":           {method: http.MethodPut, status: 405},
		"an implicit flow":         {pairs: []string{"response_type", "id_token"}, want: "unsupported_response_type"},
		"no openid":                {pairs: []string{"scope", "email"}, want: "invalid_scope"},
		"no PKCE":                  {pairs: []string{"code_challenge", ""}, want: "invalid_request"},
		"PKCE plain":               {pairs: []string{"code_challenge_method", "plain"}, want: "invalid_request"},
		"a challenge that is none": {pairs: []string{"code_challenge", "short"}, want: "invalid_request"},
		"no address":               {method: http.MethodPost, status: 400, want: "no email address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := serve(p, stdcmp.Or(test.method, http.MethodGet), "/dev/oidc/auth", authorization(test.pairs...), test.header...)
			if test.status != 0 {
				if text := body(t, response); response.StatusCode != test.status || !strings.Contains(text, test.want) {
					t.Errorf("%s: %s", response.Status, text)
				}
				return
			}
			location, err := response.Location()
			if err != nil {
				t.Fatal(err)
			}
			if query := location.Query(); query.Get("error") != test.want || query.Get("state") != "the state" || query.Has("code") {
				t.Errorf("redirected to %s", location)
			}
		})
	}
}

func TestTokenEndpointRefuses(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("other:"))
	for name, test := range map[string]struct {
		pairs, header []string
		want          string
	}{
		"another client":    {[]string{"client_id", "other"}, nil, "invalid_client"},
		"another grant":     {[]string{"grant_type", "password"}, nil, "unsupported_grant_type"},
		"a made-up code":    {[]string{"code", "made-up"}, nil, "invalid_grant"},
		"another redirect":  {[]string{"redirect_uri", "http://localhost:1/"}, nil, "invalid_grant"},
		"no verifier":       {[]string{"code_verifier", ""}, nil, "invalid_grant"},
		"another verifier":  {[]string{"code_verifier", strings.Repeat("x", 43)}, nil, "invalid_grant"},
		"a short verifier":  {[]string{"code_verifier", verifier[1:]}, nil, "invalid_grant"},
		"a client by basic": {nil, []string{"Authorization", basic}, "invalid_client"},
	} {
		code := signInAs(t, p, "a@example.com")
		response := serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(code, test.pairs...), test.header...)
		var answer map[string]string
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusBadRequest || answer["error"] != test.want || answer["error_description"] == "" {
			t.Errorf("%s: %s: %v %v, want %s", name, response.Status, answer, err, test.want)
		}
	}
}

// TestCodesAreBounded: a code is spent by its first use, right or wrong, expires after ten minutes, and
// the 1,000 newest are kept.
func TestCodesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	p := newSignIn(t, func() time.Time { return now })
	redeem := func(code string, pairs ...string) bool {
		return serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(code, pairs...)).StatusCode == http.StatusOK
	}
	code := signInAs(t, p, "a@example.com")
	if first, second := redeem(code), redeem(code); !first || second {
		t.Errorf("a code was accepted: %t, then %t", first, second)
	}
	wrong := signInAs(t, p, "a@example.com")
	if redeem(wrong, "code_verifier", strings.Repeat("x", 43)) || redeem(wrong) {
		t.Error("a code can be tried again")
	}
	late := signInAs(t, p, "a@example.com")
	now = now.Add(10 * time.Minute)
	if redeem(late) {
		t.Error("a code is accepted after ten minutes")
	}
	first := signInAs(t, p, "a@example.com")
	var last string
	for range 1000 {
		last = signInAs(t, p, "a@example.com")
	}
	if redeem(first) || !redeem(last) {
		t.Error("the oldest of 1,001 codes is accepted, or the newest is not")
	}
}
