// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"strconv"
)

// Issuers is the issuer configuration: the accepted issuers of ID tokens, and the use of their
// claims. The file is YAML, or JSON if it begins with a brace. YAML spells keys as in the fields'
// comments. JSON spells them in CamelCase with acronyms in upper case (IssuerURL,
// SPIFFETrustDomain). A top-level key `define` may hold YAML anchors; it is not read itself.
type Issuers struct {
	// File is the file of this configuration.
	File *File
	// Entries has the entries of `oidc-issuers` and then those of `meta-issuers`, each in
	// the order of the file. There is at least one.
	Entries []Issuer
	// CIProviders is `ci-issuer-metadata`: by its name, how a certificate is built from the claims
	// of a CI provider.
	CIProviders map[string]CIProvider
	// ExtensionNames states how the keys of every ExtensionTemplates and of every test's Extensions
	// are spelled. False: as YAML keys (build-signer-uri). True, because the file is JSON: as names
	// (BuildSignerURI). They are kept as they are written.
	ExtensionNames bool
}

// Issuer is one trusted issuer, or one pattern of them.
type Issuer struct {
	// Key is the entry's key in the file: the issuer URL or, under `meta-issuers`, the pattern, in
	// which a `*` matches one run of [-_A-Za-z0-9].
	Key string
	// Wildcard states that the entry is under `meta-issuers`. A static entry that matches a token
	// always takes precedence over a wildcard entry.
	Wildcard bool

	// IssuerURL must equal the key of the entry, a trailing slash included. Under meta-issuers it may
	// be absent.
	IssuerURL string `key:"issuer-url" in:"entry"`
	// ClientID is the audience that a token must name. GetConfiguration returns it for clients to
	// request.
	ClientID string `key:"client-id" required:"it is the audience that a token must name"`
	// Audiences are further audiences, one of which a token may name instead of client-id.
	Audiences []string `key:"audiences"`
	// SigningAlgorithms are the JOSE algorithms accepted from this issuer, such as RS256. Without the
	// list, and at most, those that its discovery document lists.
	SigningAlgorithms []string `key:"signing-algorithms" in:"entry"`

	// Type decides which claims are required and which name the certificate has: email, ci-provider, kubernetes, spiffe, uri, username, github-workflow,
	// gitlab-pipeline, codefresh-workflow, buildkite-job or chainguard-identity.
	Type string `key:"type"`
	// CIProvider is `ci-provider`: the key in `ci-issuer-metadata`. Type ci-provider requires it;
	// no other type reads it.
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
	// SkipEmailVerification accepts addresses that the issuer does not call verified. Any user can register an address at the issuer and
	// sign in its name, unless allowed-email-domains restricts it.
	SkipEmailVerification bool `key:"skip-email-verification"`
	// AllowedEmailDomains is `allowed-email-domains` (ours): the domains, after the @, that an
	// address may have. Type email only.
	AllowedEmailDomains []string `key:"allowed-email-domains" nonempty:"would allow every domain"`

	// CACert is `ca-cert`: CA certificates, as PEM text, to which the issuer's server may chain, in
	// addition to the system's.
	CACert string `key:"ca-cert" in:"entry"`
	// AllowPrivateNetwork is `allow-private-network` (ours): discovery and keys may be read from
	// private addresses, and never through oidc.proxy. Link-local addresses and metadata services
	// stay refused. False by default, because an issuer name that resolves to a private address can
	// make a server connect to its own network.
	AllowPrivateNetwork bool `key:"allow-private-network" in:"entry"`
	// JWKSHosts is `jwks-hosts` (ours): the hosts besides their own on which a wildcard entry's
	// issuers may keep their keys. None by default. A static entry's issuer may keep them on any
	// host.
	JWKSHosts []string `key:"jwks-hosts" in:"entry"`

	// Constants is `constants` (ours): values by name that the entry's templates read and that no
	// claim of a token can replace, such as the URL of an issuer's own server. They override those
	// of the CI provider. Type ci-provider only.
	Constants map[string]string `key:"constants"`

	// Allow is `allow` (ours): rules, one of which must allow the caller. Without rules,
	// every caller with a token of the issuer is allowed.
	Allow []AllowRule `key:"allow" nonempty:"would allow every caller"`
	// Mode is `mode` (ours): enforce, which is the default, or audit, in which denials by allow are
	// counted and recorded, but no caller is refused.
	Mode string `key:"mode"`

	// Name is the name of the profile in records. An entry has none.
	Name string `key:"name" in:"profile" required:"it is the name of the profile in records"`
	// Profiles are settings for tokens of the same issuer for other audiences. A profile has a name and
	// its own keys, and inherits none. It lacks issuer-url and the keys about the connection to the
	// issuer: signing-algorithms, ca-cert, allow-private-network and jwks-hosts. The entry itself
	// applies to tokens for its own client-id and audiences. No audience may be in two of them.
	Profiles []Issuer `key:"profiles" in:"entry" items:"profile"`
	// Index is the index of a profile in its list; 0 for an entry.
	Index int

	// Tests is `tests` (ours): claim sets with their expected results, which `mayfly config check`
	// tries.
	Tests []IssuerTest `key:"tests"`

	// Description is a note for readers of the file.
	Description string `key:"description"`
	// Contact is a note for readers of the file.
	Contact string `key:"contact"`
	// Environment is a note for readers of the file.
	Environment string `key:"environment"`
}

// AllowRule is a rule that allows callers a certificate.
type AllowRule struct {
	// Name is `name`, the rule's name in refusals and records. It must differ from those of the
	// other rules of the list.
	Name string `key:"name"`
	// When is `when`: an expression in CEL over claims, san and issuer that is true or
	// false, as in claims.repository_owner == "example".
	When string `key:"when"`
}

// IssuerTest is a claim set and its expected result: a certificate's name, or a refusal.
type IssuerTest struct {
	// Claims is `claims`, a JSON object with the claims of a token. If `iss` or `aud` is absent,
	// the entry's own issuer URL or client ID replaces it.
	Claims json.RawMessage `key:"claims" required:"it holds the claims of a token"`
	// SAN is `san`, the subject alternative name that the certificate must have. It excludes
	// reason; one of the two is required.
	SAN string `key:"san"`
	// Extensions is `extensions`: values that the certificate must have, by the extension's key. An
	// extension that is not named may have any value. It requires san.
	Extensions map[string]string `key:"extensions"`
	// Reason is `reason`, the stable code of the refusal, as in CLAIM_MISSING.
	Reason string `key:"reason"`
}

// CIProvider defines how a certificate is built from the claims of a CI provider. A template is
// Go's text/template over claims and defaults; a value without `{{` names a claim or a default.
type CIProvider struct {
	// DefaultTemplateValues is `default-template-values`: the value that a template reads if the
	// token has no claim of that name. An empty default makes a claim optional.
	DefaultTemplateValues map[string]string `key:"default-template-values"`
	// Constants is `constants` (ours): the value that a template reads under a name, whatever the
	// token claims.
	Constants map[string]string `key:"constants"`
	// ExtensionTemplates has a template by the extension's key, as in oids.md; in JSON by the
	// extension's name.
	ExtensionTemplates map[string]string `key:"extension-templates"`
	// SubjectAlternativeNameTemplate is `subject-alternative-name-template`, the template of the
	// certificate's only name, a URI.
	SubjectAlternativeNameTemplate string `key:"subject-alternative-name-template"`
	// DistinctClaims refuses a token in which a claim of the name holds
	// the text that separates it from the next claim. It has no effect on the
	// templates of config/issuers.yaml, for which such tokens are always refused.
	DistinctClaims bool `key:"distinct-claims"`
}

// Path returns the path of the entry or profile in the file, as WithPlaces expects it.
func (i *Issuer) Path() []string {
	section := "oidc-issuers"
	if i.Wildcard {
		section = "meta-issuers"
	}
	path := []string{section, i.Key}
	if i.Name != "" {
		path = append(path, "profiles", strconv.Itoa(i.Index))
	}
	return path
}

// All returns the entry itself and its profiles.
func (i *Issuer) All() []Issuer { return append([]Issuer{*i}, i.Profiles...) }

// WithPlaces maps every keypath error in err, which may be joined with errors.Join, to its place in
// the file, and returns them as Mistakes; nil for nil. Paths begin at the file's root and use
// YAML's keys, as in ["oidc-issuers", "https://a.example", "type"].
func (i *Issuers) WithPlaces(err error) error { return i.File.Mistakes(err).asError() }

// Locate returns the line and the column of a path; see File.Locate.
func (i *Issuers) Locate(path []string) (line, column int) { return i.File.Locate(path) }
