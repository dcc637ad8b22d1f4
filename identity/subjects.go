// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// kubernetes is the rule of type kubernetes: a service account, by namespace and name.
type kubernetes struct{}

func (kubernetes) identify(tok *oidc.Token, id *Identity) error {
	namespace, err := claimPath{"kubernetes.io", "namespace"}.text(tok.Claims)
	if err != nil {
		return err
	}
	name, err := claimPath{"kubernetes.io", "serviceaccount", "name"}.text(tok.Claims)
	if err != nil {
		return err
	}
	if !isLabel(namespace) || strings.ToLower(namespace) != namespace {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "kubernetes.io" has the namespace %s; it must be an RFC 1123 label in lower case`, quote(namespace))
	}
	if !isServiceAccountName(name) {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "kubernetes.io" has the service account %s; it must be made of RFC 1123 labels in lower case, 253 characters at most`, quote(name))
	}
	id.SAN, err = uriSAN("https://kubernetes.io/namespaces/" + namespace + "/serviceaccounts/" + name)
	return err
}

// isServiceAccountName reports whether the API server accepts s as the name of a service account:
// labels joined by dots, with a limit on their sum and not on each (DNS-1123 subdomain, Kubernetes
// documentation, "Object Names and IDs").
func isServiceAccountName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isLabelOfAnyLength(label) {
			return false
		}
	}
	return len(s) <= 253 && strings.ToLower(s) == s
}

// spiffe is the rule of type spiffe: a workload, named by the SPIFFE ID in `sub`.
type spiffe struct{ trustDomain string }

func (r spiffe) identify(_ *oidc.Token, id *Identity) error {
	domain, err := parseSPIFFEID(id.Subject)
	if err != nil || domain != r.trustDomain {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "sub", %s, must be spiffe://%s and path segments of letters, digits, ".", "_" and "-"`, quote(id.Subject), r.trustDomain).Because(err)
	}
	id.SAN, err = uriSAN(id.Subject)
	return err
}

// parseSPIFFEID returns the trust domain of a SPIFFE ID (SPIFFE-ID, section 2):
//
//	id      = "spiffe://" domain *( "/" segment )
//	domain  = 1*( a-z / DIGIT / "." / "_" / "-" )
//	segment = 1*( ALPHA / DIGIT / "." / "_" / "-" ), neither "." nor ".."
func parseSPIFFEID(id string) (trustDomain string, err error) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return "", errors.New("it does not begin with spiffe://")
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	if !isTrustDomain(domain) {
		return "", errors.New(`its trust domain is empty, or holds other than a-z, 0-9, ".", "_" and "-"`)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if hasPath && (segment == "." || segment == ".." || !consists(segment, "._-")) {
			return "", errors.New(`a path segment is empty, "." or "..", or holds other than letters, digits, ".", "_" and "-"`)
		}
	}
	return domain, nil
}

func isTrustDomain(s string) bool { return consists(s, "._-") && strings.ToLower(s) == s }

// parseTrustDomain returns the trust domain of the setting spiffe-trust-domain, which is its
// name, or any SPIFFE ID in it.
func parseTrustDomain(s string) (string, error) {
	if strings.Contains(s, "://") {
		return parseSPIFFEID(s)
	}
	if !isTrustDomain(s) {
		return "", errors.New(`it may hold a-z, 0-9, ".", "_" and "-" only`)
	}
	return s, nil
}

// chainguardIdentity is the rule of type chainguard-identity. It names the caller by the provider's
// own path for the caller, under the issuer URL.
type chainguardIdentity struct{}

func (chainguardIdentity) identify(tok *oidc.Token, id *Identity) error {
	address, err := optionalText(tok.Claims, "email")
	if err != nil {
		return err
	}
	verified, err := emailVerified(tok.Claims)
	if err != nil {
		return err
	}
	if address != "" {
		if !verified {
			return unverified()
		}
		// Clients sign the address if the token has one; the SAN does not show it.
		id.Challenge, id.ChallengeClaim = address, "email"
	}
	// act names the party for which the caller acts (RFC 8693, section 4.1).
	if act := tok.Claims["act"]; act != nil {
		members, ok := act.(map[string]any)
		for _, member := range members {
			_, text := member.(string)
			ok = ok && text
		}
		if !ok {
			return refusal.New(refusal.ClaimInvalid, `the token's claim "act" must be an object whose members are text`)
		}
	}
	// The operator configures the issuer URL; a pattern fixes how many segments it has.
	scheme, rest, _ := strings.Cut(strings.TrimRight(tok.IssuerURL, "/"), ":")
	base := strings.ToLower(scheme) + ":" + rest
	raw := base + "/" + id.Subject
	formatted, err := joinPath(base, raw)
	if err != nil {
		return err
	}
	id.SAN, err = distinctSAN(raw, formatted, []claim{{"sub", id.Subject}}, true)
	return err
}

// uri is the rule of type uri: `sub` is a URL in the subject-domain, and the SAN, byte for byte.
type uri struct{ domain subjectDomain }

func (r uri) identify(tok *oidc.Token, id *Identity) error {
	if err := r.domain.vouchedBy(tok.IssuerURL); err != nil {
		return err
	}
	u, err := url.Parse(id.Subject)
	if err != nil || u.Scheme != r.domain.scheme || u.Hostname() != r.domain.host {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "sub", %s, is not in the issuer's subject-domain; it must begin with %s://%s`, quote(id.Subject), r.domain.scheme, r.domain.host).Because(err)
	}
	if id.SAN, err = uriSAN(id.Subject); err != nil {
		return err
	}
	if id.SAN.Value != id.Subject {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "sub", %s, is printed as %s; it must be in the form in which it is printed`, quote(id.Subject), quote(id.SAN.Value))
	}
	return nil
}

// username is the rule of type username: `sub` is a name with a meaning only in the subject-domain,
// and the SAN holds both.
type username struct{ domain subjectDomain }

func (r username) identify(tok *oidc.Token, id *Identity) error {
	if err := r.domain.vouchedBy(tok.IssuerURL); err != nil {
		return err
	}
	if strings.Contains(id.Subject, "!") || looksLikeAddress(id.Subject) {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "sub", %s, must be a user name, without an exclamation mark, which parts it from its domain, and not in the form of an email address`, quote(id.Subject))
	}
	id.SAN = certs.SAN{Kind: certs.SANUserName, Value: id.Subject + "!" + r.domain.text}
	return nil
}

// subjectDomain is the setting of that name: the domain of an issuer's subjects.
type subjectDomain struct {
	text   string // as in the settings
	scheme string // "" for user names
	host   string // without port
}

// parseSubjectDomain parses the setting: a URL for type uri, a host name for type username.
func parseSubjectDomain(s, issuerType string) (subjectDomain, error) {
	prefix, want := "", "a URL with scheme and host, such as https://example.com"
	if issuerType == TypeUsername {
		prefix, want = "//", "a host name without scheme or path, such as example.com"
	}
	u, err := url.Parse(prefix + s)
	if err != nil || u.Hostname() == "" || u.User != nil || prefix == "" && u.Scheme == "" || prefix != "" && (u.Host != s || strings.Contains(s, "!")) {
		return subjectDomain{}, fmt.Errorf("the subject-domain %s must be %s", quote(s), want)
	}
	return subjectDomain{text: s, scheme: u.Scheme, host: u.Hostname()}, nil
}

// ofIssuer returns why the provider at issuerURL may not name subjects of the domain. It may if its
// host is the domain's, or shares the registrable domain with it. For URLs, the schemes must also
// be equal; ports do not count.
func (d subjectDomain) ofIssuer(issuerURL string) error {
	u, err := url.Parse(issuerURL)
	if err != nil || d.scheme != "" && u.Scheme != d.scheme || !sameOwner(d.host, u.Hostname()) {
		return fmt.Errorf("the provider at %s may not name subjects in %s: the schemes of URLs must be equal, and the hosts equal or of one registrable domain", quote(issuerURL), quote(d.text))
	}
	return nil
}

// vouchedBy is ofIssuer for the issuer URL of a token, which the settings of a wildcard entry do not
// state.
func (d subjectDomain) vouchedBy(issuerURL string) error {
	if err := d.ofIssuer(issuerURL); err != nil {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "iss" is of a provider that may not name subjects here: %v`, err)
	}
	return nil
}

// sameOwner reports whether two hosts are equal, or are both below one registrable domain of the
// Public Suffix List. IP addresses and single labels have no such domain: they must be equal.
func sameOwner(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == b {
		return a != ""
	}
	if isIPAddress(a) || isIPAddress(b) {
		return false
	}
	// EffectiveTLDPlusOne returns an error if there are fewer than two labels.
	domain, err := publicsuffix.EffectiveTLDPlusOne(a)
	other, otherErr := publicsuffix.EffectiveTLDPlusOne(b)
	return err == nil && otherErr == nil && domain == other
}

// isIPAddress treats a name that ends in a number as an IPv4 address, as resolvers do that read
// 127.1 as one.
func isIPAddress(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}
