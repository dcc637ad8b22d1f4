// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"strings"

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
