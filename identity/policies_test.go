// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// No claim of any kind replaces a constant, and the entry's constants override the provider's.
func TestConstants(t *testing.T) {
	t.Parallel()
	provider := CIProvider{
		DefaultTemplateValues:          map[string]string{"region": "eu"},
		Constants:                      map[string]string{"url": "https://ci.example"},
		SubjectAlternativeNameTemplate: "{{.url}}/{{.region}}/{{.project}}",
	}
	own := ciEntry()
	own.Constants = map[string]string{"url": "https://own.example", "region": "us"}
	for _, claims := range []string{
		`{"sub":"s","project":"p"}`,
		`{"sub":"s","project":"p","url":"https://evil.example"}`,
		`{"sub":"s","project":"p","url":null}`,
		`{"sub":"s","project":"p","url":["x"]}`,
		`{"sub":"s","project":"p","url":""}`,
	} {
		if got := mustIdentify(t, rulesOf(t, ciEntry(), provider), mustClaims(t, claims)).SAN.Value; got != "https://ci.example/eu/p" {
			t.Errorf("%s: %s", claims, got)
		}
		if got := mustIdentify(t, rulesOf(t, own, provider), mustClaims(t, claims)).SAN.Value; got != "https://own.example/us/p" {
			t.Errorf("%s, the entry's constants: %s", claims, got)
		}
	}
	// The claims of other names are read as usual.
	if got := mustIdentify(t, rulesOf(t, ciEntry(), provider), mustClaims(t, `{"sub":"s","project":"p","region":"asia"}`)).SAN.Value; got != "https://ci.example/asia/p" {
		t.Error(got)
	}
}

func TestMistakesInConstantsAndPolicies(t *testing.T) {
	t.Parallel()
	person := entryOf(TypeEmail)
	person.Key, person.IssuerURL = "https://person.example", "https://person.example"
	person.Constants = map[string]string{"a": "b"}
	person.Policy = policy.Config{Allow: []policy.Rule{{Name: "a", When: "claims."}}}
	profile := person
	profile.Profile, profile.Path = "p", []string{"oidc-issuers", person.Key, "profiles", "0"}
	profile.Constants, profile.Policy = nil, policy.Config{Mode: "odit"}
	ci := ciEntry()
	ci.Constants = map[string]string{"ulr": "x"}
	_, _, err := NewRules(Config{
		Issuers: []IssuerConfig{person, profile, ci},
		CIProviders: map[string]CIProvider{
			"ci": {SubjectAlternativeNameTemplate: "{{.url}}"},
			"odd": {
				SubjectAlternativeNameTemplate: "{{.url}}",
				DefaultTemplateValues:          map[string]string{"url": "x"},
				Constants:                      map[string]string{"url": "x", "urs": "y"},
			},
		},
	})
	var got []string
	for _, e := range keypath.All(err) {
		got = append(got, strings.Join(e.Path, " "))
	}
	slices.Sort(got)
	got = slices.Compact(got) // CEL reports one mistake twice
	want := []string{
		"ci-issuer-metadata odd constants url",
		"ci-issuer-metadata odd constants urs",
		"oidc-issuers " + issuerURL + " constants ulr",
		"oidc-issuers https://person.example allow 0 when",
		"oidc-issuers https://person.example constants",
		"oidc-issuers https://person.example profiles 0 mode",
		"oidc-issuers https://person.example profiles 0 mode",
	}
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
		t.Errorf("paths of mistakes (-want +got):\n%s\n%v", diff, err)
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
	rules := mustRules(t, Config{
		Issuers: []IssuerConfig{entry, shadow},
		Observe: func(entry, profile string, d policy.Decision) {
			seen = append(seen, fmt.Sprint(entry, " ", profile, " ", d.Result(), " ", d.Audit))
		},
	})
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
