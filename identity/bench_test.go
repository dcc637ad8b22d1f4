// SPDX-License-Identifier: Apache-2.0

package identity

import "testing"

func BenchmarkIdentify(b *testing.B) {
	for _, c := range []struct {
		name     string
		entry    IssuerConfig
		provider CIProvider
		claims   func(testing.TB) map[string]any
	}{
		{"GithubProvider", ciEntry(), githubProvider(), githubClaims},
		{"GitlabProvider", ciEntry(), gitlabProvider(), gitlabClaims},
		{"GithubWorkflow", entryOf(TypeGithubWorkflow), githubProvider(), githubClaims},
		{"Email", entryOf(TypeEmail), githubProvider(), func(tb testing.TB) map[string]any {
			return mustClaims(tb, `{"sub":"s","email":"a@example.com","email_verified":true}`)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			rules, tok := rulesOf(b, c.entry, c.provider), tokenOf(c.claims(b))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rules.Identify(tok); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
