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
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// paths returns the paths of keypath errors, each joined with " > ".
func paths(err error) []string {
	var all []string
	for _, e := range keypath.All(err) {
		all = append(all, strings.Join(e.Path, " > "))
	}
	return all
}

func TestNewRulesFindsEveryMistakeAtOnce(t *testing.T) {
	t.Parallel()
	config := Config{
		Issuers: []IssuerConfig{
			{Key: "https://a.example", Static: true},
			{Key: "https://b.example", Static: true, Type: "e-mail"},
			{Key: "https://c.example", Static: true, Type: TypeCIProvider},
			{Key: "https://d.example", Static: true, Type: TypeCIProvider, CIProvider: "absent"},
			{Key: "https://e.example", Static: true, Type: TypeCIProvider, CIProvider: "broken"},
			{Key: "https://f.example", Static: true, Type: TypeGithubWorkflow, IssuerClaim: "$.a", AllowedEmailDomains: []string{"example.com"}},
			{Key: "https://g.example", Static: true, Type: TypeEmail, IssuerClaim: "$..a", AllowedEmailDomains: []string{"*.example.com", "ok.example", "@b.example"}},
			{Key: "https://h.example", Static: true, Type: TypeSPIFFE},
			{Key: "https://*.example", Type: TypeSPIFFE, SPIFFETrustDomain: "Example.com"},
			{Key: "https://i.example", Static: true, Type: TypeURI},
			{Key: "https://j.example", Static: true, Type: TypeUsername, SubjectDomain: "https://j.example"},
			{Key: "https://j.example", Static: false, Type: TypeEmail},
		},
		CIProviders: map[string]CIProvider{
			"broken": {
				SubjectAlternativeNameTemplate: "{{.a",
				ExtensionTemplates: map[string]string{
					"build-trigger": "{{nofunction .a}}", "build-triger": "{{.a}}", "issuer": "{{", "subject": "{{", "run-invocation-uri": `{{template "t"}}`,
				},
			},
			"nameless": {},
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
		"ci-issuer-metadata > nameless > subject-alternative-name-template",
		"oidc-issuers > https://a.example > type",
		"oidc-issuers > https://b.example > type",
		"oidc-issuers > https://c.example > ci-provider",
		"oidc-issuers > https://d.example > ci-provider",
		"oidc-issuers > https://f.example > issuer-claim",
		"oidc-issuers > https://f.example > allowed-email-domains",
		"oidc-issuers > https://g.example > allowed-email-domains > 0",
		"oidc-issuers > https://g.example > allowed-email-domains > 2",
		"oidc-issuers > https://g.example > issuer-claim",
		"oidc-issuers > https://h.example > spiffe-trust-domain",
		"meta-issuers > https://*.example > type",
		"meta-issuers > https://*.example > spiffe-trust-domain",
		"oidc-issuers > https://i.example > subject-domain",
		"oidc-issuers > https://j.example > subject-domain",
		"meta-issuers > https://j.example",
	}
	if diff := cmp.Diff(want, paths(err)); diff != "" {
		t.Errorf("paths (-want +got):\n%s\n%v", diff, err)
	}
	for _, mention := range []string{"username", `"build-triger"; did you mean "build-trigger"?`, `"absent"`, "broken, nameless", "nofunction", `"t"`} {
		if !strings.Contains(err.Error(), mention) {
			t.Errorf("no error mentions %q:\n%v", mention, err)
		}
	}
}

func TestNewRulesWarnings(t *testing.T) {
	t.Parallel()
	_, warnings, err := NewRules(Config{
		Issuers: []IssuerConfig{
			{Key: "https://a.example", Static: true, Type: TypeEmail, SkipEmailVerification: true, ChallengeClaim: "sub"},
			{Key: "https://b.example", Static: true, Type: TypeEmail, SkipEmailVerification: true, AllowedEmailDomains: []string{"example.com"}, ChallengeClaim: "email"},
			{Key: "https://*.example", Type: TypeKubernetes, IssuerClaim: "$.a", ChallengeClaim: "email"},
			{Key: "https://c.example", Static: true, Type: TypeCIProvider, CIProvider: "ci", SubjectDomain: "c.example", SPIFFETrustDomain: "c.example", SkipEmailVerification: true},
			{Key: "https://d.example", Static: true, Type: TypeGithubWorkflow, CIProvider: "ci"},
			{Key: "https://*.mail.example", Type: TypeEmail, IssuerClaim: "$.connector"},
		},
		CIProviders: map[string]CIProvider{"ci": {
			SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}",
			ExtensionTemplates:             map[string]string{"build-trigger": "{{.a}}\n", "deployment-environment": ""},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ci-issuer-metadata > ci > extension-templates > build-trigger",
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

func TestCompatWarnsOfUnknownExtensionTemplates(t *testing.T) {
	t.Parallel()
	config := Config{
		Issuers: []IssuerConfig{ciEntry()},
		CIProviders: map[string]CIProvider{"ci": {
			SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}",
			ExtensionTemplates:             map[string]string{"build-triger": "a", "build-trigger": "a"},
		}},
	}
	want := []string{"ci-issuer-metadata > ci > extension-templates > build-triger"}
	if _, _, err := NewRules(config); !slices.Equal(paths(err), want) {
		t.Errorf("got %v, want an error at %v", err, want)
	}
	config.Compat = true
	rules, warnings, err := NewRules(config)
	if err != nil || !slices.Equal(paths(errors.Join(warnings...)), want) {
		t.Fatalf("with compat: warnings %v and error %v, want a warning at %v", warnings, err, want)
	}
	id := mustIdentify(t, rules, mustClaims(t, `{"sub":"s","a":"x"}`))
	if got := id.Extensions[certs.BuildTrigger]; got != "x" {
		t.Errorf("extension .20 is %q, want x", got)
	}
}

func TestSubjectDomainOfStaticEntries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		issuerType, issuer, domain string
		ok                         bool
	}{
		{TypeURI, "https://accounts.example.com", "https://example.com", true},
		{TypeURI, "https://accounts.example.com:8443", "https://users.example.com:9443", true},
		{TypeURI, "https://example.com/path", "https://example.com/other", true},
		{TypeURI, "https://accounts.example.com", "http://example.com", false},
		{TypeURI, "https://accounts.example.com", "https://example.org", false},
		{TypeURI, "https://a.co.uk", "https://b.co.uk", false},
		{TypeURI, "https://accounts.example.com", "example.com", false},
		{TypeURI, "https://accounts.example.com", "https://u@example.com", false},
		{TypeURI, "https://accounts.example.com", "https://", false},
		{TypeURI, "https://accounts.example.com", "https://%zz", false},
		{TypeURI, "http://127.0.0.1:5555/dev", "http://127.0.0.1", true},
		{TypeURI, "http://127.0.0.1", "http://127.0.0.2", false},
		{TypeURI, "http://localhost:8080", "http://localhost:9090", true},
		{TypeURI, "http://[::1]:8080", "http://[::1]", true},
		{TypeURI, "spiffe://example.com", "spiffe://a.example.com", true},
		{TypeUsername, "https://accounts.example.com", "example.com", true},
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
			_, _, err := NewRules(Config{Issuers: []IssuerConfig{{Key: c.issuer, IssuerURL: issuerURL, Static: true, Type: c.issuerType, SubjectDomain: c.domain}}})
			if (err == nil) != c.ok {
				t.Errorf("%s with issuer-url %s and subject-domain %s: %v", c.issuerType, c.issuer, c.domain, err)
			} else if err != nil && !slices.Equal(paths(err), []string{"oidc-issuers > " + c.issuer + " > subject-domain"}) {
				t.Errorf("the error is at %v", paths(err))
			}
		}
	}
}

func TestSPIFFETrustDomainSetting(t *testing.T) {
	t.Parallel()
	for setting, ok := range map[string]bool{
		"example.com": true, "spiffe://example.com": true, "spiffe://example.com/any/path": true,
		"Example.com": false, "https://example.com": false, "spiffe://example.com/": false, "example.com/a": false, "example.com:80": false,
	} {
		entry := entryOf(TypeSPIFFE)
		entry.SPIFFETrustDomain = setting
		rules, _, err := NewRules(Config{Issuers: []IssuerConfig{entry}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", setting, err)
		}
		if err == nil {
			mustIdentify(t, rules, mustClaims(t, `{"sub":"spiffe://example.com/a"}`))
		}
	}
}

func TestTypesAreTheTypesThatNewRulesKnows(t *testing.T) {
	t.Parallel()
	for _, issuerType := range Types() {
		_, _, err := NewRules(Config{Issuers: []IssuerConfig{{Key: "https://a.example", Static: true, Type: issuerType}}})
		if err != nil && strings.Contains(err.Error(), "there is no issuer type") {
			t.Errorf("%s: %v", issuerType, err)
		}
	}
}

func TestEveryExtensionKeyCanBeATemplate(t *testing.T) {
	t.Parallel()
	provider := CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.sub}}", ExtensionTemplates: map[string]string{}}
	want := ext(issuerURL, "s", nil)
	for _, e := range certs.Table() {
		if e.Key != "" {
			provider.ExtensionTemplates[e.Key] = fmt.Sprintf(`{{"%d"}}`, e.Arc)
			want[e.Arc] = fmt.Sprint(e.Arc)
		}
	}
	if len(provider.ExtensionTemplates) != 20 {
		t.Errorf("the table has %d keys, want 20", len(provider.ExtensionTemplates))
	}
	if got := mustIdentify(t, rulesOf(t, ciEntry(), provider), mustClaims(t, `{"sub":"s"}`)); got.Extensions != want {
		t.Errorf("got %q, want %q", got.Extensions, want)
	}
}
