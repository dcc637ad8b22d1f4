// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/identity"
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
		checks:  checks{decoder: &decoder{report: r, json: file.json, plain: true}},
		issuers: &Issuers{File: file, CIProviders: map[string]identity.CIProvider{}},
	}
	l.root(file.root)
	l.report(file, file.Mistakes)
	switch {
	case len(l.issuers.Entries) > 0:
		warned, err := build(l.issuers)
		r.warnings = append(r.warnings, file.Mistakes(errors.Join(warned...))...)
		r.mistakes = append(r.mistakes, file.withoutEchoes(err, r, file.Mistakes)...)
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
	checks
	issuers *Issuers
}

func (l *issuerLoader) root(n *node) {
	sections := []field{{yaml: "define"}, {yaml: "oidc-issuers", json: "OIDCIssuers"}, {yaml: "meta-issuers", json: "MetaIssuers"}, {yaml: "ci-issuer-metadata", json: "CIIssuerMetadata"}}
	l.keys(n, sections, func(i int, n *node) {
		switch i {
		case 1, 2:
			l.section(n, i == 2)
		case 3:
			l.value(n, reflect.ValueOf(&l.issuers.CIProviders).Elem(), "")
		}
	})
}

// section reads oidc-issuers or meta-issuers.
func (l *issuerLoader) section(n *node, wildcard bool) {
	keys := l.names(l.fields(reflect.TypeFor[Issuer]()))
	// Without indentation, an entry is empty, and its keys look like entries.
	flat := slices.IndexFunc(n.pairs, func(p pair) bool { return slices.Contains(keys, p.key.value) })
	if flat >= 0 {
		l.mistake(n.pairs[flat].key.at, "%q is a key of an entry, found among issuer URLs: indent it and its like below the URL", n.pairs[flat].key.value)
	}
	l.entries(n, func(p pair) {
		switch {
		case slices.Contains(keys, p.key.value):
		case p.value.isNull() && flat < 0:
			l.mistake(p.value.at, "the entry of %q is empty; it needs %s", shorten(p.key.value), strings.Join(keys[:2], ", "))
		case p.value.isNull():
		default:
			l.entry(p, wildcard)
		}
	})
}

// entry reads an issuer and makes the checks that need only the file; the constructors of oidc and
// identity check the rest.
func (l *issuerLoader) entry(p pair, wildcard bool) {
	e := Issuer{Wildcard: wildcard}
	section := "oidc-issuers"
	if wildcard {
		section = "meta-issuers"
	}
	e.Profile.IssuerConfig = identity.IssuerConfig{Key: p.key.value, Static: !wildcard, Path: []string{section, p.key.value}}
	if !wildcard && strings.Contains(e.Key, "*") {
		l.mistake(p.key.at, "the issuer URL %q holds a *, which is read as a pattern only under %s", shorten(e.Key), l.name("meta-issuers", "MetaIssuers"))
	}
	l.object(p.value, reflect.ValueOf(&e).Elem())
	l.checkIssuerURL(&e)
	if wildcard {
		l.checkPattern(p.key)
	}
	l.tags(reflect.ValueOf(&e).Elem(), e.Path)
	seen := map[string]bool{}
	for i := range e.Profiles {
		f := &e.Profiles[i]
		f.IssuerConfig.Key, f.Static, f.Path = e.Key, e.Static, join(e.Path, "profiles", strconv.Itoa(i))
		f.IssuerConfig.Profile = f.Name
		if seen[f.Name] {
			l.wrong(join(f.Path, "name"), "another profile of the entry has the name %q already", shorten(f.Name))
			f.IssuerConfig.Profile = "" // so that it is not reported again
		}
		f.IssuerConfig.Profile = cmp.Or(f.IssuerConfig.Profile, strconv.Itoa(i))
		seen[f.Name] = f.Name != ""
	}
	for _, profile := range e.All() {
		l.checkAudiences(profile)
		l.checkTests(profile)
	}
	if p.value.kind == mapping {
		l.issuers.Entries = append(l.issuers.Entries, e)
	}
}

// name returns a name as this file spells it.
func (l *issuerLoader) name(yaml, json string) string { return l.spell(field{yaml: yaml, json: json}) }

// checkAudiences reports audiences that no token has.
func (l *issuerLoader) checkAudiences(e *Profile) {
	for _, audience := range e.Accepted() {
		if strings.TrimSpace(audience) != audience {
			l.peers(join(e.Path, "client-id"), "the audience %q begins or ends with white space, and no token's does", shorten(audience))
		}
	}
}

// checkIssuerURL compares an entry's issuer URL with its key: a lookup of a static entry uses its
// key, so that a different URL would never be used.
func (l *issuerLoader) checkIssuerURL(e *Issuer) {
	path, name := join(e.Path, "issuer-url"), l.name("issuer-url", "IssuerURL")
	switch {
	case strings.Contains(e.IssuerURL, "/.well-known/") && (e.Wildcard || e.IssuerURL == e.Key):
		l.peers(path, "this is where the issuer's discovery document is; the issuer URL is the part before /.well-known")
	case e.IssuerURL == e.Key:
	case e.Wildcard && e.IssuerURL != "":
		l.peers(path, "%s %q is not the entry's pattern %q: remove it, only the pattern counts", name, shorten(e.IssuerURL), shorten(e.Key))
	case e.Wildcard:
	case e.IssuerURL == "":
		l.wrong(path, "%s is missing: it must equal the entry's key %q", name, shorten(e.Key))
	default:
		l.wrong(path, "%s %q is not the entry's key %q; both must be equal, a trailing slash included", name, shorten(e.IssuerURL), shorten(e.Key))
	}
}

// checkTests checks the tests of an entry or a profile.
func (l *issuerLoader) checkTests(e *Profile) {
	for i, t := range e.Tests {
		path := join(e.Path, "tests", strconv.Itoa(i))
		switch {
		case (t.SAN == "") == (t.Reason == ""):
			l.wrong(path, "a test needs either %s, the certificate's name, or %s, the code of the refusal", l.name("san", "SAN"), l.name("reason", "Reason"))
		case t.Reason != "" && t.Extensions != nil:
			l.wrong(path, "a test with a %s has no certificate, and so no %s", l.name("reason", "Reason"), l.name("extensions", "Extensions"))
		}
	}
}
