// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
)

// initialProviders returns the providers of config init, and values for all their parameters.
func initialProviders(t *testing.T) (providers []*config.Provider, values map[string]map[string]string) {
	t.Helper()
	known, values := must(config.Providers())(t), map[string]map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		providers, values[name] = append(providers, known[name]), map[string]string{}
		for _, p := range known[name].Parameters {
			values[name][p.Name] = p.Example + p.Default
			if err := p.Check(p.Example + p.Default); err != nil && p.Example+p.Default != "" || p.About == "" {
				t.Errorf("%s.%s: %v", name, p.Name, err)
			}
		}
	}
	return providers, values
}

// checkInitial requires that the issuer file of the providers has no mistake and no warning, and that
// its tests pass: for each entry one claim set that is allowed, and one that is refused.
func checkInitial(t *testing.T, providers []*config.Provider, values map[string]map[string]string) {
	t.Helper()
	checkInitialText(t, providers, must(config.InitialIssuers(providers, values))(t))
}

func checkInitialText(t *testing.T, providers []*config.Provider, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "issuers.yaml")
	must(0, os.WriteFile(file, []byte(text), 0o600))(t)
	report := must(app.Check(t.Context(), app.CheckOptions{File: file}))(t)
	issuers, _, err := config.LoadIssuers(file, false, nil)
	if err != nil || len(report.Mistakes)+len(report.Warnings) > 0 || report.Entries != len(providers) {
		t.Fatalf("mistakes %v, warnings %v, %d entries for %d providers in\n%s", report.Mistakes, report.Warnings, report.Entries, len(providers), text)
	}
	for _, profile := range issuers.All() {
		allowed := slices.IndexFunc(profile.Tests, func(test config.IssuerTest) bool { return test.SAN != "" })
		refused := slices.IndexFunc(profile.Tests, func(test config.IssuerTest) bool { return test.Reason == "POLICY_DENIED" })
		if allowed < 0 || refused < 0 || len(profile.Policy.Allow) == 0 {
			t.Errorf("%s has no rule, or no test of what it allows or refuses", profile.Key)
		}
	}
}

// Each provider alone and all together make a file that passes its own tests, with the values that they
// suggest and with all odd ones that they do not refuse.
func TestInitialIssuers(t *testing.T) {
	t.Parallel()
	providers, values := initialProviders(t)
	checkInitial(t, providers, values)
	// The rules in comments are rules, and what is refused without them stays refused.
	text := must(config.InitialIssuers(providers, values))(t)
	commented := regexp.MustCompile(`(?m)^      # (- name: |  when: |    claims\.)`)
	if n := len(commented.FindAllString(text, -1)); n != 6 {
		t.Errorf("the rules in comments have %d lines", n)
	}
	checkInitialText(t, providers, commented.ReplaceAllString(text, "      $1"))
	odd := []string{
		"123", "0x1F", "1e3", "true", "null", "~", "no", "2026-01-01", "a.b", "a..b", "a-", "-a", "a_b", ".", "..", "a/..", "a/./b", "a//b", "a/b/c", "a,b", "a,",
		"", " ", "a b", " a", "a ", "a\n", "a\nb", "a\r", "a\tb", "a'b", `a"b`, `a\b`, `a\u0022`, "a#b", "a #b", "a: b", "a:", "*a", "&a", "!a", "|", ">", "@a", "%a", "`a`",
		"{a}", "[a]", "[[ .org ]]", "{{ .url }}", "${{ github.actor }}", "$(id)", "a == a", `" || true || "`, `') || true //`, "größe", "a\u202eb", "a\x00", "\xff", strings.Repeat("a", 300),
		"https://a.example", "https://a.example/", "https://a.example/b", "https://a.example/b/", "https://a", "https://10.0.0.1:8443", "https://[::1]", "https://a.example:99999",
		"https://a.example:0", "https://A.example", "https://a..example", "https://a-.example", "https://a.example/../b", "https://a.example/*", "https://*.example", "http://a.example",
		"https://u@a.example", "https://a.example?b", "https://a.example#b", "https://a.example/%41", "https://a.example/.well-known/openid-configuration", "https://github.com", "https://gitlab.com",
		"a.example", "A.example", "a.example.", "1.2.3.4", "00000000-0000-0000-0000-000000000000",
	}
	for _, provider := range providers {
		t.Run(provider.Name, func(t *testing.T) {
			t.Parallel()
			checkInitial(t, []*config.Provider{provider}, values)
			for _, parameter := range provider.Parameters {
				for _, value := range odd {
					if parameter.Check(value) != nil {
						continue
					}
					if strings.ContainsAny(value, " \n\r\t'\"\\#{}[]$*&!|>%@`") || strings.Contains(value, "..") && !slices.Contains([]string{"name", "path", "branches"}, parameter.Kind) {
						t.Errorf("%s may be %q", parameter.Name, value)
					}
					changed := maps.Clone(values[provider.Name])
					changed[parameter.Name] = value
					checkInitial(t, []*config.Provider{provider}, map[string]map[string]string{provider.Name: changed})
				}
			}
		})
	}
}
