// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"text/template"
	"unicode"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

func TestTemplates(t *testing.T) {
	t.Parallel()
	var cases struct {
		Claims            string
		Defaults          map[string]string
		Results, Refusals [][2]string
	}
	readYAML(t, "testdata/templates.yaml", &cases)
	claims := mustClaims(t, cases.Claims)
	// The name reads no claim.
	rules := func(template string) *Rules {
		return ciRules(t, CIProvider{
			DefaultTemplateValues: cases.Defaults, SubjectAlternativeNameTemplate: `https://ci.example/{{"x"}}`,
			ExtensionTemplates: map[string]string{"build-signer-uri": template},
		})
	}
	for _, c := range cases.Results {
		id, err := rules(c[0]).Identify(tokenOf(claims))
		if err != nil || id.Extensions[certs.BuildSignerURI] != c[1] {
			t.Errorf("%s: %+v, %v, want %q", c[0], id, err, c[1])
		}
	}
	for _, c := range cases.Refusals {
		t.Run(c[0], func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, rules(c[0]), claims, refusal.Reason(c[1]))
		})
	}
	// A result that is too long stops the template.
	for _, source := range []string{"{{.a}}{{.a}}", "{{range 2}}{{$.a}}{{end}}"} {
		if parsed, err := parseTemplate(source); err != nil {
			t.Error(err)
		} else if _, _, err := parsed.render(map[string]string{"a": strings.Repeat("x", maxText)}); !errors.Is(err, errTooLong) {
			t.Errorf("%s: %v", source, err)
		}
	}
	// What reads claims without naming them requires text of all.
	unnamed := rules(`{{$k := .name}}{{index . $k}}`)
	if id := mustIdentify(t, unnamed, mustClaims(t, `{"sub":"s","name":"a","a":"1","n":2}`)); id.Extensions[certs.BuildSignerURI] != "1" {
		t.Errorf("%+v", id)
	}
	wantRefusal(t, unnamed, mustClaims(t, `{"sub":"s","name":"a","a":"1","l":[]}`), refusal.ClaimInvalid)
	wantRefusal(t, unnamed, mustClaims(t, `{"sub":"s","name":"a","a":"1","l":null}`), refusal.ClaimMissing)
}

func TestAllMissingClaimsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	claims := with(t, ciClaims(t, "github-workflow"), `{"job_workflow_ref":"","sha":"DELETE","run_id":null,"workflow":"DELETE"}`)
	for _, rules := range []*Rules{rulesOf(t, entryOf(TypeGithubWorkflow)), ciRules(t, shipped(t, "github-workflow"))} {
		wantRefusal(t, rules, claims, refusal.ClaimMissing, `"job_workflow_ref"`, `"sha"`, `"run_id"`, `"workflow"`)
	}
}

// matches fails unless the errors are one for each of the words, which it holds, at path.
func matches(t *testing.T, what string, errs []error, words []string, path ...string) {
	t.Helper()
	var all []*keypath.Error
	for _, err := range errs {
		all = append(all, keypath.All(err)...)
	}
	if len(all) != len(words) {
		t.Errorf("%s: got %q, want %q", what, all, words)
		return
	}
	for i, e := range all {
		if !strings.Contains(e.Error(), words[i]) || strings.Join(e.Path, " ") != strings.Join(path, " ") {
			t.Errorf("%s: got %v, want %q", what, e, words[i])
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	var groups []struct {
		Templates, Warnings, Mistakes []string
		Defaults, Constants, Tokens   map[string]string
		Distinct                      bool
	}
	readYAML(t, "testdata/names.yaml", &groups)
	path := []string{"ci-issuer-metadata", "ci", "subject-alternative-name-template"}
	for _, g := range groups {
		for _, template := range g.Templates {
			provider := CIProvider{DefaultTemplateValues: g.Defaults, Constants: g.Constants, SubjectAlternativeNameTemplate: template, DistinctClaims: g.Distinct}
			config := Config{Issuers: []IssuerConfig{entryOf(TypeCIProvider)}, CIProviders: map[string]CIProvider{"ci": provider}}
			rules, warnings, err := NewRules(config)
			matches(t, template, warnings, g.Warnings, path...)
			matches(t, template, []error{err}, g.Mistakes, path...)
			if err != nil && !g.Distinct {
				config.Compat = true
				_, warnings, err = NewRules(config)
				matches(t, template+", compat", warnings, append(g.Warnings, g.Mistakes...), path...)
				matches(t, template+", compat", []error{err}, nil)
			}
			for claims, want := range g.Tokens {
				id, err := rules.Identify(tokenOf(with(t, mustClaims(t, claims), `{"sub":"s"}`)))
				if err != nil && string(refusal.From(err).Reason) != want || err == nil && id.SAN.Value != want {
					t.Errorf("%s over %s: %v, %v, want %q", template, claims, id, err, want)
				}
			}
		}
	}
}

// A template of an extension that can never have its author's intended effect is reported when it is
// loaded.
func TestTemplatesThatMeanNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, template, mistake, warning string }{
		{"build-trigger", "{{.object.a}}", "nothing inside", ""},
		{"build-triger", "a", "build-trigger", ""},
		{"build-trigger", "https://ci.example", "", "name of one claim"},
		{"build-trigger", "{.a}", "", "name of one claim"},
		{"build-trigger", "a b", "", "name of one claim"},
		{"build-trigger", "{{.a}}\n", "", "line break"},
		{"build-trigger", "oidc.circleci.com/project-id", "", ""},
		{"build-trigger", "{{with .a}}{{.}}{{end}}", "", ""},
	} {
		config := Config{Issuers: []IssuerConfig{entryOf(TypeCIProvider)}, CIProviders: map[string]CIProvider{"ci": {
			SubjectAlternativeNameTemplate: `https://ci.example/{{"x"}}`, ExtensionTemplates: map[string]string{c.key: c.template},
		}}}
		path := []string{"ci-issuer-metadata", "ci", "extension-templates", c.key}
		words := func(word string) []string { return strings.FieldsFunc(word, func(rune) bool { return false }) }
		_, warnings, err := NewRules(config)
		matches(t, c.template, warnings, words(c.warning), path...)
		matches(t, c.template, []error{err}, words(c.mistake), path...)
		config.Compat = true
		rules, warnings, err := NewRules(config)
		matches(t, c.template+", compat", warnings, append(words(c.mistake), words(c.warning)...), path...)
		if err != nil {
			t.Fatal(err)
		}
		if c.mistake == "nothing inside" {
			wantRefusal(t, rules, oidc.Claims{"sub": "s", "object": map[string]any{"a": "b"}}, refusal.ClaimInvalid)
			wantRefusal(t, rules, oidc.Claims{"sub": "s", "object": "b"}, refusal.ClaimInvalid)
		}
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"plain text {{/* nothing */}}":                                              "[] []",
		"{{.b}}/{{.a}}{{.b}}":                                                       "[a b] []",
		`{{index . "a/b"}}{{index $ "c"}}{{index (.) "p"}}`:                         "[] [a/b c p]",
		`{{index . "a" | printf "%s%s" .b}}`:                                        "[b] [a]",
		`{{if .a}}{{.b}}{{else if .c}}{{.d}}{{else}}{{.e}}{{end}}`:                  "[a b c d e] []",
		`{{with .a}}{{.}}{{$.b}}{{else}}{{.c}}{{end}}`:                              "[a b c] []",
		`{{with $v := .a}}{{$v}}{{index . "x"}}{{end}}`:                             "[a] []",
		`{{$v := .a}}{{$v}}{{$w := $}}{{$w.b}}{{(.).c}}{{($w).d}}{{index $w "e"}}`:  "[a b c d] [] unnamed",
		`{{define "t"}}{{.a}}{{$.b}}{{end}}{{template "t" .}}`:                      "[a b] []",
		`{{define "t"}}{{.}}{{end}}{{template "t" .a}}`:                             "[a] []",
		`{{define "t"}}{{.}}{{end}}{{template "t" .}}`:                              "[] [] unnamed",
		`{{define "t"}}{{.}}{{end}}{{template "t" .a}}{{template "t" .}}`:           "[a] [] unnamed",
		`{{define "t"}}{{if .a}}{{template "t" .}}{{end}}{{end}}{{template "t" $}}`: "[a] []",
		`{{range .a}}{{.}}{{else}}{{.b}}{{end}}`:                                    "[a b] []",
		`{{range $k, $v := .}}{{$k}}{{end}}`:                                        "[] [] unnamed",
		`{{with .}}{{.}}{{end}}`:                                                    "[] [] unnamed",
		`{{with $v := .}}{{$v.a}}{{end}}`:                                           "[a] [] unnamed",
		`{{.}}`:                                                                     "[] [] unnamed",
		`{{print .a .}}`:                                                            "[a] [] unnamed",
		`{{. | print}}`:                                                             "[] [] unnamed",
		`{{index . .a}}`:                                                            "[a] [] unnamed",
		`{{print "a" | index .}}`:                                                   "[] [] unnamed",
		`{{(or . .a).b}}`:                                                           "[a b] [] unnamed",
		// A variable is set to the claims after the text of a loop has printed it.
		`{{$v := .a}}{{range 2}}{{$v}}{{$v = $}}{{end}}`: "[a] [] unnamed",
		"{{.a}}\n":            "[a] [] controls",
		"{{if .a}}\tx{{end}}": "[a] [] controls",
		"{{.a.b}}":            "[a] [] .a.b",
	} {
		parsed, err := template.New("").Parse(source)
		if err != nil {
			t.Fatal(err)
		}
		r, err := readsOf(parsed)
		if err != nil {
			t.Fatal(err)
		}
		indexed := set{}
		for name := range r.names {
			if !r.fields[name] {
				indexed[name] = true
			}
		}
		got := fmt.Sprint(r.fields.sorted(), " ", indexed.sorted(), " ", r.nested)
		if r.unnamed {
			got += "unnamed"
		}
		if r.controls {
			got += "controls"
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: got %q, want %q", source, got, want)
		}
	}
	if _, err := parseTemplate(`{{if .a}}{{template "nowhere" .}}{{end}}`); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("got %v, want an error that names the template", err)
	}
}

func TestConcatenationsAreRecognized(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]bool{
		"{{.a}}/{{ .b }}":             true,
		"a{{- .a -}} b":               true,
		`{{index . "a"}}{{/* c */}}x`: true,
		"plain":                       true,
		`{{index . ""}}`:              true,
		"{{.a.b}}":                    false,
		"{{$a := .a}}":                false,
		"{{.a | print}}":              false,
		"{{print .a}}":                false,
		`{{index $ "a"}}`:             false,
		`{{index . "a" 0}}`:           false,
		"{{if .a}}x{{end}}":           false,
		"{{1}}":                       false,
	} {
		parsed, err := parseTemplate(source)
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.full == nil; got != want {
			t.Errorf("%s: concatenation %t, want %t", source, got, want)
		}
	}
}

// textTemplate is the reference: text/template itself.
func textTemplate(source string, values map[string]string) (string, error) {
	parsed, err := template.New("").Option("missingkey=error").Parse(source)
	if err != nil {
		return "", err
	}
	var b limitedBuilder
	if err := parsed.Execute(&b, values); err != nil {
		return "", err
	}
	return b.String(), nil
}

// FuzzTemplate checks that a template renders as in text/template, in every form. Over any claims,
// a rule must neither panic nor accept a forbidden SAN.
func FuzzTemplate(f *testing.F) {
	for _, source := range []string{
		"{{.a}}/{{.b}}", `https://{{index . "a"}}/{{.b}}`, `{{if eq .a "x"}}https://x/{{.b}}{{end}}`, "{{.c}}", `{{printf "%s/%5s" .a .b}}`,
		`{{with .a}}{{.}}{{else}}{{$.b}}{{end}}`, "{{html .a}}{{js .b}}", `{{slice .a 1}}`, `{{range $k, $v := .}}{{$v}}{{end}}`,
		`{{$x := .}}{{$x.a}}`, `{{define "t"}}{{.}}{{end}}{{template "t" .a}}`, "{{.}}", `{{index . ""}}`, "{{printf .a .b}}", "a",
	} {
		f.Add(source, "https://ci.example", "o/r", "")
		f.Add(source, "u@h/..", "%2e%2e\x00", "é")
		f.Add(source, "%999999d", "x?y#z", "a\nb")
	}
	f.Fuzz(func(t *testing.T, source, a, b, empty string) {
		if strings.Contains(source, "template") || strings.Contains(source, "block") ||
			strings.Contains(source, "range") && (strings.ContainsAny(source, "0123456789'") || strings.Contains(source, "len")) {
			return // an operator's recursion and loops cost only time
		}
		values := map[string]string{"a": a, "b": b, "": empty}
		parsed, err := parseTemplate(source)
		if err != nil {
			return
		}
		got, absent, gotErr := parsed.render(values)
		if absent != nil {
			got, gotErr = "", fmt.Errorf("absent: %q", absent)
		}
		if strings.Contains(source, "{{") && (parsed.full == nil || !strings.Contains(source, "print")) { // the reference has no limit
			want, wantErr := textTemplate(source, values)
			if got != want || (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%q over %q: got %q, %v, text/template has %q, %v", source, values, got, gotErr, want, wantErr)
			}
		}
		checkHostileSAN(t, source, oidc.Claims{"sub": "s", "a": a, "b": b, "": empty, "d": nil, "l": []any{a}})
	})
}

func checkHostileSAN(t *testing.T, source string, claims oidc.Claims) {
	t.Helper()
	rules, _, err := NewRules(Config{
		Issuers:     []IssuerConfig{entryOf(TypeCIProvider)},
		CIProviders: map[string]CIProvider{"ci": {SubjectAlternativeNameTemplate: source, ExtensionTemplates: map[string]string{"build-trigger": source}}},
	})
	if err != nil {
		return
	}
	id, err := rules.Identify(tokenOf(claims))
	if err != nil {
		return
	}
	u, err := url.Parse(id.SAN.Value)
	if err != nil {
		t.Fatalf("the SAN %q is no URL: %v", id.SAN.Value, err)
	}
	if u.User != nil || u.Host == "" && u.Opaque == "" && !u.OmitHost || u.Scheme == "" || hasDotSegment(u.Opaque) || hasDotSegment(u.Path) ||
		strings.ContainsFunc(id.SAN.Value, func(r rune) bool { return r > 0x7e || unicode.IsControl(r) }) {
		t.Fatalf("the SAN %q must not be", id.SAN.Value)
	}
	if err := id.Extensions.Check(); err != nil {
		t.Fatal(err)
	}
}
