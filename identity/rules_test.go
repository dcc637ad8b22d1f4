// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// paths returns the paths of keypath errors, each joined with " > ".
func paths(err error) []string {
	var all []string
	for _, e := range keypath.All(err) {
		all = append(all, strings.Join(e.Path, " > "))
	}
	return slices.Compact(all) // CEL reports some mistakes twice
}

// withPaths sets the paths that are not set.
func withPaths(entries []IssuerConfig) []IssuerConfig {
	for i, entry := range entries {
		section := "meta-issuers"
		if entry.Static {
			section = "oidc-issuers"
		}
		if entry.Path == nil {
			entries[i].Path = []string{section, entry.Key}
		}
	}
	return entries
}

func TestNewRulesFindsEveryMistakeAtOnce(t *testing.T) {
	t.Parallel()
	config := Config{
		Issuers: withPaths([]IssuerConfig{
			{Key: "https://a.example", Static: true},
			{Key: "https://b.example", Static: true, Type: "e-mail"},
			{Key: "https://c.example", Static: true, Type: TypeCIProvider},
			{Key: "https://d.example", Static: true, Type: TypeCIProvider, CIProvider: "absent"},
			{Key: "https://e.example", Static: true, Type: TypeCIProvider, CIProvider: "broken"},
			{Key: "https://f.example", Static: true, Type: TypeGithubWorkflow, IssuerClaim: "$.a", AllowedEmailDomains: []string{"example.com"}, Constants: map[string]string{"a": "b"}},
			{Key: "https://g.example", Static: true, Type: TypeEmail, IssuerClaim: "$..a", AllowedEmailDomains: []string{"*.example.com", "ok.example", "@b.example"}},
			{Key: "https://h.example", Static: true, Type: TypeSPIFFE},
			{Key: "https://*.example", Type: TypeSPIFFE, SPIFFETrustDomain: "Example.com"},
			{Key: "https://i.example", Static: true, Type: TypeURI},
			{Key: "https://j.example", Static: true, Type: TypeUsername, SubjectDomain: "https://j.example"},
			{Key: "https://j.example", Static: false, Type: TypeEmail},
			{Key: "https://k.example", Static: true, Type: TypeEmail, Policy: policy.Config{Allow: []policy.Rule{{Name: "a", When: "claims."}}}},
			{Key: "https://k.example", Profile: "p", Path: []string{"k", "profiles", "0"}, Type: TypeEmail, Policy: policy.Config{Mode: "odit"}},
			{Key: "https://l.example", Static: true, Type: TypeCIProvider, CIProvider: "url", Constants: map[string]string{"ulr": "x"}},
		}),
		CIProviders: map[string]CIProvider{
			"broken": {
				SubjectAlternativeNameTemplate: "{{.a",
				ExtensionTemplates: map[string]string{
					"build-trigger": "{{nofunction .a}}", "build-triger": "{{.a}}", "issuer": "{{", "subject": "{{", "run-invocation-uri": `{{template "t"}}`,
				},
			},
			"constant": {
				SubjectAlternativeNameTemplate: "{{.url}}", DefaultTemplateValues: map[string]string{"url": "x"}, Constants: map[string]string{"url": "x", "urs": "y"},
			},
			"nameless": {},
			"url":      {SubjectAlternativeNameTemplate: "{{.url}}"},
		},
	}
	rules, warnings, err := NewRules(config)
	if rules != nil || len(warnings) != 0 {
		t.Errorf("got rules %v and warnings %v", rules, warnings)
	}
	want := []string{
		"ci-issuer-metadata > broken > subject-alternative-name-template",
		"ci-issuer-metadata > broken > extension-templates > build-triger",
		"ci-issuer-metadata > broken > extension-templates > build-trigger",
		"ci-issuer-metadata > broken > extension-templates > run-invocation-uri",
		"ci-issuer-metadata > constant > constants > urs",
		"ci-issuer-metadata > constant > constants > url",
		"ci-issuer-metadata > nameless > subject-alternative-name-template",
		"oidc-issuers > https://a.example > type",
		"oidc-issuers > https://b.example > type",
		"oidc-issuers > https://c.example > ci-provider",
		"oidc-issuers > https://d.example > ci-provider",
		"oidc-issuers > https://f.example > issuer-claim",
		"oidc-issuers > https://f.example > allowed-email-domains",
		"oidc-issuers > https://f.example > constants",
		"oidc-issuers > https://g.example > allowed-email-domains > 0",
		"oidc-issuers > https://g.example > allowed-email-domains > 2",
		"oidc-issuers > https://g.example > issuer-claim",
		"oidc-issuers > https://h.example > spiffe-trust-domain",
		"meta-issuers > https://*.example > type",
		"meta-issuers > https://*.example > spiffe-trust-domain",
		"oidc-issuers > https://i.example > subject-domain",
		"oidc-issuers > https://j.example > subject-domain",
		"meta-issuers > https://j.example",
		"oidc-issuers > https://k.example > allow > 0 > when",
		"k > profiles > 0 > mode",
		"oidc-issuers > https://l.example > constants > ulr",
	}
	if diff := cmp.Diff(want, paths(err)); diff != "" {
		t.Errorf("paths (-want +got):\n%s\n%v", diff, err)
	}
}

func TestNewRulesWarnings(t *testing.T) {
	t.Parallel()
	_, warnings, err := NewRules(Config{
		Issuers: withPaths([]IssuerConfig{
			{Key: "https://a.example", Static: true, Type: TypeEmail, SkipEmailVerification: true, ChallengeClaim: "sub"},
			{Key: "https://b.example", Static: true, Type: TypeEmail, SkipEmailVerification: true, AllowedEmailDomains: []string{"example.com"}, ChallengeClaim: "email"},
			{Key: "https://*.example", Type: TypeKubernetes, IssuerClaim: "$.a", ChallengeClaim: "email"},
			{Key: "https://c.example", Static: true, Type: TypeCIProvider, CIProvider: "ci", SubjectDomain: "c.example", SPIFFETrustDomain: "c.example", SkipEmailVerification: true},
			{Key: "https://d.example", Static: true, Type: TypeGithubWorkflow, CIProvider: "ci"},
			{Key: "https://*.mail.example", Type: TypeEmail, IssuerClaim: "$.connector"},
		}),
		CIProviders: map[string]CIProvider{"ci": {SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"oidc-issuers > https://a.example > challenge-claim",
		"oidc-issuers > https://a.example > skip-email-verification",
		"meta-issuers > https://*.example > issuer-claim",
		"meta-issuers > https://*.example > challenge-claim",
		"oidc-issuers > https://c.example > subject-domain",
		"oidc-issuers > https://c.example > spiffe-trust-domain",
		"oidc-issuers > https://c.example > skip-email-verification",
		"oidc-issuers > https://d.example > ci-provider",
	}
	if diff := cmp.Diff(want, paths(errors.Join(warnings...))); diff != "" {
		t.Errorf("paths (-want +got):\n%s\n%v", diff, warnings)
	}
}

func TestSubjectDomainOfStaticEntries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		issuerType, issuer, domain string
		ok                         bool
	}{
		{TypeURI, "https://accounts.example.com", "https://example.com", true},
		{TypeURI, "https://accounts.example.com:8443", "https://users.EXAMPLE.com:9443", true},
		{TypeURI, "https://example.com/path", "https://example.com/other", true},
		{TypeURI, "https://accounts.example.com", "http://example.com", false},
		{TypeURI, "https://accounts.example.com", "https://example.org", false},
		{TypeURI, "https://a.co.uk", "https://b.co.uk", false}, // the last two labels are equal, and a public suffix
		{TypeURI, "https://a.b.co.uk", "https://b.co.uk", true},
		{TypeURI, "https://a.github.io", "https://b.github.io", false},
		{TypeURI, "https://a.internal", "https://b.a.internal", true},
		{TypeURI, "https://example.com.", "https://a.example.com.", false},
		{TypeURI, "https://accounts.example.com", "example.com", false},
		{TypeURI, "https://accounts.example.com", "https://u@example.com", false},
		{TypeURI, "https://accounts.example.com", "https://", false},
		{TypeURI, "https://accounts.example.com", "https://%zz", false},
		{TypeURI, "http://127.0.0.1:5555/dev", "http://127.0.0.1", true},
		{TypeURI, "http://127.0.0.1", "http://127.0.0.2", false},
		{TypeURI, "http://1.10.0.1", "http://2.10.0.1", false},
		{TypeURI, "http://9.10.1", "http://8.10.1", false},
		{TypeURI, "http://localhost:8080", "http://localhost:9090", true},
		{TypeURI, "http://localhost", "http://a.localhost", false},
		{TypeURI, "http://[::1]:8080", "http://[::1]", true},
		{TypeURI, "http://[::1]", "http://[::2]", false},
		{TypeURI, "spiffe://example.com", "spiffe://a.example.com", true},
		{TypeUsername, "https://example.com", "users.example.com", true},
		{TypeUsername, "http://example.com:8080", "example.com", true},
		{TypeUsername, "https://example.com", "example.com:8080", true},
		{TypeUsername, "https://example.com", "https://example.com", false},
		{TypeUsername, "https://example.com", "example.com/path", false},
		{TypeUsername, "https://example.com", "u@example.com", false},
		{TypeUsername, "https://example.com", "a!example.com", false},
		{TypeUsername, "https://example.com", "example.com?x", false},
		{TypeUsername, "https://example.com", "example.org", false},
		{TypeUsername, "https://example.com", "com", false},
	} {
		for _, issuerURL := range []string{c.issuer, ""} { // if "", the key is the issuer URL
			_, _, err := NewRules(Config{Issuers: withPaths([]IssuerConfig{{Key: c.issuer, IssuerURL: issuerURL, Static: true, Type: c.issuerType, SubjectDomain: c.domain}})})
			if (err == nil) != c.ok {
				t.Errorf("%s with issuer-url %s and subject-domain %s: %v", c.issuerType, c.issuer, c.domain, err)
			} else if err != nil && !slices.Equal(paths(err), []string{"oidc-issuers > " + c.issuer + " > subject-domain"}) {
				t.Errorf("the error is at %v", paths(err))
			}
		}
	}
}

// The issuer URL of a wildcard entry is known only with the token.
func TestSubjectDomainOfWildcardEntries(t *testing.T) {
	t.Parallel()
	for issuerType, sub := range map[string]string{TypeURI: "https://users.example.com/a", TypeUsername: "a"} {
		entry := entryOf(issuerType)
		entry.Static = false
		rules := rulesOf(t, entry)
		mustIdentify(t, rules, oidc.Claims{"sub": sub, "iss": "https://a.example.com"})
		wantRefusal(t, rules, oidc.Claims{"sub": sub, "iss": "https://a.example.org"}, refusal.ClaimInvalid, "https://a.example.org")
	}
}

func TestEveryExtensionKeyCanBeATemplate(t *testing.T) {
	t.Parallel()
	provider := CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.sub}}", ExtensionTemplates: map[string]string{}}
	want := certs.Extensions{certs.IssuerV1: issuerURL, certs.IssuerV2: issuerURL, certs.TokenSubject: "s"}
	for _, e := range certs.Table() {
		if e.Key != "" {
			provider.ExtensionTemplates[e.Key] = fmt.Sprintf(`{{"%d"}}`, e.Arc)
			want[e.Arc] = fmt.Sprint(e.Arc)
		}
	}
	if len(provider.ExtensionTemplates) != 20 {
		t.Errorf("the table has %d keys, want 20", len(provider.ExtensionTemplates))
	}
	if got := mustIdentify(t, ciRules(t, provider), mustClaims(t, `{"sub":"s"}`)); got.Extensions != want {
		t.Errorf("got %q, want %q", got.Extensions, want)
	}
}

// No claim of any kind replaces a constant, and the entry's constants override the provider's.
func TestConstants(t *testing.T) {
	t.Parallel()
	provider := CIProvider{
		DefaultTemplateValues:          map[string]string{"region": "eu"},
		Constants:                      map[string]string{"url": "https://ci.example"},
		SubjectAlternativeNameTemplate: "{{.url}}/{{.region}}/{{.project}}",
	}
	own := entryOf(TypeCIProvider)
	own.Constants = map[string]string{"url": "https://own.example", "region": "us"}
	for claims, want := range map[string][2]string{
		`{"sub":"s","project":"p"}`:                              {"https://ci.example/eu/p", "https://own.example/us/p"},
		`{"sub":"s","project":"p","url":"https://evil.example"}`: {"https://ci.example/eu/p", "https://own.example/us/p"},
		`{"sub":"s","project":"p","url":null}`:                   {"https://ci.example/eu/p", "https://own.example/us/p"},
		`{"sub":"s","project":"p","url":["x"]}`:                  {"https://ci.example/eu/p", "https://own.example/us/p"},
		`{"sub":"s","project":"p","url":""}`:                     {"https://ci.example/eu/p", "https://own.example/us/p"},
		`{"sub":"s","project":"p","region":"asia"}`:              {"https://ci.example/asia/p", "https://own.example/us/p"},
	} {
		for i, entry := range []IssuerConfig{entryOf(TypeCIProvider), own} {
			if got := mustIdentify(t, rulesOf(t, entry, provider), mustClaims(t, claims)).SAN.Value; got != want[i] {
				t.Errorf("%s: %s, want %s", claims, got, want[i])
			}
		}
	}
}

// A policy sees the name and the issuer of the certificate, and every decision is observed.
func TestPolicyOfAnEntry(t *testing.T) {
	t.Parallel()
	entry := entryOf(TypeEmail)
	entry.IssuerClaim = "$.connector"
	entry.Policy = policy.Config{Allow: []policy.Rule{
		{Name: "upstream", When: `issuer == "https://upstream.example" && san.endsWith("@example.com") && claims.iss == "` + issuerURL + `"`},
	}}
	shadow := entry
	shadow.Profile, shadow.Policy.Mode = "shadow", policy.ModeAudit
	var seen []string
	rules, _, err := NewRules(Config{
		Issuers: []IssuerConfig{entry, shadow},
		Observe: func(entry, profile string, d policy.Decision) {
			seen = append(seen, fmt.Sprint(entry, " ", profile, " ", d.Result(), " ", d.Audit))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := mustClaims(t, `{"iss":"`+issuerURL+`","sub":"s","email":"a@example.com","email_verified":true,"connector":"https://upstream.example"}`)
	if id := mustIdentify(t, rules, good); id.Policy.Rule != "upstream" || id.Extensions[certs.IssuerV1] != "https://upstream.example" {
		t.Errorf("%+v", id)
	}
	bad := with(t, good, `{"connector":"https://other.example"}`)
	wantRefusal(t, rules, bad, refusal.PolicyDenied, `"upstream"`)
	tok := tokenOf(bad)
	tok.Profile = "shadow"
	if id, err := rules.Identify(tok); err != nil || !id.Policy.Denied || id.Policy.Rule != "" {
		t.Errorf("%+v, %v", id, err)
	}
	want := []string{issuerURL + "  allowed false", issuerURL + "  denied false", issuerURL + " shadow denied true"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
	// A caller that cannot be named is refused for that reason, before any rule.
	wantRefusal(t, rules, with(t, bad, `{"email_verified":false}`), refusal.EmailUnverified)
	tok.Profile = "unknown"
	if _, err := rules.Identify(tok); err == nil {
		t.Error("a token of an unknown profile was identified")
	}
}
