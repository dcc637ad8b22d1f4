// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// renderOne renders one extension template (.9) over the claims, with a SAN that reads none of
// them.
func renderOne(tb testing.TB, template string, claims oidc.Claims, defaults map[string]string) (string, error) {
	tb.Helper()
	rules := rulesOf(tb, ciEntry(), CIProvider{
		DefaultTemplateValues:          defaults,
		SubjectAlternativeNameTemplate: `https://ci.example/{{"x"}}`,
		ExtensionTemplates:             map[string]string{"build-signer-uri": template},
	})
	id, err := rules.Identify(tokenOf(claims))
	if err != nil {
		return "", err
	}
	return id.Extensions[certs.BuildSignerURI], nil
}

func TestTemplateResults(t *testing.T) {
	t.Parallel()
	claims := mustClaims(t, `{"sub":"s","a":"1","empty":"","spaces":"  x ","html":"<a&b>'\"","nested":"{{.a}}","name":"a",
		"int":1536140711,"frac":1.5,"million":1000000,"exp":1e3,"big":9007199254740992,"small":-9007199254740992,"zero":-0,"yes":true,"no":false,
		"d-o.t/s":"dots","list":["x"],"object":{},"null":null,"nullDef":null}`)
	defaults := map[string]string{"def": "fallback", "nullDef": "fallback", "a": "overridden", "empty": "overridden", "nestedDef": "{{.a}}", "blank": ""}
	for _, c := range []struct{ name, template, want string }{
		{"a plain value names a claim", "a", "1"},
		{"a plain value names a default", "def", "fallback"},
		{"a plain value with any characters", "d-o.t/s", "dots"},
		{"an empty claim wins over a default", "empty", ""},
		{"a default stands in for a null claim", "nullDef", "fallback"},
		{"a default stands in for a null claim, by index", `{{index . "nullDef"}}`, "fallback"},
		{"an empty default leaves the extension out", "blank", ""},
		{"field", "x{{.a}}y", "x1y"},
		{"nothing is trimmed", "{{.spaces}}  z ", "  x   z "},
		{"nothing is escaped for HTML", "{{.html}}", `<a&b>'"`},
		{"claims are not expanded again", "{{.nested}}", "{{.a}}"},
		{"plain claims are not expanded", "nested", "{{.a}}"},
		{"defaults are not expanded", "nestedDef", "{{.a}}"},
		{"index of a present key", `{{index . "d-o.t/s"}}`, "dots"},
		{"index of a missing key", `[{{index . "absent"}}]`, "[]"},
		{"index of a missing key beside a plain one", `{{index . "absent"}}{{.a}}`, "1"},
		{"index by another claim", `{{$k := .name}}{{with $}}{{.a}}{{end}}{{$k}}`, "1a"},
		{"whole number", "int", "1536140711"},
		{"whole number from a million on, without an exponent", "{{.million}}", "1000000"},
		{"number with an exponent", "exp", "1000"},
		{"fraction", "{{.frac}}", "1.5"},
		{"2^53", "big", "9007199254740992"},
		{"-2^53", "small", "-9007199254740992"},
		{"negative zero", "zero", "-0"},
		{"booleans are text", `{{if eq .yes "true"}}T{{end}}{{if .no}}{{.no}}{{end}}`, "Tfalse"},
		{"with and else", `{{with .empty}}{{.}}{{else}}none{{end}}`, "none"},
		{"with a value", `{{with .a}}<{{.}}>{{end}}`, "<1>"},
		{"if over a missing index", `{{if index . "absent"}}x{{else}}y{{end}}`, "y"},
		{"printf", `{{printf "%s/%05s/%q" .a .a .name}}`, `1/00001/"a"`},
		{"printf with digits in its text", `{{printf "20240101-99999999-%s" .a}}`, "20240101-99999999-1"},
		{"print, len, slice, urlquery, js, html", `{{print .a "b"}}{{len .spaces}}{{slice .spaces 2 3}}{{urlquery .spaces}}{{js .html}}{{html .html}}`,
			`1b` + `4` + `x` + `++x+` + `\u003Ca\u0026b\u003E\'\"` + `&lt;a&amp;b&gt;&#39;&#34;`},
		{"and, or, not, comparisons", `{{and .a .name}}{{or .empty .name}}{{if not .empty}}n{{end}}{{if ne .a "2"}}o{{end}}`, "aano"},
		{"defined templates", `{{define "t"}}[{{.a}}]{{end}}{{template "t" .}}`, "[1]"},
		{"comments and trimming", "  {{- /* note */ -}}  {{.a}}", "1"},
		{"unread claims of other kinds do not matter", `{{.a}}`, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := renderOne(t, c.template, claims, defaults)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTemplateRefusals(t *testing.T) {
	t.Parallel()
	claims := mustClaims(t, `{"sub":"s","a":"1","big":9007199254740993,"exact":9007199254740992.5,"long":0.10000000000000000001,"near":7.0000000000000000001,"tiny":1e-999999999999999999999,"huge":1e400,"large":1e300,"negative":-9007199254740993,
		"list":["x"],"object":{"a":"b"},"null":null,"line":"a\nb","é":"x","format":"%999999d%999999d"}`)
	for _, c := range []struct {
		name, template string
		reason         refusal.Reason
		mention        string
	}{
		{"a plain value of no claim", "absent", refusal.ClaimMissing, `"absent"`},
		{"a plain value that is text by mistake", "https://ci.example", refusal.ClaimMissing, `"https://ci.example"`},
		{"field of no claim", "x{{.absent}}", refusal.ClaimMissing, `"absent"`},
		{"field of no claim in a template that is more than a concatenation", `{{if .a}}{{.absent}}{{end}}`, refusal.ClaimMissing, `"absent"`},
		{"null claim, by name", "null", refusal.ClaimMissing, `"null"`},
		{"null claim, by field", "{{.null}}", refusal.ClaimMissing, `"null"`},
		{"null claim, by index", `{{index . "null"}}`, refusal.ClaimMissing, `"null"`},
		{"list", "list", refusal.ClaimInvalid, "a list"},
		{"list by index", `{{index . "list"}}`, refusal.ClaimInvalid, "a list"},
		{"list in a branch", `{{if .a}}{{else}}{{.list}}{{end}}`, refusal.ClaimInvalid, "a list"},
		{"object", "{{.object}}", refusal.ClaimInvalid, "an object"},
		{"integer that 2^53 cannot hold", "big", refusal.ClaimInvalid, `"big"`},
		{"negative integer that 2^53 cannot hold", "negative", refusal.ClaimInvalid, `"negative"`},
		{"number that rounds to 2^53", "exact", refusal.ClaimInvalid, `"exact"`},
		{"number with a large exponent", "large", refusal.ClaimInvalid, `"large"`},
		{"fraction of more digits than a float64 has", "long", refusal.ClaimInvalid, `"long"`},
		{"fraction that a float64 rounds to a whole number", "near", refusal.ClaimInvalid, `"near"`},
		{"fraction that a float64 rounds to 0", "tiny", refusal.ClaimInvalid, `"tiny"`},
		{"number beyond float64", "huge", refusal.ClaimInvalid, `"huge"`},
		{"all claims at once", "{{.}}", refusal.ClaimInvalid, ""},
		{"control character in a claim", "line", refusal.ClaimInvalid, "BuildSignerURI"},
		{"control character in a template", "{{.a}}\n", refusal.ClaimInvalid, "BuildSignerURI"},
		{"part of a character", `{{slice (index . "é") 0 0}}{{slice "é" 0 1}}`, refusal.ClaimInvalid, "BuildSignerURI"},
		{"width of a million", `{{printf "%1000000d" 1}}`, refusal.ClaimInvalid, "longer"},
		{"width beyond integers", `{{printf "%99999999999999999999d" 1}}`, refusal.ClaimInvalid, "longer"},
		{"width from an argument", `{{printf "%*d" 1000000 1}}`, refusal.ClaimInvalid, "longer"},
		{"width from a negative argument", `{{printf "%*d" -1000000 1}}`, refusal.ClaimInvalid, "longer"},
		{"width in a claim that is taken for a format", `{{printf .format 1 2}}`, refusal.ClaimInvalid, "longer"},
		{"result longer than fits", `{{printf "%9000d" 1}}`, refusal.ClaimInvalid, "longer"},
		{"endless result", `{{range $i := 100000}}xxxxxxxx{{end}}`, refusal.ClaimInvalid, "longer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rules := rulesOf(t, ciEntry(), CIProvider{
				SubjectAlternativeNameTemplate: `https://ci.example/{{"x"}}`,
				ExtensionTemplates:             map[string]string{"build-signer-uri": c.template},
			})
			wantRefusal(t, rules, claims, c.reason, c.mention)
		})
	}
}

func TestTemplatesNameAllMissingClaimsAtOnce(t *testing.T) {
	t.Parallel()
	claims := with(t, githubClaims(t), `{"job_workflow_ref":"","sha":"DELETE","run_id":"DELETE","workflow":"DELETE"}`)
	wantRefusal(t, rulesOf(t, ciEntry(), githubProvider()), claims, refusal.ClaimMissing, `"job_workflow_ref"`, `"sha"`, `"run_id"`, `"workflow"`)
}

func TestReadingClaimsWithoutNamingThemRequiresTextOfAll(t *testing.T) {
	t.Parallel()
	const template = `{{$k := .name}}{{index . $k}}`
	got, err := renderOne(t, template, mustClaims(t, `{"sub":"s","name":"a","a":"1","n":2}`), nil)
	if err != nil || got != "1" {
		t.Errorf("got %q, %v, want 1", got, err)
	}
	_, err = renderOne(t, template, mustClaims(t, `{"sub":"s","name":"a","a":"1","l":[]}`), nil)
	if got := refusal.From(err).Reason; got != refusal.ClaimInvalid {
		t.Errorf("with a list beside it: %v, want CLAIM_INVALID", err)
	}
	_, err = renderOne(t, template, mustClaims(t, `{"sub":"s","name":"a","a":"1","l":null}`), nil)
	if got := refusal.From(err).Reason; got != refusal.ClaimMissing {
		t.Errorf("with null beside it: %v, want CLAIM_MISSING", err)
	}
}

// A template that can never have its author's intended effect is reported when it is loaded.
func TestTemplatesThatMeanNothing(t *testing.T) {
	t.Parallel()
	config := func(template string, compat bool) Config {
		return Config{Compat: compat, Issuers: []IssuerConfig{ciEntry()}, CIProviders: map[string]CIProvider{"ci": {
			SubjectAlternativeNameTemplate: `https://ci.example/{{"x"}}`, ExtensionTemplates: map[string]string{"build-signer-uri": template},
		}}}
	}
	for template, claims := range map[string]oidc.Claims{
		"{{.object.a}}": {"sub": "s", "object": map[string]any{"a": "b"}},
		"{{.a.b}}":      {"sub": "s", "a": "b"},
	} {
		if _, _, err := NewRules(config(template, false)); err == nil || !strings.Contains(err.Error(), "nothing inside") {
			t.Errorf("%s: %v", template, err)
		}
		rules, warnings, err := NewRules(config(template, true))
		if err != nil || len(warnings) != 1 {
			t.Fatalf("%s under compat: %v, warnings %v", template, err, warnings)
		}
		if _, err := rules.Identify(tokenOf(claims)); refusal.From(err).Reason != refusal.ClaimInvalid {
			t.Errorf("%s: %v", template, err)
		}
	}
	for template, want := range map[string]int{
		"https://ci.example": 1, "{.a}": 1, "a b": 1, "oidc.circleci.com/project-id": 0, "a-b_c": 0, "{{with .a}}{{.}}{{end}}": 0,
	} {
		if _, warnings, err := NewRules(config(template, false)); err != nil || len(warnings) != want {
			t.Errorf("%s: %v, warnings %v, want %d", template, err, warnings, want)
		}
	}
}
