// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// ciEntry is an entry of type ci-provider for the provider "ci".
func ciEntry() IssuerConfig {
	entry := entryOf(TypeCIProvider)
	entry.CIProvider = "ci"
	return entry
}

func TestOlderCITypesNameAllMissingClaimsAtOnce(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, entryOf(TypeGithubWorkflow))
	wantRefusal(t, rules, with(t, githubClaims(t), `{"sha":"DELETE","run_id":null,"ref":""}`), refusal.ClaimMissing, `"sha"`, `"run_id"`, `"ref"`)
}
