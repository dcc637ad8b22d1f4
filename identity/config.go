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
	// CIProviders is ci-issuer-metadata, by name.
	CIProviders map[string]CIProvider
	// Observe, if set, is called with each decision of an entry's policy, from several goroutines.
	// It is meant for metrics.
	Observe func(entry, profile string, decision policy.Decision)
	// Compat turns faults that the peer tolerates in its files into warnings: an extension template
	// under a name that no extension has, and a template that refuses every token.
	Compat bool
}

// IssuerConfig is one entry of oidc-issuers or meta-issuers. Each field names its key.
type IssuerConfig struct {
	// Key is the entry's key in its map: the issuer URL, or for a wildcard entry the pattern.
	// oidc.Token.Entry holds it, so that no two entries may share it.
	Key string
	// Profile is the name of one of the entry's profiles, which is configured as an entry with the
	// same Key; "" for the entry itself. oidc.Token.Profile holds it.
	Profile string
	// Path is the path of the entry or profile in the issuer file. Default: the path of an entry
	// with this Key.
	Path []string
	// Static states that the entry is in oidc-issuers; otherwise it is in meta-issuers.
	Static bool
	// IssuerURL (issuer-url) is the URL of a static entry; Key if it is empty. The issuer URL of a
	// wildcard entry is the token's `iss`.
	IssuerURL string
	// Type (type) is one of Types.
	Type string
	// CIProvider (ci-provider) names an entry of CIProviders. Type ci-provider requires it.
	CIProvider string
	// IssuerClaim (issuer-claim) is a JSONPath to the claim that replaces the issuer URL in
	// extensions .1 and .8: $ and then .name, ['name'], ["name"] or [0]. It is for type email. With
	// another type it is a mistake in a static entry, and a warning in a wildcard entry.
	IssuerClaim string
	// SubjectDomain (subject-domain) is the domain of the subjects: a URL for type uri, a host name
	// for type username. Both types require it, with the issuer URL's host or registrable domain.
	SubjectDomain string
	// SPIFFETrustDomain (spiffe-trust-domain) is the name of a trust domain, or a SPIFFE ID in it.
	// Type spiffe requires it.
	SPIFFETrustDomain string
	// ChallengeClaim (challenge-claim) is the name that GetConfiguration returns. It does not
	// change what must be signed; a difference between the two causes a warning.
	ChallengeClaim string
	// SkipEmailVerification (skip-email-verification) lets type email accept addresses that the
	// provider has not verified. There is a warning if AllowedEmailDomains is empty.
	SkipEmailVerification bool
	// AllowedEmailDomains (allowed-email-domains) are the domains of the addresses that type email
	// accepts, verified or not, in any case and without subdomains; all if empty.
	AllowedEmailDomains []string
	// Constants (constants) are values that templates read under a name, whatever the token claims.
	// They override those of the CI provider. Type ci-provider only.
	Constants map[string]string
	// Policy (allow, mode) decides which of the issuer's callers may have a certificate.
	Policy policy.Config
}

// CIProvider is one entry of ci-issuer-metadata. A template is text/template with its built-in
// functions; a value without "{{" is the name of a claim or default, which must exist.
type CIProvider struct {
	// DefaultTemplateValues (default-template-values) replace claims that the token lacks.
	DefaultTemplateValues map[string]string
	// Constants (constants) replace claims whether the token has them or not. A template must read
	// each of them, and none may also be a default.
	Constants map[string]string
	// ExtensionTemplates (extension-templates) are by the YAML keys of package certs' table;
	// `issuer` and `subject` are ignored, and an empty template sets nothing.
	ExtensionTemplates map[string]string
	// SubjectAlternativeNameTemplate (subject-alternative-name-template) must result in an absolute
	// URI, with a host if it has an authority. The claims that it names must not be empty.
	// Exceptions are claims with a default that only conditions read, or that a condition ensures
	// are not empty.
	SubjectAlternativeNameTemplate string
	// DistinctClaims (distinct-claims) refuses a token in which a claim of the name holds the text
	// that separates it from the next claim. By default this applies only to the shipped templates.
	// It is for concatenations of text and claims.
	DistinctClaims bool
}

// path returns the path of the entry in the issuer file.
func (e *IssuerConfig) path() []string {
	if e.Path != nil {
		return e.Path
	}
	if e.Static {
		return []string{"oidc-issuers", e.Key}
	}
	return []string{"meta-issuers", e.Key}
}

// at returns path with more keys after it.
func at(path []string, keys ...string) []string { return append(slices.Clip(path), keys...) }
