// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// The built-in templates decide what certificates state: each change is for users to know of.
func TestBuiltInProvidersStay(t *testing.T) {
	t.Parallel()
	providers, err := BuiltIn()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, provider := range providers {
		text, err := json.Marshal(provider)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = fmt.Sprintf("%x", sha256.Sum256(text))[:16]
	}
	want := map[string]string{
		"buddy-pipeline":     "b4315ab5c2b1caa3",
		"buildkite-job":      "efbf65a49607158e",
		"circleci-job":       "079859c15662e454",
		"codefresh-workflow": "f9c2aaccb01fd818",
		"github-workflow":    "4e88d247de812583",
		"gitlab-pipeline":    "0c69e6954893d985",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a built-in CI provider changed: describe the change in CHANGELOG.md, then write its new digest here (-want +got):\n%s", diff)
	}
}

// An entry of the file replaces the built-in provider of its name, with nothing left of that.
func TestOwnProviderReplacesTheBuiltIn(t *testing.T) {
	t.Parallel()
	own := CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.repository}}"}
	for want, providers := range map[string]map[string]CIProvider{
		"https://ci.example/octo-org/octo-repo":                                         {"github-workflow": own},
		"https://github.com/octo-org/shared/.github/workflows/release.yml@refs/tags/v1": nil,
	} {
		entry := entryOf(TypeCIProvider)
		entry.CIProvider = "github-workflow"
		rules, warnings, err := NewRules(Config{Issuers: []IssuerConfig{entry}, CIProviders: providers})
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		id, err := rules.Identify(tokenOf(ciClaims(t, "github-workflow")))
		if err != nil || id.SAN.Value != want {
			t.Errorf("%v, %v; want %s", id, err, want)
		}
	}
}

// The text of built-in providers is read as those providers.
func TestBuiltInText(t *testing.T) {
	t.Parallel()
	all, err := BuiltIn()
	if err != nil {
		t.Fatal(err)
	}
	users := map[string][]string{}
	for name := range all {
		users[name] = []string{"https://a.example", "https://b.example"}
	}
	for name := range all {
		text := BuiltInText(map[string][]string{name: users[name]})
		var one struct {
			Providers map[string]CIProvider `yaml:"ci-issuer-metadata"`
		}
		err := yaml.Unmarshal([]byte(text), &one)
		if err != nil || !strings.Contains(text, "  # Used by https://a.example, https://b.example\n  ") {
			t.Errorf("%v in\n%s", err, text)
		}
		if diff := cmp.Diff(map[string]CIProvider{name: all[name]}, one.Providers); diff != "" {
			t.Error(diff)
		}
	}
}
