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

// ChallengeClaim returns the claim that GetConfiguration names for an issuer of the type,
// if its entry has no challenge-claim. For chainguard-identity it is `sub`, though callers
// whose tokens have an email sign that.
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

// Config is the part of an issuer file that decides what certificates say.
type Config struct {
	// Issuers are the entries of oidc-issuers and meta-issuers, in any order.
	Issuers []IssuerConfig
	// CIProviders is ci-issuer-metadata, by name.
	CIProviders map[string]CIProvider
	// Observe, if set, is told each decision of an entry's policy, from several goroutines. It
	// is meant for metrics.
	Observe func(entry, profile string, decision policy.Decision)
	// Compat makes warnings of what the peer tolerates in its files: an extension template
	// under a name that no extension has, and a template that refuses every token.
	Compat bool
}

// IssuerConfig is one entry of oidc-issuers or meta-issuers. Each field names its key.
type IssuerConfig struct {
	// Key is the entry's key in its map: the issuer URL, or for a wildcard entry the
	// pattern. It is what oidc.Token.Entry says, so that no two entries may share it.
	Key string
	// Profile is the name of one of the entry's profiles, which is configured as an entry
	// with the same Key; "" for the entry itself. It is what oidc.Token.Profile says.
	Profile string
	// Path is where the entry or profile stands in the issuer file. Default: where an entry
	// with this Key does.
	Path []string
	// Static tells that the entry is in oidc-issuers; else it is in meta-issuers.
	Static bool
	// IssuerURL (issuer-url) is the URL of a static entry; Key if it is empty. A wildcard
	// entry has the token's `iss` for its issuer URL.
	IssuerURL string
	// Type (type) is one of Types.
	Type string
	// CIProvider (ci-provider) names an entry of CIProviders. Type ci-provider demands it.
	CIProvider string
	// IssuerClaim (issuer-claim) is a JSONPath to the claim that takes the issuer URL's
	// place in extensions .1 and .8: $ and then .name, ['name'], ["name"] or [0]. It is for
	// type email; with another type, a static entry is wrong, and a wildcard entry gets a
	// warning.
	IssuerClaim string
	// SubjectDomain (subject-domain) is where the subjects are at home: a URL for type uri,
	// a host name for type username. Both demand it, and that it have the issuer URL's host
	// or registrable domain.
	SubjectDomain string
	// SPIFFETrustDomain (spiffe-trust-domain) is the name of a trust domain, or a SPIFFE ID
	// in it. Type spiffe demands it.
	SPIFFETrustDomain string
	// ChallengeClaim (challenge-claim) is what GetConfiguration says. It does not change
	// what must be signed, and there is a warning where the two differ.
	ChallengeClaim string
	// SkipEmailVerification (skip-email-verification) lets type email take addresses that
	// the provider has not verified. There is a warning if AllowedEmailDomains is empty.
	SkipEmailVerification bool
	// AllowedEmailDomains (allowed-email-domains) are the domains that type email takes
	// addresses of, verified or not, in any case and without their subdomains; all if empty.
	AllowedEmailDomains []string
	// Constants (constants) are what templates read under a name, whatever the token claims.
	// They count before those of the CI provider. Type ci-provider only.
	Constants map[string]string
	// Policy (allow, mode) decides who of those that the issuer vouches for may have a
	// certificate.
	Policy policy.Config
}

// CIProvider is one entry of ci-issuer-metadata. A template is text/template with its
// built-in functions; a value without "{{" is the name of a claim or default, which must
// exist.
type CIProvider struct {
	// DefaultTemplateValues (default-template-values) stand in for claims that the token
	// lacks.
	DefaultTemplateValues map[string]string
	// Constants (constants) stand in for claims whether the token has them or not. Each must
	// be read by a template, and none may be a default too.
	Constants map[string]string
	// ExtensionTemplates (extension-templates) are by the YAML keys of package certs' table;
	// `issuer` and `subject` are ignored, and an empty template sets nothing.
	ExtensionTemplates map[string]string
	// SubjectAlternativeNameTemplate (subject-alternative-name-template) must make an
	// absolute URI, with a host where it has an authority. The claims that it names must not
	// be empty, unless they have a default and are read only in conditions, or where a
	// condition ensures that they are not empty.
	SubjectAlternativeNameTemplate string
	// DistinctClaims (distinct-claims) refuses a token in which a claim of the name holds the
	// text that separates it from the next claim. Default: only for the templates that are
	// shipped. It is for concatenations of text and claims.
	DistinctClaims bool
}

// path is where the entry stands in the issuer file.
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
