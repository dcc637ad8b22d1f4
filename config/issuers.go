// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Issuers is the issuer configuration: the accepted issuers of ID tokens, and the use of their
// claims. The file is YAML, or JSON if it begins with a brace. YAML spells keys as in the tags. JSON
// spells them in CamelCase with acronyms in upper case (IssuerURL, SPIFFETrustDomain).
type Issuers struct {
	*File
	// Define may hold YAML anchors; it is not read itself.
	Define struct{} `key:"define" kind:"ignored"`
	// OIDCIssuers and MetaIssuers are the entries, each in the order of the file. There is at least
	// one.
	OIDCIssuers []Issuer `key:"oidc-issuers" kind:"entries"`
	MetaIssuers []Issuer `key:"meta-issuers" kind:"entries"`
	// CIIssuerMetadata states by the name of a CI provider how a certificate is built from its claims.
	CIIssuerMetadata map[string]identity.CIProvider `key:"ci-issuer-metadata"`
	// Entries are the OIDCIssuers and then the MetaIssuers.
	Entries []Issuer
}

// Issuer is one trusted issuer, or one pattern of them: an entry of `oidc-issuers` or `meta-issuers`.
// A static entry that matches a token always takes precedence over a wildcard entry.
type Issuer struct {
	// IssuerURL must equal the key of the entry, a trailing slash included. Under meta-issuers it may
	// be absent.
	IssuerURL string `key:"issuer-url"`
	Profile   `key:""`
	// Connection is how the issuer is reached.
	Connection oidc.Issuer `key:""`
	// Profiles are settings for tokens of the same issuer for other audiences. A profile has a name and
	// its own keys, and inherits none. It lacks issuer-url, disabled and the keys about the connection to
	// the issuer: signing-algorithms, ca-cert, allow-private-network and jwks-hosts. The entry itself
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
	// IssuerConfig also has the place in the file: Key, Profile, Static and Path.
	identity.IssuerConfig `key:""`
	// Tests is `tests` (ours): claim sets with their expected results, which `mayfly config check` and
	// the server try. A file may have 2,000.
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

// All returns the settings of all entries and their profiles.
func (i *Issuers) All() (all []*Profile) {
	for j := range i.Entries {
		all = append(all, i.Entries[j].All()...)
	}
	return all
}

// Enabled returns those of the entries that are not disabled.
func (i *Issuers) Enabled() (all []*Profile) {
	for j := range i.Entries {
		if entry := &i.Entries[j]; !entry.Connection.Disabled {
			all = append(all, entry.All()...)
		}
	}
	return all
}

// LoadIssuers reads the issuer configuration from the file called path. With compat, mistakes that
// the peer tolerates in its identity file are warnings.
//
// build, unless it is nil, applies the settings of the issuers. The operator thus gets mistakes of
// form and of settings at once. Its warnings and errors are keypath errors. It also gets the issuers
// of a file with mistakes, as far as they were readable.
//
// An error is Mistakes, with every mistake of the file; or it states why the file is unreadable.
// LoadIssuers returns warnings in both cases.
func LoadIssuers(path string, compat bool, build func(*Issuers) (warnings []error, err error)) (*Issuers, []error, error) {
	return loaded(path, func(name string, content []byte) (*Issuers, []error, error) {
		return ParseIssuers(name, content, compat, build)
	})
}

// ParseIssuers is LoadIssuers for a file that has been read already; mistakes give name as the
// file.
func ParseIssuers(name string, content []byte, compat bool, build func(*Issuers) (warnings []error, err error)) (*Issuers, []error, error) {
	d := newDecoder(name)
	d.compat, d.plain = compat, true
	issuers := &Issuers{File: d.File}
	d.read(content, true, issuers)
	if build != nil && len(issuers.Entries) > 0 {
		warnings, err := build(issuers)
		d.add(err, warnings)
	}
	return result(d, issuers)
}

func (i *Issuers) check(d *decoder, _ []string) {
	n := len(i.OIDCIssuers)
	i.Entries = append(i.OIDCIssuers, i.MetaIssuers...)
	i.OIDCIssuers, i.MetaIssuers = i.Entries[:n:n], i.Entries[n:]
	if len(i.Entries) == 0 && len(d.mistakes) == 0 { // otherwise those are the reason
		d.wrong(nil, "the file names no issuer, so that no token at all would be accepted")
	}
}

// check makes the checks that need only the file; the constructors of oidc and identity check the
// rest.
func (i *Issuer) check(d *decoder, path []string) {
	i.Key, i.Static, i.Path = path[1], path[0] == "oidc-issuers", path
	if i.Static && strings.Contains(i.Key, "*") {
		d.wrong(path, "the issuer URL %q holds a *, which is read as a pattern only under %s", shorten(i.Key), d.spell("meta-issuers", "MetaIssuers"))
	}
	i.checkIssuerURL(d)
	if !i.Static {
		checkPattern(d, path)
	}
	i.Profile.check(d, path)
	seen := map[string]bool{}
	for j := range i.Profiles {
		p := &i.Profiles[j]
		p.Key, p.Static, p.IssuerConfig.Profile = i.Key, i.Static, p.Name
		if seen[p.Name] {
			d.wrong(join(p.Path, "name"), "another profile of the entry has the name %q already", shorten(p.Name))
			p.IssuerConfig.Profile = "" // so that it is not reported again
		}
		p.IssuerConfig.Profile = cmp.Or(p.IssuerConfig.Profile, strconv.Itoa(j))
		seen[p.Name] = p.Name != ""
	}
}

// checkIssuerURL compares an entry's issuer URL with its key: a lookup of a static entry uses its
// key, so that a different URL would never be used.
func (i *Issuer) checkIssuerURL(d *decoder) {
	path, name := join(i.Path, "issuer-url"), d.spell("issuer-url", "IssuerURL")
	switch {
	case strings.Contains(i.IssuerURL, "/.well-known/") && (!i.Static || i.IssuerURL == i.Key):
		d.peers(path, "this is where the issuer's discovery document is; the issuer URL is the part before /.well-known")
	case i.IssuerURL == i.Key, i.IssuerURL == "" && !i.Static:
	case !i.Static:
		d.peers(path, "%s %q is not the entry's pattern %q: remove it, only the pattern counts", name, shorten(i.IssuerURL), shorten(i.Key))
	case i.IssuerURL == "":
		d.wrong(path, "%s is missing: it must equal the entry's key %q", name, shorten(i.Key))
	default:
		d.wrong(path, "%s %q is not the entry's key %q; both must be equal, a trailing slash included", name, shorten(i.IssuerURL), shorten(i.Key))
	}
}

// check reports audiences that no token has, and tests without one expected result.
func (p *Profile) check(d *decoder, path []string) {
	p.Path = path
	for _, audience := range p.Accepted() {
		if strings.TrimSpace(audience) != audience {
			d.peers(join(path, "client-id"), "the audience %q begins or ends with white space, and no token's does", shorten(audience))
		}
	}
	for i, t := range p.Tests {
		at := join(path, "tests", strconv.Itoa(i))
		switch reason := d.spell("reason", "Reason"); {
		case (t.SAN == "") == (t.Reason == ""):
			d.wrong(at, "a test needs either %s, the certificate's name, or %s, the code of the refusal", d.spell("san", "SAN"), reason)
		case t.Reason != "" && t.Extensions != nil:
			d.wrong(at, "a test with a %s has no certificate, and so no %s", reason, d.spell("extensions", "Extensions"))
		}
	}
}

// checkPattern reports meanings of the pattern at path, a key of meta-issuers, that its author is
// unlikely to intend. Package oidc checks whether the pattern is valid.
func checkPattern(d *decoder, path []string) {
	pattern := path[1]
	if !strings.Contains(pattern, "*") {
		d.caution(path, "the pattern %q has no *, and so is one issuer URL; it belongs under %s", shorten(pattern), d.spell("oidc-issuers", "OIDCIssuers"))
		return
	}
	if strings.Contains(pattern, "**") {
		d.peers(path, "** matches what * matches: each * is a part of one label or segment")
	}
	_, rest, _ := strings.Cut(pattern, "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, ":")
	switch open, registry := openDomain(host); {
	case open && registry:
		d.peers(path, "anyone can register a domain that the host %q matches, and so be an issuer; the * must be below a domain of the issuer", shorten(host))
	case open:
		d.caution(path, "the public suffix list states that a service gives names that the host %q matches to any customer", shorten(host))
	}
}

// openDomain reports for a host with a * whether the * leaves open the registered domain. registry
// reports whether a registry allocates this domain, and not a service that lets its customers have
// names below its own.
func openDomain(host string) (open, registry bool) {
	labels := strings.Split(host, ".")
	if last := labels[len(labels)-1]; strings.Contains(last, "*") {
		return len(labels) > 1, true
	}
	// No public suffix has a label such as this one.
	concrete := strings.ReplaceAll(strings.ToLower(host), "*", "mayfly-any")
	suffix, icann := publicsuffix.PublicSuffix(concrete)
	if !icann && !strings.Contains(suffix, ".") {
		return false, false // a domain of an inner network, which has no registry
	}
	registered, _ := publicsuffix.EffectiveTLDPlusOne(concrete) // "" if the host is a suffix itself
	return strings.Contains(suffix+strings.TrimSuffix(registered, suffix), "mayfly-any"), icann
}
