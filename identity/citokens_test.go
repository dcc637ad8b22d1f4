// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"

	"github.com/mayfly-ca/mayfly/oidc"
)

// The claims below have the shape of real tokens of each provider.

func githubClaims(tb testing.TB) oidc.Claims {
	tb.Helper()
	return mustClaims(tb, `{
		"iss": "https://token.actions.githubusercontent.com", "aud": "sigstore", "sub": "repo:octo-org/octo-repo:environment:prod",
		"jti": "0b2d5a6e", "exp": 1700000600, "nbf": 1700000000, "iat": 1700000000,
		"actor": "octocat", "actor_id": "12", "base_ref": "", "head_ref": "", "environment": "prod", "event_name": "push",
		"job_workflow_ref": "octo-org/shared/.github/workflows/release.yml@refs/tags/v1", "job_workflow_sha": "1111111111111111111111111111111111111111",
		"ref": "refs/heads/main", "ref_protected": "true", "ref_type": "branch", "repository": "octo-org/octo-repo", "repository_id": "74",
		"repository_owner": "octo-org", "repository_owner_id": "65", "repository_visibility": "public", "run_attempt": "2", "run_id": "5006001",
		"run_number": "10", "runner_environment": "github-hosted", "sha": "2222222222222222222222222222222222222222", "workflow": "CI & release",
		"workflow_ref": "octo-org/octo-repo/.github/workflows/ci.yml@refs/heads/main", "workflow_sha": "3333333333333333333333333333333333333333"}`)
}

func gitlabClaims(tb testing.TB) oidc.Claims {
	tb.Helper()
	return mustClaims(tb, `{
		"iss": "https://gitlab.com", "aud": "sigstore", "sub": "project_path:group/sub/project:ref_type:branch:ref:main", "jti": "b1", "exp": 1700000600,
		"namespace_id": "72", "namespace_path": "group/sub", "project_id": "20", "project_path": "group/sub/project", "user_id": "1", "user_login": "dev",
		"user_email": "dev@example.com", "user_identities": [{"provider": "saml", "extern_uid": "x"}], "pipeline_id": "574", "pipeline_source": "push",
		"job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "groups_direct": ["group", "group/sub"],
		"runner_id": 12270840, "runner_environment": "gitlab-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "internal",
		"ci_config_ref_uri": "gitlab.com/group/sub/project//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bd",
		"environment": "prod"}`)
}

func codefreshClaims(tb testing.TB) oidc.Claims {
	tb.Helper()
	return mustClaims(tb, `{
		"iss": "https://oidc.codefresh.io", "aud": "sigstore", "sub": "account:628a80b693a15c0f9c13ab75:pipeline:65e6d5551e47e5bc243ca93f",
		"account_id": "628a80b693a15c0f9c13ab75", "account_name": "codefresh-inc", "pipeline_id": "65e6d5551e47e5bc243ca93f",
		"pipeline_name": "oidc-test/get-token", "workflow_id": "65e6ebe0bfbfa1782876165e", "initiator": "codefresh-user", "platform_url": "https://cf.example.com",
		"scm_user_name": "dev", "scm_repo_url": "https://github.com/codefresh-inc/demo", "scm_ref": "main", "runner_environment": "hybrid"}`)
}

func buildkiteClaims(tb testing.TB) oidc.Claims {
	tb.Helper()
	return mustClaims(tb, `{
		"iss": "https://agent.buildkite.com", "aud": "sigstore", "sub": "organization:acme-inc:pipeline:super-duper-app:ref:refs/heads/main:commit:9f3182061f1e:step:build",
		"organization_slug": "acme-inc", "organization_id": "0184990a", "pipeline_slug": "super-duper-app", "pipeline_id": "0184990b", "build_number": 1,
		"build_branch": "main", "build_commit": "9f3182061f1e2cca4702c368cbc039b7dc9d4485", "build_source": "webhook", "step_key": "build",
		"job_id": "0184990a-477b-4fa8-9968-496074483cee", "agent_id": "0184990a-4782-42b5-afc1-16715b10b8ff", "runner_environment": "self-hosted"}`)
}

func circleClaims(tb testing.TB) oidc.Claims {
	tb.Helper()
	return mustClaims(tb, `{
		"iss": "https://oidc.circleci.com/org/a8b0", "aud": "sigstore", "sub": "org/a8b0/project/c1d2/user/e3f4/vcs-origin/github.com/acme/app/vcs-ref/refs/heads/main",
		"oidc.circleci.com/context-ids": ["0e11"], "oidc.circleci.com/job-id": "4d5e", "oidc.circleci.com/org-id": "a8b0",
		"oidc.circleci.com/pipeline-definition-id": "7f8a", "oidc.circleci.com/pipeline-id": "b9c0", "oidc.circleci.com/project-id": "c1d2",
		"oidc.circleci.com/ssh-rerun": false, "oidc.circleci.com/vcs-origin": "github.com/acme/app", "oidc.circleci.com/vcs-ref": "refs/heads/main",
		"oidc.circleci.com/workflow-id": "e1f2"}`)
}

func buddyClaims(tb testing.TB) oidc.Claims {
	tb.Helper()
	return mustClaims(tb, `{
		"iss": "https://oidc.buddyusercontent.com", "aud": "sigstore", "sub": "workspace:acme:project:shop:pipeline:123", "workspace_id": 7,
		"workspace_domain": "acme", "project_name": "shop", "pipeline_id": 123, "pipeline_name": "Deploy & test", "execution_id": 1536140711,
		"runner_environment": "buddy-hosted", "revision": "506c4c3b", "ref": "refs/heads/main", "triggered_on": "EVENT"}`)
}

func githubProvider() CIProvider {
	return CIProvider{
		DefaultTemplateValues:          map[string]string{"url": "https://github.com", "environment": ""},
		SubjectAlternativeNameTemplate: "{{.url}}/{{.job_workflow_ref}}",
		ExtensionTemplates: map[string]string{
			"issuer": "ignored", "subject": "{{ .ignored", "build-signer-uri": "{{ .url }}/{{ .job_workflow_ref }}",
			"github-workflow-trigger": "event_name", "github-workflow-sha": "sha", "github-workflow-name": "workflow",
			"github-workflow-repository": "repository", "github-workflow-ref": "ref", "build-signer-digest": "job_workflow_sha",
			"runner-environment": "runner_environment", "source-repository-uri": "{{ .url }}/{{ .repository }}",
			"source-repository-digest": "sha", "source-repository-ref": "ref", "source-repository-identifier": "repository_id",
			"source-repository-owner-uri": "{{ .url }}/{{ .repository_owner }}", "source-repository-owner-identifier": "repository_owner_id",
			"build-config-uri": "{{ .url }}/{{ .workflow_ref }}", "build-config-digest": "workflow_sha", "build-trigger": "event_name",
			"run-invocation-uri":                      "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id }}/attempts/{{ .run_attempt }}",
			"source-repository-visibility-at-signing": "repository_visibility", "deployment-environment": "environment",
		},
	}
}

func gitlabProvider() CIProvider {
	return CIProvider{
		DefaultTemplateValues:          map[string]string{"url": "https://gitlab.com", "environment": ""},
		SubjectAlternativeNameTemplate: "https://{{.ci_config_ref_uri}}",
		ExtensionTemplates: map[string]string{
			"build-signer-uri": "https://{{ .ci_config_ref_uri }}", "build-signer-digest": "ci_config_sha", "runner-environment": "runner_environment",
			"source-repository-uri": "{{ .url }}/{{ .project_path }}", "source-repository-digest": "sha",
			"source-repository-ref":        `{{ if eq .ref_type "branch" }}refs/heads/{{ else }}refs/tags/{{ end }}{{ .ref }}`,
			"source-repository-identifier": "project_id", "source-repository-owner-uri": "{{ .url }}/{{ .namespace_path }}",
			"source-repository-owner-identifier": "namespace_id", "build-config-uri": "https://{{ .ci_config_ref_uri }}",
			"build-config-digest": "ci_config_sha", "build-trigger": "pipeline_source",
			"run-invocation-uri":                      "{{ .url }}/{{ .project_path }}/-/jobs/{{ .job_id }}",
			"source-repository-visibility-at-signing": "project_visibility", "deployment-environment": "environment",
		},
	}
}

func codefreshProvider() CIProvider {
	return CIProvider{
		DefaultTemplateValues: map[string]string{
			"platform_url": "https://g.codefresh.io", "runner_environment": "", "scm_repo_url": "", "scm_ref": "",
		},
		SubjectAlternativeNameTemplate: "{{.platform_url}}/{{.account_name}}/{{.pipeline_name}}:{{.account_id}}/{{.pipeline_id}}",
		ExtensionTemplates: map[string]string{
			"build-signer-uri": "{{ .platform_url }}/build/{{ .workflow_id }}", "runner-environment": "runner_environment",
			"source-repository-uri": "scm_repo_url", "source-repository-ref": "scm_ref",
			"build-config-uri": "{{ .platform_url }}/api/pipelines/{{ .pipeline_id }}", "run-invocation-uri": "{{ .platform_url }}/build/{{ .workflow_id }}",
		},
	}
}

func buildkiteProvider() CIProvider {
	return CIProvider{
		DefaultTemplateValues:          map[string]string{"url": "https://buildkite.com"},
		SubjectAlternativeNameTemplate: "{{.url}}/{{.organization_slug}}/{{.pipeline_slug}}",
		ExtensionTemplates: map[string]string{
			"runner-environment": "runner_environment", "source-repository-digest": "build_commit", "build-trigger": "build_source",
			"run-invocation-uri": "{{.url}}/{{.organization_slug}}/{{.pipeline_slug}}/builds/{{.build_number}}#{{.job_id}}",
		},
	}
}

// circleProvider has the two mistakes of the peer's own templates, and must give the peer's bytes.
func circleProvider() CIProvider {
	claim := func(name string) string { return `{{ index . "oidc.circleci.com/` + name + `" }}` }
	definition := "{{.api_url}}/projects/" + claim("project-id") + "/pipeline-definitions/" + claim("pipeline-definition-id")
	return CIProvider{
		DefaultTemplateValues:          map[string]string{"api_url": "https://circleci.com/api/v2", "ui_url": "https://app.circleci.com/"},
		SubjectAlternativeNameTemplate: definition,
		ExtensionTemplates: map[string]string{
			"build-signer-uri":      definition,
			"runner-environment":    `{{if eq (index . "oidc.circleci.com/ssh-rerun") "true"}}ssh-rerun{{else}}""{{end}}`,
			"source-repository-uri": claim("vcs-origin"), "source-repository-ref": claim("vcs-ref"),
			"build-config-uri":   "{{.api_url}}/pipeline/" + claim("pipeline-id") + "/config",
			"run-invocation-uri": "{{.ui_url}}/workflow/" + claim("workflow-id") + "/job/" + claim("job-id"),
		},
	}
}

func buddyProvider() CIProvider {
	const project = "{{.base_url}}/{{.workspace_domain}}/{{.project_name}}"
	const pipeline = project + "/pipelines/pipeline/{{.pipeline_id}}"
	return CIProvider{
		DefaultTemplateValues:          map[string]string{"base_url": "https://app.buddy.works", "revision": "", "ref": ""},
		SubjectAlternativeNameTemplate: pipeline,
		ExtensionTemplates: map[string]string{
			"build-signer-uri": pipeline, "runner-environment": "runner_environment", "source-repository-uri": project,
			"source-repository-digest": "revision", "source-repository-ref": "{{.ref}}",
			"source-repository-owner-uri": "{{.base_url}}/{{.workspace_domain}}", "build-trigger": "triggered_on",
			"run-invocation-uri": pipeline + "/execution/{{.execution_id}}",
		},
	}
}
