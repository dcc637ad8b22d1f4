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

// Extension describes one extension of the table. docs/oids.md states what each means to a verifier.
type Extension struct {
	Arc Arc
	// Key names the extension in extension-templates of a YAML issuer file. It is "" for the issuer
	// (.1, .8) and the token's subject (.24), which no template sets.
	Key string
	// Name names the extension in a JSON issuer file and in what mayfly prints.
	Name string
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

func find(match func(*Extension) bool) (Extension, bool) {
	for _, e := range table() {
		if match(&e) {
			return e, true
		}
	}
	return Extension{}, false
}

// Raw reports that the value of the extension at a is the text itself; otherwise the value is a DER
// UTF8String of the text.
func (a Arc) Raw() bool { return a <= GithubWorkflowRef }

// table is a function, so that no caller can change the table of the others.
func table() [23]Extension {
	return [23]Extension{
		{IssuerV1, "", "Issuer"},
		{GithubWorkflowTrigger, "github-workflow-trigger", "GithubWorkflowTrigger"},
		{GithubWorkflowSHA, "github-workflow-sha", "GithubWorkflowSHA"},
		{GithubWorkflowName, "github-workflow-name", "GithubWorkflowName"},
		{GithubWorkflowRepository, "github-workflow-repository", "GithubWorkflowRepository"},
		{GithubWorkflowRef, "github-workflow-ref", "GithubWorkflowRef"},
		{IssuerV2, "", "IssuerV2"},
		{BuildSignerURI, "build-signer-uri", "BuildSignerURI"},
		{BuildSignerDigest, "build-signer-digest", "BuildSignerDigest"},
		{RunnerEnvironment, "runner-environment", "RunnerEnvironment"},
		{SourceRepositoryURI, "source-repository-uri", "SourceRepositoryURI"},
		{SourceRepositoryDigest, "source-repository-digest", "SourceRepositoryDigest"},
		{SourceRepositoryRef, "source-repository-ref", "SourceRepositoryRef"},
		{SourceRepositoryIdentifier, "source-repository-identifier", "SourceRepositoryIdentifier"},
		{SourceRepositoryOwnerURI, "source-repository-owner-uri", "SourceRepositoryOwnerURI"},
		{SourceRepositoryOwnerIdentifier, "source-repository-owner-identifier", "SourceRepositoryOwnerIdentifier"},
		{BuildConfigURI, "build-config-uri", "BuildConfigURI"},
		{BuildConfigDigest, "build-config-digest", "BuildConfigDigest"},
		{BuildTrigger, "build-trigger", "BuildTrigger"},
		{RunInvocationURI, "run-invocation-uri", "RunInvocationURI"},
		{SourceRepositoryVisibilityAtSigning, "source-repository-visibility-at-signing", "SourceRepositoryVisibilityAtSigning"},
		{DeploymentEnvironment, "deployment-environment", "DeploymentEnvironment"},
		{TokenSubject, "", "TokenSubject"},
	}
}
