// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"strings"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// email is the rule of type email: a person, named by the address that the provider has verified.
type email struct {
	skipVerification bool
	// domains are the allowed domains, lower case; empty allows all.
	domains map[string]bool
	// issuer, if not nil, is the path to the claim that names the provider behind the provider.
	issuer claimPath
}

func (r *email) identify(tok *oidc.Token, id *Identity) error {
	address, err := textClaim(tok.Claims, "email")
	if err != nil {
		return err
	}
	// Even if verification is skipped, a value that is neither true nor false shows that the
	// provider gives the claim another meaning.
	verified, err := emailVerified(tok.Claims)
	if err != nil {
		return err
	}
	if !verified && !r.skipVerification {
		return unverified()
	}
	// Other addresses need an otherName (RFC 9598) instead of an rfc822Name.
	if strings.ContainsFunc(address, func(r rune) bool { return r > 0x7f }) {
		return refusal.New(refusal.EmailNotASCII, `the token's claim "email", %s, holds letters beyond ASCII, which certificates hold in a form that sigstore's verifiers do not read; it must be an ASCII address, its domain in punycode`, quote(address))
	}
	if !isAddress(address) {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "email", %s, is not a plain address; it must be dot-separated atoms, "@" and a domain of at least two labels, all in ASCII`, quote(address))
	}
	domain := strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
	if len(r.domains) > 0 && !r.domains[domain] {
		return refusal.New(refusal.PolicyDenied, `allowed-email-domains: the domain of the token's claim "email", %s, is not one that this issuer may vouch for; ask for it to be listed`, quote(domain))
	}
	if r.issuer != nil {
		issuer, err := r.issuer.text(tok.Claims)
		if err != nil {
			return err
		}
		id.setIssuer(issuer)
	}
	id.SAN = certs.SAN{Kind: certs.SANEmail, Value: address}
	id.Challenge, id.ChallengeClaim = address, "email"
	return nil
}

// emailVerified reads the claim email_verified, which some providers send as text.
func emailVerified(claims oidc.Claims) (bool, error) {
	v, present := claims["email_verified"]
	switch v {
	case true, "true", "True":
		return true, nil
	case false, "false", "False":
		return false, nil
	}
	if present {
		return false, refusal.New(refusal.ClaimInvalid, `the token's claim "email_verified" is %s that is neither true nor false; it must be true`, kindOf(v))
	}
	return false, nil
}

func unverified() *refusal.Error {
	return refusal.New(refusal.EmailUnverified, `the token's claim "email_verified" is missing or false; the provider must have verified the address, and say true`)
}

// isAddress reports whether s is an address as certificates hold it (RFC 5280, section 4.2.1.6), in
// the form with only one spelling. The local part is a dot-atom (RFC 5322, section 3.2.3). The
// domain has at least two labels. The last one begins and ends with a letter, so that no IP address
// passes. Quoted strings, comments and address literals are refused.
func isAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	for atom := range strings.SplitSeq(local, ".") {
		ok = ok && consists(atom, "!#$%&'*+-/=?^_`{|}~")
	}
	return ok && isDomain(domain)
}

// isDomain reports whether s is a host name of at least two labels (RFC 1123, section 2.1), the
// last of which begins and ends with a letter.
func isDomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	dot := strings.LastIndexByte(s, '.')
	return dot >= 0 && isLetter(s[dot+1]) && isLetter(s[len(s)-1])
}

// isLabel: letters, digits and inner hyphens, at most 63 (RFC 1123, section 2.1).
func isLabel(s string) bool { return len(s) <= 63 && isLabelOfAnyLength(s) }

func isLabelOfAnyLength(s string) bool {
	return consists(s, "-") && s[0] != '-' && s[len(s)-1] != '-'
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// consists reports whether s is not empty, and holds only ASCII letters, digits and the others.
func consists(s, others string) bool {
	for i := range len(s) {
		if !isLetter(s[i]) && (s[i] < '0' || s[i] > '9') && strings.IndexByte(others, s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

// looksLikeAddress reports whether a reader may take s for an email address, including one with
// letters beyond ASCII (RFC 6531).
func looksLikeAddress(s string) bool {
	return isAddress(strings.Map(func(r rune) rune {
		if r > 0x7f {
			return 'x'
		}
		return r
	}, s))
}
