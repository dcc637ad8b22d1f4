// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/oidc"
)

const good = `oidc-issuers:
  https://a.example:
    issuer-url: https://a.example
    client-id: sigstore
    type: email
`

// lines returns an error's text as lines, nil for nil.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestIssuersUnderCompat(t *testing.T) {
	t.Parallel()
	t.Run("YAML: what the peer ignores is ignored, with a warning", func(t *testing.T) {
		t.Parallel()
		content := `oidc-issuers:
  https://a.example:
    issuer-url: https://a.example
    client-id: 42
    Type: uri
    type: email
    skip-email-verification: yes
meta-issuers:
  https://*.example:
    issuer-url: https://x.example
    client-id: sigstore
---
second: document
`
		issuers, warnings, err := config.ParseIssuers("f", []byte(content), true, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"f:4:16: found the number 42, expected text: it is taken as it is written here; write it in quotes",
			`f:5:5: unknown key "Type"; did you mean "type"?`,
			`f:7:30: found "yes", expected true or false`,
			`f:10:17: issuer-url "https://x.example" is not the entry's pattern "https://*.example": remove it, only the pattern counts`,
			"f:12:1: a second YAML document begins here, and only the first one is read",
		}
		if diff := cmp.Diff(want, lines(config.Mistakes(warnings))); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
		wantIssuers := []config.Issuer{
			entry("https://a.example", func(e *config.Issuer) { e.ClientID, e.Type, e.SkipEmailVerification = "42", "email", true }),
			entry("https://*.example", func(e *config.Issuer) { e.ClientID, e.IssuerURL = "sigstore", "https://x.example" }),
		}
		if diff := cmp.Diff(wantIssuers, issuers.Entries); diff != "" {
			t.Errorf("issuers (-want +got):\n%s", diff)
		}
	})
	t.Run("JSON: what the peer folds is folded, with a warning", func(t *testing.T) {
		t.Parallel()
		content := `{"oidcissuers": {"https://a.example": {"issuerURL": "https://a.example", "ClientID": "x", "CLIENTID": "sigstore", "Typo": 1}}}`
		issuers, warnings, err := config.ParseIssuers("f", []byte(content), true, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`f:1:2: the key "oidcissuers" is spelled "OIDCIssuers"`,
			`f:1:40: the key "issuerURL" is spelled "IssuerURL"`,
			`f:1:91: the key "CLIENTID" is spelled "ClientID"`,
			`f:1:91: the key "CLIENTID" is repeated, first in line 1, and the last one counts`,
			`f:1:115: unknown key "Typo"; did you mean "Type"?`,
		}
		if diff := cmp.Diff(want, lines(config.Mistakes(warnings))); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
		wantIssuers := []config.Issuer{entry("https://a.example", func(e *config.Issuer) { e.ClientID = "sigstore" })}
		if diff := cmp.Diff(wantIssuers, issuers.Entries); diff != "" {
			t.Errorf("issuers (-want +got):\n%s", diff)
		}
	})
	t.Run("what the peer refuses or cannot use stays a mistake", func(t *testing.T) {
		t.Parallel()
		content := good + "    type: uri\n  https://b.example:\n    issuer-url: https://c.example\n"
		_, _, err := config.ParseIssuers("f", []byte(content), true, nil)
		want := []string{
			`f:6:5: the key "type" is repeated, first in line 5`,
			`f:7:3: client-id is missing: it is the audience that a token must name`,
			`f:8:17: issuer-url "https://c.example" is not the entry's key "https://b.example"; both must be equal, a trailing slash included`,
		}
		if diff := cmp.Diff(want, lines(err)); diff != "" {
			t.Errorf("mistakes (-want +got):\n%s", diff)
		}
	})
}

// full has every key of an issuer file, in the peer's notations: anchors under define, an alias as
// a mapping key, merge keys.
const full = `define:
  - &gh "github-workflow"
  - &common {client-id: sigstore, contact: nobody, description: merged}
oidc-issuers:
  https://a.example:
    <<: *common
    issuer-url: https://a.example
    audiences: [other, third]
    signing-algorithms: [ES256]
    type: ci-provider
    ci-provider: *gh
    issuer-claim: $.a
    subject-domain: https://a.example
    spiffe-trust-domain: a.example
    challenge-claim: sub
    skip-email-verification: true
    allowed-email-domains: [a.example]
    ca-cert: |
      -----BEGIN CERTIFICATE-----
      -----END CERTIFICATE-----
    allow-private-network: true
    jwks-hosts: [keys.a.example]
    constants: {url: https://a.example}
    tests:
      - claims: {sub: x, n: 1536140711, f: 1.5, b: true, z: null, l: [1, "<a>"], o: {p: q}}
        san: https://a.example/x
        extensions: {build-signer-uri: https://a.example/y}
      - {claims: {}, reason: CLAIM_MISSING}
    description: own
    contact: me
    environment: prod
meta-issuers:
  https://*.a.example:
    client-id: sigstore
    type: kubernetes
ci-issuer-metadata:
  *gh :
    default-template-values: {url: https://github.com, Environment: "", oidc.example/a-b: x}
    extension-templates:
      build-signer-uri: "{{ .url }}/{{ .job_workflow_ref }}"
      source-repository-visibility-at-signing: repository_visibility
    subject-alternative-name-template: "{{ .url }}/{{ .sub }}"
`

const fullJSON = `{
 "OIDCIssuers": {
  "https://a.example": {
    "IssuerURL": "https://a.example", "ClientID": "sigstore", "Audiences": ["other", "third"], "SigningAlgorithms": ["ES256"],
    "Type": "ci-provider", "CIProvider": "github-workflow", "IssuerClaim": "$.a", "SubjectDomain": "https://a.example",
    "SPIFFETrustDomain": "a.example", "ChallengeClaim": "sub", "SkipEmailVerification": true,
    "AllowedEmailDomains": ["a.example"], "CACert": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "AllowPrivateNetwork": true, "JWKSHosts": ["keys.a.example"], "Constants": {"url": "https:\/\/a.example"},
    "Tests": [
      {"Claims": {"sub": "x", "n": 1536140711, "f": 1.5, "b": true, "z": null, "l": [1, "<a>"], "o": {"p": "q"}},
       "SAN": "https://a.example/x", "Extensions": {"BuildSignerURI": "https://a.example/y"}},
      {"Claims": {}, "Reason": "CLAIM_MISSING"}],
    "Description": "own", "Contact": "me", "Environment": "prod"}},
 "MetaIssuers": {"https://*.a.example": {"ClientID": "sigstore", "Type": "kubernetes"}},
 "CIIssuerMetadata": {"github-workflow": {
    "DefaultTemplateValues": {"url": "https://github.com", "Environment": "", "oidc.example/a-b": "x"},
    "ExtensionTemplates": {
      "BuildSignerURI": "{{ .url }}/{{ .job_workflow_ref }}",
      "SourceRepositoryVisibilityAtSigning": "repository_visibility"},
    "SubjectAlternativeNameTemplate": "{{ .url }}/{{ .sub }}"}}
}
`

// entry returns the entry of a key, completed by set.
func entry(key string, set func(*config.Issuer)) config.Issuer {
	e := config.Issuer{}
	e.IssuerConfig = identity.IssuerConfig{Key: key, Static: !strings.Contains(key, "*"), Path: []string{"meta-issuers", key}}
	if e.Static {
		e.Path[0], e.IssuerURL = "oidc-issuers", key
	}
	set(&e)
	return e
}

// fullIssuers returns the content of full.
func fullIssuers() *config.Issuers {
	return &config.Issuers{
		Entries: []config.Issuer{
			entry("https://a.example", func(e *config.Issuer) {
				e.ClientID, e.Audiences = "sigstore", []string{"other", "third"}
				e.Connection = oidc.Issuer{
					SigningAlgorithms: []string{"ES256"}, CACert: []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
					AllowPrivateNetwork: true, JWKSHosts: []string{"keys.a.example"},
				}
				e.Type, e.CIProvider, e.IssuerClaim, e.SubjectDomain = "ci-provider", "github-workflow", "$.a", "https://a.example"
				e.SPIFFETrustDomain, e.ChallengeClaim, e.SkipEmailVerification = "a.example", "sub", true
				e.AllowedEmailDomains, e.Constants = []string{"a.example"}, map[string]string{"url": "https://a.example"}
				e.Tests = []config.IssuerTest{
					{
						Claims:     []byte(`{"b":true,"f":1.5,"l":[1,"\u003ca\u003e"],"n":1536140711,"o":{"p":"q"},"sub":"x","z":null}`),
						SAN:        "https://a.example/x",
						Extensions: map[string]string{"build-signer-uri": "https://a.example/y"},
					},
					{Claims: []byte(`{}`), Reason: "CLAIM_MISSING"},
				}
				e.Description, e.Contact, e.Environment = "own", "me", "prod"
			}),
			entry("https://*.a.example", func(e *config.Issuer) { e.ClientID, e.Type = "sigstore", "kubernetes" }),
		},
		CIIssuerMetadata: map[string]identity.CIProvider{"github-workflow": {
			DefaultTemplateValues: map[string]string{"url": "https://github.com", "Environment": "", "oidc.example/a-b": "x"},
			ExtensionTemplates: map[string]string{
				"build-signer-uri":                        "{{ .url }}/{{ .job_workflow_ref }}",
				"source-repository-visibility-at-signing": "repository_visibility",
			},
			SubjectAlternativeNameTemplate: "{{ .url }}/{{ .sub }}",
		}},
	}
}

// TestCompatStillRequires tests that under compat a warning never hides a mistake: a misspelt key is
// also a missing one.
func TestCompatStillRequires(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"{issuer-url: https://a.example, cliet-id: x, type: email}":                     "f:2:3: client-id is missing",
		"{isuer-url: https://a.example, client-id: x, type: email}":                     "f:2:3: issuer-url is missing",
		"{issuer-url: https://b.example/.well-known/openid, client-id: x, type: email}": "f:2:35: issuer-url \"https://b.example/",
	} {
		_, _, err := config.ParseIssuers("f", []byte("oidc-issuers:\n  https://a.example: "+content+"\n"), true, nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, expected %s", content, err, want)
		}
	}
}

// Under compat, the last spelling of a list counts, as in the peer's JSON reader: an audience of the
// first one is not trusted.
func TestCompatTakesTheLastList(t *testing.T) {
	t.Parallel()
	issuers, _, err := config.ParseIssuers("f", []byte(`{"OIDCIssuers": {"https://a.example": {"IssuerURL": "https://a.example",
		"ClientID": "x", "Type": "email", "Audiences": ["old"], "audiences": ["new"]}}}`), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"new"}, issuers.Entries[0].Audiences); diff != "" {
		t.Errorf("audiences (-want +got):\n%s", diff)
	}
}

func TestYAMLAndJSONSayTheSame(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"YAML":                         full,
		"YAML after a byte order mark": "\ufeff" + full,
		"JSON":                         fullJSON,
		"JSON after space":             " \n\t" + fullJSON,
	} {
		got, warnings, err := config.ParseIssuers("f", []byte(content), false, nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: mistakes %v, warnings %v", name, err, warnings)
		}
		if diff := cmp.Diff(fullIssuers(), got, cmpopts.IgnoreFields(config.Issuers{}, "File", "OIDCIssuers", "MetaIssuers")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMergeKeys(t *testing.T) {
	t.Parallel()
	issuers, _, err := config.ParseIssuers("f", []byte(`
define:
  - &a {client-id: a, contact: a, type: a}
  - &b {client-id: b, contact: b, description: b}
oidc-issuers:
  https://x.example:
    <<: [*a, *b]
    issuer-url: https://x.example
    type: own
`), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Issuer{entry("https://x.example", func(e *config.Issuer) { e.ClientID, e.Contact, e.Type, e.Description = "a", "a", "own", "b" })}
	if diff := cmp.Diff(want, issuers.Entries); diff != "" {
		t.Errorf("issuers (-want +got):\n%s", diff)
	}
}

func TestIssuersWithPlaces(t *testing.T) {
	t.Parallel()
	paths := [][]string{
		{"oidc-issuers", "https://a.example", "type"},
		{"oidc-issuers", "https://a.example"},
		{"oidc-issuers", "https://a.example", "tests", "1", "reason"},
		{"oidc-issuers", "https://a.example", "tests", "7"},
		{"oidc-issuers", "https://a.example", "jwks-hosts"},
		{"oidc-issuers", "https://a.example", "jwks-hosts", "0"},
		{"meta-issuers", "https://*.a.example", "subject-domain"},
		{"ci-issuer-metadata", "github-workflow", "extension-templates", "build-signer-uri"},
		{"ci-issuer-metadata", "github-workflow", "extension-templates", "source-repository-visibility-at-signing"},
		{"ci-issuer-metadata", "github-workflow", "subject-alternative-name-template", "beyond"},
		{"ci-issuer-metadata", "missing", "extension-templates"},
		{"nothing"},
	}
	var errs []error
	for i, path := range paths {
		errs = append(errs, keypath.Errorf(path, "number %d", i))
	}
	err := errors.Join(append(errs, errors.New("no path"))...)
	for _, tt := range []struct {
		name, content string
		want          []string
	}{
		{"YAML", full, []string{
			"f:10:11: number 0", "f:5:3: number 1", "f:28:30: number 2", "f:24:5: number 3", "f:22:5: number 4", "f:22:18: number 5",
			"f:33:3: number 6", "f:40:25: number 7", "f:41:48: number 8", "f:42:40: number 9", "f:36:1: number 10", "f:1:1: number 11",
			"f: no path"}},
		{"JSON", fullJSON, []string{
			"f:5:13: number 0", "f:3:3: number 1", "f:12:32: number 2", "f:9:5: number 3", "f:8:34: number 4", "f:8:48: number 5",
			"f:14:18: number 6", "f:18:25: number 7", "f:19:46: number 8", "f:20:39: number 9", "f:15:2: number 10", "f:1:1: number 11",
			"f: no path"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			issuers, _, parseErr := config.ParseIssuers("f", []byte(tt.content), false, nil)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			if diff := cmp.Diff(tt.want, lines(issuers.WithPlaces(err))); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
			if err := issuers.WithPlaces(nil); err != nil {
				t.Errorf("no error is explained as %v", err)
			}
		})
	}
}

func TestIssuerFileBounds(t *testing.T) {
	t.Parallel()
	var laughs strings.Builder
	laughs.WriteString(good + "define:\n  - &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&laughs, "  - &a%d [%s*a%d]\n", i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	for _, tt := range []struct {
		name, content, want string
	}{
		{"billion laughs", laughs.String(), "holds more than 100000 values once its aliases are expanded"},
		{"merged laughs", strings.Replace(laughs.String(), "[*a", "[<<, *a", 1), "holds more than 100000 values once its aliases are expanded"},
		{"many values in JSON", `{"a":[` + strings.Repeat("1,", 200_000) + "1]}", "holds more than 100000 values"},
		{"large file", good + "#" + strings.Repeat("x", 1<<20), "the file is larger than 1 MiB"},
		{"long key", good + "? " + strings.Repeat("é", 500) + "\n: x\n", "unknown key \"" + strings.Repeat("é", 100) + "…\""},
		{"deep YAML", "a: " + strings.Repeat("[", 500_000), "the file is not YAML: exceeded max depth of 10000"},
		{"deep JSON", strings.Repeat(`{"a":`, 200_000), "exceeded max depth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := config.ParseIssuers("f", []byte(tt.content), false, nil)
			if got := lines(err); len(got) != 1 || !strings.Contains(got[0], tt.want) {
				t.Errorf("got %q, want one mistake with %q", got, tt.want)
			}
		})
	}
}

func TestManyMistakesAreCounted(t *testing.T) {
	t.Parallel()
	_, _, err := config.ParseIssuers("f", []byte(good+strings.Repeat("    type: x\n", 300)), false, nil)
	got := lines(err)
	if len(got) != 101 || got[0] != `f:6:5: the key "type" is repeated, first in line 5` || got[100] != "f: and 200 more" {
		t.Errorf("%d mistakes, the last %q", len(got), got[len(got)-1])
	}
}

func TestLoadIssuersReadsTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "issuers.yaml")
	if _, _, err := config.LoadIssuers(path, false, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte(good+"# "+strings.Repeat("x", 2<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := config.LoadIssuers(path, false, nil); err == nil || !strings.Contains(err.Error(), path+" has more than 1048576 bytes") {
		t.Errorf("large file: %v", err)
	}
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	issuers, _, err := config.LoadIssuers(path, false, nil)
	if err != nil || len(issuers.Entries) != 1 || issuers.File.Name() != path {
		t.Errorf("got %v, %v", issuers, err)
	}
}

// FuzzParseIssuers checks that parsing returns for every file, with a result or with mistakes at
// places inside of the file, and that compat never refuses more.
func FuzzParseIssuers(f *testing.F) {
	for _, seed := range []string{good, full, fullJSON, "", "{}", "&a [*a]", "a: &x {<<: *x}", "? [a]\n: b", "{\"a\":\"\\ud800\"}", "a: !!float x\n", "%YAML 1.1\n---\na: b\n...\n", "\ufeff{", "a: |\n  b\n# c", "<<: [{a: b}, {c: d}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		count := strings.Count(string(content), "\n") + strings.Count(string(content), "\r") +
			strings.Count(string(content), "\u0085") + strings.Count(string(content), "\u2028") + strings.Count(string(content), "\u2029") + 2
		issuers, _, err := config.ParseIssuers("f", content, false, nil)
		if (err == nil) != (issuers != nil) {
			t.Fatalf("issuers %v and error %v", issuers, err)
		}
		if mistakes := (config.Mistakes)(nil); errors.As(err, &mistakes) {
			for _, m := range mistakes {
				if m.Line < 0 || m.Line > count || m.Line > 0 && m.Column < 1 || m.Text == "" {
					t.Errorf("mistake %+v of a file of %d lines", m, count)
				}
			}
		} else if err != nil {
			t.Fatalf("error %T: %v", err, err)
		}
		if _, _, lenient := config.ParseIssuers("f", content, true, nil); err == nil && lenient != nil {
			t.Errorf("compat refuses: %v", lenient)
		}
	})
}
