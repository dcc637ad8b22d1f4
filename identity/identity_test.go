// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

const issuerURL = "https://issuer.example.com"

// entryOf returns a static entry of the type for issuerURL, with the settings that the type requires.
func entryOf(issuerType string) IssuerConfig {
	entry := IssuerConfig{Key: issuerURL, IssuerURL: issuerURL, Static: true, Type: issuerType}
	switch issuerType {
	case TypeCIProvider:
		entry.CIProvider = "ci"
	case TypeSPIFFE:
		entry.SPIFFETrustDomain = "example.com"
	case TypeURI:
		entry.SubjectDomain = "https://users.example.com"
	case TypeUsername:
		entry.SubjectDomain = "example.com"
	}
	return entry
}

// rulesOf returns the rules of one entry, with the CI provider "ci" if one is given.
func rulesOf(tb testing.TB, entry IssuerConfig, ci ...CIProvider) *Rules {
	tb.Helper()
	config := Config{Issuers: []IssuerConfig{entry}, CIProviders: map[string]CIProvider{}}
	for _, provider := range ci {
		config.CIProviders["ci"] = provider
	}
	rules, _, err := NewRules(config)
	if err != nil {
		tb.Fatalf("NewRules: %v", err)
	}
	return rules
}

// ciRules returns the rules of an entry of type ci-provider.
func ciRules(tb testing.TB, provider CIProvider) *Rules {
	return rulesOf(tb, entryOf(TypeCIProvider), provider)
}

// readYAML reads a file of YAML into v.
func readYAML(tb testing.TB, file string, v any) {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		decoder := yaml.NewDecoder(bytes.NewReader(text))
		decoder.KnownFields(strings.HasPrefix(file, "testdata/"))
		err = decoder.Decode(v) // io.EOF for an empty file
	}
	if err != nil {
		tb.Fatalf("%s: %v", file, err)
	}
}

// shipped returns a built-in CI provider.
func shipped(tb testing.TB, name string) CIProvider {
	tb.Helper()
	providers, err := BuiltIn()
	if err != nil || providers[name].SubjectAlternativeNameTemplate == "" {
		tb.Fatalf("%s: %v", name, err)
	}
	return providers[name]
}

// ciClaims returns the claims of a token for those templates.
func ciClaims(tb testing.TB, name string) oidc.Claims {
	tb.Helper()
	var documents map[string]string
	readYAML(tb, "testdata/tokens.yaml", &documents)
	return mustClaims(tb, documents[name])
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
	maps.Copy(changed, mustClaims(tb, document))
	maps.DeleteFunc(changed, func(_ string, v any) bool { return v == "DELETE" })
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
	if !errors.As(err, &refused) || refused.Reason != reason {
		tb.Fatalf("got %v, want %s", err, reason)
	}
	for _, mention := range mentions {
		if !strings.Contains(refused.Message, mention) {
			tb.Errorf("the message %q does not mention %q", refused.Message, mention)
		}
	}
}

func TestEveryTypeRequiresASubject(t *testing.T) {
	t.Parallel()
	for _, issuerType := range Types() {
		t.Run(issuerType, func(t *testing.T) {
			t.Parallel()
			rules := rulesOf(t, entryOf(issuerType), CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.sha}}"})
			for _, claims := range []string{`{}`, `{"sub":""}`, `{"sub":null}`} {
				wantRefusal(t, rules, mustClaims(t, claims), refusal.ClaimMissing, `"sub"`)
			}
			wantRefusal(t, rules, mustClaims(t, `{"sub":7}`), refusal.ClaimInvalid, `"sub"`)
		})
	}
}

func TestTokensOfNoEntryOrIssuer(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, entryOf(TypeEmail))
	claims := mustClaims(t, `{"sub":"s","email":"a@example.com","email_verified":true}`)
	for reason, tok := range map[refusal.Reason]*oidc.Token{
		refusal.InternalError: {Entry: "https://other.example", IssuerURL: issuerURL, Claims: claims},
		refusal.ClaimMissing:  {Entry: issuerURL, Claims: claims},
	} {
		if _, err := rules.Identify(tok); refusal.From(err).Reason != reason {
			t.Errorf("%+v: %v, want %s", tok, err, reason)
		}
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
		{"escape in a workflow's name", github, with(t, ciClaims(t, TypeGithubWorkflow), `{"workflow":"\u001b[31mred"}`), "GithubWorkflowName"},
		{"C1 control in a joined URL", github, with(t, ciClaims(t, TypeGithubWorkflow), `{"repository_owner":"\u0085"}`), "control"},
		{"C1 control in a URL", rulesOf(t, entryOf(TypeGitlabPipeline)), with(t, ciClaims(t, TypeGitlabPipeline), `{"ci_config_ref_uri":"gitlab.com/\u0085"}`), "control"},
		{"an email of another kind", rulesOf(t, entryOf(TypeChainguardIdentity)), mustClaims(t, `{"sub":"a","email":7}`), `"email"`},
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

func TestRefusedThoughThePeerAccepts(t *testing.T) {
	t.Parallel()
	var cases []struct {
		Name, Type, Template, Claims string
		Reason                       refusal.Reason
	}
	readYAML(t, "testdata/refused.yaml", &cases)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			provider := CIProvider{ExtensionTemplates: map[string]string{"build-trigger": "y"}}
			provider.SubjectAlternativeNameTemplate = cmp.Or(c.Template, "https://ci.example/{{.y}}")
			wantRefusal(t, rulesOf(t, entryOf(cmp.Or(c.Type, TypeCIProvider)), provider), mustClaims(t, c.Claims), c.Reason)
		})
	}
	for _, document := range []string{`{"sub":"a","SUB":"b"}`, `{"sub":"a","sub":"b"}`, `{"kubernetes.io":{"namespace":"a","Namespace":"b"}}`} {
		if claims, err := oidc.ParseClaims([]byte(document)); err == nil {
			t.Errorf("%s decodes to %v", document, claims)
		}
	}
}

func TestMessagesHoldClaimsOnlyShortAndQuoted(t *testing.T) {
	t.Parallel()
	_, err := rulesOf(t, entryOf(TypeSPIFFE)).Identify(tokenOf(oidc.Claims{"sub": "spiffe://" + string(make([]byte, 4000))}))
	if message := refusal.From(err).Message; len(message) > 1000 || strings.ContainsFunc(message, func(r rune) bool { return r < ' ' }) {
		t.Errorf("the message has %d bytes: %q", len(message), message)
	}
}

func BenchmarkIdentify(b *testing.B) {
	for _, c := range []struct {
		name   string
		rules  *Rules
		claims oidc.Claims
	}{
		{"GithubProvider", ciRules(b, shipped(b, "github-workflow")), ciClaims(b, "github-workflow")},
		{"GitlabProvider", ciRules(b, shipped(b, "gitlab-pipeline")), ciClaims(b, "gitlab-pipeline")},
		{"GithubWorkflow", rulesOf(b, entryOf(TypeGithubWorkflow)), ciClaims(b, "github-workflow")},
		{"Email", rulesOf(b, entryOf(TypeEmail)), mustClaims(b, `{"sub":"s","email":"a@example.com","email_verified":true}`)},
	} {
		b.Run(c.name, func(b *testing.B) {
			tok := tokenOf(c.claims)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.rules.Identify(tok); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
