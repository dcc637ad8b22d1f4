// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"strings"
	"testing"
	"text/template"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/oidc"
)

func TestReads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		template string
		want     reads
	}{
		{"plain text {{/* nothing */}}", reads{}},
		{"{{.b}}/{{.a}}{{.b}}", reads{fields: []string{"a", "b"}}},
		{`{{index . "a/b"}}{{index $ "c"}}{{index (.) ("p")}}`, reads{indexed: []string{"a/b", "c", "p"}}},
		{`{{index . "a" | printf "%s%s" .b}}`, reads{fields: []string{"b"}, indexed: []string{"a"}}},
		{`{{if .a}}{{.b}}{{else if .c}}{{.d}}{{else}}{{.e}}{{end}}`, reads{fields: []string{"a", "b", "c", "d", "e"}}},
		{`{{with .a}}{{.}}{{$.b}}{{else}}{{.c}}{{end}}`, reads{fields: []string{"a", "b", "c"}}},
		{`{{with $v := .a}}{{$v}}{{index . "x"}}{{end}}`, reads{fields: []string{"a"}}},
		{`{{$v := .a}}{{$v}}{{$w := $}}{{$w.b}}{{(.).c}}{{($w).d}}{{index $w "e"}}`, reads{fields: []string{"a", "b", "c", "d"}, indexed: []string{"e"}}},
		{`{{define "t"}}{{.a}}{{$.b}}{{end}}{{template "t" .}}`, reads{fields: []string{"a", "b"}}},
		{`{{define "t"}}{{.}}{{end}}{{template "t" .a}}`, reads{fields: []string{"a"}}},
		{`{{define "t"}}{{.}}{{end}}{{template "t" .}}`, reads{unnamed: true}},
		{`{{define "t"}}{{.}}{{end}}{{template "t" .a}}{{template "t" .}}`, reads{fields: []string{"a"}, unnamed: true}},
		{`{{define "t"}}{{if .a}}{{template "t" .}}{{end}}{{end}}{{template "t" $}}`, reads{fields: []string{"a"}}},
		{`{{range .a}}{{.}}{{else}}{{.b}}{{end}}`, reads{fields: []string{"a", "b"}}},
		{`{{range $k, $v := .}}{{$k}}{{end}}`, reads{unnamed: true}},
		{`{{with .}}{{.}}{{end}}`, reads{unnamed: true}},
		{`{{.}}`, reads{unnamed: true}},
		{`{{print .a .}}`, reads{fields: []string{"a"}, unnamed: true}},
		{`{{. | print}}`, reads{unnamed: true}},
		{`{{index . .a}}`, reads{fields: []string{"a"}, unnamed: true}},
		{`{{print "a" | index .}}`, reads{unnamed: true}},
		{`{{(or . .a).b}}`, reads{fields: []string{"a", "b"}, unnamed: true}},
		// A variable is set to the claims after the text of a loop has printed it.
		{`{{$v := .a}}{{range 2}}{{$v}}{{$v = $}}{{end}}`, reads{fields: []string{"a"}, unnamed: true}},
		{"{{.a}}\n", reads{fields: []string{"a"}, controls: true}},
		{"{{if .a}}\tx{{end}}", reads{fields: []string{"a"}, controls: true}},
		{"{{.a.b}}", reads{fields: []string{"a"}, nested: ".a.b"}},
	} {
		t.Run(c.template, func(t *testing.T) {
			t.Parallel()
			parsed, err := template.New("").Parse(c.template)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readsOf(parsed)
			if err != nil {
				t.Fatal(err)
			}
			got.needed, got.shown = nil, nil
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(reads{})); diff != "" {
				t.Errorf("reads (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTemplateThatIsNotDefined(t *testing.T) {
	t.Parallel()
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
		got, gotErr := parsed.render(values)
		if strings.Contains(source, "{{") {
			if parsed.full == nil || !strings.Contains(source, "print") { // the reference has no limit
				want, wantErr := textTemplate(source, values)
				if got != want || (gotErr == nil) != (wantErr == nil) {
					t.Fatalf("%q over %q: got %q, %v, text/template has %q, %v", source, values, got, gotErr, want, wantErr)
				}
			}
		}
		checkHostileSAN(t, source, oidc.Claims{"sub": "s", "a": a, "b": b, "": empty, "d": nil, "l": []any{a}})
	})
}

func checkHostileSAN(t *testing.T, source string, claims oidc.Claims) {
	t.Helper()
	rules, _, err := NewRules(Config{
		Issuers:     []IssuerConfig{ciEntry()},
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
	if u.User != nil || u.Host == "" && u.Opaque == "" && !u.OmitHost || u.Scheme == "" || hasDotSegment(u.Opaque) || hasDotSegment(u.Path) || strings.ContainsFunc(id.SAN.Value, unicode.IsControl) {
		t.Fatalf("the SAN %q must not be", id.SAN.Value)
	}
	for _, r := range id.SAN.Value {
		if r > 0x7e {
			t.Fatalf("the SAN %q is not ASCII", id.SAN.Value)
		}
	}
	if err := id.Extensions.Check(); err != nil {
		t.Fatal(err)
	}
}
