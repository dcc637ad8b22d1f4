// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// everyType is one issuer with a profile for every type, distinguished by audience.
const everyType = `oidc-issuers:
  %[1]s:
    issuer-url: %[1]s
    client-id: sigstore
    type: email
    allow:
      - {name: employees, when: 'claims.email.endsWith("@example.com")'}
      - {name: contractors, when: 'claims.contract == true'}
    profiles:
      - {name: domains, client-id: domains, type: email, allowed-email-domains: [example.com], skip-email-verification: true}
      - {name: upstream, client-id: upstream, type: email, issuer-claim: $.federated_claims.connector_id}
      - {name: shadow, client-id: shadow, type: email, mode: audit, allow: [{name: nobody, when: 'false'}]}
      - {name: broken, client-id: broken, type: email, allow: [{name: misspelt, when: 'claims.emial == "x"'}]}
      - {name: ci, client-id: ci, type: ci-provider, ci-provider: ci, constants: {url: "https://ci.example"}}
      - {name: github, client-id: github, type: github-workflow}
      - {name: gitlab, client-id: gitlab, type: gitlab-pipeline}
      - {name: codefresh, client-id: codefresh, type: codefresh-workflow}
      - {name: buildkite, client-id: buildkite, type: buildkite-job}
      - {name: kubernetes, client-id: kubernetes, type: kubernetes}
      - {name: spiffe, client-id: spiffe, type: spiffe, spiffe-trust-domain: example.com}
      - {name: uri, client-id: uri, type: uri, subject-domain: "%[1]s"}
      - {name: username, client-id: username, type: username, subject-domain: 127.0.0.1}
      - {name: chainguard, client-id: chainguard, type: chainguard-identity}
ci-issuer-metadata:
  ci:
    subject-alternative-name-template: "{{.url}}/{{.project}}/{{.run}}"
    extension-templates:
      source-repository-uri: "{{.url}}/{{.project}}"
      runner-environment: '{{index . "runner"}}'
`

type object = map[string]any

// sharedClaims reads a claim set of config/testdata, without the claims that the provider sets.
func sharedClaims(t *testing.T, name, audience string, changes object) object {
	t.Helper()
	content, err := os.ReadFile("../config/testdata/claims/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	claims := object{}
	if err := json.Unmarshal(content, &claims); err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{"iss", "exp", "iat", "nbf"} {
		delete(claims, own)
	}
	claims["aud"] = audience
	for name, value := range changes {
		claims[name] = value
	}
	return claims
}

// suite is every kind of token, valid and invalid, by what it shows.
func suite(t *testing.T, r *running) map[string]string {
	t.Helper()
	mint := func(p *provider.Provider, claims object) string {
		token, err := p.Mint(claims)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	stranger, err := provider.New(provider.Config{IssuerURL: r.Provider.IssuerURL()})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := provider.New(provider.Config{IssuerURL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	person := func(changes object) object {
		claims := object{"aud": "sigstore", "sub": "1", "email": "ada@example.com", "email_verified": true}
		for name, value := range changes {
			claims[name] = value
		}
		return claims
	}
	tokens := map[string]string{
		"no token at all":    " ",
		"text":               "hello",
		"two segments":       "a.b",
		"many dots":          strings.Repeat(".", 2000),
		"too large":          strings.Repeat("a", 17<<10),
		"unsigned":           base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.",
		"a stranger's key":   mint(stranger, person(nil)),
		"unknown issuer":     mint(elsewhere, person(nil)),
		"truncated":          mint(r.Provider, person(nil))[:200],
		"signature cut":      strings.TrimRight(mint(r.Provider, person(nil)), "abcdefghijklmnopqrstuvwxyz0123456789")[:300],
		"claims of somebody": swapPayload(mint(r.Provider, person(nil)), mint(r.Provider, person(object{"email": "eve@example.com"}))),
	}
	for name, claims := range map[string]object{
		"person":               person(nil),
		"contractor":           person(object{"email": "eve@other.example", "contract": true}),
		"not an employee":      person(object{"email": "eve@other.example", "contract": false}),
		"rule without a claim": person(object{"email": "eve@other.example"}),
		"unverified":           person(object{"email_verified": false}),
		"unverified by text":   person(object{"email_verified": "no"}),
		"no email":             person(object{"email": nil}),
		"email beyond ASCII":   person(object{"email": "ädä@example.com"}),
		"email is no address":  person(object{"email": "ada"}),
		"no subject":           person(object{"sub": ""}),
		"subject is a number":  person(object{"sub": 5}),
		"expired":              person(object{"exp": 1000}),
		"from tomorrow on":     person(object{"nbf": 4000000000, "exp": 4000000100}),
		"exp is text":          person(object{"exp": "soon"}),
		"no audience":          person(object{"aud": []string{}}),
		"another audience":     person(object{"aud": "x"}),
		"two profiles":         person(object{"aud": []string{"sigstore", "ci"}}),
		"allowed domain":       person(object{"aud": "domains", "email_verified": false}),
		"other domain":         person(object{"aud": "domains", "email": "eve@other.example"}),
		"upstream":             person(object{"aud": "upstream", "federated_claims": object{"connector_id": "https://github.com/login/oauth"}}),
		"no upstream":          person(object{"aud": "upstream", "federated_claims": object{}}),
		"shadow policy":        person(object{"aud": "shadow"}),
		"broken policy":        person(object{"aud": "broken"}),
		"ci":                   {"aud": "ci", "sub": "s", "project": "p", "run": 1536140711, "runner": true},
		"ci, overriding":       {"aud": "ci", "sub": "s", "project": "p", "run": 1, "url": "https://evil.example"},
		"ci without a claim":   {"aud": "ci", "sub": "s", "project": "p"},
		"ci with null":         {"aud": "ci", "sub": "s", "project": nil, "run": 1},
		"ci with a list":       {"aud": "ci", "sub": "s", "project": []string{"p"}, "run": 1},
		"ci with dots":         {"aud": "ci", "sub": "s", "project": "..", "run": 1},
		"ci with a large run":  {"aud": "ci", "sub": "s", "project": "p", "run": json.Number("9007199254740993")},
		"github":               sharedClaims(t, "github", "github", nil),
		"github without sha":   sharedClaims(t, "github", "github", object{"sha": ""}),
		"gitlab":               sharedClaims(t, "gitlab-branch", "gitlab", nil),
		"gitlab, odd ref type": sharedClaims(t, "gitlab-branch", "gitlab", object{"ref_type": "x"}),
		"codefresh":            sharedClaims(t, "codefresh", "codefresh", nil),
		"buildkite":            sharedClaims(t, "buildkite", "buildkite", nil),
		"buildkite, dots":      sharedClaims(t, "buildkite", "buildkite", object{"pipeline_slug": "../x"}),
		"kubernetes":           sharedClaims(t, "eks", "kubernetes", nil),
		"kubernetes, slash":    {"aud": "kubernetes", "sub": "s", "kubernetes.io": object{"namespace": "a/b", "serviceaccount": object{"name": "n"}}},
		"spiffe":               {"aud": "spiffe", "sub": "spiffe://example.com/a"},
		"spiffe, other domain": {"aud": "spiffe", "sub": "spiffe://notexample.com/a"},
		"uri":                  {"aud": "uri", "sub": r.Provider.IssuerURL() + "/someone"},
		"uri elsewhere":        {"aud": "uri", "sub": "http://evil.example/someone"},
		"username":             {"aud": "username", "sub": "ada"},
		"username, address":    {"aud": "username", "sub": "ada@example.com"},
		"chainguard":           {"aud": "chainguard", "sub": "org/identity"},
		"chainguard, act":      {"aud": "chainguard", "sub": "org/identity", "act": object{"a": 1}},
	} {
		tokens[name] = mint(r.Provider, claims)
	}
	return tokens
}

// post sends token unchanged. The server must refuse it.
func (r *running) post(t *testing.T, token string) *client.Error {
	t.Helper()
	body, err := json.Marshal(object{
		"credentials":      object{"oidcIdentityToken": token},
		"publicKeyRequest": object{"publicKey": object{"content": "none"}, "proofOfPossession": ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(r.rest+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Message string
		Details []struct{ Reason string }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || len(answer.Details) == 0 {
		t.Fatalf("%d: %+v, %v", response.StatusCode, answer, err)
	}
	return &client.Error{Reason: answer.Details[0].Reason, Message: answer.Message}
}

// swapPayload returns token with the claims of other.
func swapPayload(token, other string) string {
	a, b := strings.Split(token, "."), strings.Split(other, ".")
	return a[0] + "." + b[1] + "." + a[2]
}

// spans match the durations to or from now in messages: serve and explain run at two moments.
var spans = regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+s\b`)

// explain agrees with serve: the same refusal, or the same name and extensions.
func TestExplainAgreesWithServe(t *testing.T) {
	t.Parallel()
	r := start(t, func(w *testworld.World) {
		content := fmt.Sprintf(everyType, w.Provider.IssuerURL())
		if err := os.WriteFile(filepath.Join(w.Dir, "issuers.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	reasons := map[string]int{}
	for name, token := range suite(t, r) {
		x, err := app.Explain(t.Context(), app.ExplainOptions{File: r.ConfigFile, Token: token})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		certificate, err := r.issue(t.Context(), token)
		if err == nil {
			reasons["issued"]++
			compareCertificate(t, name, certificate.PEM[0], x)
		} else {
			var refused *client.Error
			if !errors.As(err, &refused) { // the client does not send such a token
				refused = r.post(t, token)
			}
			reasons[refused.Reason]++
			same := spans.ReplaceAllString(x.Message, "…") == spans.ReplaceAllString(refused.Message, "…")
			if x.Reason != refused.Reason || !same && x.Reason != "TOKEN_MISSING" {
				t.Errorf("%s: serve says %s, %q; explain says %s, %q", name, refused.Reason, refused.Message, x.Reason, x.Message)
			}
		}
		if printed := fmt.Sprintf("%+v", x); len(token) > 20 && strings.Contains(printed, token[len(token)-20:]) {
			t.Errorf("%s: the explanation holds the token's signature", name)
		}
	}
	t.Logf("compared: %v", reasons)
	if len(reasons) < 12 || reasons["issued"] < 14 {
		t.Errorf("the suite compares too little: %v", reasons)
	}
}

func compareCertificate(t *testing.T, name, leaf string, x *app.Explanation) {
	t.Helper()
	block, _ := pem.Decode([]byte(leaf))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	san, err := certs.SANOf(c)
	if err != nil {
		t.Fatal(err)
	}
	extensions, err := certs.ParseExtensions(c.Extensions)
	if err != nil {
		t.Fatal(err)
	}
	var want []app.ExplainedProperty
	for extension, value := range extensions.All() {
		want = append(want, app.ExplainedProperty{Name: extension.Name, Value: value})
	}
	if x.Reason != "" || x.Certificate == nil {
		t.Errorf("%s: serve issues; explain says %s, %q", name, x.Reason, x.Message)
		return
	}
	if x.Certificate.SAN != san.Value {
		t.Errorf("%s: SAN %q, explained as %q", name, san.Value, x.Certificate.SAN)
	}
	if diff := cmp.Diff(want, x.Certificate.Extensions); diff != "" {
		t.Errorf("%s: extensions (-certificate +explained):\n%s", name, diff)
	}
}
