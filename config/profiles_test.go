// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Profiles, rules and constants are read equally from YAML and JSON, and have their places.
func TestProfilesAndRules(t *testing.T) {
	t.Parallel()
	want := entry("https://a.example", func(e *config.Issuer) {
		e.ClientID, e.Type = "sigstore", "email"
		e.Policy = policy.Config{Mode: "audit", Allow: []policy.Rule{{Name: "ours", When: `claims.hd == "x"`}}}
		e.Profiles = make([]config.NamedProfile, 2)
		for i, name := range []string{"one", "two"} {
			p := &e.Profiles[i]
			p.Name, p.ClientID, p.IssuerConfig.Profile, p.Key, p.Static = name, name, name, e.Key, true
			p.Path = []string{"oidc-issuers", "https://a.example", "profiles", strconv.Itoa(i)}
		}
		e.Profiles[0].Type, e.Profiles[0].Constants, e.Profiles[1].Audiences = "ci-provider", map[string]string{"url": "u"}, []string{"too"}
	})
	for name, content := range map[string]string{
		"yaml": `oidc-issuers:
  https://a.example:
    issuer-url: https://a.example
    client-id: sigstore
    type: email
    mode: audit
    allow: [{name: ours, when: 'claims.hd == "x"'}]
    profiles:
      - {name: one, client-id: one, type: ci-provider, constants: {url: u}}
      - {name: two, client-id: two, audiences: [too]}
ci-issuer-metadata:
  ci: {constants: {a: b}, distinct-claims: true}
`,
		"json": `{"OIDCIssuers": {"https://a.example": {"IssuerURL": "https://a.example", "ClientID": "sigstore", "Type": "email", "Mode": "audit",
			"Allow": [{"Name": "ours", "When": "claims.hd == \"x\""}], "Profiles": [
			{"Name": "one", "ClientID": "one", "Type": "ci-provider", "Constants": {"url": "u"}},
			{"Name": "two", "ClientID": "two", "Audiences": ["too"]}]}},
			"CIIssuerMetadata": {"ci": {"Constants": {"a": "b"}, "DistinctClaims": true}}}`,
	} {
		issuers, warnings, err := config.ParseIssuers("f", []byte(content), false, nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v %v", name, err, warnings)
		}
		if diff := cmp.Diff([]config.Issuer{want}, issuers.Entries); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := issuers.CIIssuerMetadata["ci"].Constants["a"]; got != "b" {
			t.Errorf("%s: constant %q", name, got)
		}
		if !issuers.CIIssuerMetadata["ci"].DistinctClaims {
			t.Errorf("%s: distinct-claims was not read", name)
		}
		all := issuers.Entries[0].All()
		place := issuers.WithPlaces(keypath.Errorf(append(all[2].Path, "client-id"), "")).(config.Mistakes)[0]
		line, column := place.Line, place.Column
		if found := strings.Split(content, "\n")[line-1][column-1:]; !strings.HasPrefix(found, "two") && !strings.HasPrefix(found, `"two"`) {
			t.Errorf("%s: the second profile's client-id is at %q", name, found)
		}
		if len(issuers.File.Digest()) != 16 {
			t.Errorf("digest %q", issuers.File.Digest())
		}
	}
}

// BuildIssuers returns mistakes of build with those of the file itself, in the order of the file,
// without likely consequences of other mistakes.
func TestBuildIssuers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f")
	content := good + "  https://b.example:\n    issuer-url: https://b.example\n    client-id: sigstore\n    tpye: email\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	issuers, warnings, err := config.LoadIssuers(file, false, func(i *config.Issuers) ([]error, error) {
		if len(i.Entries) != 2 {
			t.Errorf("%d entries", len(i.Entries))
		}
		return []error{keypath.Errorf([]string{"oidc-issuers", "https://b.example", "client-id"}, "a warning")}, errors.Join(
			keypath.Errorf([]string{"oidc-issuers", "https://b.example", "type"}, "an echo: the key is misspelt"),
			keypath.Errorf([]string{"oidc-issuers", "https://a.example", "type"}, "a mistake of its own"),
			keypath.Errorf([]string{"oidc-issuers", "https://a.example", "missing"}, "a missing key"),
		)
	})
	if issuers != nil {
		t.Error("issuers beside mistakes")
	}
	want := []string{
		file + ":2:3: a missing key",
		file + ":5:11: a mistake of its own",
		file + `:9:5: unknown key "tpye"; did you mean "type"?`,
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	if len(warnings) != 1 || warnings[0].Line != 8 {
		t.Errorf("warnings %v", warnings)
	}
	if _, _, err := config.LoadIssuers(file+"x", false, nil); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestIsServer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f")
	for content, want := range map[string]bool{
		"issuers: a.yaml":        true,
		"listen: {http: a}":      true,
		"oidc-issuers: {}":       false,
		"oidc-issuer: {}":        false,
		`{"OIDCIssuers": {}}`:    false,
		"":                       false,
		"issuers: [unclosed":     false,
		"define: {}\nct: {a: b}": true,
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := config.IsServer(file); got != want || err != nil {
			t.Errorf("%q: %v, %v", content, got, err)
		}
	}
	if _, err := config.IsServer(file + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
}
