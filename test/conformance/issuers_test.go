// SPDX-License-Identifier: Apache-2.0

package conformance

// issuersYAML is an issuer file as operators of the peer write it. BASE is the base URL of the
// providers.
const issuersYAML = `
define:
  - &github "github"
oidc-issuers:
  BASE/email: {issuer-url: BASE/email, client-id: sigstore, type: email, description: people, contact: a@b.c, environment: production}
  BASE/email-skip: {issuer-url: BASE/email-skip, client-id: sigstore, type: email, skip-email-verification: true}
  BASE/email-domains: {issuer-url: BASE/email-domains, client-id: sigstore, type: email, skip-email-verification: true, allowed-email-domains: [example.com]}
  BASE/email-claim: {issuer-url: BASE/email-claim, client-id: sigstore, type: email, issuer-claim: $.federated_claims.connector_id}
  BASE/email-bracket: {issuer-url: BASE/email-bracket, client-id: sigstore, type: email, issuer-claim: "$['federated.claims'][\"id\"]"}
  BASE/challenge: {issuer-url: BASE/challenge, client-id: sigstore, type: email, challenge-claim: sub}
  BASE/audiences: {issuer-url: BASE/audiences, client-id: primary, type: email, audiences: [secondary]}
  BASE/slash/: {issuer-url: BASE/slash/, client-id: sigstore, type: email}
  BASE/github: {issuer-url: BASE/github, client-id: sigstore, type: ci-provider, ci-provider: *github}
  BASE/gitlab: {issuer-url: BASE/gitlab, client-id: sigstore, type: ci-provider, ci-provider: gitlab}
  BASE/codefresh: {issuer-url: BASE/codefresh, client-id: sigstore, type: ci-provider, ci-provider: codefresh}
  BASE/buildkite: {issuer-url: BASE/buildkite, client-id: sigstore, type: ci-provider, ci-provider: buildkite}
  BASE/circleci: {issuer-url: BASE/circleci, client-id: sigstore, type: ci-provider, ci-provider: circleci}
  BASE/buddy: {issuer-url: BASE/buddy, client-id: sigstore, type: ci-provider, ci-provider: buddy}
  BASE/odd: {issuer-url: BASE/odd, client-id: sigstore, type: ci-provider, ci-provider: odd}
  BASE/host: {issuer-url: BASE/host, client-id: sigstore, type: ci-provider, ci-provider: host}
  BASE/optional: {issuer-url: BASE/optional, client-id: sigstore, type: ci-provider, ci-provider: optional}
  BASE/github-old: {issuer-url: BASE/github-old, client-id: sigstore, type: github-workflow}
  BASE/gitlab-old: {issuer-url: BASE/gitlab-old, client-id: sigstore, type: gitlab-pipeline}
  BASE/codefresh-old: {issuer-url: BASE/codefresh-old, client-id: sigstore, type: codefresh-workflow}
  BASE/buildkite-old: {issuer-url: BASE/buildkite-old, client-id: sigstore, type: buildkite-job}
  BASE/kubernetes: {issuer-url: BASE/kubernetes, client-id: sigstore, type: kubernetes}
  BASE/spiffe: {issuer-url: BASE/spiffe, client-id: sigstore, type: spiffe, spiffe-trust-domain: example.com}
  BASE/spiffe-id: {issuer-url: BASE/spiffe-id, client-id: sigstore, type: spiffe, spiffe-trust-domain: "spiffe://a_b-c.example"}
  BASE/uri: {issuer-url: BASE/uri, client-id: sigstore, type: uri, subject-domain: "http://127.0.0.1"}
  BASE/username: {issuer-url: BASE/username, client-id: sigstore, type: username, subject-domain: "127.0.0.1"}
  BASE/chainguard: {issuer-url: BASE/chainguard, client-id: sigstore, type: chainguard-identity}
  BASE/rs256: {issuer-url: BASE/rs256, client-id: sigstore, type: email}
  BASE/rs384: {issuer-url: BASE/rs384, client-id: sigstore, type: email}
  BASE/rs512: {issuer-url: BASE/rs512, client-id: sigstore, type: email}
  BASE/ps256: {issuer-url: BASE/ps256, client-id: sigstore, type: email}
  BASE/ps384: {issuer-url: BASE/ps384, client-id: sigstore, type: email}
  BASE/ps512: {issuer-url: BASE/ps512, client-id: sigstore, type: email}
  BASE/es384: {issuer-url: BASE/es384, client-id: sigstore, type: email}
  BASE/es512: {issuer-url: BASE/es512, client-id: sigstore, type: email}
  BASE/eddsa: {issuer-url: BASE/eddsa, client-id: sigstore, type: email}
  BASE/rotated: {issuer-url: BASE/rotated, client-id: sigstore, type: email}
  BASE/wild/static: {issuer-url: BASE/wild/static, client-id: static, type: email}
meta-issuers:
  BASE/wild/email/*: {client-id: sigstore, type: email}
  BASE/wild/kubernetes/*: {client-id: sigstore, type: kubernetes}
  BASE/wild/kubernetes/*/: {client-id: sigstore, type: kubernetes}
  BASE/wild/uri/*: {client-id: sigstore, type: uri, subject-domain: "http://127.0.0.1"}
  BASE/wild/username/*: {client-id: sigstore, type: username, subject-domain: "127.0.0.1"}
  BASE/wild/github/*: {client-id: sigstore, type: ci-provider, ci-provider: github}
  BASE/wild/ci/*/x: {client-id: sigstore, type: ci-provider, ci-provider: buildkite}
  BASE/wild/ci/special/x: {client-id: sigstore, type: ci-provider, ci-provider: github}
  BASE/wild/old/*-hub: {client-id: sigstore, type: github-workflow}
  BASE/wild/gitlab/*: {client-id: sigstore, type: gitlab-pipeline}
  BASE/wild/codefresh/*: {client-id: sigstore, type: codefresh-workflow}
  BASE/wild/buildkite/*: {client-id: sigstore, type: buildkite-job}
  BASE/wild/chainguard/*: {client-id: sigstore, type: chainguard-identity}
  BASE/wild/*: {client-id: wildcard, type: email}
ci-issuer-metadata:
  github:
    default-template-values: {url: "https://github.com", environment: ""}
    extension-templates:
      github-workflow-trigger: event_name
      github-workflow-sha: sha
      github-workflow-name: workflow
      github-workflow-repository: repository
      github-workflow-ref: ref
      build-signer-uri: "{{ .url }}/{{ .job_workflow_ref }}"
      build-signer-digest: job_workflow_sha
      runner-environment: runner_environment
      source-repository-uri: "{{ .url }}/{{ .repository }}"
      source-repository-digest: sha
      source-repository-ref: ref
      source-repository-identifier: repository_id
      source-repository-owner-uri: "{{ .url }}/{{ .repository_owner }}"
      source-repository-owner-identifier: repository_owner_id
      build-config-uri: "{{ .url }}/{{ .workflow_ref }}"
      build-config-digest: workflow_sha
      build-trigger: event_name
      run-invocation-uri: "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id }}/attempts/{{ .run_attempt }}"
      source-repository-visibility-at-signing: repository_visibility
      deployment-environment: environment
    subject-alternative-name-template: "{{ .url }}/{{ .job_workflow_ref }}"
  gitlab:
    default-template-values: {url: "https://gitlab.com", environment: ""}
    extension-templates:
      build-signer-uri: "https://{{ .ci_config_ref_uri }}"
      build-signer-digest: ci_config_sha
      runner-environment: runner_environment
      source-repository-uri: "{{ .url }}/{{ .project_path }}"
      source-repository-digest: sha
      source-repository-ref: refs/{{if eq .ref_type "branch"}}heads/{{else}}tags/{{end}}{{ .ref }}
      source-repository-identifier: project_id
      source-repository-owner-uri: "{{ .url }}/{{ .namespace_path }}"
      source-repository-owner-identifier: namespace_id
      build-config-uri: "https://{{ .ci_config_ref_uri }}"
      build-config-digest: ci_config_sha
      build-trigger: pipeline_source
      run-invocation-uri: "{{ .url }}/{{ .project_path }}/-/jobs/{{ .job_id }}"
      source-repository-visibility-at-signing: project_visibility
      deployment-environment: environment
    subject-alternative-name-template: "https://{{ .ci_config_ref_uri }}"
  codefresh:
    default-template-values: {platform_url: "https://g.codefresh.io", runner_environment: "", scm_repo_url: "", scm_ref: ""}
    extension-templates:
      build-signer-uri: "{{ .platform_url }}/build/{{ .workflow_id }}"
      runner-environment: runner_environment
      source-repository-uri: scm_repo_url
      source-repository-ref: scm_ref
      build-config-uri: "{{ .platform_url }}/api/pipelines/{{ .pipeline_id }}"
      run-invocation-uri: "{{ .platform_url }}/build/{{ .workflow_id }}"
    subject-alternative-name-template: "{{ .platform_url }}/{{ .account_name }}/{{ .pipeline_name }}:{{ .account_id }}/{{ .pipeline_id }}"
  buildkite:
    default-template-values: {url: "https://buildkite.com"}
    extension-templates:
      runner-environment: runner_environment
      source-repository-digest: build_commit
      build-trigger: build_source
      run-invocation-uri: "{{ .url }}/{{ .organization_slug }}/{{ .pipeline_slug }}/builds/{{ .build_number }}#{{ .job_id }}"
    subject-alternative-name-template: "{{ .url }}/{{ .organization_slug }}/{{ .pipeline_slug }}"
  circleci:
    default-template-values: {api_url: "https://circleci.com/api/v2", app_url: "https://app.circleci.com/"}
    extension-templates:
      build-signer-uri: '{{ .api_url }}/projects/{{ index . "oidc.circleci.com/project-id" }}/pipeline-definitions/{{ index . "oidc.circleci.com/pipeline-definition-id" }}'
      runner-environment: '{{ if eq (index . "oidc.circleci.com/ssh-rerun") "true" }}ssh-rerun{{ else }}""{{ end }}'
      source-repository-uri: '{{ index . "oidc.circleci.com/vcs-origin" }}'
      source-repository-ref: '{{ index . "oidc.circleci.com/vcs-ref" }}'
      build-config-uri: '{{ .api_url }}/pipeline/{{ index . "oidc.circleci.com/pipeline-id" }}/config'
      run-invocation-uri: '{{ .app_url }}/workflow/{{ index . "oidc.circleci.com/workflow-id" }}/job/{{ index . "oidc.circleci.com/job-id" }}'
    subject-alternative-name-template: '{{ .api_url }}/projects/{{ index . "oidc.circleci.com/project-id" }}/pipeline-definitions/{{ index . "oidc.circleci.com/pipeline-definition-id" }}'
  buddy:
    default-template-values: {base_url: "https://app.buddy.works", revision: "", ref: ""}
    extension-templates:
      build-signer-uri: "{{ .base_url }}/{{ .workspace_domain }}/{{ .project_name }}/pipelines/pipeline/{{ .pipeline_id }}"
      runner-environment: runner_environment
      source-repository-uri: "{{ .base_url }}/{{ .workspace_domain }}/{{ .project_name }}"
      source-repository-digest: revision
      source-repository-ref: ref
      source-repository-owner-uri: "{{ .base_url }}/{{ .workspace_domain }}"
      build-trigger: triggered_on
      run-invocation-uri: "{{ .base_url }}/{{ .workspace_domain }}/{{ .project_name }}/pipelines/pipeline/{{ .pipeline_id }}/execution/{{ .execution_id }}"
    subject-alternative-name-template: "{{ .base_url }}/{{ .workspace_domain }}/{{ .project_name }}/pipelines/pipeline/{{ .pipeline_id }}"
  odd:
    default-template-values: {base: "https://ci.example", opt: "", fallback: "the default"}
    extension-templates:
      issuer: "ignored {{ .nothing }}"
      subject: "ignored"
      github-workflow-trigger: "{{ html .v }}"
      github-workflow-sha: "{{ .v }}"
      github-workflow-name: '{{ printf "%q|%5s" .v .opt }}'
      github-workflow-repository: '{{ index . "a.b/c d" }}'
      github-workflow-ref: "{{ urlquery .v }}"
      build-signer-uri: "{{ len .v }}"
      build-signer-digest: " {{- .v -}} "
      runner-environment: "[ {{ .v }} ]"
      source-repository-uri: '{{ with index . "w" }}w={{ . }}{{ else }}no w{{ end }}'
      source-repository-digest: '{{ define "x" }}<{{ .v }}>{{ end }}{{ template "x" . }}'
      source-repository-ref: '{{ if and .v (ne .v "x") }}not x{{ else if eq .v "x" }}is x{{ end }}'
      source-repository-identifier: fallback
      source-repository-owner-uri: '{{ "{{" }} .v }}'
      source-repository-owner-identifier: '{{ $a := .v }}{{ $a }}{{/* nothing */}}'
      build-config-uri: '{{ .v | js }}'
      build-config-digest: opt
      build-trigger: '{{ slice (print .v "abc") 0 2 }}'
      deployment-environment: ""
    subject-alternative-name-template: "{{ .base }}/{{ .v }}"
  host:
    default-template-values: {}
    extension-templates:
      build-signer-uri: "https://{{ .host }}/x"
    subject-alternative-name-template: "{{ .host }}"
  optional:
    default-template-values: {enterprise: "", url: "https://github.com"}
    subject-alternative-name-template: "{{ if .enterprise }}https://{{ .enterprise }}.ghe.com{{ else }}{{ .url }}{{ end }}/{{ .ref }}"
`
