// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// A refusal's line names the caller under the keys of an issued certificate, as far as it was verified by
// then, in every API. Nothing unverified is in these keys.
func TestRefusalsNameTheVerifiedCaller(t *testing.T) {
	t.Parallel()
	const rules = "    allow:\n      - {name: employees, when: 'claims.email.endsWith(\"@corp.example\")'}\n"
	w := newWorld(t, edited("mayfly.yaml", "log: {format: text, level: error}", "log: {format: json, level: info}"),
		edited("mayfly.yaml", "grpc: localhost:0", "grpc: 127.0.0.1:0"), rewritten("issuers.yaml", func(text string) string { return text + rules }))
	r := start(t, w)
	stranger := must(provider.New(provider.Config{IssuerURL: r.Provider.IssuerURL()}))(t)
	person := map[string]any{"sub": "person-1", "email": "person@example.com", "email_verified": true}
	with := func(name string, value any) map[string]any {
		claims := maps.Clone(person)
		claims[name] = value
		return claims
	}
	const token = "issuer_entry issuer_url profile subject"
	for _, test := range []struct {
		from         *provider.Provider
		claims       map[string]any
		reason, keys string
	}{
		{stranger, person, "SIGNATURE_INVALID", ""},
		{r.Provider, with("exp", 1), "TOKEN_EXPIRED", ""},
		{r.Provider, with("aud", "other"), "AUDIENCE_MISMATCH", ""},
		{r.Provider, with("iss", "https://other.example"), "ISSUER_NOT_CONFIGURED", ""},
		{r.Provider, with("email_verified", false), "EMAIL_UNVERIFIED", token},
		{r.Provider, person, "POLICY_DENIED", "issuer_entry issuer_url policy.result policy.rules profile san subject"},
		{r.Provider, with("email", "ada@corp.example"), "KEY_UNSUPPORTED", "issuer_entry issuer_url policy.result policy.rule profile san subject"},
		{r.Provider, with("sub", "x\n{\"level\":\"ERROR\",\"reason\":\"OK\"}"), "CLAIM_INVALID", token},
		{r.Provider, with("sub", strings.Repeat("x", 7000)), "POLICY_DENIED", "issuer_entry issuer_url policy.result policy.rules profile san subject"},
	} {
		raw := must(test.from.Mint(test.claims))(t)
		for _, send := range []func() string{
			func() string {
				reason, header := r.ask(t, "192.0.2.1", raw)
				return reason + " " + header.Get("X-Request-Id")
			},
			func() string { return r.askOverGRPC(t, raw) },
		} {
			reason, id, _ := strings.Cut(send(), " ")
			reason = strings.Replace(reason, "PROOF_INVALID", "KEY_UNSUPPORTED", 1)
			line := r.requestLine(t, id)
			var keys []string
			for key := range flat(line, "") {
				if first, _, _ := strings.Cut(key, "."); slices.Contains([]string{"issuer_entry", "issuer_url", "profile", "subject", "san", "policy"}, first) {
					keys = append(keys, key)
				}
			}
			slices.Sort(keys)
			if got := strings.Join(keys, " "); reason != test.reason || line["reason"] != test.reason && line["reason"] != "PROOF_INVALID" || got != test.keys {
				t.Errorf("%v is refused with %s, and the line has %q, want %s and %q: %v", test.claims, reason, got, test.reason, test.keys, line)
			}
			if subject, ok := line["subject"].(string); ok && subject != test.claims["sub"] && !strings.HasSuffix(subject, "… (7000 bytes)") {
				t.Errorf("subject is %q", subject)
			}
			if rules := line["policy"]; test.reason == "POLICY_DENIED" && fmt.Sprint(rules) != "map[result:denied rules:[employees]]" {
				t.Errorf("policy is %v", rules)
			}
		}
	}
}

// askOverGRPC is ask over gRPC, with a proof that is not the token's. It returns the reason and the request's ID.
func (r *running) askOverGRPC(t *testing.T, token string) string {
	t.Helper()
	c := must(client.New(client.Config{URL: r.rest, GRPC: true}))(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	_, err := c.SigningCertificate(t.Context(), client.Request{IDToken: token, Signer: key, Challenge: "nobody"})
	refused, ok := err.(*client.Error)
	if !ok {
		t.Fatal(err)
	}
	return refused.Reason + " " + refused.RequestID
}

// requestLine returns the line of a request.
func (r *running) requestLine(t *testing.T, id string) (found map[string]any) {
	t.Helper()
	await(t, "the line of request "+id, func() bool {
		for text := range strings.Lines(r.log.String()) {
			var line map[string]any
			if err := json.Unmarshal([]byte(text), &line); err == nil && line["request_id"] == id && line["msg"] == "request" {
				found = line
				return true
			}
		}
		return false
	})
	return found
}
