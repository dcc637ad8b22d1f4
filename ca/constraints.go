// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

var oidNameConstraints = stdasn1.ObjectIdentifier{2, 5, 29, 30}

// nameConstraints are those of one CA certificate. Only the kinds of name that leaves hold restrict
// a leaf; directory names restrict the CA certificates below.
type nameConstraints struct {
	of                  *x509.Certificate
	permitted, excluded []subtree
}

// subtree is one base of a name constraint.
type subtree struct {
	kind certs.SANKind // 0 for a kind that no leaf holds
	// base is the text of an email or URI constraint.
	base string
	// directory is the base of a directoryName constraint, if isDirectory is set.
	directory   pkix.RDNSequence
	isDirectory bool
	// unsupported: OpenSSL refuses every name of the kind, whatever the base.
	unsupported bool
}

// parseNameConstraints parses the extension of c; nil if there is none. crypto/x509 has parsed it
// before, but ignores otherName, directoryName and the distances.
//
//	NameConstraints ::= SEQUENCE {
//	     permittedSubtrees       [0]     GeneralSubtrees OPTIONAL,
//	     excludedSubtrees        [1]     GeneralSubtrees OPTIONAL }
func parseNameConstraints(c *x509.Certificate) (*nameConstraints, error) {
	e := extension(c, oidNameConstraints)
	if e == nil {
		return nil, nil
	}
	n := &nameConstraints{of: c}
	in := cryptobyte.String(e.Value)
	var content, permitted, excluded cryptobyte.String
	if !in.ReadASN1(&content, asn1.SEQUENCE) || !in.Empty() ||
		!content.ReadOptionalASN1(&permitted, nil, asn1.Tag(0).ContextSpecific().Constructed()) ||
		!content.ReadOptionalASN1(&excluded, nil, asn1.Tag(1).ContextSpecific().Constructed()) ||
		!content.Empty() || !readSubtrees(permitted, &n.permitted) || !readSubtrees(excluded, &n.excluded) {
		return nil, errors.New("has name constraints that are not DER (RFC 5280, section 4.2.1.10)")
	}
	return n, nil
}

// readSubtrees reads
//
//	GeneralSubtrees ::= SEQUENCE SIZE (1..MAX) OF GeneralSubtree
//	GeneralSubtree ::= SEQUENCE {
//	     base                    GeneralName,
//	     minimum         [0]     BaseDistance DEFAULT 0,
//	     maximum         [1]     BaseDistance OPTIONAL }
//
// RFC 5280 does not use the distances, and OpenSSL refuses names under them.
func readSubtrees(in cryptobyte.String, into *[]subtree) bool {
	for !in.Empty() {
		var one, value, distance cryptobyte.String
		var tag asn1.Tag
		if !in.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadAnyASN1(&value, &tag) {
			return false
		}
		var s subtree
		switch tag {
		case asn1.Tag(0).ContextSpecific().Constructed(): // otherName
			var id stdasn1.ObjectIdentifier
			if !value.ReadASN1ObjectIdentifier(&id) {
				return false
			}
			if id.Equal(certs.OIDUserName) {
				s.kind, s.base, s.unsupported = certs.SANUserName, id.String(), true
			}
		case asn1.Tag(1).ContextSpecific():
			s.kind, s.base = certs.SANEmail, string(value)
		case asn1.Tag(4).ContextSpecific().Constructed(): // directoryName, EXPLICIT as Name is a CHOICE
			if rest, err := stdasn1.Unmarshal(value, &s.directory); err != nil || len(rest) > 0 {
				return false
			}
			s.isDirectory = true
		case asn1.Tag(6).ContextSpecific():
			s.kind, s.base = certs.SANURI, string(value)
		}
		// minimum is 0 or absent, maximum is absent.
		if one.PeekASN1Tag(asn1.Tag(0).ContextSpecific()) {
			if !one.ReadASN1(&distance, asn1.Tag(0).ContextSpecific()) {
				return false
			}
			s.unsupported = s.unsupported || strings.Trim(string(distance), "\x00") != ""
		}
		s.unsupported = s.unsupported || !one.Empty()
		*into = append(*into, s)
	}
	return true
}

// Permits returns nil if verifiers accept san below the name constraints of every certificate of
// the chain, the root included (RFC 5280, section 4.2.1.10). Its error is a refusal, POLICY_DENIED.
// Verifiers differ, and a name must pass the stricter reading. crypto/x509 also matches the
// subdomains of a host, and refuses URIs without a host name under any name constraint. OpenSSL
// matches the host only and reads it up to the first colon.
func (c *Chain) Permits(san certs.SAN) error {
	if len(c.constraints) == 0 {
		return nil
	}
	host, opensslHost, named := uriHosts(san)
	if !named {
		return denied(san.Kind, c.constraints[0].of, "forbid every %s without a host name", san.Kind)
	}
	for _, n := range c.constraints {
		if err := n.permits(san, host, opensslHost); err != nil {
			return err
		}
	}
	return nil
}

// permits is Permits for one certificate, with the hosts that uriHosts returns.
func (n *nameConstraints) permits(san certs.SAN, host, opensslHost string) error {
	var bases []string
	inside, insideOpenSSL := false, false
	for _, s := range n.permitted {
		if s.kind != san.Kind {
			continue
		}
		if s.unsupported {
			return denied(san.Kind, n.of, "have the permitted subtree %.100q, which verifiers cannot match", s.base)
		}
		bases = append(bases, s.base)
		inside = inside || s.contains(san, host)
		insideOpenSSL = insideOpenSSL || s.contains(san, opensslHost)
	}
	if len(bases) > 0 && !(inside && insideOpenSSL) {
		return denied(san.Kind, n.of, "permit only %s", quoted(bases))
	}
	for _, s := range n.excluded {
		switch {
		case s.kind != san.Kind:
		case s.unsupported:
			return denied(san.Kind, n.of, "have the excluded subtree %.100q, which verifiers cannot match", s.base)
		case s.mayContain(san, host), s.mayContain(san, opensslHost):
			return denied(san.Kind, n.of, "exclude %.100q", s.base)
		}
	}
	return nil
}

func denied(kind certs.SANKind, of *x509.Certificate, format string, args ...any) error {
	found := fmt.Sprintf(format, args...)
	return refusal.New(refusal.PolicyDenied, "the caller's name, a %s, is outside the name constraints of this certificate authority's chain: they %s (RFC 5280, section 4.2.1.10); use another identity, or another certificate authority",
		kind, found).Because(fmt.Errorf("the name constraints of the CA certificate %s %s", of.Subject, found))
}

// quoted lists what a constraint permits, within the length limit of a message.
func quoted(bases []string) string {
	const most = 5
	var list []string
	for i, base := range bases {
		if i == most {
			return fmt.Sprintf("%s and %d more", strings.Join(list, ", "), len(bases)-most)
		}
		list = append(list, fmt.Sprintf("%.100q", base))
	}
	return strings.Join(list, ", ")
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

// contains reports whether every verifier finds san, with this host, inside s. A mailbox must be
// equal. A host must be equal, or have labels before a base that begins with a dot. OpenSSL permits
// nothing under an empty base.
func (s *subtree) contains(san certs.SAN, host string) bool {
	if local, domain, mailbox := strings.Cut(s.base, "@"); mailbox && san.Kind == certs.SANEmail {
		return strings.TrimSuffix(san.Value, host) == local+"@" && strings.EqualFold(host, domain)
	}
	if strings.HasPrefix(s.base, ".") {
		return below(host, s.base)
	}
	return s.base != "" && strings.EqualFold(host, s.base)
}

// mayContain reports whether some verifier finds san inside s. crypto/x509 also matches subdomains
// of a host, everything under an empty base, and a mailbox without its quotes.
func (s *subtree) mayContain(san certs.SAN, host string) bool {
	if at := strings.LastIndexByte(s.base, '@'); at >= 0 && san.Kind == certs.SANEmail {
		unquote := strings.NewReplacer(`"`, "", `\`, "")
		return unquote.Replace(strings.TrimSuffix(san.Value, host)) == unquote.Replace(s.base[:at+1]) && strings.EqualFold(host, s.base[at+1:])
	}
	return s.base == "" || s.contains(san, host) || below(host, "."+s.base)
}

// below reports whether host ends in domain, which begins with a dot, and has more before it.
func below(host, domain string) bool {
	return len(host) > len(domain) && strings.EqualFold(host[len(host)-len(domain):], domain)
}
