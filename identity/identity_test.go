// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

const issuerURL = "https://issuer.example.com"

// entryOf returns a static entry of the type for issuerURL.
func entryOf(issuerType string) IssuerConfig {
	return IssuerConfig{Key: issuerURL, IssuerURL: issuerURL, Static: true, Type: issuerType}
}

func mustRules(tb testing.TB, config Config) *Rules {
	tb.Helper()
	rules, _, err := NewRules(config)
	if err != nil {
		tb.Fatalf("NewRules: %v", err)
	}
	return rules
}

// rulesOf returns the rules of one entry, with the CI provider "ci" if one is given.
func rulesOf(tb testing.TB, entry IssuerConfig, ci ...CIProvider) *Rules {
	tb.Helper()
	config := Config{Issuers: []IssuerConfig{entry}, CIProviders: map[string]CIProvider{}}
	for _, provider := range ci {
		config.CIProviders["ci"] = provider
	}
	return mustRules(tb, config)
}

func mustClaims(tb testing.TB, document string) oidc.Claims {
	tb.Helper()
	claims, err := oidc.ParseClaims([]byte(document))
	if err != nil {
		tb.Fatalf("ParseClaims(%s): %v", document, err)
	}
	return claims
}

// with returns a copy of claims that the members of the JSON object override; a member with the
// text "DELETE" is removed.
func with(tb testing.TB, claims oidc.Claims, document string) oidc.Claims {
	tb.Helper()
	changed := maps.Clone(claims)
	for name, v := range mustClaims(tb, document) {
		if v == "DELETE" {
			delete(changed, name)
		} else {
			changed[name] = v
		}
	}
	return changed
}

// tokenOf returns the token that the entry issuerURL verified.
func tokenOf(claims oidc.Claims) *oidc.Token {
	iss, _ := claims["iss"].(string)
	sub, _ := claims["sub"].(string)
	if iss == "" {
		iss = issuerURL
	}
	return &oidc.Token{Entry: issuerURL, IssuerURL: iss, Subject: sub, Claims: claims}
}

func mustIdentify(tb testing.TB, rules *Rules, claims oidc.Claims) *Identity {
	tb.Helper()
	id, err := rules.Identify(tokenOf(claims))
	if err != nil {
		tb.Fatalf("Identify: %v", err)
	}
	return id
}

// wantRefusal fails unless rules refuse the claims for the reason, in a message that holds all of
// mentions.
func wantRefusal(tb testing.TB, rules *Rules, claims oidc.Claims, reason refusal.Reason, mentions ...string) {
	tb.Helper()
	id, err := rules.Identify(tokenOf(claims))
	if err == nil {
		tb.Fatalf("got the SAN %q, want a refusal with %s", id.SAN.Value, reason)
	}
	var refused *refusal.Error
	if !errors.As(err, &refused) {
		tb.Fatalf("got the error %v, want a refusal", err)
	}
	if refused.Reason != reason {
		tb.Errorf("got %s (%s), want %s", refused.Reason, refused.Message, reason)
	}
	for _, mention := range mentions {
		if !strings.Contains(refused.Message, mention) {
			tb.Errorf("the message %q does not mention %q", refused.Message, mention)
		}
	}
}

// ext creates Extensions from pairs, with the values that every identity has.
func ext(issuer, subject string, others map[certs.Arc]string) certs.Extensions {
	e := certs.Extensions{certs.IssuerV1: issuer, certs.IssuerV2: issuer, certs.TokenSubject: subject}
	for arc, text := range others {
		e[arc] = text
	}
	return e
}

func TestEveryTypeRequiresASubject(t *testing.T) {
	t.Parallel()
	for _, issuerType := range Types() {
		t.Run(issuerType, func(t *testing.T) {
			t.Parallel()
			entry := entryOf(issuerType)
			switch issuerType {
			case TypeCIProvider:
				entry.CIProvider = "ci"
			case TypeSPIFFE:
				entry.SPIFFETrustDomain = "example.com"
			case TypeURI:
				entry.SubjectDomain = issuerURL
			case TypeUsername:
				entry.SubjectDomain = "example.com"
			}
			rules := rulesOf(t, entry, CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.sha}}"})
			wantRefusal(t, rules, mustClaims(t, `{}`), refusal.ClaimMissing, `"sub"`, "missing")
			wantRefusal(t, rules, mustClaims(t, `{"sub":""}`), refusal.ClaimMissing, `"sub"`, "empty")
			wantRefusal(t, rules, mustClaims(t, `{"sub":null}`), refusal.ClaimMissing, `"sub"`, "null")
			wantRefusal(t, rules, mustClaims(t, `{"sub":7}`), refusal.ClaimInvalid, `"sub"`, "a number")
		})
	}
}

func TestIdentifyUnknownEntryIsOurFault(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, entryOf(TypeEmail))
	_, err := rules.Identify(&oidc.Token{Entry: "https://other.example", IssuerURL: issuerURL, Claims: mustClaims(t, `{"sub":"s"}`)})
	if got := refusal.From(err).Reason; got != refusal.InternalError {
		t.Errorf("got %s (%v), want INTERNAL", got, err)
	}
}

func TestIdentifyWithoutIssuerURL(t *testing.T) {
	t.Parallel()
	_, err := rulesOf(t, entryOf(TypeBuildkiteJob)).Identify(&oidc.Token{Entry: issuerURL, Claims: mustClaims(t, `{"sub":"s"}`)})
	if got := refusal.From(err).Reason; got != refusal.ClaimMissing {
		t.Errorf("got %s (%v), want CLAIM_MISSING", got, err)
	}
}

func TestControlsAndLengthNeverEnterACertificate(t *testing.T) {
	t.Parallel()
	email := rulesOf(t, entryOf(TypeEmail))
	address := mustClaims(t, `{"sub":"s","email":"a@example.com","email_verified":true}`)
	long := strings.Repeat("x", maxText)
	github := rulesOf(t, entryOf(TypeGithubWorkflow))
	for _, c := range []struct {
		name    string
		rules   *Rules
		claims  oidc.Claims
		mention string
	}{
		{"newline in sub", email, with(t, address, `{"sub":"a\nb"}`), "TokenSubject"},
		{"C1 control in sub", email, with(t, address, `{"sub":"a\u0085b"}`), "TokenSubject"},
		{"NUL in iss", email, with(t, address, `{"iss":"https://a\u0000b"}`), "Issuer"},
		{"long sub", email, with(t, address, `{"sub":"`+long+`x"}`), "TokenSubject"},
		{"long email", email, with(t, address, `{"email":"`+long+`@example.com"}`), "subject alternative name"},
		{"escape in a workflow's name", github, with(t, githubClaims(t), `{"workflow":"\u001b[31mred"}`), "GithubWorkflowName"},
		{"invalid UTF-8 in sub", email, oidc.Claims{"sub": "a\xff", "email": "a@example.com", "email_verified": true}, "TokenSubject"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, c.rules, c.claims, refusal.ClaimInvalid, c.mention)
		})
	}
	if id := mustIdentify(t, email, with(t, address, `{"sub":"`+long+`"}`)); id.Subject != long {
		t.Error("a sub of the greatest length was cut")
	}
}

// TestTextsTogetherFitACertificate checks that a template that repeats a claim stays below the
// limit of logs.
func TestTextsTogetherFitACertificate(t *testing.T) {
	t.Parallel()
	id := Identity{SAN: certs.SAN{Kind: certs.SANURI, Value: "https://ci.example/x"}}
	id.setIssuer(issuerURL)
	id.Extensions[certs.TokenSubject] = "s"
	for arc := certs.BuildSignerURI; arc < certs.BuildSignerURI+6; arc++ {
		id.Extensions[arc] = strings.Repeat("x", maxText-100)
	}
	if err := id.check(); err != nil {
		t.Errorf("six texts of nearly the greatest length: %v", err)
	}
	id.Extensions[certs.BuildSignerURI+6] = strings.Repeat("x", maxText-100)
	if got := refusal.From(id.check()).Reason; got != refusal.ClaimInvalid {
		t.Errorf("seven: %s, want CLAIM_INVALID", got)
	}
}

func TestChallengeIsSubButForEmail(t *testing.T) {
	t.Parallel()
	id := mustIdentify(t, rulesOf(t, entryOf(TypeGithubWorkflow)), githubClaims(t))
	if id.ChallengeClaim != "sub" || id.Challenge != id.Subject || id.Subject != githubClaims(t)["sub"] {
		t.Errorf("challenge %q of claim %q, want the sub", id.Challenge, id.ChallengeClaim)
	}
	if got := ChallengeClaim(TypeEmail); got != "email" {
		t.Errorf("ChallengeClaim(email) = %q", got)
	}
	if got := ChallengeClaim(TypeChainguardIdentity); got != "sub" {
		t.Errorf("ChallengeClaim(chainguard-identity) = %q", got)
	}
}
