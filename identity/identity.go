// SPDX-License-Identifier: Apache-2.0

// Package identity turns a verified ID token into the identity that its certificate will name: the
// subject alternative name, sigstore's extensions, and the claim that the caller must have signed.
// There is one rule for each issuer type. NewRules selects the rule of each issuer entry once, by
// the operator's settings.
//
// Package ca may import it, and app and cmd, which build it. It does not handle
// signatures, keys, the encoding of certificates or HTTP.
package identity

import (
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Identity is the verified caller, as a certificate will name it.
type Identity struct {
	// IssuerURL is the token's own `iss`. Extensions .1 and .8 hold the same value, except for an
	// email entry with an issuer-claim.
	IssuerURL string
	// Subject is the token's raw `sub`, as in extension .24.
	Subject string
	// SAN is the one subject alternative name.
	SAN certs.SAN
	// Extensions always has .1, .8 and .24; the others depend on the issuer's type.
	Extensions certs.Extensions
	// Challenge is the text that the caller must have signed, as UTF-8 bytes, and
	// ChallengeClaim the claim that holds it: `email` or `sub`.
	Challenge, ChallengeClaim string
	// Policy is the decision of the issuer entry's policy.
	Policy policy.Decision
}

// Rules holds the rule of every issuer entry. It is immutable and safe for concurrent use.
type Rules struct {
	byEntry map[entryKey]entryRule
	observe func(entry, profile string, decision policy.Decision)
}

// entryKey identifies the settings that verified a token.
type entryKey struct{ entry, profile string }

// entryRule holds the settings for the tokens of an entry or a profile.
type entryRule struct {
	rule   rule
	policy *policy.Policy
}

// rule interprets the tokens of one issuer type. Implementations are immutable.
type rule interface {
	// identify sets id.SAN, and everything else that differs from the common values of an identity.
	// id is complete except for its SAN, with `sub` as the challenge. For an unusable claim,
	// identify returns a *refusal.Error.
	identify(tok *oidc.Token, id *Identity) error
}

// Identify returns the identity of tok by the rule of the issuer entry that verified it, if the
// entry's policy allows it a certificate. It refuses others with CLAIM_MISSING, CLAIM_INVALID,
// EMAIL_UNVERIFIED, EMAIL_NOT_ASCII or POLICY_DENIED. Beside a refusal by the entry's policy, it
// returns the refused identity, for the record.
func (r *Rules) Identify(tok *oidc.Token) (*Identity, error) {
	id, err := r.Name(tok)
	if err != nil {
		return nil, err
	}
	id.Policy = r.Decide(tok, id)
	if r.observe != nil && id.Policy.Rules != nil {
		r.observe(tok.Entry, tok.Profile, id.Policy)
	}
	return id, id.Policy.Refusal()
}

// Decide returns the decision of the policy of tok's issuer entry about the caller that id names.
// Identify includes it; programs that explain Identify call it separately.
func (r *Rules) Decide(tok *oidc.Token, id *Identity) policy.Decision {
	return r.byEntry[entryKey{tok.Entry, tok.Profile}].policy.Decide(input(tok, id))
}

// Explain returns the rules of that policy with the values of their parts. It is not for requests.
func (r *Rules) Explain(tok *oidc.Token, id *Identity) []policy.Explained {
	return r.byEntry[entryKey{tok.Entry, tok.Profile}].policy.Explain(input(tok, id))
}

func input(tok *oidc.Token, id *Identity) policy.Input {
	return policy.Input{Claims: tok.Claims, SAN: id.SAN.Value, Issuer: id.Extensions[certs.IssuerV2]}
}

// Name is Identify without the policy.
func (r *Rules) Name(tok *oidc.Token) (*Identity, error) {
	entry, ok := r.byEntry[entryKey{tok.Entry, tok.Profile}]
	if !ok {
		return nil, fmt.Errorf("identifying the caller: issuer entry %q, profile %q has no rule", tok.Entry, tok.Profile)
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
	if err := entry.rule.identify(tok, id); err != nil {
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

// maxText limits each text that enters a certificate, in bytes. A token is not much larger, but a
// template may repeat the values that it reads.
const maxText = 8 << 10

// maxTexts limits all texts of a certificate together, in bytes. Logs accept certificates of 64 KiB
// (ctlog/embedded): the rest is for the key and for the parts that all certificates share.
const maxTexts = 48 << 10

// check refuses values that must never enter a certificate, from any rule. The errors of package
// certs name the place and never the value, so that clients may read them.
func (id *Identity) check() error {
	total, longest := len(id.SAN.Value), "subject alternative name"
	long := total > maxText
	for e, text := range id.Extensions.All() {
		total += len(text)
		if len(text) > maxText {
			long, longest = true, "extension "+e.Name
		}
	}
	if long || total > maxTexts {
		return refusal.New(refusal.ClaimInvalid, "the token's claims make the %s or all texts together too long for a certificate; at most %d and %d bytes can enter one", longest, maxText, maxTexts)
	}
	if err := errors.Join(id.Extensions.Check(), id.SAN.Check()); err != nil {
		return refusal.New(refusal.ClaimInvalid, "the token's claims cannot enter a certificate: %v", err)
	}
	return nil
}
