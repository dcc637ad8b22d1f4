// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// A claim with an empty default may be empty where a condition mentions it.
func TestOptionalPartOfAName(t *testing.T) {
	t.Parallel()
	const rest = "/o/r"
	with, without := "https://octo.ghe.com"+rest, "https://github.com"+rest
	for _, template := range []string{
		`{{ if .enterprise }}https://{{ .enterprise }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ with index . "enterprise" }}https://{{ . }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ with .enterprise }}https://{{ $.enterprise }}.ghe.com{{ else }}{{ $.url }}{{ end }}/{{ .ref }}`,
		`{{ if ne .enterprise "" }}https://{{ .enterprise }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ if eq .enterprise "" }}{{ .url }}{{ else }}https://{{ .enterprise }}.ghe.com{{ end }}/{{ .ref }}`,
		`{{ if not .enterprise }}{{ .url }}{{ else }}https://{{ index . "enterprise" }}.ghe.com{{ end }}/{{ .ref }}`,
		`{{ if len .enterprise }}https://{{ printf "%s" .enterprise }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ if eq .ref "x" }}https://x{{ else if .enterprise }}https://{{ .enterprise }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ $e := .enterprise }}{{ if $e }}https://{{ $e }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ if $e := .enterprise }}https://{{ $e }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ with $e := index . "enterprise" }}https://{{ $e }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
		`{{ $all := . }}{{ if $all.enterprise }}https://{{ $all.enterprise }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}`,
	} {
		rules := rulesOf(t, ciEntry(), CIProvider{
			SubjectAlternativeNameTemplate: template,
			DefaultTemplateValues:          map[string]string{"enterprise": "", "url": "https://github.com"},
		})
		for claims, want := range map[string]string{
			`{"sub":"s","ref":"o/r"}`:                       without,
			`{"sub":"s","ref":"o/r","enterprise":""}`:       without,
			`{"sub":"s","ref":"o/r","enterprise":null}`:     without,
			`{"sub":"s","ref":"o/r","enterprise":"octo"}`:   with,
			`{"sub":"s","ref":"","enterprise":"octo"}`:      "",
			`{"sub":"s","enterprise":"octo"}`:               "",
			`{"sub":"s","ref":"o/r","url":""}`:              "",
			`{"sub":"s","ref":"o/r","enterprise":["octo"]}`: "",
		} {
			id, err := rules.Identify(tokenOf(mustClaims(t, claims)))
			if err != nil && want != "" || err == nil && id.SAN.Value != want {
				t.Errorf("%s\nover %s: %v, %v, want %q", template, claims, id, err, want)
			}
		}
	}
}

func TestEmptyClaimsThatStayRefused(t *testing.T) {
	t.Parallel()
	for _, template := range []string{
		`https://ci.example/{{ .x }}`,
		`https://ci.example/{{ if .y }}{{ .x }}{{ end }}`,
		`https://ci.example/{{ if .x }}a{{ end }}{{ .x }}`,
		`https://ci.example/{{ or .x "a" }}`,
		`https://ci.example/{{ $v := .x }}{{ if $v }}a{{ end }}{{ $v }}`,
		`https://ci.example/{{ $v := .y }}{{ if $v }}{{ $v = .x }}{{ $v }}{{ end }}`,
		`https://ci.example/{{ with .y }}{{ $.x }}{{ end }}`,
		`{{ define "t" }}{{ . }}{{ end }}https://ci.example/{{ template "t" .x }}`,
	} {
		rules := rulesOf(t, ciEntry(), CIProvider{SubjectAlternativeNameTemplate: template, DefaultTemplateValues: map[string]string{"x": ""}})
		for _, claims := range []oidc.Claims{{"sub": "s", "y": "b"}, {"sub": "s", "y": "b", "x": ""}} {
			if _, err := rules.Identify(tokenOf(claims)); refusal.From(err).Reason != refusal.ClaimMissing {
				t.Errorf("%s: %v, want CLAIM_MISSING", template, err)
			}
		}
	}
	// Without a default, a claim stays required in a condition too.
	rules := rulesOf(t, ciEntry(), CIProvider{SubjectAlternativeNameTemplate: `https://ci.example/{{ if index . "x" }}a{{ else }}b{{ end }}`})
	wantRefusal(t, rules, oidc.Claims{"sub": "s"}, refusal.ClaimMissing, `"x"`)
}

// A required claim with an empty default may be in a branch that the token does not take.
func TestRequiredClaimInABranchThatIsNotTaken(t *testing.T) {
	t.Parallel()
	provider := CIProvider{
		SubjectAlternativeNameTemplate: `https://ci.example/{{ if .tag }}tags/{{ .tag }}{{ else }}heads/{{ .branch }}{{ end }}`,
		DefaultTemplateValues:          map[string]string{"tag": "", "branch": ""},
	}
	rules := rulesOf(t, ciEntry(), provider)
	if got := mustIdentify(t, rules, oidc.Claims{"sub": "s", "tag": "v1", "branch": "main"}).SAN.Value; got != "https://ci.example/tags/v1" {
		t.Error(got)
	}
	wantRefusal(t, rules, oidc.Claims{"sub": "s", "tag": "v1"}, refusal.ClaimMissing, `"branch"`)
}

// nameReports returns the reports of NewRules for the template of the SAN.
func nameReports(t *testing.T, provider CIProvider, compat bool) (warnings, mistakes []string) {
	t.Helper()
	_, warned, err := NewRules(Config{Compat: compat, Issuers: []IssuerConfig{ciEntry()}, CIProviders: map[string]CIProvider{"ci": provider}})
	path := []string{"ci-issuer-metadata", "ci", "subject-alternative-name-template"}
	for _, e := range keypath.All(err) {
		if !slices.Equal(e.Path, path) {
			t.Errorf("a mistake at %q: %v", e.Path, e)
		}
		mistakes = append(mistakes, e.Error())
	}
	for _, w := range warned {
		for _, e := range keypath.All(w) {
			if !slices.Equal(e.Path, path) {
				t.Errorf("a warning at %q: %v", e.Path, e)
			}
			warnings = append(warnings, e.Error())
		}
	}
	return warnings, mistakes
}

func TestTemplatesThatNameNoToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		template           string
		warnings, mistakes int
	}{
		{"github.com/{{.x}}", 0, 1},
		{"//ci.example/{{.x}}", 0, 1},
		{"https:///{{.x}}", 0, 1},
		{"https:ci.example/{{.x}}", 0, 1},
		{"https://u@ci.example/{{.x}}", 0, 1},
		{"https://ci.example/../{{.x}}", 0, 1},
		{"https://ci.example/{{.x}}#", 0, 1},
		{"https://ci.example/{{.x}}?", 0, 1},
		{"https://ci.example/%zz/{{.x}}", 0, 1},
		{"https://ci.example/é?é{{.x}}", 0, 1},
		{"https://ci..example/{{.x}}", 0, 1},
		{`{{ if not .x }}https://ci.example/{{ .y }}{{ end }}`, 2, 0},
		{"https://{{.a}}.{{.b}}.{{.c}}.{{.d}}.{{.e}}:{{.x}}/", 5, 0}, // separators
		{"{{.x}}", 0, 0},
		{"https:{{.x}}", 0, 0},
		{"https://ci.example:{{.x}}/", 0, 0},
		{"https://[{{.x}}]/", 0, 0},
		{"https://ci.example/%{{.x}}", 0, 0},
		{`{{ if eq .x "prod" }}https://ci.example/{{ .x }}{{ end }}`, 0, 0},
		{`{{ with .x }}https://ci.example/{{ . }}{{ end }}`, 0, 0},
		{`https://ci.example/{{ index . .x }}`, 1, 0},
	} {
		warnings, mistakes := nameReports(t, CIProvider{SubjectAlternativeNameTemplate: c.template}, false)
		if len(warnings) != c.warnings || len(mistakes) != c.mistakes {
			t.Errorf("%s: warnings %q, mistakes %q, want %d and %d", c.template, warnings, mistakes, c.warnings, c.mistakes)
		}
		warnings, mistakes = nameReports(t, CIProvider{SubjectAlternativeNameTemplate: c.template}, true)
		if len(warnings) != c.warnings+c.mistakes || len(mistakes) > 0 {
			t.Errorf("%s under compat: warnings %q, mistakes %q, want %d", c.template, warnings, mistakes, c.warnings+c.mistakes)
		}
	}
	// A constant can also have the effect that no token gets a name.
	entry := ciEntry()
	entry.Constants = map[string]string{"x": ""}
	_, warnings, err := NewRules(Config{Issuers: []IssuerConfig{entry}, CIProviders: map[string]CIProvider{"ci": {SubjectAlternativeNameTemplate: "https://ci.example/{{.x}}"}}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "constants") {
		t.Errorf("a constant that is empty: %v, warnings %v", err, warnings)
	}
}

func TestWarningsOfClaimsThatANameDoesNotKeepApart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		provider CIProvider
		want     []string // the claims that each warning names, in its order
	}{
		{"claims that adjoin", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}{{.b}}"}, []string{`"a" and "b"`}},
		{"a separator", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}/{{.b}}:{{.c}}"}, []string{`"a" may contain "/"`, `"b" may contain ":"`}},
		{"a separator that a constant extends", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}/{{.k}}/{{.b}}", Constants: map[string]string{"k": "x"}}, []string{`"a" may contain "/x/"`}},
		{"branches", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}{{if .b}}{{.b}}{{else}}-{{.c}}{{end}}", DefaultTemplateValues: map[string]string{"b": ""}}, []string{"conditions"}},
		{"a claim in a condition only", CIProvider{SubjectAlternativeNameTemplate: `https://ci.example/{{if eq .a "b"}}heads{{else}}tags{{end}}/{{.b}}`}, []string{`the claim "a"`, "conditions"}},
		{"one claim in a branch", CIProvider{SubjectAlternativeNameTemplate: `https://ci.example/{{if .a}}{{.a}}{{else}}none{{end}}`, DefaultTemplateValues: map[string]string{"a": ""}}, nil},
		{"an empty default that cannot count", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}", DefaultTemplateValues: map[string]string{"a": ""}}, []string{`the claim "a"`}},
		{"one claim", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}/x"}, nil},
		{"distinct claims", CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}/{{.b}}", DistinctClaims: true}, nil},
		{"shipped", codefreshProvider(), nil},
		{"shipped, with a default of the operator", CIProvider{SubjectAlternativeNameTemplate: "{{ .url }}/{{ .job_workflow_ref }}", DefaultTemplateValues: map[string]string{"url": "https://ci.example/github"}}, []string{`the default of "url"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			warnings, mistakes := nameReports(t, c.provider, false)
			if len(warnings) != len(c.want) || len(mistakes) > 0 {
				t.Fatalf("warnings %q, mistakes %q, want %d warnings", warnings, mistakes, len(c.want))
			}
			for i, want := range c.want {
				if !strings.Contains(warnings[i], want) {
					t.Errorf("the warning %q does not mention %q", warnings[i], want)
				}
			}
		})
	}
	for _, template := range []string{"https://ci.example/{{.a}}{{.b}}", "https://ci.example/{{if .a}}{{.a}}{{end}}"} {
		if _, mistakes := nameReports(t, CIProvider{SubjectAlternativeNameTemplate: template, DistinctClaims: true}, false); len(mistakes) != 1 {
			t.Errorf("%s with distinct-claims: mistakes %q", template, mistakes)
		}
	}
}

// Claims that an operator's template does not keep apart are refused only if the name loses part of
// a single claim.
func TestAnOperatorsTemplateTakesItsSeparator(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, ciEntry(), CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}/{{.b}}"})
	if got := mustIdentify(t, rules, oidc.Claims{"sub": "s", "a": "group/sub", "b": "c"}).SAN.Value; got != "https://ci.example/group/sub/c" {
		t.Error(got)
	}
}
