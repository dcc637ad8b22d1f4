// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"strconv"
)

// Issuers is the issuer configuration: whose ID tokens are accepted, and what becomes of
// their claims. The file is YAML, or JSON if it begins with a brace; keys are spelled as in
// the fields' comments in YAML, and in JSON in CamelCase with acronyms in upper case
// (IssuerURL, SPIFFETrustDomain). A top-level key `define` may hold YAML anchors; it is not
// read itself.
type Issuers struct {
	// File is the file that this was read from.
	File *File
	// Entries has the entries of `oidc-issuers` and then those of `meta-issuers`, each in
	// the order of the file. There is at least one.
	Entries []Issuer
	// CIProviders is `ci-issuer-metadata`: by its name, what makes a certificate out of the
	// claims of a CI provider.
	CIProviders map[string]CIProvider
	// ExtensionNames says how the keys of every ExtensionTemplates and of every test's
	// Extensions are spelled: false, as YAML keys (build-signer-uri); true, because the
	// file is JSON, as names (BuildSignerURI). They are kept as they are written.
	ExtensionNames bool
}

// Issuer is one trusted issuer, or one pattern of them.
type Issuer struct {
	// Key is the entry's key in the file: the issuer URL or, under `meta-issuers`, the
	// pattern, in which a `*` stands for one run of [-_A-Za-z0-9].
	Key string
	// Wildcard tells that the entry stands under `meta-issuers`. A static entry that
	// matches a token is always taken before a wildcard entry.
	Wildcard bool

	// IssuerURL is `issuer-url`. In a static entry it must equal the key, to the last
	// slash; in a wildcard entry it is "" and, if written, must equal the pattern.
	IssuerURL string
	// ClientID is `client-id`: the audience that a token must name. It must be there, and
	// is what GetConfiguration tells clients to ask for.
	ClientID string
	// Audiences is `audiences` (ours): further audiences, of which a token may name one
	// instead of ClientID. None by default.
	Audiences []string
	// SigningAlgorithms is `signing-algorithms` (ours): the JOSE algorithms accepted from
	// this issuer, such as RS256. By default, and at most, those that its discovery
	// document lists.
	SigningAlgorithms []string

	// Type is `type`: email, ci-provider, kubernetes, spiffe, uri, username,
	// github-workflow, gitlab-pipeline, codefresh-workflow, buildkite-job or
	// chainguard-identity. It decides which claims are demanded and what the certificate's
	// name is.
	Type string
	// CIProvider is `ci-provider`: the key in `ci-issuer-metadata`. Type ci-provider needs
	// it; no other type reads it.
	CIProvider string
	// IssuerClaim is `issuer-claim`: a JSONPath such as $.federated_claims.connector_id to
	// the claim that replaces the issuer URL in certificates. Type email only.
	IssuerClaim string
	// SubjectDomain is `subject-domain`: for type uri the scheme and host that every
	// subject must have, for type username the domain behind the `!`. Both types need it.
	SubjectDomain string
	// SPIFFETrustDomain is `spiffe-trust-domain`: the trust domain, as a name or a SPIFFE
	// ID, that every subject must be of. Type spiffe needs it.
	SPIFFETrustDomain string
	// ChallengeClaim is `challenge-claim`: what GetConfiguration calls the claim that a
	// client signs. It changes only that, never what must be signed, and is best left out.
	ChallengeClaim string
	// SkipEmailVerification is `skip-email-verification`: accept addresses that the issuer
	// does not call verified. False by default. True lets whoever registers an address at
	// the issuer sign in its name, unless AllowedEmailDomains narrows it.
	SkipEmailVerification bool
	// AllowedEmailDomains is `allowed-email-domains` (ours): the domains, after the @, that
	// an address may have. Any by default. Type email only.
	AllowedEmailDomains []string

	// CACert is `ca-cert`: certificates, as PEM text, that the issuer's server may chain up
	// to, beside the system's.
	CACert string
	// AllowPrivateNetwork is `allow-private-network` (ours): discovery and keys may be read
	// from private addresses, and never through oidc.proxy; link-local ones and metadata
	// services stay refused. False by default, since an issuer whose name resolves to one is
	// how a server is made to call its own network.
	AllowPrivateNetwork bool
	// JWKSHosts is `jwks-hosts` (ours): the hosts that a wildcard entry's issuers may keep
	// their keys on besides their own. None by default. A static entry's issuer may keep
	// them on any host.
	JWKSHosts []string

	// Constants is `constants` (ours): values by name that the entry's templates read and
	// that no claim of a token can replace, as with the URL of an issuer's own server. They
	// count before those of the CI provider. None by default. Type ci-provider only.
	Constants map[string]string

	// Allow is `allow` (ours): rules of which one must allow the caller. Whoever has a token
	// of the issuer is allowed where there are none, which is the default.
	Allow []AllowRule
	// Mode is `mode` (ours): enforce, which is the default, or audit, where the denials of
	// Allow are counted and recorded, and refuse nobody.
	Mode string

	// Name is `name` of a profile; "" for an entry.
	Name string
	// Profiles is `profiles` (ours): what tokens of the same issuer for other audiences are.
	// A profile has a name and keys of its own from ClientID to Tests, but for those that
	// say how the issuer is reached (signing-algorithms, ca-cert, allow-private-network,
	// jwks-hosts), and inherits none. The entry itself serves the tokens for its own
	// ClientID and Audiences. No audience may be in two of them.
	Profiles []Issuer
	// Index is the place of a profile in its list; 0 for an entry.
	Index int

	// Tests is `tests` (ours): claim sets with what must become of them, which
	// `mayfly config check` tries.
	Tests []IssuerTest

	// Description, Contact and Environment are `description`, `contact` and `environment`:
	// notes for whoever reads the file, without any effect.
	Description string
	Contact     string
	Environment string
}

// AllowRule is a rule of who may have a certificate.
type AllowRule struct {
	// Name is `name`, by which refusals and records call the rule. It must be there, and
	// differ from those of the other rules beside it.
	Name string
	// When is `when`: an expression in CEL over claims, san and issuer that is true or
	// false, as in claims.repository_owner == "example".
	When string
}

// IssuerTest is a claim set and what must become of it: a certificate's name, or a refusal.
type IssuerTest struct {
	// Claims is `claims`, a JSON object with the claims of a token. Where they lack `iss` or
	// `aud`, those are the entry's own issuer URL and client ID.
	Claims json.RawMessage
	// SAN is `san`, the subject alternative name that the certificate must have. It
	// excludes Reason; one of the two must be there.
	SAN string
	// Extensions is `extensions`: values that the certificate must have, by the extension's
	// key. An extension that is not named may have any value. It needs SAN.
	Extensions map[string]string
	// Reason is `reason`, the stable code of the refusal, as in CLAIM_MISSING.
	Reason string
}

// CIProvider says how the claims of a CI provider become a certificate. A template is Go's
// text/template over claims and defaults; a value without `{{` names a claim or a default.
type CIProvider struct {
	// DefaultTemplateValues is `default-template-values`: what a template reads where the
	// token has no claim of that name. An empty default makes a claim optional.
	DefaultTemplateValues map[string]string
	// Constants is `constants` (ours): what a template reads under a name whatever the token
	// claims. None by default.
	Constants map[string]string
	// ExtensionTemplates is `extension-templates`: a template by the extension's key.
	// Keys are as Issuers.ExtensionNames says.
	ExtensionTemplates map[string]string
	// SubjectAlternativeNameTemplate is `subject-alternative-name-template`, the template
	// of the certificate's one name, a URI.
	SubjectAlternativeNameTemplate string
	// DistinctClaims is `distinct-claims` (ours): refuse a token in which a claim of the name
	// holds the text that separates it from the next claim. False by default, and without
	// effect on the templates of config/issuers.yaml, where such tokens are always refused.
	DistinctClaims bool
}

// Path is the entry's or profile's place in the file, as Explain takes it.
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

// Explain maps every keypath error in err, which may be joined with errors.Join, to its
// place in the file, and returns them as Mistakes; nil for nil. Paths begin at the file's
// root and use YAML's keys, as in ["oidc-issuers", "https://a.example", "type"].
func (i *Issuers) Explain(err error) error { return i.File.Mistakes(err).asError() }

// Locate returns the line and the column of a path; see File.Locate.
func (i *Issuers) Locate(path []string) (line, column int) { return i.File.Locate(path) }
