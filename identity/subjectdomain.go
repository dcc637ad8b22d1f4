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
	// wildcard states that only the token shows the issuer URL.
	wildcard bool
}

// parseURLDomain parses the subject-domain of type uri, a URL.
func parseURLDomain(s string) (subjectDomain, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil {
		return subjectDomain{}, fmt.Errorf("the subject-domain %s must be a URL with scheme and host, such as https://example.com", quote(s))
	}
	return subjectDomain{text: s, scheme: u.Scheme, host: u.Hostname()}, nil
}

// parseNameDomain parses the subject-domain of type username, a host name.
func parseNameDomain(s string) (subjectDomain, error) {
	u, err := url.Parse("//" + s)
	if err != nil || u.Hostname() == "" || u.Host != s || strings.Contains(s, "!") {
		return subjectDomain{}, fmt.Errorf("the subject-domain %s must be a host name without scheme or path, such as example.com", quote(s))
	}
	return subjectDomain{text: s, host: u.Hostname()}, nil
}

// ofIssuer returns why the provider at issuerURL may not name subjects of the domain. It may if its
// host is the domain's, or shares the registrable domain with it. For URLs, the schemes must also
// be equal; ports do not count.
func (d subjectDomain) ofIssuer(issuerURL string) error {
	u, err := url.Parse(issuerURL)
	if err != nil {
		return fmt.Errorf("parsing the issuer URL: %w", err)
	}
	if d.scheme != "" && u.Scheme != d.scheme {
		return fmt.Errorf("the schemes %q and %q differ", d.scheme, u.Scheme)
	}
	if !sameOwner(d.host, u.Hostname()) {
		return errors.New("the hosts are neither equal nor of one registrable domain")
	}
	return nil
}

// vouchedBy is ofIssuer for the entries with an issuer URL that the settings do not state.
func (d subjectDomain) vouchedBy(issuerURL string) error {
	if !d.wildcard {
		return nil
	}
	if err := d.ofIssuer(issuerURL); err != nil {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "iss", %s, is not of the subject-domain's registrable domain and scheme; it must be, as the subject-domain is %s`, quote(issuerURL), quote(d.text)).Because(err)
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
