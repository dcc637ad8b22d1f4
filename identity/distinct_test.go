// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// distinctCase is a rule, a token that it names, and the claims in the name.
type distinctCase struct {
	name   string
	rules  *Rules
	claims oidc.Claims
	read   []string
	// tuple states that no two lists of the claims may result in the same name.
	tuple bool
}

func distinctCases(tb testing.TB) []distinctCase {
	operator := func(template string, defaults, constants map[string]string) *Rules {
		return ciRules(tb, CIProvider{SubjectAlternativeNameTemplate: template, DefaultTemplateValues: defaults, Constants: constants})
	}
	distinct := CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}--{{.b}}/-/{{.c}}", DistinctClaims: true}
	wildcard := entryOf(TypeChainguardIdentity)
	wildcard.Static = false
	abc := oidc.Claims{"sub": "s", "a": "x", "b": "y", "c": "z"}
	cases := []distinctCase{
		{TypeEmail, rulesOf(tb, entryOf(TypeEmail)), mustClaims(tb, `{"sub":"s","email":"a@example.com","email_verified":true}`), []string{"email"}, true},
		{TypeURI, rulesOf(tb, entryOf(TypeURI)), oidc.Claims{"sub": "https://users.example.com/a"}, []string{"sub"}, true},
		{TypeUsername, rulesOf(tb, entryOf(TypeUsername)), oidc.Claims{"sub": "a"}, []string{"sub"}, true},
		{TypeSPIFFE, rulesOf(tb, entryOf(TypeSPIFFE)), oidc.Claims{"sub": "spiffe://example.com/a"}, []string{"sub"}, true},
		{TypeKubernetes, rulesOf(tb, entryOf(TypeKubernetes)), oidc.Claims{"sub": "s", "namespace": "a", "name": "b"}, []string{"namespace", "name"}, true},
		{TypeChainguardIdentity, rulesOf(tb, wildcard), oidc.Claims{"sub": "a/b"}, []string{"sub"}, true},
		{"distinct-claims", ciRules(tb, distinct), abc, []string{"a", "b", "c"}, true},
		{"an operator's path", operator("https://ci.example/{{.a}}/{{.b}}-{{.c}}", nil, nil), abc, []string{"a", "b", "c"}, false},
		{"a claim twice", operator("https://ci.example/{{.a}}/{{.a}}?{{.b}}", nil, nil), abc, []string{"a", "b"}, false},
		{"a whole URI", operator("{{.a}}", nil, nil), oidc.Claims{"sub": "s", "a": "https://x"}, []string{"a"}, false},
		{"a host", operator("https://{{.a}}:{{.b}}/x", nil, nil), oidc.Claims{"sub": "s", "a": "x", "b": "1"}, []string{"a", "b"}, false},
		{"a scheme", operator("{{.a}}:{{.b}}", nil, nil), oidc.Claims{"sub": "s", "a": "urn", "b": "x"}, []string{"a", "b"}, false},
		{"a query and a fragment", operator("https://ci.example/?{{.a}}#{{.b}}", nil, nil), abc, []string{"a", "b"}, false},
		{"escapes in the operator's text", operator("https://ci.example/my%20org/{{.a}}/%c3%A9{{.b}}%2F%{{.c}}", nil, nil), oidc.Claims{"sub": "s", "a": "x", "b": "y", "c": "7B"}, []string{"a", "b", "c"}, false},
		{"escapes in a constant", operator("{{.url}}/{{.a}}", nil, map[string]string{"url": "https://ci.example/my%20org"}), abc, []string{"a"}, false},
		{"escapes in a default", operator("{{.a}}/{{.b}}", map[string]string{"a": "https://ci.example/my%20org"}, nil), oidc.Claims{"sub": "s", "b": "x"}, []string{"a", "b"}, false},
		{"an optional part", operator(`{{if .a}}https://{{.a}}.ghe.com{{else}}{{.b}}{{end}}/my%20org/{{.c}}`, map[string]string{"a": "", "b": "https://github.com"}, nil), oidc.Claims{"sub": "s", "c": "z"}, []string{"a", "c"}, false},
		{"functions", operator(`https://ci.example/{{urlquery .a}}/{{printf "%s" .b}}/{{html .c}}`, nil, nil), abc, []string{"a", "b"}, false},
	}
	for name, read := range map[string]string{
		"github-workflow": "url job_workflow_ref", "gitlab-pipeline": "ci_config_ref_uri",
		"codefresh-workflow": "platform_url account_name pipeline_name account_id pipeline_id", "buildkite-job": "url organization_slug pipeline_slug",
		"circleci-job": "api_url oidc.circleci.com/project-id oidc.circleci.com/pipeline-definition-id", "buddy-pipeline": "base_url workspace_domain project_name pipeline_id",
	} {
		claims := ciClaims(tb, name)
		cases = append(cases, distinctCase{"shipped " + name, ciRules(tb, shipped(tb, name)), claims, strings.Fields(read), true})
		if slices.Contains(Types(), name) {
			cases = append(cases, distinctCase{name, rulesOf(tb, entryOf(name)), claims, strings.Fields(strings.TrimPrefix(read, "url ")), true})
		}
	}
	slices.SortFunc(cases, func(a, b distinctCase) int { return strings.Compare(a.name, b.name) })
	return cases
}

// identified returns the claims' SAN; "" for a refusal, which must be for a claim.
func (c *distinctCase) identified(t *testing.T, claims oidc.Claims) string {
	t.Helper()
	if c.name == TypeKubernetes {
		claims = oidc.Claims{"sub": "s", "kubernetes.io": map[string]any{"namespace": claims["namespace"], "serviceaccount": map[string]any{"name": claims["name"]}}}
	}
	id, err := c.rules.Identify(tokenOf(claims))
	if err == nil {
		return id.SAN.Value
	}
	switch reason := refusal.From(err).Reason; reason {
	case refusal.ClaimInvalid, refusal.ClaimMissing, refusal.EmailNotASCII:
	default:
		t.Fatalf("%s: %v: %v", c.name, claims, err)
	}
	return ""
}

// mutate returns text with one change that a name may not show.
func mutate(r *rand.Rand, text string) string {
	pieces := []string{"%20", "%c3%a9", "%C3%A9", "é", " ", "%", "#", "?", "/", "//", ":", "%2F", "%2f", "/../", "/./", "\"", "%22", "{", "%7B", "%7b", "\\", "%5C",
		"'", "%27", "[", "%5B", "*", "^", "%25", "%41", "A", "-", "--", "@", "://", "https://", "HTTP", "2", "20", "7b", "7B", "/projects", "/projects/", "/pipelines/pipeline", "/-", ".", "+", "~", "\u00a0"}
	piece := pieces[r.IntN(len(pieces))]
	at := r.IntN(len(text) + 1)
	switch r.IntN(6) {
	case 0:
		return strings.ToUpper(text)
	case 1:
		return strings.ReplaceAll(text, piece, pieces[r.IntN(len(pieces))])
	case 2:
		return text[:at] + text[min(len(text), at+1+r.IntN(3)):]
	case 3:
		return text + piece
	case 4:
		return piece + text
	default:
		return text[:at] + piece + text[at:]
	}
}

func textOf(claims oidc.Claims, name string) string {
	text, _ := claimText(name, claims[name])
	return text
}

// The test takes two tokens that differ in one claim of the name, or in any of them for a type or
// template of this server. At least one is refused, or their names differ.
func TestNoTwoCallersShareAName(t *testing.T) {
	t.Parallel()
	for i, c := range distinctCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.identified(t, c.claims) == "" {
				t.Fatal("the token is refused")
			}
			r := rand.New(rand.NewPCG(1, uint64(i)))
			accepted := 0
			for range 100 {
				names := map[string]string{}
				base := maps.Clone(c.claims)
				for range r.IntN(4) {
					name := c.read[r.IntN(len(c.read))]
					base[name] = mutate(r, textOf(base, name))
				}
				for range 40 {
					token := maps.Clone(base)
					name := c.read[r.IntN(len(c.read))]
					if !c.tuple {
						name = c.read[0]
					}
					for range 1 + r.IntN(3) {
						token[name] = mutate(r, textOf(token, name))
						if c.tuple && r.IntN(2) == 0 {
							name = c.read[r.IntN(len(c.read))]
						}
					}
					san := c.identified(t, token)
					if san == "" {
						continue
					}
					accepted++
					key := ""
					for _, name := range c.read {
						key += textOf(token, name) + "\n"
					}
					if other, ok := names[san]; ok && other != key {
						t.Fatalf("%q and %q share the name %s", other, key, san)
					}
					names[san] = key
				}
				c.read = append(c.read[1:], c.read[0]) // another claim changes
			}
			if accepted < 20 {
				t.Errorf("only %d tokens were accepted", accepted)
			}
		})
	}
}

func TestOneOfTwoIsRefused(t *testing.T) {
	t.Parallel()
	var cases []struct {
		Template, Type, Shipped, Token, SAN string
		Defaults                            map[string]string
		Distinct                            bool
		First, Second                       map[string]any
	}
	readYAML(t, "testdata/pairs.yaml", &cases)
	for _, c := range cases {
		t.Run(fmt.Sprint(c.Template, c.Type, c.Shipped, c.Second), func(t *testing.T) {
			t.Parallel()
			provider := CIProvider{SubjectAlternativeNameTemplate: cmp.Or(c.Template, "x"), DefaultTemplateValues: c.Defaults, DistinctClaims: c.Distinct}
			if c.Shipped != "" {
				provider = shipped(t, c.Shipped)
			}
			rules := rulesOf(t, entryOf(cmp.Or(c.Type, TypeCIProvider)), provider)
			token := oidc.Claims{"sub": "s"}
			if c.Token != "" {
				token = ciClaims(t, c.Token)
			}
			first, second := maps.Clone(token), maps.Clone(token)
			maps.Copy(first, c.First)
			maps.Copy(second, c.Second)
			if got := mustIdentify(t, rules, first).SAN.Value; got != c.SAN {
				t.Errorf("the SAN is %q, want %q", got, c.SAN)
			}
			wantRefusal(t, rules, second, refusal.ClaimInvalid)
		})
	}
}

// FuzzDistinct is TestNoTwoCallersShareAName with texts of the fuzzer.
func FuzzDistinct(f *testing.F) {
	for i, text := range []string{"https://h/a b", "https://h/a%20b", "urn:x:y", "HTTP://h/é#a#b", "https://h/%2F?q%20#", "foo:/a//b'[x]", "https://[fe80::1%25a%20b]/x", "https://h/%27 %7b*"} {
		f.Add(uint8(i), uint8(i), "https://h/"+text, text)
		f.Add(uint8(i+8), uint8(i), text, strings.ToUpper(text))
		f.Add(uint8(i+16), uint8(i), "a", text)
	}
	cases := distinctCases(f)
	f.Fuzz(func(t *testing.T, which, position uint8, a, b string) {
		c := cases[int(which)%len(cases)]
		first, second := c.read[int(position)%len(c.read)], c.read[int(position/16)%len(c.read)]
		names := map[string][2]string{}
		for _, texts := range [][2]string{{a, ""}, {b, ""}, {undoEscapes(a, false, true), ""}, {undoEscapes(a, true, false), ""}, {upperEscapes(a), ""}, {strings.ToLower(a), ""}, {a, b}, {b, a}, {a, a}} {
			token := maps.Clone(c.claims)
			token[first] = texts[0]
			if texts[1] != "" {
				if !c.tuple || first == second {
					continue
				}
				token[second] = texts[1]
			}
			texts = [2]string{textOf(token, first), textOf(token, second)}
			san := c.identified(t, token)
			if other, ok := names[san]; ok && san != "" && other != texts {
				t.Fatalf("%s: %q and %q of %s and %s share the name %s", c.name, other, texts, first, second, san)
			}
			names[san] = texts
		}
	})
}

// TestRefusalNamesTheCharacter: a refusal for two callers of one name holds the claim and the
// character that the name would not show.
func TestRefusalNamesTheCharacter(t *testing.T) {
	t.Parallel()
	rules := ciRules(t, CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.x}}"})
	for text, character := range map[string]string{"a#": `"#"`, "a?": `"?"`, "a%20b": `"%20"`} {
		wantRefusal(t, rules, with(t, mustClaims(t, `{"sub":"s"}`), fmt.Sprintf(`{"x":%q}`, text)), refusal.ClaimInvalid, `"x"`, character)
	}
	entry := entryOf(TypeCIProvider)
	entry.Constants = map[string]string{"x": ""}
	_, warnings, err := NewRules(Config{Issuers: []IssuerConfig{entry}, CIProviders: map[string]CIProvider{"ci": {SubjectAlternativeNameTemplate: "https://ci.example/{{.x}}"}}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "constants") {
		t.Errorf("a constant that is empty: %v, warnings %v", err, warnings)
	}
}

// What isClean accepts is what url.JoinPath makes of it.
func TestCleanURLs(t *testing.T) {
	t.Parallel()
	random, clean := rand.New(rand.NewPCG(1, 2)), 0
	const octets = "ab/./-_~@.A:%?#é /x0"
	for range 200_000 {
		raw := []byte("https://h.example/")
		for range random.IntN(6) {
			raw = append(raw, octets[random.IntN(len(octets))])
		}
		if !isClean(string(raw)) {
			continue
		}
		clean++
		if joined, err := url.JoinPath("https://h.example", string(raw[len("https://h.example"):])); err != nil || joined != string(raw) {
			t.Fatalf("%q became %q, %v", raw, joined, err)
		}
	}
	if clean < 1000 {
		t.Errorf("%d URLs were clean", clean)
	}
}
