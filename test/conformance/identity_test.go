// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"fmt"
	"testing"
)

type identityCase struct {
	name   string
	issuer string
	claims claims
	sign   string // the signed value; "" for email or sub, as the type requires
	refuse string // otherwise, the refusal
	want   name
}

var email = claims{"email": `"a@example.com"`, "email_verified": "true"}

var githubClaims = claims{
	"sub": `"repo:o/r:ref:refs/heads/main"`, "event_name": `"push"`, "sha": `"c0ffee"`, "workflow": `"Release"`, "repository": `"o/r"`,
	"ref": `"refs/heads/main"`, "job_workflow_ref": `"o/s/.github/workflows/w.yml@refs/tags/v1"`, "job_workflow_sha": `"deca"`,
	"runner_environment": `"github-hosted"`, "repository_id": `"11"`, "repository_owner": `"o"`, "repository_owner_id": `"22"`,
	"workflow_ref": `"o/r/.github/workflows/c.yml@refs/heads/main"`, "workflow_sha": `"fade"`, "run_id": `"33"`, "run_attempt": `"4"`,
	"repository_visibility": `"public"`, "environment": `"prod"`,
}

var githubWant = name{"uri:https://github.com/o/s/.github/workflows/w.yml@refs/tags/v1", map[int]string{
	2: "push", 3: "c0ffee", 4: "Release", 5: "o/r", 6: "refs/heads/main",
	9: "https://github.com/o/s/.github/workflows/w.yml@refs/tags/v1", 10: "deca", 11: "github-hosted",
	12: "https://github.com/o/r", 13: "c0ffee", 14: "refs/heads/main", 15: "11", 16: "https://github.com/o", 17: "22",
	18: "https://github.com/o/r/.github/workflows/c.yml@refs/heads/main", 19: "fade", 20: "push",
	21: "https://github.com/o/r/actions/runs/33/attempts/4", 22: "public", 23: "prod",
}}

var gitlabClaims = claims{
	"sub": `"project_path:g/p:ref_type:branch:ref:main"`, "ci_config_ref_uri": `"gitlab.com/g/p//.gitlab-ci.yml@refs/heads/main"`, "ci_config_sha": `"abc"`,
	"runner_environment": `"gitlab-hosted"`, "project_path": `"g/p"`, "sha": `"def"`, "ref": `"main"`, "ref_type": `"branch"`, "project_id": `"1"`,
	"namespace_path": `"g"`, "namespace_id": `"2"`, "pipeline_source": `"push"`, "job_id": `"3"`, "project_visibility": `"private"`, "environment": `"live"`,
	"pipeline_id": `"5"`, "runner_id": `1`,
}

var gitlabWant = name{"uri:https://gitlab.com/g/p//.gitlab-ci.yml@refs/heads/main", map[int]string{
	9: "https://gitlab.com/g/p//.gitlab-ci.yml@refs/heads/main", 10: "abc", 11: "gitlab-hosted", 12: "https://gitlab.com/g/p", 13: "def",
	14: "refs/heads/main", 15: "1", 16: "https://gitlab.com/g", 17: "2", 18: "https://gitlab.com/g/p//.gitlab-ci.yml@refs/heads/main", 19: "abc",
	20: "push", 21: "https://gitlab.com/g/p/-/jobs/3", 22: "private", 23: "live",
}}

var codefreshClaims = claims{
	"sub": `"account:1:pipeline:2"`, "account_name": `"acc"`, "pipeline_name": `"proj/pipe"`, "account_id": `"a1"`, "pipeline_id": `"p2"`, "workflow_id": `"w3"`,
	"runner_environment": `"hybrid"`, "scm_repo_url": `"https://github.com/o/r.git"`, "scm_ref": `"main"`, "platform_url": `"https://cf.example"`,
}

var codefreshWant = name{"uri:https://cf.example/acc/proj/pipe:a1/p2", map[int]string{
	9: "https://cf.example/build/w3", 11: "hybrid", 12: "https://github.com/o/r.git", 14: "main", 18: "https://cf.example/api/pipelines/p2", 21: "https://cf.example/build/w3",
}}

var buildkiteClaims = claims{
	"sub": `"organization:o:pipeline:p"`, "organization_slug": `"o"`, "pipeline_slug": `"p"`, "build_number": "7", "job_id": `"j-1"`, "build_commit": `"cc"`,
	"build_source": `"webhook"`, "runner_environment": `"self-hosted"`,
}

var buildkiteWant = name{"uri:https://buildkite.com/o/p", map[int]string{
	11: "self-hosted", 13: "cc", 20: "webhook", 21: "https://buildkite.com/o/p/builds/7#j-1",
}}

var circleClaims = claims{
	"sub": `"org/1/project/2/user/3"`, "oidc.circleci.com/project-id": `"pr"`, "oidc.circleci.com/pipeline-definition-id": `"pd"`,
	"oidc.circleci.com/pipeline-id": `"pi"`, "oidc.circleci.com/workflow-id": `"wf"`, "oidc.circleci.com/job-id": `"jb"`,
	"oidc.circleci.com/vcs-origin": `"github.com/o/r"`, "oidc.circleci.com/vcs-ref": `"refs/heads/m"`, "oidc.circleci.com/ssh-rerun": "true",
	"oidc.circleci.com/context-ids": `["x"]`,
}

var circleWant = name{"uri:https://circleci.com/api/v2/projects/pr/pipeline-definitions/pd", map[int]string{
	9: "https://circleci.com/api/v2/projects/pr/pipeline-definitions/pd", 11: "ssh-rerun", 12: "github.com/o/r", 14: "refs/heads/m",
	18: "https://circleci.com/api/v2/pipeline/pi/config", 21: "https://app.circleci.com//workflow/wf/job/jb",
}}

var buddyClaims = claims{
	"workspace_domain": `"ws"`, "project_name": `"pn"`, "pipeline_id": "12", "runner_environment": `"buddy-hosted"`, "revision": `"rev"`, "ref": `"refs/heads/m"`,
	"triggered_on": `"CLICK"`, "execution_id": `"e5"`,
}

var buddyWant = name{"uri:https://app.buddy.works/ws/pn/pipelines/pipeline/12", map[int]string{
	9: "https://app.buddy.works/ws/pn/pipelines/pipeline/12", 11: "buddy-hosted", 12: "https://app.buddy.works/ws/pn", 13: "rev", 14: "refs/heads/m",
	16: "https://app.buddy.works/ws", 20: "CLICK", 21: "https://app.buddy.works/ws/pn/pipelines/pipeline/12/execution/e5",
}}

// but returns n with some extensions changed; "" omits one.
func (n name) but(san string, changes map[int]string) name {
	ext := map[int]string{}
	for k, v := range n.ext {
		ext[k] = v
	}
	for k, v := range changes {
		if v == "" {
			delete(ext, k)
		} else {
			ext[k] = v
		}
	}
	if san == "" {
		san = n.san
	}
	return name{san, ext}
}

func uriName(san string) name { return name{san: "uri:" + san} }

func kube(ns, sa string) claims {
	return claims{"kubernetes.io": `{"namespace":` + ns + `,"serviceaccount":{"name":` + sa + `,"uid":"u"},"pod":{"name":"p"}}`}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	cases := identityCases()
	seen := map[string]bool{}
	for i, tt := range cases {
		if seen[tt.issuer+tt.name] {
			t.Errorf("case %s/%s twice", tt.issuer, tt.name)
		}
		seen[tt.issuer+tt.name] = true
		for j, c := range []*ca{w.logged, w.unlogged} {
			t.Run(tt.issuer+"/"+tt.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				payload := tt.claims.payload(tt.issuer)
				challenge := tt.sign
				var m map[string]any
				_ = json.Unmarshal([]byte(payload), &m)
				if challenge == "" {
					challenge, _ = m["sub"].(string)
					if tt.want.san == "" || len(tt.want.san) > 6 && tt.want.san[:6] == "email:" {
						if s, ok := m["email"].(string); ok {
							challenge = s
						}
					}
				}
				key := newKey()
				g := c.do(t, apis[(i+j)%3], ask{token: mint(tt.issuer, payload), publicKey: publicPEM(key.Public()), proof: sign(key, challenge)})
				if tt.refuse != "" {
					g.refused(t, tt.refuse)
					return
				}
				sub, _ := m["sub"].(string)
				g.certificate(t, c, key.Public(), fmt.Sprint(m["iss"]), sub, tt.want)
			})
		}
	}
}
