// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity/policy"
)

// The issuer types.
const (
	TypeEmail              = "email"
	TypeCIProvider         = "ci-provider"
	TypeGithubWorkflow     = "github-workflow"
	TypeGitlabPipeline     = "gitlab-pipeline"
	TypeCodefreshWorkflow  = "codefresh-workflow"
	TypeBuildkiteJob       = "buildkite-job"
	TypeKubernetes         = "kubernetes"
	TypeSPIFFE             = "spiffe"
	TypeURI                = "uri"
	TypeUsername           = "username"
	TypeChainguardIdentity = "chainguard-identity"
)

// Types returns the issuer types, in the order in which a message lists them.
func Types() []string {
	return []string{
		TypeEmail, TypeCIProvider, TypeGithubWorkflow, TypeGitlabPipeline, TypeCodefreshWorkflow, TypeBuildkiteJob,
		TypeKubernetes, TypeSPIFFE, TypeURI, TypeUsername, TypeChainguardIdentity,
	}
}

// ChallengeClaim returns the claim that GetConfiguration names for an issuer of the type, if its
// entry has no challenge-claim. For chainguard-identity it is `sub`, though callers with an email
// in their tokens sign the email.
func ChallengeClaim(issuerType string) string {
	if issuerType == TypeEmail {
		return "email"
	}
	return "sub"
}

// SANKind returns the kind of name that a certificate for a caller of an issuer of the type holds.
func SANKind(issuerType string) certs.SANKind {
	switch issuerType {
	case TypeEmail:
		return certs.SANEmail
	case TypeUsername:
		return certs.SANUserName
	default:
		return certs.SANURI
	}
}

// Config is the part of an issuer file that decides the contents of certificates.
type Config struct {
	// Issuers are the entries of oidc-issuers and meta-issuers, in any order.
	Issuers []IssuerConfig
	// CIProviders is ci-issuer-metadata, by name. Each overrides a built-in provider of its name.
	CIProviders map[string]CIProvider
	// Observe, if set, is called with each decision of an entry's policy, from several goroutines.
	// It is meant for metrics.
	Observe func(entry, profile string, decision policy.Decision)
	// Compat turns faults that the peer tolerates in its files into warnings: an extension template
	// under a name that no extension has, and a template that reads inside of a claim.
	Compat bool
}

// IssuerConfig is one entry of oidc-issuers or meta-issuers, or one of its profiles. The fields with
// tags are keys of the issuer file.
type IssuerConfig struct {
	// Key is the entry's key in its map: the issuer URL, or for a wildcard entry the pattern.
	// oidc.Token.Entry holds it, so that no two entries may share it.
	Key string
	// Profile is the name of one of the entry's profiles, which is configured as an entry with the
	// same Key; "" for the entry itself. oidc.Token.Profile holds it.
	Profile string
	// Path is the path of the entry or profile in the issuer file, for mistakes.
	Path []string
	// Static states that the entry is in oidc-issuers; otherwise it is in meta-issuers.
	Static bool
	// IssuerURL is the URL of a static entry; Key if it is empty. The issuer URL of a wildcard entry
	// is the token's `iss`.
	IssuerURL string

	// Type decides which claims are required and which name the certificate has: email, ci-provider,
	// kubernetes, spiffe, uri, username, github-workflow, gitlab-pipeline, codefresh-workflow,
	// buildkite-job or chainguard-identity.
	Type string `key:"type"`
	// CIProvider is `ci-provider`: a key in `ci-issuer-metadata`, or a provider that is built in. Type
	// ci-provider requires it; no other type reads it.
	CIProvider string `key:"ci-provider"`
	// IssuerClaim is `issuer-claim`: a JSONPath such as $.federated_claims.connector_id to
	// the claim that replaces the issuer URL in certificates. Type email only.
	IssuerClaim string `key:"issuer-claim"`
	// SubjectDomain is `subject-domain`: for type uri the scheme and host that every subject must
	// have, for type username the domain after the `!`. Both types require it.
	SubjectDomain string `key:"subject-domain"`
	// SPIFFETrustDomain is `spiffe-trust-domain`: the trust domain that every subject must belong
	// to, as a name or a SPIFFE ID. Type spiffe requires it.
	SPIFFETrustDomain string `key:"spiffe-trust-domain"`
	// ChallengeClaim is `challenge-claim`: the name that GetConfiguration returns for the claim
	// that a client signs. It changes only that, never what must be signed, and is best omitted.
	ChallengeClaim string `key:"challenge-claim"`
	// SkipEmailVerification accepts addresses that the issuer does not call verified. Any user can
	// register an address at the issuer and sign in its name, unless allowed-email-domains restricts
	// it.
	SkipEmailVerification bool `key:"skip-email-verification"`
	// AllowedEmailDomains is `allowed-email-domains` (ours): the domains, after the @, that an
	// address may have. Type email only.
	AllowedEmailDomains []string `key:"allowed-email-domains" nonempty:"would allow every domain"`
	// Constants is `constants` (ours): values by name that the entry's templates read and that no
	// claim of a token can replace, such as the URL of an issuer's own server. They override those
	// of the CI provider. Type ci-provider only.
	Constants map[string]string `key:"constants"`
	// Policy decides which of the issuer's callers may have a certificate.
	Policy policy.Config `key:""`
}

// CIProvider defines how a certificate is built from the claims of a CI provider. A template is
// Go's text/template over claims and defaults; a value without `{{` names a claim or a default.
type CIProvider struct {
	// DefaultTemplateValues is `default-template-values`: the value that a template reads if the
	// token has no claim of that name. An empty default makes a claim optional.
	DefaultTemplateValues map[string]string `key:"default-template-values" yaml:"default-template-values"`
	// Constants is `constants` (ours): the value that a template reads under a name, whatever the
	// token claims.
	//
	// A template must read each of them, and none may also be a default.
	Constants map[string]string `key:"constants" yaml:"constants"`
	// ExtensionTemplates has a template by the extension's key, as in oids.md; in JSON by the
	// extension's name.
	ExtensionTemplates map[string]string `key:"extension-templates" kind:"extension" yaml:"extension-templates"`
	// SubjectAlternativeNameTemplate is `subject-alternative-name-template`, the template of the
	// certificate's only name, a URI.
	SubjectAlternativeNameTemplate string `key:"subject-alternative-name-template" yaml:"subject-alternative-name-template"`
	// DistinctClaims refuses a token in which a claim of the name holds
	// the text that separates it from the next claim. It has no effect on the
	// built-in templates, for which such tokens are always refused.
	DistinctClaims bool `key:"distinct-claims" yaml:"distinct-claims"`
}

// at returns path with more keys after it.
func at(path []string, keys ...string) []string { return append(slices.Clip(path), keys...) }
