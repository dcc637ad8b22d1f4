// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"math/rand/v2"
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
	operator := func(template string, defaults map[string]string, constants map[string]string) *Rules {
		return rulesOf(tb, ciEntry(), CIProvider{SubjectAlternativeNameTemplate: template, DefaultTemplateValues: defaults, Constants: constants})
	}
	distinct := CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}--{{.b}}/-/{{.c}}", DistinctClaims: true}
	wildcard := entryOf(TypeChainguardIdentity)
	wildcard.Static = false
	abc := func() oidc.Claims { return oidc.Claims{"sub": "s", "a": "x", "b": "y", "c": "z"} }
	return []distinctCase{
		{"email", rulesOf(tb, entryOf(TypeEmail)), mustClaims(tb, `{"sub":"s","email":"a@example.com","email_verified":true}`), []string{"email"}, true},
		{"uri", rulesOf(tb, uriEntry()), oidc.Claims{"sub": "https://users.example.com/a"}, []string{"sub"}, true},
		{"username", rulesOf(tb, usernameEntry()), oidc.Claims{"sub": "a"}, []string{"sub"}, true},
		{"spiffe", rulesOf(tb, spiffeEntry()), oidc.Claims{"sub": "spiffe://example.com/a"}, []string{"sub"}, true},
		{"kubernetes", rulesOf(tb, entryOf(TypeKubernetes)), oidc.Claims{"sub": "s", "namespace": "a", "name": "b"}, []string{"namespace", "name"}, true},
		{"chainguard-identity", rulesOf(tb, wildcard), oidc.Claims{"sub": "a/b"}, []string{"sub"}, true},
		{"github-workflow", rulesOf(tb, entryOf(TypeGithubWorkflow)), githubClaims(tb), []string{"job_workflow_ref"}, true},
		{"gitlab-pipeline", rulesOf(tb, entryOf(TypeGitlabPipeline)), gitlabClaims(tb), []string{"ci_config_ref_uri"}, true},
		{"codefresh-workflow", rulesOf(tb, entryOf(TypeCodefreshWorkflow)), codefreshClaims(tb), []string{"platform_url", "account_name", "pipeline_name", "account_id", "pipeline_id"}, true},
		{"buildkite-job", rulesOf(tb, entryOf(TypeBuildkiteJob)), buildkiteClaims(tb), []string{"organization_slug", "pipeline_slug"}, true},
		{"ci-provider, GitHub", rulesOf(tb, ciEntry(), githubProvider()), githubClaims(tb), []string{"url", "job_workflow_ref"}, true},
		{"ci-provider, GitLab", rulesOf(tb, ciEntry(), gitlabProvider()), gitlabClaims(tb), []string{"ci_config_ref_uri"}, true},
		{"ci-provider, Codefresh", rulesOf(tb, ciEntry(), codefreshProvider()), codefreshClaims(tb), []string{"platform_url", "account_name", "pipeline_name", "account_id", "pipeline_id"}, true},
		{"ci-provider, Buildkite", rulesOf(tb, ciEntry(), buildkiteProvider()), buildkiteClaims(tb), []string{"url", "organization_slug", "pipeline_slug"}, true},
		{"ci-provider, CircleCI", rulesOf(tb, ciEntry(), circleProvider()), circleClaims(tb), []string{"api_url", "oidc.circleci.com/project-id", "oidc.circleci.com/pipeline-definition-id"}, true},
		{"ci-provider, Buddy", rulesOf(tb, ciEntry(), buddyProvider()), buddyClaims(tb), []string{"base_url", "workspace_domain", "project_name", "pipeline_id"}, true},
		{"distinct-claims", rulesOf(tb, ciEntry(), distinct), abc(), []string{"a", "b", "c"}, true},
		{"an operator's path", operator("https://ci.example/{{.a}}/{{.b}}-{{.c}}", nil, nil), abc(), []string{"a", "b", "c"}, false},
		{"a claim twice", operator("https://ci.example/{{.a}}/{{.a}}?{{.b}}", nil, nil), abc(), []string{"a", "b"}, false},
		{"a whole URI", operator("{{.a}}", nil, nil), oidc.Claims{"sub": "s", "a": "https://x"}, []string{"a"}, false},
		{"a host", operator("https://{{.a}}:{{.b}}/x", nil, nil), oidc.Claims{"sub": "s", "a": "x", "b": "1"}, []string{"a", "b"}, false},
		{"a scheme", operator("{{.a}}:{{.b}}", nil, nil), oidc.Claims{"sub": "s", "a": "urn", "b": "x"}, []string{"a", "b"}, false},
		{"a query and a fragment", operator("https://ci.example/?{{.a}}#{{.b}}", nil, nil), abc(), []string{"a", "b"}, false},
		{"escapes in the operator's text", operator("HTTPS://ci.example/my%20org/{{.a}}/%c3%A9{{.b}}%2F%{{.c}}", nil, nil), oidc.Claims{"sub": "s", "a": "x", "b": "y", "c": "7B"}, []string{"a", "b", "c"}, false},
		{"escapes in a constant", operator("{{.url}}/{{.a}}", nil, map[string]string{"url": "HTTPS://ci.example/my%20org"}), abc(), []string{"a"}, false},
		{"escapes in a default", operator("{{.a}}/{{.b}}", map[string]string{"a": "HTTPS://ci.example/my%20org"}, nil), oidc.Claims{"sub": "s", "b": "x"}, []string{"a", "b"}, false},
		{"an optional part", operator(`{{if .a}}https://{{.a}}.ghe.com{{else}}{{.b}}{{end}}/my%20org/{{.c}}`, map[string]string{"a": "", "b": "https://github.com"}, nil), oidc.Claims{"sub": "s", "c": "z"}, []string{"a", "c"}, false},
		{"functions", operator(`https://ci.example/{{urlquery .a}}/{{printf "%s" .b}}/{{html .c}}`, nil, nil), abc(), []string{"a", "b"}, false},
	}
}

// identified returns the claims' SAN; "" for a refusal, which must be for a claim.
func (c *distinctCase) identified(t *testing.T, claims oidc.Claims) string {
	t.Helper()
	if c.name == "kubernetes" {
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
				base := oidc.Claims{}
				for name, v := range c.claims {
					base[name] = v
				}
				for range r.IntN(4) {
					name := c.read[r.IntN(len(c.read))]
					base[name] = mutate(r, textOf(base, name))
				}
				for range 40 {
					token := oidc.Claims{}
					for name, v := range base {
						token[name] = v
					}
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

// The two members of each pair would have one name by formatting alone, or by concatenation.
func TestOneOfTwoIsRefused(t *testing.T) {
	t.Parallel()
	provider := func(template string, defaults map[string]string) *Rules {
		return rulesOf(t, ciEntry(), CIProvider{SubjectAlternativeNameTemplate: template, DefaultTemplateValues: defaults})
	}
	path := provider("https://ci.example/{{.a}}", nil)
	distinct := rulesOf(t, ciEntry(), CIProvider{SubjectAlternativeNameTemplate: "https://ci.example/{{.a}}--{{.b}}", DistinctClaims: true})
	optional := provider(`{{if .a}}https://{{.a}}.ghe.com{{else}}{{.url}}{{end}}/{{.b}}`, map[string]string{"a": "", "url": "https://x.ghe.com"})
	for _, c := range []struct {
		name    string
		rules   *Rules
		claims  oidc.Claims
		named   string // the SAN of one
		named1  string // its claims over claims, as name=text
		refused string // the other's
		mention string // text of the refusal besides the claim
	}{
		{"empty fragment", path, nil, "https://ci.example/main", "a=main", "a=main#", `"#"`},
		{"escape of a letter beyond ASCII", path, nil, "https://ci.example/gr%C3%B6%C3%9Fe", "a=größe", "a=gr%C3%B6%C3%9Fe", `"%C3"`},
		{"escape of a space", path, nil, "https://ci.example/a%20b", "a=a b", "a=a%20b", `"%20"`},
		{"escaped slash beside a space", path, nil, "https://ci.example/a/b%20c", "a=a/b c", "a=a%2Fb c", `"%2F"`},
		{"escaped letter beside a space", path, nil, "https://ci.example/a%20c", "a=a c", "a=%61 c", `"%61"`},
		{"lower-case escape beside a space", path, nil, "https://ci.example/%3F%20c", "a=%3F c", "a=%3f c", `"%3f"`},
		{"escaped hash in a fragment", path, nil, "https://ci.example/a#b%23c", "a=a#b#c", "a=a#b%23c", `"%23"`},
		{"case of the scheme", provider("{{.a}}", nil), nil, "https://h/x", "a=https://h/x", "a=HTTPS://h/x", `"H"`},
		{"case of the scheme, without an authority", provider("{{.a}}", nil), nil, "urn:x:Y", "a=urn:x:Y", "a=URN:x:Y", `"U"`},
		{"escape that the operator's text begins", provider("https://ci.example/%{{.a}}", nil), nil, "https://ci.example/%7B%20", "a=7B ", "a=7b ", ""},
		{"escape beside one in the operator's text", provider("https://ci.example/my%20org/{{.a}}", nil), nil, "https://ci.example/my%20org/%22", `a="`, "a=%22", `"%22"`},
		{"escape that is printed only beside another", path, nil, "https://ci.example/a%28b%20c", "a=a(b c", "a=a%28b c", `"%28"`},
		{"control character that a function prints as another", provider("https://ci.example/{{html .a}}", nil), nil, "https://ci.example/%EF%BF%BD", "a=\ufffd", "a=\x00", ""},
		{"quote", path, nil, "https://ci.example/it's", "a=it's", "a=it%27s", `"%27"`},
		{"default in another form", provider("{{.a}}/{{.b}}", map[string]string{"a": "HTTPS://ci.example/my%20org"}), oidc.Claims{"b": "x"}, "https://ci.example/my%20org/x", "", "a=https://ci.example/my org", ""},
		{"optional part that makes the default", optional, oidc.Claims{"b": "y"}, "https://x.ghe.com/y", "", "a=x", ""},
		{"separator that a claim's end completes", distinct, oidc.Claims{"b": "y"}, "https://ci.example/x--y", "a=x", "a=x-", `"--"`},
		{"separator in a claim", distinct, oidc.Claims{"b": "y"}, "https://ci.example/x--y", "a=x", "a=x--z", `"--"`},
		{"type uri, space", rulesOf(t, uriEntry()), nil, "https://users.example.com/a%20b", "sub=https://users.example.com/a%20b", "sub=https://users.example.com/a b", `" "`},
		{"type uri, empty fragment", rulesOf(t, uriEntry()), nil, "https://users.example.com/a", "sub=https://users.example.com/a", "sub=https://users.example.com/a#", `"#"`},
		{"chainguard-identity, slashes", rulesOf(t, entryOf(TypeChainguardIdentity)), nil, issuerURL + "/a/b", "sub=a/b", "sub=a//b", `"/"`},
		{"chainguard-identity, escaped question mark", rulesOf(t, entryOf(TypeChainguardIdentity)), nil, issuerURL + "/a%3Fb", "sub=a?b", "sub=a%3Fb", `"%3F"`},
		{"gitlab-pipeline, scheme", rulesOf(t, entryOf(TypeGitlabPipeline)), gitlabClaims(t), "https://gitlab.com/g", "ci_config_ref_uri=gitlab.com/g", "ci_config_ref_uri=http://gitlab.com/g", `"h"`},
		{"codefresh-workflow, slash of the platform", rulesOf(t, entryOf(TypeCodefreshWorkflow)), codefreshClaims(t),
			"https://h/codefresh-inc/oidc-test/get-token:628a80b693a15c0f9c13ab75/65e6d5551e47e5bc243ca93f", "platform_url=https://h", "platform_url=https://h/", `"/"`},
		{"CircleCI, separator that a claim's end completes", rulesOf(t, ciEntry(), circleProvider()), circleClaims(t),
			"https://h/projects/c1d2/pipeline-definitions/7f8a", "api_url=https://h", "api_url=https://h/projects", `"/projects/"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			claims := func(change string) oidc.Claims {
				all := oidc.Claims{"sub": "s"}
				for name, v := range c.claims {
					all[name] = v
				}
				if name, text, ok := strings.Cut(change, "="); ok {
					all[name] = text
				}
				return all
			}
			if got := mustIdentify(t, c.rules, claims(c.named1)).SAN.Value; got != c.named {
				t.Errorf("the SAN is %q, want %q", got, c.named)
			}
			name, _, _ := strings.Cut(c.refused, "=")
			wantRefusal(t, c.rules, claims(c.refused), refusal.ClaimInvalid, `"`+name+`"`, c.mention)
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
			token := oidc.Claims{}
			for name, v := range c.claims {
				token[name] = v
			}
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
