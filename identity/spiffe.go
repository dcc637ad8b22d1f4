// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// spiffe is the rule of type spiffe: a workload, named by the SPIFFE ID in `sub`.
type spiffe struct{ trustDomain string }

func (r spiffe) identify(_ *oidc.Token, id *Identity) error {
	domain, err := parseSPIFFEID(id.Subject)
	if err != nil {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "sub", %s, is not a SPIFFE ID; it must be spiffe://%s/ and path segments of letters, digits, ".", "_" and "-"`, quote(id.Subject), r.trustDomain).Because(err)
	}
	if domain != r.trustDomain {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "sub" is of the trust domain %s; it must be of %s`, quote(domain), quote(r.trustDomain))
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
	if !hasPath {
		return domain, nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." || !isSPIFFEName(segment) {
			return "", errors.New(`a path segment is empty, "." or "..", or holds other than letters, digits, ".", "_" and "-"`)
		}
	}
	return domain, nil
}

func isTrustDomain(s string) bool { return isSPIFFEName(s) && strings.ToLower(s) == s }

func isSPIFFEName(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-' {
			return false
		}
	}
	return s != ""
}

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
