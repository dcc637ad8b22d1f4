// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExplain: each operand of && and || has its value, also one that a decision does not evaluate,
// and states what it read.
func TestExplain(t *testing.T) {
	t.Parallel()
	claims := claimsOf(t, `{"owner":"65","ref":"refs/heads/dev","groups":["a","b"],"n":3,"kubernetes.io":{"namespace":"b"},
		"long":"`+strings.Repeat("x", 500)+`","evil":"a\u001b[31m\"b"}`)
	in := Input{Claims: claims, SAN: "https://ci.example/a", Issuer: "https://issuer.example"}
	for when, want := range map[string][]string{
		`claims.owner == '65' && (claims.ref == "refs/heads/main" || claims.ref.startsWith("refs/tags/v"))`: {
			`claims.owner == "65" is true: claims.owner is "65"`,
			`claims.ref == "refs/heads/main" is false: claims.ref is "refs/heads/dev"`,
			`claims.ref.startsWith("refs/tags/v") is false: claims.ref is "refs/heads/dev"`,
		},
		`has(claims.environment) && claims.environment == "prod"`: {
			`has(claims.environment) is false`,
			`claims.environment == "prod" has no truth value: no such key: environment`,
		},
		`claims.groups.exists(g, g == "x") || claims["kubernetes.io"].namespace in ["a"] || !(claims.n == 3 && san != issuer)`: {
			`claims.groups.exists(g, g == "x") is false: claims.groups is [a, b]`,
			`claims["kubernetes.io"].namespace in ["a"] is false: claims["kubernetes.io"].namespace is "b"`,
			`!(claims.n == 3 && san != issuer) is false: claims.n is 3, san is "https://ci.example/a", issuer is "https://issuer.example"`,
		},
		`claims.n == 4 && (claims.ref == "refs/heads/dev" || claims.owner == "66")`: {
			`claims.n == 4 is false: claims.n is 3`,
			`claims.ref == "refs/heads/dev" || claims.owner == "66" is true: claims.ref is "refs/heads/dev", claims.owner is "65"`,
		},
		`claims.ref && true`:    {`claims.ref has no truth value: claims.ref is "refs/heads/dev"`, `true is true`},
		`claims.evil != ""`:     {`claims.evil != "" is true: claims.evil is "a\x1b[31m\"b"`},
		`claims.ownner == "65"`: {`claims.ownner == "65" has no truth value: no such key: ownner; did you mean "owner"?`},
		`claims.long == "y"`:    {`claims.long == "y" is false: claims.long is "` + strings.Repeat("x", maxShown) + `…"`},
	} {
		p := mustNew(t, one(when))
		got := p.Explain(in)
		if len(got) != 1 || got[0].Name != "rule" {
			t.Errorf("%s: %+v", when, got)
		}
		var parts []string
		for _, part := range got[0].Parts {
			parts = append(parts, part.String())
		}
		if diff := cmp.Diff(want, parts); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	if many := mustNew(t, one("false"+strings.Repeat(" || false", 200))).Explain(in); len(many[0].Parts) != maxParts {
		t.Errorf("%d parts", len(many[0].Parts))
	}
	if got := (*Policy)(nil).Explain(in); got != nil {
		t.Errorf("without a policy: %v", got)
	}
}
