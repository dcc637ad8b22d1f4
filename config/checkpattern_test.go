// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

// These patterns have meanings that no author intends.
func TestPatterns(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"https://*.com":                                 "mistake: anyone can register a domain",
		"https://accounts.*.com":                        "mistake: anyone can register a domain",
		"https://login-*.co.uk/x":                       "mistake: anyone can register a domain",
		"https://accounts.google.*":                     "mistake: anyone can register a domain",
		"https://x.*.ck":                                "mistake: anyone can register a domain",
		"https://*.example.com/**":                      "mistake: ** matches",
		"https://*.azurewebsites.net":                   "warning: the public suffix list",
		"https://a.example.com/x":                       "warning: the pattern",
		"https://*.corp":                                "",
		"https://*.cluster.local":                       "",
		"https://*.example.co.uk":                       "",
		"https://a.example.com:8443/*":                  "",
		"https://oidc.eks.*.amazonaws.com/id/*":         "",
		"https://*.oic.prod-aks.azure.com/*/*":          "",
		"https://token.actions.githubusercontent.com/*": "",
		"http://*:80/x":                                 "",
	} {
		for _, compat := range []bool{false, true} {
			content := fmt.Sprintf("meta-issuers:\n  %q:\n    client-id: sigstore\n    type: kubernetes\n", pattern)
			_, warnings, err := config.ParseIssuers("f", []byte(content), compat, nil)
			got := ""
			if err != nil {
				got += "mistake: " + err.Error()
			}
			for _, w := range warnings {
				got += "warning: " + w.Error()
			}
			want := want
			if compat {
				want = strings.Replace(want, "mistake", "warning", 1)
			}
			kind, text, _ := strings.Cut(want, ": ")
			if want == "" && got != "" || want != "" && !strings.HasPrefix(got, kind+": f:2:3: "+text) {
				t.Errorf("%s, compat %v: got %q, want %q", pattern, compat, got, want)
			}
		}
	}
}

// A value that the peer reads as text is text, as written, with a warning.
func TestPlainText(t *testing.T) {
	t.Parallel()
	content := good + `    contact: true
    description: 2026-01-01
    environment: ~
ci-issuer-metadata:
  ci:
    default-template-values: {n: 5, hex: 0x1F, octal: 010, float: 1.50, yes: yes, off: off}
`
	issuers, warnings, err := config.ParseIssuers("f", []byte(content), false, nil)
	if err != nil || len(warnings) != 6 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	if e := issuers.Entries[0]; e.Contact != "true" || e.Description != "2026-01-01" || e.Environment != "" {
		t.Errorf("entry %+v", e)
	}
	for name, want := range map[string]string{"n": "5", "hex": "0x1F", "octal": "010", "float": "1.50", "yes": "yes", "off": "off"} {
		if got := issuers.CIIssuerMetadata["ci"].DefaultTemplateValues[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// A line with several mistakes, as in minified JSON, gets each of them reported, and no echo.
func TestMistakesOfOneLine(t *testing.T) {
	t.Parallel()
	content := `{"OIDCIssuers":{"https://a.example":{"IssuerURL":"https://b.example","ClientID":[],"Type":"email"},"https://c.example":{"IssuerURL":"https://c.example","Client_ID":"x","Type":7}}}`
	_, _, err := config.ParseIssuers("f", []byte(content), false, nil)
	if got := lines(err); len(got) != 4 {
		t.Errorf("got %q, want four mistakes", got)
	}
}
