// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// LoadIssuers reads the issuer configuration from the file called path. With compat, mistakes that
// the peer tolerates in its identity file are warnings.
//
// An error is Mistakes, with every mistake of the file; or it states why the file is unreadable.
// LoadIssuers returns warnings in both cases.
func LoadIssuers(path string, compat bool) (*Issuers, []Mistake, error) {
	return BuildIssuers(path, compat, func(*Issuers) ([]error, error) { return nil, nil })
}

// BuildIssuers is LoadIssuers together with build, which applies the settings of the issuers. The
// operator thus gets mistakes of form and of settings at once. Warnings and errors of build are
// keypath errors. build also gets the issuers of a file with mistakes, as far as they were
// readable.
func BuildIssuers(path string, compat bool, build func(*Issuers) (warnings []error, err error)) (*Issuers, []Mistake, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return parseIssuers(path, content, compat, build)
}

// ParseIssuers is LoadIssuers for a file that has been read already; mistakes give name as the
// file.
func ParseIssuers(name string, content []byte, compat bool) (*Issuers, []Mistake, error) {
	return parseIssuers(name, content, compat, func(*Issuers) ([]error, error) { return nil, nil })
}

func parseIssuers(name string, content []byte, compat bool, build func(*Issuers) (warnings []error, err error)) (*Issuers, []Mistake, error) {
	r := &report{file: name, compat: compat}
	file, ok := parse(r, content, yamlOrJSON)
	if !ok {
		warnings, err := r.result()
		return nil, warnings, err
	}
	l := &issuerLoader{
		decoder: &decoder{report: r, json: file.json, plain: true},
		issuers: &Issuers{File: file, CIProviders: map[string]CIProvider{}, ExtensionNames: file.json},
	}
	l.root(file.root)
	switch {
	case len(l.issuers.Entries) > 0:
		warned, err := build(l.issuers)
		r.warnings = append(r.warnings, file.Mistakes(errors.Join(warned...))...)
		r.mistakes = append(r.mistakes, file.withoutEchoes(err, r)...)
	case len(r.mistakes) == 0: // otherwise those are the reason
		r.mistake(file.root.at, "the file names no issuer, so that no token at all would be accepted")
	}
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return l.issuers, warnings, nil
}

// issuerLoader reads the issuer file into issuers.
type issuerLoader struct {
	*decoder
	issuers *Issuers
}

func (l *issuerLoader) root(n *node) {
	l.object(
		field{"define", "", func(*node) {}},
		field{"oidc-issuers", "OIDCIssuers", l.section(false)},
		field{"meta-issuers", "MetaIssuers", l.section(true)},
		field{"ci-issuer-metadata", "CIIssuerMetadata", l.entries(l.ciProvider)},
	)(n)
}

// section reads oidc-issuers or meta-issuers.
func (l *issuerLoader) section(wildcard bool) reader {
	var e Issuer
	keys := l.names(slices.Concat(l.profileFields(&e), l.entryFields(&e), []field{{"issuer-url", "IssuerURL", nil}}))
	return func(n *node) {
		// Without indentation, an entry is empty, and its keys look like entries.
		flat := slices.IndexFunc(n.pairs, func(p pair) bool { return slices.Contains(keys, p.key.value) })
		if flat >= 0 {
			l.mistake(n.pairs[flat].key.at, "%q is a key of an entry, and stands where issuer URLs do: indent it and its like below the URL", n.pairs[flat].key.value)
		}
		l.entries(func(p pair) {
			switch {
			case slices.Contains(keys, p.key.value):
			case p.value.isNull() && flat < 0:
				l.mistake(p.value.at, "the entry of %q is empty; it needs %s, %s and %s", shorten(p.key.value),
					l.spell("issuer-url", "IssuerURL"), l.spell("client-id", "ClientID"), l.spell("type", "Type"))
			case p.value.isNull():
			default:
				l.entry(p, wildcard)
			}
		})(n)
	}
}

// entry reads an issuer and makes the checks that need only the file; the constructors of oidc and
// identity check the rest.
func (l *issuerLoader) entry(p pair, wildcard bool) {
	if !wildcard && strings.Contains(p.key.value, "*") {
		l.mistake(p.key.at, "the issuer URL %q holds a *, which is read as a pattern only under %s", shorten(p.key.value), l.spell("meta-issuers", "MetaIssuers"))
	}
	e := Issuer{Key: p.key.value, Wildcard: wildcard}
	l.object(slices.Concat([]field{{"issuer-url", "IssuerURL", l.text(&e.IssuerURL)}}, l.profileFields(&e), l.entryFields(&e))...)(p.value)
	if l.readable(p, "issuer-url", "IssuerURL") {
		l.checkIssuerURL(p, &e)
	}
	if wildcard {
		l.checkPattern(p.key)
		e.IssuerURL = ""
	} else if at := l.within(p, "issuer-url", "IssuerURL"); strings.Contains(e.IssuerURL, "/.well-known/") {
		l.tolerated(at, "this is where the issuer's discovery document is; the issuer URL is what stands before /.well-known")
	}
	for i := range e.Profiles {
		e.Profiles[i].IssuerURL = e.IssuerURL
	}
	l.checkClientID(p, &e)
	l.issuers.Entries = append(l.issuers.Entries, e)
}

// profile reads one of an entry's profiles.
func (l *issuerLoader) profile(index int, n *node, e *Issuer) {
	f := Issuer{Key: e.Key, Wildcard: e.Wildcard, Index: index}
	l.object(append([]field{{"name", "Name", l.text(&f.Name)}}, l.profileFields(&f)...)...)(n)
	if n.kind != mapping {
		return
	}
	if f.Name == "" {
		l.mistake(n.at, "the profile has no %s, which tells it apart in records", l.spell("name", "Name"))
		f.Name = strconv.Itoa(index)
	}
	for _, other := range e.Profiles {
		if other.Name == f.Name {
			l.mistake(l.within(pair{&node{at: n.at}, n}, "name", "Name"), "another profile of the entry has the %s %q already", l.spell("name", "Name"), shorten(f.Name))
			f.Name = strconv.Itoa(index) // so that it is not reported again
			break
		}
	}
	l.checkClientID(pair{&node{at: n.at}, n}, &f)
	e.Profiles = append(e.Profiles, f)
}

// checkClientID checks that there is an audience.
func (l *issuerLoader) checkClientID(p pair, e *Issuer) {
	if e.ClientID == "" && l.readable(p, "client-id", "ClientID") {
		l.tell(p.value, "client-id")
		l.mistake(l.within(p, "client-id", "ClientID"), "%s is missing: it is the audience that a token of %q must name", l.spell("client-id", "ClientID"), shorten(e.Key))
	}
	for _, audience := range append([]string{e.ClientID}, e.Audiences...) {
		if strings.TrimSpace(audience) != audience {
			l.tolerated(l.within(p, "client-id", "ClientID"), "the audience %q begins or ends with white space, and no token's does", shorten(audience))
		}
	}
}

// entryFields returns the keys of an entry that its profiles lack.
func (l *issuerLoader) entryFields(e *Issuer) []field {
	return []field{
		{"signing-algorithms", "SigningAlgorithms", l.texts(&e.SigningAlgorithms)},
		{"ca-cert", "CACert", l.text(&e.CACert)},
		{"allow-private-network", "AllowPrivateNetwork", l.flag(&e.AllowPrivateNetwork)},
		{"jwks-hosts", "JWKSHosts", l.texts(&e.JWKSHosts)},
		{"profiles", "Profiles", l.list(func(i int, n *node) { l.profile(i, n, e) })},
	}
}

// profileFields returns the keys that both entries and profiles have.
func (l *issuerLoader) profileFields(e *Issuer) []field {
	return []field{
		{"client-id", "ClientID", l.text(&e.ClientID)},
		{"audiences", "Audiences", l.texts(&e.Audiences)},
		{"type", "Type", l.text(&e.Type)},
		{"ci-provider", "CIProvider", l.text(&e.CIProvider)},
		{"issuer-claim", "IssuerClaim", l.text(&e.IssuerClaim)},
		{"subject-domain", "SubjectDomain", l.text(&e.SubjectDomain)},
		{"spiffe-trust-domain", "SPIFFETrustDomain", l.text(&e.SPIFFETrustDomain)},
		{"challenge-claim", "ChallengeClaim", l.text(&e.ChallengeClaim)},
		{"skip-email-verification", "SkipEmailVerification", l.flag(&e.SkipEmailVerification)},
		{"allowed-email-domains", "AllowedEmailDomains", l.nonEmpty(l.texts(&e.AllowedEmailDomains), "would allow every domain")},
		{"allow", "Allow", l.nonEmpty(l.list(func(_ int, n *node) { l.allowRule(n, e) }), "would allow everybody")},
		{"mode", "Mode", l.text(&e.Mode)},
		{"constants", "Constants", l.textMap(&e.Constants)},
		{"tests", "Tests", l.list(func(_ int, n *node) { l.test(n, e) })},
		{"description", "Description", l.text(&e.Description)},
		{"contact", "Contact", l.text(&e.Contact)},
		{"environment", "Environment", l.text(&e.Environment)},
	}
}

// checkIssuerURL compares an entry's issuer URL with its key: a lookup of a static entry uses its
// key, so that a different URL would never be used.
func (l *issuerLoader) checkIssuerURL(p pair, e *Issuer) {
	at, name := l.within(p, "issuer-url", "IssuerURL"), l.spell("issuer-url", "IssuerURL")
	switch {
	case e.IssuerURL == e.Key:
	case e.Wildcard && e.IssuerURL != "":
		l.tolerated(at, "%s %q is not the entry's pattern %q: leave it out, the pattern alone counts", name, shorten(e.IssuerURL), shorten(e.Key))
	case e.Wildcard:
	case e.IssuerURL == "":
		l.tell(p.value, "issuer-url")
		l.mistake(at, "%s is missing: it must equal the entry's key %q", name, shorten(e.Key))
	case strings.TrimRight(e.IssuerURL, "/") == strings.TrimRight(e.Key, "/"):
		l.mistake(at, "%s %q and the entry's key %q differ in a trailing slash, and must be equal", name, shorten(e.IssuerURL), shorten(e.Key))
	default:
		l.mistake(at, "%s %q is not the entry's key %q, and must be", name, shorten(e.IssuerURL), shorten(e.Key))
	}
}

// readable reports whether an entry's key may be missing or empty, but is neither misspelt nor of a
// kind reported before, so that reports do not repeat.
func (l *issuerLoader) readable(entry pair, yaml, json string) bool {
	if entry.value.kind != mapping {
		return entry.value.isNull()
	}
	p, ok := l.issuers.File.find(entry.value, l.spell(yaml, json))
	return !ok && !l.knows(entry.value, yaml) || ok && p.value.kind == scalar
}

// nonEmpty reads a list that restricts by its contents. An empty list would have the opposite of
// the effect that its author is likely to intend.
func (l *issuerLoader) nonEmpty(read reader, otherwise string) reader {
	return func(n *node) {
		if n.isNull() || n.kind == sequence && len(n.items) == 0 {
			l.mistake(n.at, "this list is empty, and so %s; fill it, or remove the key", otherwise)
		}
		read(n)
	}
}

// allowRule reads one of an entry's rules, which package policy checks.
func (l *issuerLoader) allowRule(n *node, e *Issuer) {
	var r AllowRule
	l.object(
		field{"name", "Name", l.text(&r.Name)},
		field{"when", "When", l.text(&r.When)},
	)(n)
	e.Allow = append(e.Allow, r)
}

// test reads one of an entry's tests.
func (l *issuerLoader) test(n *node, e *Issuer) {
	var t IssuerTest
	before := len(l.mistakes)
	l.object(
		field{"claims", "Claims", l.raw(&t.Claims)},
		field{"san", "SAN", l.text(&t.SAN)},
		field{"extensions", "Extensions", l.textMap(&t.Extensions)},
		field{"reason", "Reason", l.text(&t.Reason)},
	)(n)
	switch {
	case len(l.mistakes) > before:
	case t.Claims == nil:
		l.mistake(n.at, "the test has no %s", l.spell("claims", "Claims"))
	case (t.SAN == "") == (t.Reason == ""):
		l.mistake(n.at, "a test says either %s, what the certificate is named, or %s, why there is none", l.spell("san", "SAN"), l.spell("reason", "Reason"))
	case t.Reason != "" && t.Extensions != nil:
		l.mistake(n.at, "a test with a %s has no certificate, and so no %s", l.spell("reason", "Reason"), l.spell("extensions", "Extensions"))
	}
	e.Tests = append(e.Tests, t)
}

// ciProvider reads one entry of ci-issuer-metadata.
func (l *issuerLoader) ciProvider(p pair) {
	var c CIProvider
	l.object(
		field{"default-template-values", "DefaultTemplateValues", l.textMap(&c.DefaultTemplateValues)},
		field{"constants", "Constants", l.textMap(&c.Constants)},
		field{"extension-templates", "ExtensionTemplates", l.textMap(&c.ExtensionTemplates)},
		field{"subject-alternative-name-template", "SubjectAlternativeNameTemplate", l.text(&c.SubjectAlternativeNameTemplate)},
		field{"distinct-claims", "DistinctClaims", l.flag(&c.DistinctClaims)},
	)(p.value)
	l.issuers.CIProviders[p.key.value] = c
}

// spell returns a key as this file spells it.
func (l *issuerLoader) spell(yaml, json string) string {
	if l.json {
		return json
	}
	return yaml
}

// within returns the place of an entry's key, or of the entry if it lacks the key.
func (l *issuerLoader) within(entry pair, yaml, json string) position {
	if p, ok := l.issuers.File.find(entry.value, l.spell(yaml, json)); ok {
		return p.place()
	}
	return entry.place()
}
