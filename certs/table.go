// SPDX-License-Identifier: Apache-2.0

package certs

// Arc is the last arc of one of sigstore's extensions, 1.3.6.1.4.1.57264.1.Arc.
type Arc uint8

// The arcs. There is no extension .7: it is the type of the otherName that holds a user
// name (see SANUserName).
const (
	IssuerV1                            Arc = 1
	GithubWorkflowTrigger               Arc = 2
	GithubWorkflowSHA                   Arc = 3
	GithubWorkflowName                  Arc = 4
	GithubWorkflowRepository            Arc = 5
	GithubWorkflowRef                   Arc = 6
	IssuerV2                            Arc = 8
	BuildSignerURI                      Arc = 9
	BuildSignerDigest                   Arc = 10
	RunnerEnvironment                   Arc = 11
	SourceRepositoryURI                 Arc = 12
	SourceRepositoryDigest              Arc = 13
	SourceRepositoryRef                 Arc = 14
	SourceRepositoryIdentifier          Arc = 15
	SourceRepositoryOwnerURI            Arc = 16
	SourceRepositoryOwnerIdentifier     Arc = 17
	BuildConfigURI                      Arc = 18
	BuildConfigDigest                   Arc = 19
	BuildTrigger                        Arc = 20
	RunInvocationURI                    Arc = 21
	SourceRepositoryVisibilityAtSigning Arc = 22
	DeploymentEnvironment               Arc = 23
	TokenSubject                        Arc = 24

	userNameArc Arc = 7
	maxArc          = TokenSubject
)

// Extension describes one extension of the table.
type Extension struct {
	Arc Arc
	// Key names the extension in extension-templates of a YAML issuer file. It is "" for the issuer
	// (.1, .8) and the token's subject (.24), which no template sets.
	Key string
	// Name names the extension in a JSON issuer file and in what mayfly prints.
	Name string
	// Raw reports that the extension's value is the text itself; otherwise the value is a DER
	// UTF8String of the text.
	Raw bool
	// Doc is one sentence, without Markdown, about what the extension means to a verifier.
	Doc string
}

// Table returns a copy of the one table of sigstore's extensions, ascending by arc. Certificates
// hold them in the same order.
func Table() []Extension {
	t := table()
	return t[:]
}

// ExtensionByKey returns the extension that has the YAML key.
func ExtensionByKey(key string) (Extension, bool) {
	return find(func(e *Extension) bool { return e.Key == key && key != "" })
}

// ExtensionByName returns the extension that has the JSON name; the match is case-sensitive.
func ExtensionByName(name string) (Extension, bool) {
	return find(func(e *Extension) bool { return e.Name == name })
}

// ExtensionByArc returns the extension at arc.
func ExtensionByArc(arc Arc) (Extension, bool) {
	return find(func(e *Extension) bool { return e.Arc == arc })
}

func find(match func(*Extension) bool) (Extension, bool) {
	for _, e := range table() {
		if match(&e) {
			return e, true
		}
	}
	return Extension{}, false
}

// inTable reports whether arc is an extension's: every arc from .1 to .24 except .7.
func (a Arc) inTable() bool { return a >= IssuerV1 && a <= maxArc && a != userNameArc }

// raw reports whether the extension at a holds its text without a DER string around it.
func (a Arc) raw() bool { return a <= GithubWorkflowRef }

// table is a function, so that no caller can change the table of the others.
func table() [23]Extension {
	return [23]Extension{
		{Arc: IssuerV1, Name: "Issuer", Raw: true,
			Doc: "The URL of the provider that signed the ID token, or what the issuer entry's issuer-claim says in its place; old verifiers read it here, new ones in .8."},
		{Arc: GithubWorkflowTrigger, Key: "github-workflow-trigger", Name: "GithubWorkflowTrigger", Raw: true,
			Doc: "The GitHub event that started the workflow, such as push; new verifiers read .20."},
		{Arc: GithubWorkflowSHA, Key: "github-workflow-sha", Name: "GithubWorkflowSHA", Raw: true,
			Doc: "The commit that the GitHub workflow ran on; new verifiers read .13."},
		{Arc: GithubWorkflowName, Key: "github-workflow-name", Name: "GithubWorkflowName", Raw: true,
			Doc: "The name that the GitHub workflow gives itself, which anybody who can edit it can choose: compare .9 or .18 instead."},
		{Arc: GithubWorkflowRepository, Key: "github-workflow-repository", Name: "GithubWorkflowRepository", Raw: true,
			Doc: "The owner and name of the repository that the GitHub workflow ran for; new verifiers read .12."},
		{Arc: GithubWorkflowRef, Key: "github-workflow-ref", Name: "GithubWorkflowRef", Raw: true,
			Doc: "The git ref that the GitHub workflow ran on, such as refs/heads/main; new verifiers read .14."},
		{Arc: IssuerV2, Name: "IssuerV2",
			Doc: "The same issuer as in .1, encoded as a DER string: together with the subject alternative name it is what a verifier must compare."},
		{Arc: BuildSignerURI, Key: "build-signer-uri", Name: "BuildSignerURI",
			Doc: "The build instructions that did the signing, with their version, such as a reusable workflow that the build called."},
		{Arc: BuildSignerDigest, Key: "build-signer-digest", Name: "BuildSignerDigest",
			Doc: "The exact version, a commit digest, of the build instructions in .9."},
		{Arc: RunnerEnvironment, Key: "runner-environment", Name: "RunnerEnvironment",
			Doc: "Whether the build ran on machines of the platform or of its customer, such as github-hosted or self-hosted."},
		{Arc: SourceRepositoryURI, Key: "source-repository-uri", Name: "SourceRepositoryURI",
			Doc: "The URL of the repository that was built, which a rename or transfer changes: .15 stays."},
		{Arc: SourceRepositoryDigest, Key: "source-repository-digest", Name: "SourceRepositoryDigest",
			Doc: "The exact version, a commit digest, of the source that was built."},
		{Arc: SourceRepositoryRef, Key: "source-repository-ref", Name: "SourceRepositoryRef",
			Doc: "The git ref that was built, such as refs/heads/main or refs/tags/v1.0.0."},
		{Arc: SourceRepositoryIdentifier, Key: "source-repository-identifier", Name: "SourceRepositoryIdentifier",
			Doc: "The platform's own number or name for the repository, which no rename changes and no newcomer inherits."},
		{Arc: SourceRepositoryOwnerURI, Key: "source-repository-owner-uri", Name: "SourceRepositoryOwnerURI",
			Doc: "The URL of the user or organization that owns the repository."},
		{Arc: SourceRepositoryOwnerIdentifier, Key: "source-repository-owner-identifier", Name: "SourceRepositoryOwnerIdentifier",
			Doc: "The platform's own number or name for the repository's owner, which no rename changes and no newcomer inherits."},
		{Arc: BuildConfigURI, Key: "build-config-uri", Name: "BuildConfigURI",
			Doc: "The top-level build instructions that started the run, with their version; the same as .9 where they did the signing themselves."},
		{Arc: BuildConfigDigest, Key: "build-config-digest", Name: "BuildConfigDigest",
			Doc: "The exact version, a commit digest, of the build instructions in .18."},
		{Arc: BuildTrigger, Key: "build-trigger", Name: "BuildTrigger",
			Doc: "What started the build, such as push, schedule or pull_request."},
		{Arc: RunInvocationURI, Key: "run-invocation-uri", Name: "RunInvocationURI",
			Doc: "The URL of the very run that asked for the certificate: the place to look when it is in doubt."},
		{Arc: SourceRepositoryVisibilityAtSigning, Key: "source-repository-visibility-at-signing", Name: "SourceRepositoryVisibilityAtSigning",
			Doc: "Whether the repository was public or private when the certificate was issued; it may have changed since."},
		{Arc: DeploymentEnvironment, Key: "deployment-environment", Name: "DeploymentEnvironment",
			Doc: "The deployment environment whose protection rules the job had to pass, such as production."},
		{Arc: TokenSubject, Name: "TokenSubject",
			Doc: "The sub claim of the ID token, as it stood there: the provider's own name for the caller, which the subject alternative name may not show."},
	}
}
