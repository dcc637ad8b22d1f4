// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// githubWorkflow is type github-workflow.
func githubWorkflow() *fixedCI {
	const github = "https://github.com"
	return &fixedCI{
		required: []string{
			"job_workflow_ref", "job_workflow_sha", "event_name", "sha", "workflow", "repository", "ref",
			"runner_environment", "repository_id", "repository_owner", "repository_owner_id",
			"workflow_ref", "workflow_sha", "run_id", "run_attempt", "repository_visibility",
		},
		fill: func(c map[string]string, e *certs.Extensions) (fixedName, error) {
			var j joiner
			e[certs.GithubWorkflowTrigger] = c["event_name"]
			e[certs.GithubWorkflowSHA] = c["sha"]
			e[certs.GithubWorkflowName] = c["workflow"]
			e[certs.GithubWorkflowRepository] = c["repository"]
			e[certs.GithubWorkflowRef] = c["ref"]
			e[certs.BuildSignerURI] = j.join(github, c["job_workflow_ref"])
			e[certs.BuildSignerDigest] = c["job_workflow_sha"]
			e[certs.RunnerEnvironment] = c["runner_environment"]
			e[certs.SourceRepositoryURI] = j.join(github, c["repository"])
			e[certs.SourceRepositoryDigest] = c["sha"]
			e[certs.SourceRepositoryRef] = c["ref"]
			e[certs.SourceRepositoryIdentifier] = c["repository_id"]
			e[certs.SourceRepositoryOwnerURI] = j.join(github, c["repository_owner"])
			e[certs.SourceRepositoryOwnerIdentifier] = c["repository_owner_id"]
			e[certs.BuildConfigURI] = j.join(github, c["workflow_ref"])
			e[certs.BuildConfigDigest] = c["workflow_sha"]
			e[certs.BuildTrigger] = c["event_name"]
			e[certs.RunInvocationURI] = j.join(github, c["repository"], "actions/runs", c["run_id"], "attempts", c["run_attempt"])
			e[certs.SourceRepositoryVisibilityAtSigning] = c["repository_visibility"]
			return fixedName{
				parts:  []part{{literal, github + "/"}, {field, "job_workflow_ref"}},
				format: func(string) (string, error) { return e[certs.BuildSignerURI], j.err },
				joined: true,
			}, j.err
		},
	}
}

// gitlabPipeline is type gitlab-pipeline. pipeline_id and runner_id are required, though no
// certificate shows them.
func gitlabPipeline() *fixedCI {
	const gitlab = "https://gitlab.com"
	return &fixedCI{
		required: []string{
			"ci_config_ref_uri", "runner_environment", "project_path", "sha", "ref", "ref_type", "project_id",
			"namespace_path", "namespace_id", "pipeline_source", "job_id", "pipeline_id",
		},
		optional: []string{"ci_config_sha", "project_visibility"},
		check:    checkRunnerID,
		fill: func(c map[string]string, e *certs.Extensions) (fixedName, error) {
			ref, err := gitlabRef(c["ref_type"], c["ref"])
			if err != nil {
				return fixedName{}, err
			}
			config, err := url.Parse(c["ci_config_ref_uri"])
			if err != nil {
				return fixedName{}, refusal.New(refusal.ClaimInvalid, `the token's claim "ci_config_ref_uri", %s, is not a URL`, quote(c["ci_config_ref_uri"])).Because(err)
			}
			config.Scheme = "https"
			var j joiner
			e[certs.BuildSignerURI] = config.String()
			e[certs.BuildSignerDigest] = c["ci_config_sha"]
			e[certs.RunnerEnvironment] = c["runner_environment"]
			e[certs.SourceRepositoryURI] = j.join(gitlab, c["project_path"])
			e[certs.SourceRepositoryDigest] = c["sha"]
			e[certs.SourceRepositoryRef] = ref
			e[certs.SourceRepositoryIdentifier] = c["project_id"]
			e[certs.SourceRepositoryOwnerURI] = j.join(gitlab, c["namespace_path"])
			e[certs.SourceRepositoryOwnerIdentifier] = c["namespace_id"]
			e[certs.BuildConfigURI] = config.String()
			e[certs.BuildConfigDigest] = c["ci_config_sha"]
			e[certs.BuildTrigger] = c["pipeline_source"]
			e[certs.RunInvocationURI] = j.join(gitlab, c["project_path"], "-/jobs", c["job_id"])
			e[certs.SourceRepositoryVisibilityAtSigning] = c["project_visibility"]
			return fixedName{
				parts:  []part{{literal, "https://"}, {field, "ci_config_ref_uri"}},
				format: func(string) (string, error) { return config.String(), nil },
			}, j.err
		},
	}
}

func gitlabRef(refType, ref string) (string, error) {
	switch refType {
	case "branch":
		return "refs/heads/" + ref, nil
	case "tag":
		return "refs/tags/" + ref, nil
	default:
		return "", refusal.New(refusal.ClaimInvalid, `the token's claim "ref_type" is %s; it must be "branch" or "tag"`, quote(refType))
	}
}

func checkRunnerID(claims oidc.Claims) error {
	const want = "a whole number, not 0"
	v, present := claims["runner_id"]
	number, ok := v.(oidc.Number)
	switch id, err := strconv.ParseInt(string(number), 10, 64); {
	case !present:
		return missing(`claim "runner_id"`, want)
	case !ok:
		return claimRefusal("runner_id", v, want)
	case err != nil || id == 0:
		return refusal.New(refusal.ClaimInvalid, `the token's claim "runner_id" is %s; it must be %s`, quote(string(number)), want)
	}
	return nil
}

// codefreshWorkflow is type codefresh-workflow. The claims with the names of account and pipeline
// are not required, because their identifiers are.
func codefreshWorkflow() *fixedCI {
	return &fixedCI{
		required: []string{"account_id", "pipeline_id", "workflow_id"},
		optional: []string{"platform_url", "account_name", "pipeline_name", "runner_environment", "scm_repo_url", "scm_ref"},
		fill: func(c map[string]string, e *certs.Extensions) (fixedName, error) {
			if c["platform_url"] == "" {
				c["platform_url"] = "https://g.codefresh.io"
			}
			platform := c["platform_url"]
			var j joiner
			build := j.join(platform, "build", c["workflow_id"])
			e[certs.BuildSignerURI] = build
			e[certs.RunnerEnvironment] = c["runner_environment"]
			e[certs.SourceRepositoryURI] = c["scm_repo_url"]
			e[certs.SourceRepositoryRef] = c["scm_ref"]
			e[certs.BuildConfigURI] = j.join(platform, "api/pipelines", c["pipeline_id"])
			e[certs.RunInvocationURI] = build
			name := fixedName{
				parts: []part{{field, "platform_url"}, {literal, "/"}, {field, "account_name"}, {literal, "/"}, {field, "pipeline_name"},
					{literal, ":"}, {field, "account_id"}, {literal, "/"}, {field, "pipeline_id"}},
				format: func(raw string) (string, error) { return joinPath(platform, strings.TrimPrefix(raw, platform)) },
				joined: true,
			}
			// Joining drops an empty account with its slash. The first segment then has the colon
			// of the pipeline, and otherwise no colon.
			if c["account_name"] == "" {
				name.parts = slices.Delete(name.parts, 2, 4)
				if strings.Contains(c["pipeline_name"], "/") {
					return fixedName{}, refusal.New(refusal.ClaimInvalid, `the token's claim "pipeline_name", %s, holds "/" without an account_name; other claims could make the same name`, quote(c["pipeline_name"]))
				}
			} else if strings.Contains(c["account_name"], ":") {
				return fixedName{}, refusal.New(refusal.ClaimInvalid, `the token's claim "account_name", %s, holds ":"; other claims could make the same name`, quote(c["account_name"]))
			}
			return name, j.err
		},
	}
}

// buildkiteJob is type buildkite-job, which fills in no extensions.
func buildkiteJob() *fixedCI {
	return &fixedCI{
		required: []string{"organization_slug", "pipeline_slug"},
		fill: func(map[string]string, *certs.Extensions) (fixedName, error) {
			return fixedName{
				parts:  []part{{literal, "https://buildkite.com/"}, {field, "organization_slug"}, {literal, "/"}, {field, "pipeline_slug"}},
				format: func(raw string) (string, error) { return raw, nil },
			}, nil
		},
	}
}
