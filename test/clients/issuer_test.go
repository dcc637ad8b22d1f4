// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// issuer is an OpenID Provider that this process serves.
type issuer struct {
	url string

	provider *provider.Provider
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	url := "http://" + server.Listener.Addr().String()
	p, err := provider.New(provider.Config{IssuerURL: url})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = p
	server.Start()
	t.Cleanup(server.Close)
	return &issuer{url: url, provider: p}
}

// mint returns an ID token with these claims, valid for ten minutes by default.
func (i *issuer) mint(t *testing.T, claims map[string]any) string {
	t.Helper()
	token, err := i.provider.Mint(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// alice is the signer in most checks.
const alice = "alice@example.org"

// aliceToken returns an ID token of the email issuer for alice.
func (w *world) aliceToken(t *testing.T) string {
	t.Helper()
	return w.email.mint(t, map[string]any{"sub": "alice-1", "email": alice, "email_verified": true})
}

// expiredToken is an ID token for alice that expired an hour ago.
func (w *world) expiredToken(t *testing.T) string {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	return w.email.mint(t, map[string]any{
		"sub": "alice-1", "email": alice, "email_verified": true,
		"iat": then.Add(-10 * time.Minute).Unix(), "exp": then.Unix(),
	})
}

// The GitHub Actions run of githubToken.
const (
	ghRepository = "octo-org/octo-repo"
	ghWorkflow   = "octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main"
	ghSHA        = "f1d2d2f924e986ac86fdf7b36c94bcdf32beec15"
	ghIdentity   = "https://github.com/" + ghWorkflow
)

// githubToken returns an ID token like those of GitHub Actions, of the github issuer.
func (w *world) githubToken(t *testing.T) string {
	t.Helper()
	return w.github.mint(t, map[string]any{
		"sub":                   "repo:" + ghRepository + ":ref:refs/heads/main",
		"event_name":            "push",
		"sha":                   ghSHA,
		"workflow":              "release",
		"repository":            ghRepository,
		"ref":                   "refs/heads/main",
		"job_workflow_ref":      ghWorkflow,
		"job_workflow_sha":      ghSHA,
		"runner_environment":    "github-hosted",
		"repository_id":         "74",
		"repository_owner":      "octo-org",
		"repository_owner_id":   "65",
		"workflow_ref":          ghWorkflow,
		"workflow_sha":          ghSHA,
		"run_id":                "9001",
		"run_attempt":           "2",
		"repository_visibility": "public",
	})
}
