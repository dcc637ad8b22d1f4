// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/config"
)

func shipped(t *testing.T) *config.Issuers {
	t.Helper()
	issuers, warnings, err := config.LoadIssuers("issuers.yaml", false)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("mistakes %v, warnings %v", err, warnings)
	}
	return issuers
}

// TestShippedIssuers holds the list of issuers that the shipped file trusts by default.
func TestShippedIssuers(t *testing.T) {
	t.Parallel()
	type entry struct{ Key, Type, CIProvider string }
	var got []entry
	for _, i := range shipped(t).Entries {
		if i.ClientID != "sigstore" {
			t.Errorf("%s: client-id %q", i.Key, i.ClientID)
		}
		if i.Wildcard != strings.Contains(i.Key, "*") {
			t.Errorf("%s: wildcard %v", i.Key, i.Wildcard)
		}
		if i.SkipEmailVerification || i.AllowPrivateNetwork || i.CACert != "" {
			t.Errorf("%s: %+v", i.Key, i)
		}
		// The peer reads this file too and has none of these keys.
		if i.Audiences != nil || i.SigningAlgorithms != nil || i.AllowedEmailDomains != nil || i.JWKSHosts != nil || i.Tests != nil || i.Constants != nil {
			t.Errorf("%s has keys that the peer does not know", i.Key)
		}
		got = append(got, entry{i.Key, i.Type, i.CIProvider})
	}
	want := []entry{
		{"https://accounts.google.com", "email", ""},
		{"https://oauth2.sigstore.dev/auth", "email", ""},
		{"https://token.actions.githubusercontent.com", "ci-provider", "github-workflow"},
		{"https://gitlab.com", "ci-provider", "gitlab-pipeline"},
		{"https://agent.buildkite.com", "ci-provider", "buildkite-job"},
		{"https://oidc.codefresh.io", "ci-provider", "codefresh-workflow"},
		{"https://oidc.circleci.com", "ci-provider", "circleci-job"},
		{"https://oidc.buddyusercontent.com", "ci-provider", "buddy-pipeline"},
		{"https://eu-oidc.buddyusercontent.com", "ci-provider", "buddy-pipeline"},
		{"https://asia-oidc.buddyusercontent.com", "ci-provider", "buddy-pipeline"},
		{"https://oidc.eks.*.amazonaws.com/id/*", "kubernetes", ""},
		{"https://container.googleapis.com/v1/projects/*/locations/*/clusters/*", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*/", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*/*", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*/*/", "kubernetes", ""},
		{"https://*.oic.prod-aks.azure.com/*/*", "kubernetes", ""},
		{"https://*.oic.prod-aks.azure.com/*/*/", "kubernetes", ""},
		{"https://oidc.circleci.com/org/*", "ci-provider", "circleci-job"},
		{"https://token.actions.githubusercontent.com/*", "ci-provider", "github-workflow"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("issuers (-want +got):\n%s", diff)
	}
}

// expectation is a file of testdata/want: the expected result for the claim set of the same name.
type expectation struct {
	Entry      string            // the key of the issuer entry
	Issuer     string            // extensions .1 and .8
	SAN        string            // the certificate's name
	Extensions map[string]string // .2 to .23 by their YAML key; an extension not named is absent
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestShippedTemplates renders the templates over claim sets from the providers' documentation. It
// has its own small implementation of the peer's rules; other tests check package identity against
// the same files.
func TestShippedTemplates(t *testing.T) {
	t.Parallel()
	issuers := shipped(t)
	files, err := filepath.Glob("testdata/claims/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("claim sets: %v, %v", files, err)
	}
	used := map[string]bool{}
	for _, file := range files {
		var claims map[string]any
		readJSON(t, file, &claims)
		var want expectation
		readJSON(t, filepath.Join("testdata/want", filepath.Base(file)), &want)
		i := slices.IndexFunc(issuers.Entries, func(i config.Issuer) bool { return i.Key == want.Entry })
		if i < 0 {
			t.Errorf("%s: no entry %q", file, want.Entry)
			continue
		}
		entry := issuers.Entries[i]
		if entry.Type != "ci-provider" {
			continue
		}
		provider, ok := issuers.CIProviders[entry.CIProvider]
		if !ok {
			t.Errorf("%s: no provider %q", file, entry.CIProvider)
			continue
		}
		used[entry.CIProvider] = true
		got := expectation{Entry: entry.Key, Issuer: claims["iss"].(string), Extensions: map[string]string{}}
		got.SAN = render(t, provider, claims, provider.SubjectAlternativeNameTemplate)
		for key, text := range provider.ExtensionTemplates {
			if value := render(t, provider, claims, text); value != "" {
				got.Extensions[key] = value
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	for name := range issuers.CIProviders {
		if !used[name] {
			t.Errorf("no claim set for %s", name)
		}
	}
}

func render(t *testing.T, provider config.CIProvider, claims map[string]any, text string) string {
	t.Helper()
	values := map[string]string{}
	for name, value := range provider.DefaultTemplateValues {
		values[name] = value
	}
	for name, value := range claims {
		switch v := value.(type) {
		case string:
			values[name] = v
		case bool:
			values[name] = strconv.FormatBool(v)
		case float64:
			values[name] = strconv.FormatFloat(v, 'f', -1, 64)
		}
	}
	if !strings.Contains(text, "{{") {
		value, ok := values[text]
		if !ok {
			t.Errorf("%q names neither a claim nor a default", text)
		}
		return value
	}
	parsed, err := template.New("").Option("missingkey=error").Parse(text)
	if err != nil {
		t.Errorf("%q: %v", text, err)
		return ""
	}
	var out strings.Builder
	if err := parsed.Execute(&out, values); err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return out.String()
}
