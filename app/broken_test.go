// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
)

// breakage is one mistake in config/issuers.yaml: the replacement of a line, and the mistake that
// is reported there. The file has the same content as the peer's public identity file.
type breakage struct {
	line    int
	instead string
	// want is a part of the mistake; at is where it is reported, if not at the line itself.
	want string
	at   int
}

var breakages = []breakage{
	// The keys of the file.
	{11, "oidc-issuer:", `unknown key "oidc-issuer"; did you mean "oidc-issuers"?`, 0},
	{78, "Meta-Issuers:", `unknown key "Meta-Issuers"; did you mean "meta-issuers"?`, 0},
	{127, "ci_issuer_metadata:", `did you mean "ci-issuer-metadata"?`, 0},
	{127, "oidc-issuers:", `the key "oidc-issuers" is repeated, first in line 11`, 0},
	{194, "    default-template-values: []\n    constants:", `found a list, expected a mapping`, 0},
	// The keys of an entry.
	{16, "    tpye: email", `unknown key "tpye"; did you mean "type"?`, 0},
	{16, "    Type: email", `unknown key "Type"; did you mean "type"?`, 0},
	{15, "    clientid: sigstore", `unknown key "clientid"; did you mean "client-id"?`, 0},
	{15, "    client_id: sigstore", `did you mean "client-id"?`, 0},
	{17, "    colour: blue", `unknown key "colour"`, 0},
	{17, "    client-id: sigstore", `the key "client-id" is repeated, first in line 15`, 0},
	{17, "    issuer-urls: x", `did you mean "issuer-url"?`, 0},
	{31, "    ci_provider: github-workflow", `did you mean "ci-provider"?`, 0},
	{23, "    issuerclaim: $.a", `did you mean "issuer-claim"?`, 0},
	{17, "    skip-email-verfication: true", `did you mean "skip-email-verification"?`, 0},
	// Their values.
	{13, "  https://accounts.google.com/:", `a trailing slash included`, 14},
	{14, "    issuer-url: https://accounts.google.example", `is not the entry's key`, 0},
	{14, "    issuer-url: https://accounts.google.com/", `a trailing slash included`, 0},
	{14, "    description: x\n    contact: y", `issuer-url is missing`, 13},
	{15, `    client-id: ""`, `client-id is missing`, 0},
	{15, "    client-id: [sigstore]", `found a list, expected text`, 0},
	{15, `    client-id: "sigstore "`, `begins or ends with white space`, 0},
	{16, "    type: e-mail", `no issuer type "e-mail"; did you mean "email"?`, 0},
	{16, "    type: Email", `no issuer type "Email"`, 0},
	{16, "    contact: x", `the type is missing`, 13},
	{17, "    skip-email-verification: maybe", `expected true or false`, 0},
	{17, "    allowed-email-domains: example.com", `expected a list`, 0},
	{17, "    allowed-email-domains: [\"@example.com\"]", `is not a domain`, 0},
	{17, "    signing-algorithms: [HS256]", `"HS256" is no signing algorithm`, 0},
	{17, "    ca-cert: nonsense", `there is no certificate in it`, 0},
	{17, "    jwks-hosts: [\"https://x.example\"]", `is not a host`, 0},
	{17, "    mode: audit", `a mode without rules`, 0},
	{17, "    allow: [{name: a, when: claims.hd = 5}]", `the expression is wrong at character`, 0},
	{17, "    allow: [{name: a, when: claims.hd}]", `compare it with what it must be`, 0},
	{17, "    allow: [{nam: a, when: 'true'}]", `unknown key "nam"`, 0},
	{17, "    profiles: [{name: a, client-id: sigstore, type: email}]", `selects another profile`, 0},
	{17, "    profiles: [{name: a, client-id: b, type: spiffe}]", `needs the trust domain`, 0},
	{17, "    constants: {a: b}", `for type ci-provider`, 0},
	{17, "    tests: [{claims: {sub: a}}]", `a test needs either san`, 0},
	{23, "    issuer-claim: federated_claims", `does not begin with $`, 0},
	{23, "    issuer-claim: $.a[*]", `only .name`, 0},
	{29, "    client-id: sigstore\n    issuer-claim: $.a", `for type email`, 30},
	{31, "    ci-provider: github", `no entry "github" in ci-issuer-metadata`, 0},
	{31, "    contact: x", `ci-provider is missing; name an entry of ci-issuer-metadata`, 27},
	{16, "    type: uri\n    subject-domain: https://google.co.uk", `may not name subjects in`, 17},
	{16, "    type: username\n    subject-domain: https://google.com", `without scheme`, 17},
	{16, "    type: uri", `needs the domain of its subjects`, 13},
	{16, "    type: spiffe\n    spiffe-trust-domain: a/b", `trust domain`, 17},
	{27, "  http://token.actions.githubusercontent.com:\n    issuer-url: http://token.actions.githubusercontent.com", `the key "issuer-url" is repeated`, 29},
	{33, "  https://gitlab.com/*:", `only under meta-issuers`, 0},
	{57, "  https://oidc.circleci.com:", `is repeated, first in line 51`, 0},
	// Wildcards.
	{80, "  ftp://*.example.com:", `https`, 0},
	{80, "  https://user@*.example.com:", `user`, 0},
	{88, "  https://*.prod-aks.azure.com/x/*:", `matches both`, 96},
	{85, "    client-id: null", `client-id is missing`, 0},
	{86, "    type: spiffe\n    spiffe-trust-domain: example.com", `move the entry to oidc-issuers`, 0},
	// Templates.
	{138, `      build-signer-uri: "{{ .url }/{{ .job_workflow_ref }}"`, `parsing the template`, 0},
	{138, `      build-signer-url: "{{ .url }}/{{ .job_workflow_ref }}"`, `there is no extension "build-signer-url"; did you mean "build-signer-uri"?`, 0},
	{138, `      build-signer-uri: "{{ nofunction .url }}"`, `function "nofunction" not defined`, 0},
	{138, `      build-signer-uri: ["x"]`, `found a list, expected text`, 0},
	{153, `    subject-alternative-name-templte: "{{ .url }}"`, `did you mean "subject-alternative-name-template"?`, 0},
	{153, `    subject-alternative-name-template: ""`, `subject-alternative-name-template is missing`, 0},
	{131, "      environment: ''\n    constants: {ulr: x}", `no template reads "ulr"; did you mean "url"?`, 132},
	{131, "      environment: ''\n    constants: {environment: x}", `has a default too`, 132},
	{131, `      environment: {}`, `found a mapping, expected text`, 0},
	// The file as a whole.
	{13, "  https://accounts.google.com: *nowhere", `has no anchor`, 0},
	{13, "\thttps://accounts.google.com:", `not YAML`, 0},
	{241, `    subject-alternative-name-template: "unclosed`, `not YAML`, 0},
}

func broken(t *testing.T, all ...breakage) string {
	t.Helper()
	content, err := os.ReadFile("../config/issuers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	for _, b := range all {
		lines[b.line-1] = b.instead
	}
	file := filepath.Join(t.TempDir(), "issuers.yaml")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Each broken variant is refused with the line at fault, and most with no other mistake.
func TestBrokenVariants(t *testing.T) {
	t.Parallel()
	if len(breakages) < 50 {
		t.Errorf("there are %d variants only", len(breakages))
	}
	alone := 0
	for _, b := range breakages {
		report, err := app.Check(t.Context(), app.CheckOptions{File: broken(t, b)})
		if err != nil {
			t.Errorf("%q: %v", b.instead, err)
			continue
		}
		if len(report.Mistakes) == 1 {
			alone++
		}
		if !b.found(report.Mistakes, b.line) {
			t.Errorf("line %d, %q: no mistake with %q at its line:\n%v", b.line, b.instead, b.want, errors.Join(report.Mistakes...))
		}
	}
	if alone < len(breakages)*8/10 {
		t.Errorf("only %d of %d variants have one mistake for one mistake", alone, len(breakages))
	}
	t.Logf("%d variants, %d of them with exactly one mistake told", len(breakages), alone)
}

func (b breakage) found(mistakes []error, line int) bool {
	if b.at != 0 {
		line += b.at - b.line
	}
	for _, mistake := range mistakes {
		var m config.Mistake
		if errors.As(mistake, &m) && m.Line == line && strings.Contains(m.Text, b.want) {
			return true
		}
	}
	return false
}

// Mistakes of the file's form and of its settings are reported together.
func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	var together []breakage
	for _, b := range breakages {
		for _, one := range []string{"tpye", `issuer-claim: $.a[*]`, "ci-provider: github", `client-id: null`, "nofunction", `unknown key "nam"`} {
			if (strings.Contains(b.instead, one) || strings.Contains(b.want, one)) && !strings.Contains(b.instead, "\n") {
				together = append(together, b)
			}
		}
	}
	if len(together) < 6 {
		t.Fatalf("%d mistakes only", len(together))
	}
	report, err := app.Check(t.Context(), app.CheckOptions{File: broken(t, together...)})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range together {
		if !b.found(report.Mistakes, b.line) {
			t.Errorf("line %d: %q is not told among\n%v", b.line, b.want, errors.Join(report.Mistakes...))
		}
	}
	if len(report.Mistakes) != len(together) {
		t.Errorf("%d mistakes told for %d:\n%v", len(report.Mistakes), len(together), errors.Join(report.Mistakes...))
	}
	last := 0
	for _, mistake := range report.Mistakes {
		var m config.Mistake
		if !errors.As(mistake, &m) || m.Line < last || m.Column == 0 || !strings.HasPrefix(m.Error(), fmt.Sprintf("%s:%d:%d: ", m.File, m.Line, m.Column)) {
			t.Errorf("out of order, or without its place: %v", mistake)
		}
		last = m.Line
	}
}

func TestThePublicIssuersHaveNoMistake(t *testing.T) {
	t.Parallel()
	for _, compat := range []bool{false, true} {
		report, err := app.Check(t.Context(), app.CheckOptions{File: "../config/issuers.yaml", Compat: compat})
		if err != nil || len(report.Mistakes)+len(report.Warnings) > 0 || report.Entries != 20 {
			t.Errorf("%+v, %v", report, err)
		}
	}
}
