// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

func one(when string) Config { return Config{Allow: []Rule{{Name: "rule", When: when}}} }

func mustNew(tb testing.TB, config Config) *Policy {
	tb.Helper()
	p, err := new(Compiler).New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func claimsOf(tb testing.TB, document string) map[string]any {
	tb.Helper()
	claims, err := oidc.ParseClaims([]byte(document))
	if err != nil {
		tb.Fatal(err)
	}
	return claims
}

// Expressions see each kind of claim as follows.
func TestDecide(t *testing.T) {
	t.Parallel()
	claims := claimsOf(t, `{"sub":"s","text":"a/b","int":3,"big":9007199254740993,"huge":18446744073709551616,"half":1.5,"exp":1e2,
		"yes":true,"nothing":null,"groups":["dev","ops"],"nested":{"name":"n","list":[{"n":7}]}}`)
	in := Input{Claims: claims, SAN: "https://ci.example/a", Issuer: "https://issuer.example"}
	for when, want := range map[string]string{
		`true`:                                        "allowed",
		`false`:                                       "denied",
		`claims.text == "a/b"`:                        "allowed",
		`claims.text.startsWith("a/")`:                "allowed",
		`claims.text.matches("^a/[a-z]$")`:            "allowed",
		`claims["text"] in ["x", "a/b"]`:              "allowed",
		`claims.int == 3 && claims.int < 4`:           "allowed",
		`claims.int < 3.5`:                            "allowed",
		`claims.big == 9007199254740993`:              "allowed",
		`claims.big == 9007199254740992`:              "denied",
		`claims.huge > 5`:                             "error",
		`claims.half > 1 && claims.exp == 100.0`:      "allowed",
		`claims.yes == true`:                          "allowed",
		`claims.yes == "true"`:                        "denied",
		`claims.nothing == null`:                      "allowed",
		`"ops" in claims.groups`:                      "allowed",
		`claims.groups.exists(g, g == "ops")`:         "allowed",
		`claims.nested.name == "n"`:                   "allowed",
		`claims.nested.list[0].n == 7`:                "allowed",
		`san.startsWith("https://ci.example/")`:       "allowed",
		`issuer == "https://issuer.example"`:          "allowed",
		`has(claims.text)`:                            "allowed",
		`has(claims.missing) && claims.missing == ""`: "denied",
		`claims.missing == "x"`:                       "error", // a misspelt claim denies
		`claims.text > 5`:                             "error",
		`claims.text && true`:                         "error",
		`claims.nested.name.missing == "x"`:           "error",
		`claims.yes == true || claims.missing == "x"`: "allowed",
	} {
		if got := mustNew(t, one(when)).Decide(in); got.Result() != want {
			t.Errorf("%s: %s (%v), want %s", when, got.Result(), got.Err, want)
		}
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	rules := []Rule{{"main branch", `claims.ref == "refs/heads/main"`}, {"releases", `claims.ref.startsWith("refs/tags/v")`}}
	in := func(ref string) Input {
		return Input{Claims: map[string]any{"ref": ref}}
	}
	enforced := mustNew(t, Config{Allow: rules})
	if d := enforced.Decide(in("refs/tags/v1")); d.Rule != "releases" || d.Refusal() != nil {
		t.Errorf("%+v: %v", d, d.Refusal())
	}
	denied := enforced.Decide(in("refs/heads/evil"))
	var refused *refusal.Error
	if !errors.As(denied.Refusal(), &refused) || refused.Reason != refusal.PolicyDenied ||
		!strings.Contains(refused.Message, `"main branch" "releases"`) || strings.Contains(refused.Message, "evil") {
		t.Errorf("%v", denied.Refusal())
	}
	// An error denies, and its text is not for the client.
	broken := enforced.Decide(Input{Claims: map[string]any{}})
	if !errors.As(broken.Refusal(), &refused) || strings.Contains(refused.Message, "no such key") || !strings.Contains(refused.Error(), "no such key") {
		t.Errorf("%v", broken.Refusal())
	}
	audited := mustNew(t, Config{Allow: rules, Mode: ModeAudit}).Decide(in("refs/heads/evil"))
	if !audited.Denied || !audited.Audit || audited.Refusal() != nil {
		t.Errorf("%+v: %v", audited, audited.Refusal())
	}
	if d := (*Policy)(nil).Decide(in("")); d.Denied || d.Result() != "none" {
		t.Errorf("without a policy: %+v", d)
	}
}

// A rule that exceeds its cost limit denies: a token cannot slow it down.
func TestCostIsLimited(t *testing.T) {
	t.Parallel()
	list := make([]any, 2000)
	for i := range list {
		list[i] = fmt.Sprintf("group-%d", i)
	}
	p := mustNew(t, one(`claims.a.all(x, claims.a.all(y, x + y != "z"))`))
	d := p.Decide(Input{Claims: map[string]any{"a": list}})
	if !d.Denied || d.Err == nil || !strings.Contains(d.Err.Error(), "cost") {
		t.Errorf("%+v", d)
	}
}

// New reports every mistake at once, each at its key.
func TestMistakes(t *testing.T) {
	t.Parallel()
	_, err := new(Compiler).New(Config{Mode: "shadow", Allow: []Rule{
		{"", `true`},
		{"a", `clams.sub == "x"`},
		{"a", `claims.sub`},
		{"b", ``},
		{"c", `claims.sub = "x"`},
		{"d", `claims.sub.matches("[")`},
		{"e", `san == 5`},
		{"f", `"yes"`},
		{"g", "true &&\n nope"},
		{"h", strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300)},
		{"i", `san.matches("((abcdefghij){30}){30}")`},
		{"j", `san == "` + strings.Repeat("x", maxExpression) + `"`},
	}})
	got := map[string]string{}
	for _, e := range keypath.All(err) {
		path := strings.Join(e.Path, ".")
		if _, ok := got[path]; !ok {
			got[path] = e.Err.Error()
		}
		if strings.Contains(e.Err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", path, e.Err)
		}
	}
	for path, want := range map[string]string{
		"mode":          `no mode "shadow"`,
		"allow.0.name":  "has 0 bytes",
		"allow.1.when":  "undeclared reference to 'clams'",
		"allow.2.name":  `has the name "a"`,
		"allow.2.when":  "any",
		"allow.3.when":  "no expression",
		"allow.4.when":  "character",
		"allow.5.when":  "regex",
		"allow.6.when":  "no matching overload",
		"allow.7.when":  "of type string",
		"allow.8.when":  "line 2, character 2",
		"allow.9.when":  "",
		"allow.10.when": "",
		"allow.11.when": "",
	} {
		if text, ok := got[path]; !ok || !strings.Contains(text, want) {
			t.Errorf("%s: %q, want %q", path, text, want)
		}
		delete(got, path)
	}
	if diff := cmp.Diff(map[string]string{}, got); diff != "" {
		t.Errorf("more mistakes:\n%s", diff)
	}
	if _, err := new(Compiler).New(Config{Mode: "audit"}); err == nil {
		t.Error("a mode without rules was accepted")
	}
	var rules []Rule
	for i := range maxRules + 1 {
		rules = append(rules, Rule{fmt.Sprint("rule ", i), "true"})
	}
	mustNew(t, Config{Allow: rules[1:]})
	if _, err := new(Compiler).New(Config{Allow: rules}); err == nil {
		t.Error("too many rules were accepted")
	}
}

// Every rule either compiles or is refused, and decides on any claims without a panic.
func FuzzPolicy(f *testing.F) {
	f.Add(`claims.sub == "x"`, `{"sub":"x"}`)
	f.Add(`claims.a.exists(x, x.b > 1)`, `{"a":[{"b":1.5},{"b":2}]}`)
	f.Add(`san.matches("^a+$") && !(issuer in ["b"])`, `{}`)
	f.Add(`claims["a"]["b"][0] == null`, `{"a":{"b":[null]}}`)
	for _, when := range []string{
		`claims.a == "x" && claims.b == "y" && claims.c == 1 && true`, `claims.a == "x" && claims.missing`, `claims.a == "x" || claims.b == "y"`,
		`(claims.a == "x" && claims.b > 1) && "x" in claims.c`, `claims.a == "x" && false`, `claims.a == "x" ? true : false`, `!(claims.a == "x")`,
		`[{"a":"x"}].exists(claims, claims.a == "x")`, `"x" == claims.a`, `claims.a == "x" == true`, `claims.a == "x" && 1/0 == 1`, `has(claims.a) == true`,
	} {
		f.Add(when, `{"a":"x","b":"y","c":1}`)
		f.Add(when, `{"a":"z","b":2,"c":["x"]}`)
		f.Add(when, `{"a":1}`)
		f.Add(when, `{"a":null,"b":"y"}`)
		f.Add(when, `{}`)
	}
	f.Fuzz(func(t *testing.T, when, document string) {
		p, err := new(Compiler).New(one(when))
		if err != nil {
			return
		}
		claims, err := oidc.ParseClaims([]byte(document))
		if err != nil {
			return
		}
		d := p.Decide(Input{Claims: claims, SAN: "s", Issuer: "i"})
		if d.Denied == (d.Rule != "") || d.Denied != (d.Refusal() != nil) {
			t.Errorf("%q over %q: %+v", when, document, d)
		}
		// CEL alone decides the same.
		p.rules[0].first = equality{}
		want := p.Decide(Input{Claims: claims, SAN: "s", Issuer: "i"})
		if d.Result() != want.Result() || fmt.Sprint(d.Err) != fmt.Sprint(want.Err) {
			t.Errorf("%q over %q: %s (%v), CEL alone decides %s (%v)", when, document, d.Result(), d.Err, want.Result(), want.Err)
		}
	})
}

// BenchmarkDecide measures the policy of an organisation with 200 repositories.
func BenchmarkDecide(b *testing.B) {
	names := make([]string, 200)
	for i := range names {
		names[i] = fmt.Sprintf("%q", fmt.Sprintf("example/repository-%03d", i))
	}
	p := mustNew(b, Config{Allow: []Rule{{
		Name: "our repositories, from main or a release",
		When: fmt.Sprintf(`claims.repository in [%s] && (claims.ref == "refs/heads/main" || claims.ref.startsWith("refs/tags/v"))`, strings.Join(names, ", ")),
	}}})
	for name, repository := range map[string]string{"allowed": "example/repository-199", "denied": "example/other"} {
		in := Input{Claims: map[string]any{"repository": repository, "ref": "refs/tags/v1.2.3"}}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Decide(in); d.Denied != (name == "denied") {
					b.Fatal(d)
				}
			}
		})
	}
}

// BenchmarkRules measures a caller that the last rule of a policy allows, and how long policies of one
// rule take to compile.
func BenchmarkRules(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		var rules []Rule
		for i := range n {
			rules = append(rules, Rule{Name: fmt.Sprint("rule ", i), When: fmt.Sprintf(`claims.repository_owner == "organisation-%d" && claims.ref == "refs/heads/main"`, i)})
		}
		p := mustNew(b, Config{Allow: rules})
		in := Input{Claims: map[string]any{"repository_owner": fmt.Sprintf("organisation-%d", n-1), "ref": "refs/heads/main"}}
		b.Run(fmt.Sprint("decide/rules=", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Decide(in); d.Denied {
					b.Fatal(d)
				}
			}
		})
		b.Run(fmt.Sprint("compile/policies=", n), func(b *testing.B) {
			for b.Loop() {
				var c Compiler
				for _, rule := range rules {
					if _, err := c.New(Config{Allow: []Rule{rule}}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
