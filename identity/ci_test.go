// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ciEntry is an entry of type ci-provider for the provider "ci".
func ciEntry() IssuerConfig {
	entry := entryOf(TypeCIProvider)
	entry.CIProvider = "ci"
	return entry
}

func TestCIIdentities(t *testing.T) {
	t.Parallel()
	const (
		githubSigner = "https://github.com/octo-org/shared/.github/workflows/release.yml@refs/tags/v1"
		gitlabConfig = "https://gitlab.com/group/sub/project//.gitlab-ci.yml@refs/heads/main"
		circle       = "https://circleci.com/api/v2/projects/c1d2/pipeline-definitions/7f8a"
		buddy        = "https://app.buddy.works/acme/shop/pipelines/pipeline/123"
		codefresh    = "https://cf.example.com/codefresh-inc/oidc-test/get-token:628a80b693a15c0f9c13ab75/65e6d5551e47e5bc243ca93f"
	)
	github := map[certs.Arc]string{
		2: "push", 3: "2222222222222222222222222222222222222222", 4: "CI & release", 5: "octo-org/octo-repo", 6: "refs/heads/main",
		9: githubSigner, 10: "1111111111111111111111111111111111111111", 11: "github-hosted",
		12: "https://github.com/octo-org/octo-repo", 13: "2222222222222222222222222222222222222222", 14: "refs/heads/main",
		15: "74", 16: "https://github.com/octo-org", 17: "65",
		18: "https://github.com/octo-org/octo-repo/.github/workflows/ci.yml@refs/heads/main", 19: "3333333333333333333333333333333333333333",
		20: "push", 21: "https://github.com/octo-org/octo-repo/actions/runs/5006001/attempts/2", 22: "public",
	}
	gitlab := map[certs.Arc]string{
		9: gitlabConfig, 10: "714a629c0b401fdce83e847fc9589983fc6f46bd", 11: "gitlab-hosted", 12: "https://gitlab.com/group/sub/project",
		13: "714a629c0b401fdce83e847fc9589983fc6f46bc", 14: "refs/heads/main", 15: "20", 16: "https://gitlab.com/group/sub", 17: "72",
		18: gitlabConfig, 19: "714a629c0b401fdce83e847fc9589983fc6f46bd", 20: "push", 21: "https://gitlab.com/group/sub/project/-/jobs/302", 22: "internal",
	}
	fresh := map[certs.Arc]string{
		9: "https://cf.example.com/build/65e6ebe0bfbfa1782876165e", 11: "hybrid", 12: "https://github.com/codefresh-inc/demo", 14: "main",
		18: "https://cf.example.com/api/pipelines/65e6d5551e47e5bc243ca93f", 21: "https://cf.example.com/build/65e6ebe0bfbfa1782876165e",
	}
	but := func(m map[certs.Arc]string, changes map[certs.Arc]string) map[certs.Arc]string {
		changed := map[certs.Arc]string{}
		for _, from := range []map[certs.Arc]string{m, changes} {
			for arc, text := range from {
				changed[arc] = text
			}
		}
		return changed
	}
	withoutOptionals := with(t, codefreshClaims(t), `{"platform_url":"DELETE","runner_environment":"DELETE","scm_repo_url":"DELETE","scm_ref":"DELETE"}`)
	bareFresh := map[certs.Arc]string{
		9: "https://g.codefresh.io/build/65e6ebe0bfbfa1782876165e", 18: "https://g.codefresh.io/api/pipelines/65e6d5551e47e5bc243ca93f",
		21: "https://g.codefresh.io/build/65e6ebe0bfbfa1782876165e",
	}
	const bareFreshSAN = "https://g.codefresh.io/codefresh-inc/oidc-test/get-token:628a80b693a15c0f9c13ab75/65e6d5551e47e5bc243ca93f"

	for _, c := range []struct {
		name       string
		entry      IssuerConfig
		provider   CIProvider
		claims     oidc.Claims
		san        string
		extensions map[certs.Arc]string
	}{
		{"GitHub, older type", entryOf(TypeGithubWorkflow), CIProvider{}, githubClaims(t), githubSigner, github},
		{"GitHub, ci-provider", ciEntry(), githubProvider(), githubClaims(t), githubSigner, but(github, map[certs.Arc]string{23: "prod"})},
		{"GitHub, ci-provider without an environment", ciEntry(), githubProvider(), with(t, githubClaims(t), `{"environment":"DELETE"}`), githubSigner, github},
		{"GitLab, older type", entryOf(TypeGitlabPipeline), CIProvider{}, gitlabClaims(t), gitlabConfig, gitlab},
		{"GitLab, older type, without the optional claims", entryOf(TypeGitlabPipeline), CIProvider{},
			with(t, gitlabClaims(t), `{"ci_config_sha":null,"project_visibility":"DELETE"}`), gitlabConfig,
			but(gitlab, map[certs.Arc]string{10: "", 19: "", 22: ""})},
		{"GitLab, older type, tag", entryOf(TypeGitlabPipeline), CIProvider{}, with(t, gitlabClaims(t), `{"ref_type":"tag","ref":"v1"}`), gitlabConfig,
			but(gitlab, map[certs.Arc]string{14: "refs/tags/v1"})},
		{"GitLab, ci-provider", ciEntry(), gitlabProvider(), gitlabClaims(t), gitlabConfig, but(gitlab, map[certs.Arc]string{23: "prod"})},
		{"GitLab, ci-provider, tag", ciEntry(), gitlabProvider(), with(t, gitlabClaims(t), `{"ref_type":"tag","ref":"v1"}`), gitlabConfig,
			but(gitlab, map[certs.Arc]string{14: "refs/tags/v1", 23: "prod"})},
		{"Codefresh, older type", entryOf(TypeCodefreshWorkflow), CIProvider{}, codefreshClaims(t), codefresh, fresh},
		{"Codefresh, ci-provider", ciEntry(), codefreshProvider(), codefreshClaims(t), codefresh, fresh},
		{"Codefresh, older type, defaults", entryOf(TypeCodefreshWorkflow), CIProvider{}, withoutOptionals, bareFreshSAN, bareFresh},
		{"Codefresh, ci-provider, defaults", ciEntry(), codefreshProvider(), withoutOptionals, bareFreshSAN, bareFresh},
		{"Codefresh, older type, empty platform and no names", entryOf(TypeCodefreshWorkflow), CIProvider{},
			with(t, withoutOptionals, `{"platform_url":"","account_name":"DELETE","pipeline_name":"DELETE"}`),
			"https://g.codefresh.io/:628a80b693a15c0f9c13ab75/65e6d5551e47e5bc243ca93f", bareFresh},
		{"Buildkite, older type", entryOf(TypeBuildkiteJob), CIProvider{}, buildkiteClaims(t), "https://buildkite.com/acme-inc/super-duper-app", nil},
		{"Buildkite, ci-provider", ciEntry(), buildkiteProvider(), buildkiteClaims(t), "https://buildkite.com/acme-inc/super-duper-app", map[certs.Arc]string{
			11: "self-hosted", 13: "9f3182061f1e2cca4702c368cbc039b7dc9d4485", 20: "webhook",
			21: "https://buildkite.com/acme-inc/super-duper-app/builds/1#0184990a-477b-4fa8-9968-496074483cee",
		}},
		{"CircleCI", ciEntry(), circleProvider(), circleClaims(t), circle, map[certs.Arc]string{
			9: circle, 11: `""`, 12: "github.com/acme/app", 14: "refs/heads/main", 18: "https://circleci.com/api/v2/pipeline/b9c0/config",
			21: "https://app.circleci.com//workflow/e1f2/job/4d5e",
		}},
		{"CircleCI, run again over SSH, without a repository", ciEntry(), circleProvider(),
			with(t, circleClaims(t), `{"oidc.circleci.com/ssh-rerun":true,"oidc.circleci.com/vcs-origin":"DELETE","oidc.circleci.com/vcs-ref":"DELETE"}`), circle, map[certs.Arc]string{
				9: circle, 11: "ssh-rerun", 18: "https://circleci.com/api/v2/pipeline/b9c0/config", 21: "https://app.circleci.com//workflow/e1f2/job/4d5e",
			}},
		{"Buddy", ciEntry(), buddyProvider(), buddyClaims(t), buddy, map[certs.Arc]string{
			9: buddy, 11: "buddy-hosted", 12: "https://app.buddy.works/acme/shop", 13: "506c4c3b", 14: "refs/heads/main",
			16: "https://app.buddy.works/acme", 20: "EVENT", 21: buddy + "/execution/1536140711",
		}},
		{"Buddy without revision and ref", ciEntry(), buddyProvider(), with(t, buddyClaims(t), `{"revision":"DELETE","ref":"DELETE"}`), buddy, map[certs.Arc]string{
			9: buddy, 11: "buddy-hosted", 12: "https://app.buddy.works/acme/shop",
			16: "https://app.buddy.works/acme", 20: "EVENT", 21: buddy + "/execution/1536140711",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.provider.SubjectAlternativeNameTemplate == "" {
				c.provider.SubjectAlternativeNameTemplate = "unused"
			}
			got := mustIdentify(t, rulesOf(t, c.entry, c.provider), c.claims)
			iss, sub := c.claims["iss"].(string), c.claims["sub"].(string)
			want := &Identity{
				IssuerURL: iss, Subject: sub, SAN: certs.SAN{Kind: certs.SANURI, Value: c.san},
				Extensions: ext(iss, sub, c.extensions), Challenge: sub, ChallengeClaim: "sub",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOlderCITypesRequireTheirClaims(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		issuerType string
		claims     oidc.Claims
		required   []string
	}{
		{TypeGithubWorkflow, githubClaims(t), []string{
			"job_workflow_ref", "job_workflow_sha", "event_name", "sha", "workflow", "repository", "ref", "runner_environment",
			"repository_id", "repository_owner", "repository_owner_id", "workflow_ref", "workflow_sha", "run_id", "run_attempt", "repository_visibility",
		}},
		{TypeGitlabPipeline, gitlabClaims(t), []string{
			"ci_config_ref_uri", "runner_environment", "project_path", "sha", "ref", "ref_type", "project_id", "namespace_path",
			"namespace_id", "pipeline_source", "job_id", "pipeline_id",
		}},
		{TypeCodefreshWorkflow, codefreshClaims(t), []string{"account_id", "pipeline_id", "workflow_id"}},
		{TypeBuildkiteJob, buildkiteClaims(t), []string{"organization_slug", "pipeline_slug"}},
	} {
		rules := rulesOf(t, entryOf(c.issuerType))
		for _, name := range c.required {
			t.Run(c.issuerType+"/"+name, func(t *testing.T) {
				t.Parallel()
				wantRefusal(t, rules, with(t, c.claims, `{"`+name+`":"DELETE"}`), refusal.ClaimMissing, `"`+name+`"`)
				wantRefusal(t, rules, with(t, c.claims, `{"`+name+`":""}`), refusal.ClaimMissing, `"`+name+`"`)
				wantRefusal(t, rules, with(t, c.claims, `{"`+name+`":null}`), refusal.ClaimMissing, `"`+name+`"`)
				wantRefusal(t, rules, with(t, c.claims, `{"`+name+`":5}`), refusal.ClaimInvalid, `"`+name+`"`, "a number")
				wantRefusal(t, rules, with(t, c.claims, `{"`+name+`":["x"]}`), refusal.ClaimInvalid, `"`+name+`"`, "a list")
			})
		}
	}
}

func TestOlderCITypesNameAllMissingClaimsAtOnce(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, entryOf(TypeGithubWorkflow))
	wantRefusal(t, rules, with(t, githubClaims(t), `{"sha":"DELETE","run_id":null,"ref":""}`), refusal.ClaimMissing, `"sha"`, `"run_id"`, `"ref"`)
}

func TestOlderCITypesRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, issuerType string
		claims           oidc.Claims
		change           string
		reason           refusal.Reason
	}{
		{"optional claim of another kind", TypeCodefreshWorkflow, codefreshClaims(t), `{"scm_ref":7}`, refusal.ClaimInvalid},
		{"optional claim of another kind in GitLab", TypeGitlabPipeline, gitlabClaims(t), `{"ci_config_sha":{}}`, refusal.ClaimInvalid},
		{"runner_id missing", TypeGitlabPipeline, gitlabClaims(t), `{"runner_id":"DELETE"}`, refusal.ClaimMissing},
		{"runner_id null", TypeGitlabPipeline, gitlabClaims(t), `{"runner_id":null}`, refusal.ClaimMissing},
		{"runner_id zero", TypeGitlabPipeline, gitlabClaims(t), `{"runner_id":0}`, refusal.ClaimInvalid},
		{"runner_id as text", TypeGitlabPipeline, gitlabClaims(t), `{"runner_id":"7"}`, refusal.ClaimInvalid},
		{"runner_id in part", TypeGitlabPipeline, gitlabClaims(t), `{"runner_id":7.5}`, refusal.ClaimInvalid},
		{"ref_type of a third kind", TypeGitlabPipeline, gitlabClaims(t), `{"ref_type":"merge_request"}`, refusal.ClaimInvalid},
		{"ref_type in another case", TypeGitlabPipeline, gitlabClaims(t), `{"ref_type":"Branch"}`, refusal.ClaimInvalid},
		{"configuration with a port and no scheme is no host", TypeGitlabPipeline, gitlabClaims(t), `{"ci_config_ref_uri":"gitlab.example:8443/g/p//ci.yml@refs/heads/main"}`, refusal.ClaimInvalid},
		{"project whose JoinPath drops a part", TypeGitlabPipeline, gitlabClaims(t), `{"project_path":"g/p%"}`, refusal.ClaimInvalid},
		{"configuration without a host", TypeGitlabPipeline, gitlabClaims(t), `{"ci_config_ref_uri":"/g/p//ci.yml"}`, refusal.ClaimInvalid},
		{"configuration with a bad escape", TypeGitlabPipeline, gitlabClaims(t), `{"ci_config_ref_uri":"gitlab.com/g/p//ci%.yml"}`, refusal.ClaimInvalid},
		{"configuration with user-info", TypeGitlabPipeline, gitlabClaims(t), `{"ci_config_ref_uri":"gitlab.com@evil.example/g"}`, refusal.ClaimInvalid},
		{"platform that is relative", TypeCodefreshWorkflow, codefreshClaims(t), `{"platform_url":"g.codefresh.io"}`, refusal.ClaimInvalid},
		{"platform with user-info", TypeCodefreshWorkflow, codefreshClaims(t), `{"platform_url":"https://u@g.codefresh.io"}`, refusal.ClaimInvalid},
		{"platform that is opaque", TypeCodefreshWorkflow, codefreshClaims(t), `{"platform_url":"mailto:x"}`, refusal.ClaimInvalid},
		{"pipeline named out of its account", TypeCodefreshWorkflow, codefreshClaims(t), `{"pipeline_name":"../victim/deploy"}`, refusal.ClaimInvalid},
		{"dot segment in a workflow's ref", TypeGithubWorkflow, githubClaims(t), `{"job_workflow_ref":"octo-org/../evil/x.yml@refs/heads/main"}`, refusal.ClaimInvalid},
		{"escaped dot segment in a workflow's ref", TypeGithubWorkflow, githubClaims(t), `{"job_workflow_ref":"octo-org/%2e%2E/evil/x.yml@refs/heads/main"}`, refusal.ClaimInvalid},
		{"JoinPath would drop a part for a bad escape", TypeGithubWorkflow, githubClaims(t), `{"job_workflow_ref":"octo-org/a/x.yml@refs/heads/100%"}`, refusal.ClaimInvalid},
		{"JoinPath would drop a part of an extension", TypeGithubWorkflow, githubClaims(t), `{"workflow_ref":"octo-org/a/x.yml@refs/heads/100%"}`, refusal.ClaimInvalid},
		{"control in a workflow's ref", TypeGithubWorkflow, githubClaims(t), `{"job_workflow_ref":"o/r/x.yml@a\u0001"}`, refusal.ClaimInvalid},
		{"C1 control in a configuration", TypeGitlabPipeline, gitlabClaims(t), `{"ci_config_ref_uri":"gitlab.com/g/p\u0085"}`, refusal.ClaimInvalid},
		{"control in a project, which only an extension shows", TypeGitlabPipeline, gitlabClaims(t), `{"project_path":"g/p\u0085"}`, refusal.ClaimInvalid},
		{"slug with a dot segment", TypeBuildkiteJob, buildkiteClaims(t), `{"pipeline_slug":".."}`, refusal.ClaimInvalid},
		{"control in a slug", TypeBuildkiteJob, buildkiteClaims(t), `{"pipeline_slug":"a\u0007b"}`, refusal.ClaimInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, rulesOf(t, entryOf(c.issuerType)), with(t, c.claims, c.change), c.reason)
		})
	}
}

func TestOlderTypesJoinAndConcatenate(t *testing.T) {
	t.Parallel()
	github := mustIdentify(t, rulesOf(t, entryOf(TypeGithubWorkflow)), with(t, githubClaims(t), `{"job_workflow_ref":"o/r/.github/workflows/a b#1.yml@refs/heads/x"}`))
	if got, want := github.SAN.Value, "https://github.com/o/r/.github/workflows/a%20b%231.yml@refs/heads/x"; got != want {
		t.Errorf("JoinPath made %q, want %q", got, want)
	}
	if got := github.Extensions[certs.BuildSignerURI]; got != github.SAN.Value {
		t.Errorf("extension .9 is %q, want the SAN", got)
	}
	buildkite := mustIdentify(t, rulesOf(t, entryOf(TypeBuildkiteJob)), with(t, buildkiteClaims(t), `{"organization_slug":"a","pipeline_slug":"b//c d"}`))
	if got, want := buildkite.SAN.Value, "https://buildkite.com/a/b//c%20d"; got != want {
		t.Errorf("concatenation made %q, want %q", got, want)
	}
}
