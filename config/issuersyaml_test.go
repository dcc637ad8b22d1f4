// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/config"
)

func shipped(t *testing.T) *config.Issuers {
	t.Helper()
	issuers, warnings, err := config.LoadIssuers("issuers.yaml", false, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("mistakes %v, warnings %v", err, warnings)
	}
	return issuers
}

// TestShippedIssuers holds the list of issuers that the shipped file trusts by default.
func TestShippedIssuers(t *testing.T) {
	t.Parallel()
	type entry struct{ Key, Type, CIProvider string }
	var got []entry
	for _, i := range shipped(t).Entries {
		if i.ClientID != "sigstore" {
			t.Errorf("%s: client-id %q", i.Key, i.ClientID)
		}
		if i.Static == strings.Contains(i.Key, "*") {
			t.Errorf("%s: static %v", i.Key, i.Static)
		}
		if i.SkipEmailVerification || i.Connection.AllowPrivateNetwork || i.Connection.CACert != nil {
			t.Errorf("%s: %+v", i.Key, i)
		}
		// The peer reads this file too and has none of these keys.
		if i.Audiences != nil || i.Connection.SigningAlgorithms != nil || i.AllowedEmailDomains != nil || i.Connection.JWKSHosts != nil || i.Tests != nil || i.Constants != nil {
			t.Errorf("%s has keys that the peer does not know", i.Key)
		}
		got = append(got, entry{i.Key, i.Type, i.CIProvider})
	}
	want := []entry{
		{"https://accounts.google.com", "email", ""},
		{"https://oauth2.sigstore.dev/auth", "email", ""},
		{"https://token.actions.githubusercontent.com", "ci-provider", "github-workflow"},
		{"https://gitlab.com", "ci-provider", "gitlab-pipeline"},
		{"https://agent.buildkite.com", "ci-provider", "buildkite-job"},
		{"https://oidc.codefresh.io", "ci-provider", "codefresh-workflow"},
		{"https://oidc.circleci.com", "ci-provider", "circleci-job"},
		{"https://oidc.buddyusercontent.com", "ci-provider", "buddy-pipeline"},
		{"https://eu-oidc.buddyusercontent.com", "ci-provider", "buddy-pipeline"},
		{"https://asia-oidc.buddyusercontent.com", "ci-provider", "buddy-pipeline"},
		{"https://oidc.eks.*.amazonaws.com/id/*", "kubernetes", ""},
		{"https://container.googleapis.com/v1/projects/*/locations/*/clusters/*", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*/", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*/*", "kubernetes", ""},
		{"https://oidc.prod-aks.azure.com/*/*/", "kubernetes", ""},
		{"https://*.oic.prod-aks.azure.com/*/*", "kubernetes", ""},
		{"https://*.oic.prod-aks.azure.com/*/*/", "kubernetes", ""},
		{"https://oidc.circleci.com/org/*", "ci-provider", "circleci-job"},
		{"https://token.actions.githubusercontent.com/*", "ci-provider", "github-workflow"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("issuers (-want +got):\n%s", diff)
	}
}
