// SPDX-License-Identifier: Apache-2.0

// Package identity turns a verified ID token into the identity that its certificate will
// name: the subject alternative name, sigstore's extensions, and the claim that the caller
// must have signed. One rule for each issuer type; the operator's settings choose the rule
// of an issuer entry once, when Rules is built.
//
// Package ca may import it, and internal/app and cmd, which build it. It knows nothing of
// signatures, keys, certificates' encoding or HTTP.
package identity

import (
	"fmt"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Identity is the verified caller, as a certificate will name it.
type Identity struct {
	// IssuerURL is the token's own `iss`. What extensions .1 and .8 hold is the same but
	// for an email entry with an issuer-claim.
	IssuerURL string
	// Subject is the token's raw `sub`, as in extension .24.
	Subject string
	// SAN is the one subject alternative name.
	SAN certs.SAN
	// Extensions always has .1, .8 and .24; the others depend on the issuer's type.
	Extensions certs.Extensions
	// Challenge is the text whose UTF-8 bytes the caller must have signed, and
	// ChallengeClaim the claim that holds it: `email` or `sub`.
	Challenge, ChallengeClaim string
}

// Rules holds the rule of every issuer entry. It is immutable and safe for concurrent use.
type Rules struct {
	byEntry map[string]rule
}

// rule is one issuer type's reading of a token. Implementations are immutable.
type rule interface {
	// identify sets id.SAN, and whatever else differs from what every identity has: id
	// arrives complete but for its SAN, with `sub` as the challenge. A claim that does not
	// do is a *refusal.Error.
	identify(tok *oidc.Token, id *Identity) error
}

// Identify returns the identity of tok by the rule of the issuer entry that verified it.
//
// A token that does not do is refused with CLAIM_MISSING (a claim that is missing, empty or
// null), CLAIM_INVALID (one of the wrong kind, or of no use in a certificate),
// EMAIL_UNVERIFIED, or POLICY_DENIED (an address outside of allowed-email-domains).
func (r *Rules) Identify(tok *oidc.Token) (*Identity, error) {
	rule, ok := r.byEntry[tok.Entry]
	if !ok {
		return nil, fmt.Errorf("identifying the caller: issuer entry %q has no rule", tok.Entry)
	}
	if tok.IssuerURL == "" {
		return nil, claimRefusal("iss", "", nonEmptyText)
	}
	sub, err := textClaim(tok.Claims, "sub")
	if err != nil {
		return nil, err
	}
	id := &Identity{IssuerURL: tok.IssuerURL, Subject: sub, Challenge: sub, ChallengeClaim: "sub"}
	id.Extensions[certs.TokenSubject] = sub
	id.setIssuer(tok.IssuerURL)
	if err := rule.identify(tok, id); err != nil {
		return nil, err
	}
	if err := id.check(); err != nil {
		return nil, err
	}
	return id, nil
}

// setIssuer sets both extensions that name the issuer.
func (id *Identity) setIssuer(issuer string) {
	id.Extensions[certs.IssuerV1] = issuer
	id.Extensions[certs.IssuerV2] = issuer
}

// maxText bounds each text that enters a certificate, in bytes. A token is not much larger,
// but a template may repeat what it reads.
const maxText = 8 << 10

// check refuses whatever must never enter a certificate, by whichever rule it came. The
// errors of package certs name the place and never what stands there, so that clients may
// read them.
func (id *Identity) check() error {
	for e, text := range id.Extensions.All() {
		if len(text) > maxText {
			return refusal.New(refusal.ClaimInvalid, "the token's claims make extension %s (.%d) %d bytes long; at most %d can enter a certificate", e.Name, e.Arc, len(text), maxText)
		}
	}
	if err := id.Extensions.Check(); err != nil {
		return refusal.New(refusal.ClaimInvalid, "the token's claims cannot enter a certificate: %v", err)
	}
	if len(id.SAN.Value) > maxText {
		return refusal.New(refusal.ClaimInvalid, "the token's claims make a subject alternative name of %d bytes; at most %d can enter a certificate", len(id.SAN.Value), maxText)
	}
	if err := id.SAN.Check(); err != nil {
		return refusal.New(refusal.ClaimInvalid, "the token's claims cannot enter a certificate: %v", err)
	}
	return nil
}
