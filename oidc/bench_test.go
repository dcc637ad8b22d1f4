// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"testing"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// githubClaims returns claims like those of a real GitHub Actions token, in kind and number.
func githubClaims() map[string]any {
	return map[string]any{
		"jti": "2b6a9a44-0d0b-4c0c-8a0c-2f7f4f6f9d2a", "sub": "repo:octo-org/octo-repo:ref:refs/heads/main",
		"ref": "refs/heads/main", "sha": "6e67b1cbb82b7d3576f2129e7d503c3a14a2b6c2", "repository": "octo-org/octo-repo",
		"repository_owner": "octo-org", "repository_owner_id": "65", "run_id": "4242424242", "run_number": "10",
		"run_attempt": "1", "repository_visibility": "public", "repository_id": "74", "actor_id": "12",
		"actor": "octocat", "workflow": "release", "head_ref": "", "base_ref": "", "event_name": "push",
		"ref_protected": "true", "ref_type": "branch", "runner_environment": "github-hosted",
		"workflow_ref":     "octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main",
		"workflow_sha":     "6e67b1cbb82b7d3576f2129e7d503c3a14a2b6c2",
		"job_workflow_ref": "octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main",
		"job_workflow_sha": "6e67b1cbb82b7d3576f2129e7d503c3a14a2b6c2",
	}
}

// BenchmarkVerify measures all of Verify with cached keys.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		b.Run(alg, func(b *testing.B) {
			w := newWorld(b, Config{}, provider.Config{Algorithm: alg})
			token := mint(b, w.provider, githubClaims())
			must(w.verifier.Verify(b.Context(), token, unknownClient))(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.verifier.Verify(b.Context(), token, unknownClient); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParseToken measures the part of Verify that is this package's own.
func BenchmarkParseToken(b *testing.B) {
	token := mint(b, newProvider(b, provider.Config{IssuerURL: testIssuer}), githubClaims())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseToken(token); err != nil {
			b.Fatal(err)
		}
	}
}
