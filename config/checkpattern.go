// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"

	"golang.org/x/net/publicsuffix"
)

// checkPattern reports meanings of a pattern of meta-issuers that its author is unlikely to intend.
// Package oidc checks whether the pattern is valid.
func (l *issuerLoader) checkPattern(key *node) {
	pattern := key.value
	switch {
	case !strings.Contains(pattern, "*"):
		l.warn(key.at, "the pattern %q has no *, and so is one issuer URL; it belongs under %s", shorten(pattern), l.name("oidc-issuers", "OIDCIssuers"))
		return
	case strings.Contains(pattern, "**"):
		l.tolerated(key.at, "** matches what * matches: each * is a part of one label or segment")
	}
	_, rest, _ := strings.Cut(pattern, "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, ":")
	switch open, registry := openDomain(host); {
	case open && registry:
		l.tolerated(key.at, "anyone can register a domain that the host %q matches, and so be an issuer; the * must be below a domain of the issuer", shorten(host))
	case open:
		l.warn(key.at, "the public suffix list states that a service gives names that the host %q matches to any customer", shorten(host))
	}
}

// openDomain reports for a host with a * whether the * leaves open the registered domain. registry
// reports whether a registry allocates this domain, and not a service that lets its customers have
// names below its own.
func openDomain(host string) (open, registry bool) {
	labels := strings.Split(host, ".")
	if len(labels) < 2 {
		return false, false
	}
	if strings.Contains(labels[len(labels)-1], "*") {
		return true, true
	}
	// No public suffix has a label such as this one.
	concrete := strings.ReplaceAll(strings.ToLower(host), "*", "mayfly-any")
	suffix, icann := publicsuffix.PublicSuffix(concrete)
	if !icann && !strings.Contains(suffix, ".") {
		return false, false // a domain of an inner network, which has no registry
	}
	if strings.Contains(suffix, "mayfly-any") { // a rule such as *.ck
		return true, icann
	}
	registered, err := publicsuffix.EffectiveTLDPlusOne(concrete)
	return err == nil && strings.Contains(strings.SplitN(registered, ".", 2)[0], "mayfly-any"), icann
}
