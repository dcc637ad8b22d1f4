// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// checkNameConstraints refuses name constraints that verifiers do not read alike: crypto/x509
// ignores distances, and kinds of name other than those below. OpenSSL enforces both (RFC 5280,
// section 4.2.1.10).
func checkNameConstraints(c *x509.Certificate) error {
	e := extension(c, oidNameConstraints)
	if e == nil {
		return nil
	}
	type subtree struct {
		Base    asn1.RawValue
		Minimum int `asn1:"optional,tag:0"`
		Maximum int `asn1:"optional,tag:1,default:-1"`
	}
	var constraints struct {
		Permitted []subtree `asn1:"optional,tag:0"`
		Excluded  []subtree `asn1:"optional,tag:1"`
	}
	if rest, err := asn1.Unmarshal(e.Value, &constraints); err != nil || len(rest) > 0 {
		return errors.New("has name constraints that are not DER (RFC 5280, section 4.2.1.10)")
	}
	kinds := []int{1, 2, 6, 7} // rfc822Name, dNSName, uniformResourceIdentifier, iPAddress
	for _, s := range slices.Concat(constraints.Permitted, constraints.Excluded) {
		if !slices.Contains(kinds, s.Base.Tag) || s.Minimum != 0 || s.Maximum != -1 {
			return fmt.Errorf("has name constraints that not every client reads, for a name with the tag [%d], minimum %d and maximum %d; use email addresses, host names, URIs and IP addresses, without minimum and maximum",
				s.Base.Tag, s.Minimum, s.Maximum)
		}
	}
	return nil
}

// constraints returns the name constraints of c for names of kind.
func constraints(c *x509.Certificate, kind certs.SANKind) (permitted, excluded []string) {
	switch kind {
	case certs.SANEmail:
		return c.PermittedEmailAddresses, c.ExcludedEmailAddresses
	case certs.SANURI:
		return c.PermittedURIDomains, c.ExcludedURIDomains
	default:
		return nil, nil
	}
}

// Permits returns nil if verifiers accept san below the name constraints of every certificate of
// the chain, the root included (RFC 5280, section 4.2.1.10). Its error is a refusal, POLICY_DENIED.
// Verifiers differ, and a name must pass the stricter reading. crypto/x509 also matches the
// subdomains of a host, and refuses URIs without a host name under any name constraint. OpenSSL
// matches the host only and reads it up to the first colon.
func (c *Chain) Permits(san certs.SAN) error {
	if len(c.constrained) == 0 {
		return nil
	}
	host, opensslHost, named := uriHosts(san)
	if !named {
		return denied(san.Kind, c.constrained[0], "forbid every %s without a host name", san.Kind)
	}
	for _, of := range c.constrained {
		permitted, excluded := constraints(of, san.Kind)
		inside := func(host string) bool {
			return slices.ContainsFunc(permitted, func(base string) bool { return contains(base, san, host) })
		}
		if len(permitted) > 0 && !(inside(host) && inside(opensslHost)) {
			return denied(san.Kind, of, "permit only %.100q (%d in all)", permitted[:min(3, len(permitted))], len(permitted))
		}
		for _, base := range excluded {
			if mayContain(base, san, host) || mayContain(base, san, opensslHost) {
				return denied(san.Kind, of, "exclude %.100q", base)
			}
		}
	}
	return nil
}

func denied(kind certs.SANKind, of *x509.Certificate, format string, args ...any) error {
	found := fmt.Sprintf(format, args...)
	return refusal.New(refusal.PolicyDenied, "the caller's name, a %s, is outside the name constraints of this certificate authority's chain: they %s (RFC 5280, section 4.2.1.10); use another identity, or another certificate authority",
		kind, found).Because(fmt.Errorf("the name constraints of the CA certificate %s %s", of.Subject, found))
}

// uriHosts returns the host of a URI as crypto/x509 reads it and as OpenSSL reads it. ok is false
// for a URI that crypto/x509 refuses under any name constraint. For an email address both hosts are
// its domain.
func uriHosts(san certs.SAN) (host, openssl string, ok bool) {
	switch san.Kind {
	case certs.SANEmail:
		domain := san.Value[strings.LastIndexByte(san.Value, '@')+1:]
		return domain, domain, domain != "" && len(domain)+1 < len(san.Value)
	case certs.SANURI:
	default:
		return "", "", true
	}
	u, err := url.Parse(san.Value)
	if err != nil {
		return "", "", false
	}
	host = u.Host
	if strings.Contains(host, ":") {
		if host, _, err = net.SplitHostPort(host); err != nil {
			return "", "", false
		}
	}
	_, err = netip.ParseAddr(host)
	_, rest, slashes := strings.Cut(san.Value, "://")
	// crypto/x509 reads a first label of "*" as a wildcard, which an excluded host below it
	// excludes.
	if host == "" || err == nil || strings.ContainsAny(host, "[]:*") || !slashes {
		return "", "", false
	}
	openssl, _, found := strings.Cut(rest, ":")
	if !found {
		openssl, _, _ = strings.Cut(rest, "/")
	}
	return host, openssl, true
}

// contains reports whether every verifier finds san, with this host, below base. A mailbox must be
// equal. A host must be equal, or have labels before a base that begins with a dot. OpenSSL permits
// nothing under an empty base.
func contains(base string, san certs.SAN, host string) bool {
	if local, domain, mailbox := strings.Cut(base, "@"); mailbox && san.Kind == certs.SANEmail {
		return strings.TrimSuffix(san.Value, host) == local+"@" && strings.EqualFold(host, domain)
	}
	if strings.HasPrefix(base, ".") {
		return below(host, base)
	}
	return base != "" && strings.EqualFold(host, base)
}

// mayContain reports whether some verifier finds san below base. crypto/x509 also matches
// subdomains of a host, everything under an empty base, and a mailbox without its quotes.
func mayContain(base string, san certs.SAN, host string) bool {
	if at := strings.LastIndexByte(base, '@'); at >= 0 && san.Kind == certs.SANEmail {
		unquote := strings.NewReplacer(`"`, "", `\`, "")
		return unquote.Replace(strings.TrimSuffix(san.Value, host)) == unquote.Replace(base[:at+1]) && strings.EqualFold(host, base[at+1:])
	}
	return base == "" || contains(base, san, host) || below(host, "."+base)
}

// below reports whether host ends in domain, which begins with a dot, and has more before it.
func below(host, domain string) bool {
	return len(host) > len(domain) && strings.EqualFold(host[len(host)-len(domain):], domain)
}
