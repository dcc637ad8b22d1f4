// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
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
	CIProviders map[string]identity.CIProvider
}

// Issuer is one trusted issuer, or one pattern of them: an entry of `oidc-issuers` or `meta-issuers`.
type Issuer struct {
	// Wildcard states that the entry is under `meta-issuers`. A static entry that matches a token
	// always takes precedence over a wildcard entry.
	Wildcard bool
	// IssuerURL must equal the key of the entry, a trailing slash included. Under meta-issuers it may
	// be absent.
	IssuerURL string `key:"issuer-url"`
	Profile   `key:""`
	// Connection is how the issuer is reached.
	Connection oidc.Issuer `key:""`
	// Profiles are settings for tokens of the same issuer for other audiences. A profile has a name and
	// its own keys, and inherits none. It lacks issuer-url and the keys about the connection to the
	// issuer: signing-algorithms, ca-cert, allow-private-network and jwks-hosts. The entry itself
	// applies to tokens for its own client-id and audiences. No audience may be in two of them.
	Profiles []NamedProfile `key:"profiles"`
}

// Profile is what tokens for some audiences get: those of an entry itself, or of one of its profiles.
type Profile struct {
	// ClientID is the audience that a token must name. GetConfiguration returns it for clients to
	// request.
	ClientID string `key:"client-id" required:"it is the audience that a token must name"`
	// Audiences are further audiences, one of which a token may name instead of client-id.
	Audiences []string `key:"audiences"`
	// IssuerConfig also has the place in the file: Key, Profile and Path.
	identity.IssuerConfig `key:""`
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

// NamedProfile is an entry of `profiles`.
type NamedProfile struct {
	Profile `key:""`
	// Name is the name of the profile in records. An entry has none.
	Name string `key:"name" required:"it is the name of the profile in records"`
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
	Extensions map[string]string `key:"extensions" kind:"extension"`
	// Reason is `reason`, the stable code of the refusal, as in CLAIM_MISSING.
	Reason string `key:"reason"`
}

// Accepted returns the values of `aud` that select the profile.
func (p *Profile) Accepted() []string { return append([]string{p.ClientID}, p.Audiences...) }

// All returns the settings of the entry itself and of its profiles.
func (i *Issuer) All() []*Profile {
	all := []*Profile{&i.Profile}
	for j := range i.Profiles {
		all = append(all, &i.Profiles[j].Profile)
	}
	return all
}

// WithPlaces maps every keypath error in err, which may be joined with errors.Join, to its place in
// the file, and returns them as Mistakes; nil for nil. Paths begin at the file's root and use
// YAML's keys, as in ["oidc-issuers", "https://a.example", "type"].
func (i *Issuers) WithPlaces(err error) error { return i.File.Mistakes(err).asError() }

// Locate returns the line and the column of a path; see File.Locate.
func (i *Issuers) Locate(path []string) (line, column int) { return i.File.Locate(path) }
