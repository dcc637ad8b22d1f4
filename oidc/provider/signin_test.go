// SPDX-License-Identifier: Apache-2.0

package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

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
	changed := url.Values{}
	for name, value := range values {
		changed[name] = value
	}
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
	var request *http.Request
	if method == http.MethodPost {
		request = httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		request = httptest.NewRequest(method, path+"?"+form.Encode(), nil)
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
func signInAs(t *testing.T, p http.Handler, email string, pairs ...string) string {
	t.Helper()
	response := serve(p, http.MethodPost, "/dev/oidc/auth", change(authorization(pairs...), "email", email))
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
	if diff := cmp.Diff([]any{"S256"}, document["code_challenge_methods_supported"]); diff != "" {
		t.Error(diff)
	}

	page := serve(p, http.MethodGet, "/dev/oidc/auth", authorization("state", `"><script>`))
	if text := body(t, page); page.StatusCode != http.StatusOK || strings.Contains(text, "<script>") || !strings.Contains(text, `name="code_challenge"`) {
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
		var answer struct {
			IDToken   string `json:"id_token"`
			TokenType string `json:"token_type"`
			Access    string `json:"access_token"`
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response.Status, err)
		}
		if response.Header.Get("Cache-Control") != "no-store" || answer.TokenType != "Bearer" || answer.Access == "" {
			t.Errorf("%v %+v", response.Header, answer)
		}
		claims := claimsOf(t, p, answer.IDToken, jose.ES256)
		for name, want := range map[string]any{"iss": signInIssuer, "aud": "sigstore", "sub": "alice@example.com",
			"email": "alice@example.com", "email_verified": true, "nonce": "n-1"} {
			if claims[name] != want {
				t.Errorf("%s is %v, want %v", name, claims[name], want)
			}
		}
	}
}

func TestSignInOutOfBandShowsTheCode(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	const oob = "urn:ietf:wg:oauth:2.0:oob"
	response := serve(p, http.MethodPost, "/dev/oidc/auth", change(authorization("redirect_uri", oob), "email", "a@example.com"))
	_, rest, _ := strings.Cut(body(t, response), `<code id="code">`)
	code, _, ok := strings.Cut(rest, "<")
	if !ok || response.StatusCode != http.StatusOK {
		t.Fatal("the page shows no code", response.Status)
	}
	if got := serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(code, "redirect_uri", oob)); got.StatusCode != http.StatusOK {
		t.Error(got.Status, body(t, got))
	}
}

func TestSignInRefusesRequests(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	for name, test := range map[string]struct {
		pairs  []string
		header []string
		method string
		status int    // of the page; 0 for a redirect
		want   string // this error, or these words
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
			method := test.method
			if method == "" {
				method = http.MethodGet
			}
			response := serve(p, method, "/dev/oidc/auth", authorization(test.pairs...), test.header...)
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
	for name, test := range map[string]struct {
		pairs []string
		want  string
	}{
		"another client":    {[]string{"client_id", "other"}, "invalid_client"},
		"another grant":     {[]string{"grant_type", "password"}, "unsupported_grant_type"},
		"a made-up code":    {[]string{"code", "made-up"}, "invalid_grant"},
		"another redirect":  {[]string{"redirect_uri", "http://localhost:1/"}, "invalid_grant"},
		"no verifier":       {[]string{"code_verifier", ""}, "invalid_grant"},
		"another verifier":  {[]string{"code_verifier", strings.Repeat("x", 43)}, "invalid_grant"},
		"a short verifier":  {[]string{"code_verifier", verifier[1:]}, "invalid_grant"},
		"a client by basic": {nil, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var header []string
			if test.pairs == nil {
				header = []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("other:"))}
			}
			response := serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(signInAs(t, p, "a@example.com"), test.pairs...), header...)
			var answer map[string]string
			if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != http.StatusBadRequest || answer["error"] != test.want || answer["error_description"] == "" {
				t.Errorf("%s: %v, want %s", response.Status, answer, test.want)
			}
		})
	}
	if response := serve(p, http.MethodGet, "/dev/oidc/token", nil); response.StatusCode != http.StatusMethodNotAllowed {
		t.Error("GET:", response.Status)
	}
}

func TestCodesAreSpentOnceAndEnd(t *testing.T) {
	t.Parallel()
	var elapsed atomic.Int64
	begin := time.Unix(1_800_000_000, 0)
	p := newSignIn(t, func() time.Time { return begin.Add(time.Duration(elapsed.Load())) })
	redeem := func(code string) int {
		return serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(code)).StatusCode
	}
	code := signInAs(t, p, "a@example.com")
	if first, second := redeem(code), redeem(code); first != http.StatusOK || second != http.StatusBadRequest {
		t.Errorf("%d, then %d", first, second)
	}
	wrong := signInAs(t, p, "a@example.com")
	serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(wrong, "code_verifier", strings.Repeat("x", 43)))
	if got := redeem(wrong); got != http.StatusBadRequest {
		t.Errorf("a code can be tried again: %d", got)
	}
	late := signInAs(t, p, "a@example.com")
	elapsed.Store(int64(10 * time.Minute))
	if got := redeem(late); got != http.StatusBadRequest {
		t.Errorf("after ten minutes: %d", got)
	}
}

func TestCodesAreBounded(t *testing.T) {
	t.Parallel()
	p := newSignIn(t, nil)
	first := signInAs(t, p, "a@example.com")
	var last string
	for range 1000 {
		last = signInAs(t, p, "a@example.com")
	}
	for code, want := range map[string]int{first: http.StatusBadRequest, last: http.StatusOK} {
		if got := serve(p, http.MethodPost, "/dev/oidc/token", tokenRequest(code)); got.StatusCode != want {
			t.Errorf("%s, want %d", got.Status, want)
		}
	}
}
