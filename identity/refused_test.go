// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// TestRefusedThoughThePeerAccepts holds every case with this decision in FACTS.md, section 4, by
// its name there. Other tests have their variations.
func TestRefusedThoughThePeerAccepts(t *testing.T) {
	t.Parallel()
	path := CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.x}}", ExtensionTemplates: map[string]string{"build-trigger": "y"}}
	whole := CIProvider{SubjectAlternativeNameTemplate: "{{.x}}"}
	for _, c := range []struct {
		name     string
		entry    IssuerConfig
		provider CIProvider
		claims   string
		reason   refusal.Reason
	}{
		{"null claim", ciEntry(), path, `{"sub":"s","x":"a","y":null}`, refusal.ClaimMissing},
		{"array where a template needs text", ciEntry(), path, `{"sub":"s","x":"a","y":["b"]}`, refusal.ClaimInvalid},
		{"object where a template needs text", ciEntry(), path, `{"sub":"s","x":"a","y":{"b":"c"}}`, refusal.ClaimInvalid},
		{"integer that 2^53 cannot hold", ciEntry(), path, `{"sub":"s","x":"a","y":9007199254740993}`, refusal.ClaimInvalid},
		{"kubernetes without namespace", entryOf(TypeKubernetes), path, `{"sub":"s","kubernetes.io":{"serviceaccount":{"name":"n"}}}`, refusal.ClaimMissing},
		{"kubernetes without name", entryOf(TypeKubernetes), path, `{"sub":"s","kubernetes.io":{"namespace":"a","serviceaccount":{}}}`, refusal.ClaimMissing},
		{"kubernetes with / in namespace", entryOf(TypeKubernetes), path, `{"sub":"s","kubernetes.io":{"namespace":"a/b","serviceaccount":{"name":"n"}}}`, refusal.ClaimInvalid},
		{"kubernetes with / in name", entryOf(TypeKubernetes), path, `{"sub":"s","kubernetes.io":{"namespace":"a","serviceaccount":{"name":"n/m"}}}`, refusal.ClaimInvalid},
		{"empty sub for username", usernameEntry(), path, `{"sub":""}`, refusal.ClaimMissing},
		{"missing sub", entryOf(TypeEmail), path, `{"email":"a@example.com","email_verified":true}`, refusal.ClaimMissing},
		{"empty sub", entryOf(TypeEmail), path, `{"sub":"","email":"a@example.com","email_verified":true}`, refusal.ClaimMissing},
		{"claim named by field missing", ciEntry(), path, `{"sub":"s","y":"b"}`, refusal.ClaimMissing},
		{"claim named by field empty", ciEntry(), path, `{"sub":"s","x":"","y":"b"}`, refusal.ClaimMissing},
		{"claim named by literal index missing", ciEntry(), circleProvider(), `{"sub":"s","oidc.circleci.com/project-id":"p"}`, refusal.ClaimMissing},
		{"claim named by literal index empty", ciEntry(), circleProvider(),
			`{"sub":"s","oidc.circleci.com/project-id":"p","oidc.circleci.com/pipeline-definition-id":""}`, refusal.ClaimMissing},
		{"relative SAN", ciEntry(), whole, `{"sub":"s","x":"a/b"}`, refusal.ClaimInvalid},
		{"empty SAN", ciEntry(), CIProvider{SubjectAlternativeNameTemplate: `{{if eq .x "b"}}b{{end}}`}, `{"sub":"s","x":"a"}`, refusal.ClaimInvalid},
		{"SAN with user-info", ciEntry(), whole, `{"sub":"s","x":"https://github.com@evil.example/a"}`, refusal.ClaimInvalid},
		{"SAN whose JoinPath drops a part for a bad escape", entryOf(TypeChainguardIdentity), path, `{"sub":"a/%g1"}`, refusal.ClaimInvalid},
		{"SAN with the segment ..", ciEntry(), path, `{"sub":"s","x":"a/../b","y":"b"}`, refusal.ClaimInvalid},
		{"SAN with the segment .", ciEntry(), path, `{"sub":"s","x":"a/./b","y":"b"}`, refusal.ClaimInvalid},
		{"user-info in a uri subject", uriEntry(), path, `{"sub":"https://u@users.example.com/a"}`, refusal.ClaimInvalid},
		{"control character in an extension", ciEntry(), path, `{"sub":"s","x":"a","y":"b\u001b[0m"}`, refusal.ClaimInvalid},
		{"control character in a SAN", ciEntry(), path, `{"sub":"s","x":"a\u0085","y":"b"}`, refusal.ClaimInvalid},
		{"control character in the subject", uriEntry(), path, `{"sub":"https://users.example.com/\r"}`, refusal.ClaimInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, rulesOf(t, c.entry, c.provider), mustClaims(t, c.claims), c.reason)
		})
	}
	t.Run("invalid UTF-8 in an extension", func(t *testing.T) {
		t.Parallel()
		wantRefusal(t, rulesOf(t, ciEntry(), path), oidc.Claims{"sub": "s", "x": "a", "y": "b\xff"}, refusal.ClaimInvalid)
	})
	t.Run("claims told apart only by case", func(t *testing.T) {
		t.Parallel()
		for _, document := range []string{`{"sub":"a","SUB":"b"}`, `{"sub":"a","sub":"b"}`, `{"kubernetes.io":{"namespace":"a","Namespace":"b"}}`} {
			if claims, err := oidc.ParseClaims([]byte(document)); err == nil {
				t.Errorf("%s decodes to %v", document, claims)
			}
		}
	})
}

func TestMessagesHoldClaimsOnlyShortAndQuoted(t *testing.T) {
	t.Parallel()
	long := "spiffe://" + string(make([]byte, 4000))
	_, err := rulesOf(t, spiffeEntry()).Identify(tokenOf(oidc.Claims{"sub": long}))
	if message := refusal.From(err).Message; len(message) > 1000 {
		t.Errorf("the message has %d bytes: %s", len(message), message)
	} else {
		for _, r := range message {
			if r < ' ' {
				t.Fatalf("the message holds %U", r)
			}
		}
	}
}
