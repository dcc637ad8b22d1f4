// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

const (
	// DefaultLifetime is the lifetime that sigstore's verifiers and timestamps expect.
	DefaultLifetime = 10 * time.Minute
	minLifetime     = 1 * time.Minute
	// MaxLifetime is the longest lifetime that a profile may have.
	MaxLifetime = 60 * time.Minute

	// backdate is how long before the clock's time a certificate begins. A verifier or timestamp
	// authority with a slightly slow clock then still finds it valid.
	backdate = 5 * time.Second
)

// Profile is the form of every certificate of this CA: a leaf for code signing. It has an empty
// subject, one critical SAN, and a fixed lifetime. Profile is immutable.
type Profile struct {
	lifetime time.Duration
}

// NewProfile returns the profile with lifetime, a whole number of seconds from one minute to one
// hour. Zero means DefaultLifetime.
func NewProfile(lifetime time.Duration) (*Profile, error) {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	if lifetime < minLifetime || lifetime > MaxLifetime || lifetime%time.Second != 0 {
		return nil, fmt.Errorf("the certificate lifetime is %s; it is a whole number of seconds from %s to %s", lifetime, minLifetime, MaxLifetime)
	}
	return &Profile{lifetime: lifetime}, nil
}

// Lifetime returns how long a certificate is valid.
func (p *Profile) Lifetime() time.Duration { return p.lifetime }

// draft is one certificate before any signature: its expected content, and its TBS. A draft belongs
// to one request and one authority.
type draft struct {
	authority *Authority
	template  certs.Template
	tbs       *certs.TBS
	sct       ctlog.SCT // of the precertificate, once a log has it
	steps     *Steps    // of the request; may be nil
}

// draft returns the certificate that names id and holds key, issued by authority at now. Its
// refusal is CA_EXPIRING, if the certificate would outlive a CA above it or the chain is not valid
// now.
func (p *Profile) draft(authority *Authority, now time.Time, id *identity.Identity, key *proof.PublicKey) (*draft, error) {
	if err := authority.chain.ValidAt(now); err != nil {
		return nil, refusal.New(refusal.CAExpiring, "the certificate authority's own certificate is not valid now; tell its operator").Because(err)
	}
	notBefore := now.Add(-backdate).UTC().Truncate(time.Second)
	// sigstore-java selects the CA by the leaf's NotBefore, so it must not precede the CA's.
	if notBefore.Before(authority.chain.NotBefore) {
		notBefore = authority.chain.NotBefore.UTC()
	}
	// RFC 5280, section 4.1.2.5: NotAfter is inclusive. For sigstore's clients the difference is
	// exactly the lifetime.
	notAfter := notBefore.Add(p.lifetime)
	if notAfter.After(authority.chain.NotAfter) {
		return nil, refusal.New(refusal.CAExpiring, "the certificate authority's own certificate ends before a certificate of %s would; tell its operator", p.lifetime).
			Because(fmt.Errorf("authority %q ends at %s", authority.id, authority.chain.NotAfter.UTC().Format(time.RFC3339)))
	}
	issuing := authority.chain.Certificates[0]
	template := certs.Template{
		SerialNumber:       certs.NewSerial(),
		SignatureAlgorithm: authority.algorithm,
		Issuer:             issuing.RawSubject,
		NotBefore:          notBefore,
		NotAfter:           notAfter,
		PublicKey:          key.SPKI,
		AuthorityKeyID:     issuing.SubjectKeyId,
		SAN:                id.SAN,
		Extensions:         id.Extensions,
	}
	tbs, err := certs.NewTBS(template)
	if err != nil {
		return nil, fmt.Errorf("assembling the certificate: %w", err)
	}
	return &draft{authority: authority, template: template, tbs: tbs}, nil
}

// check reads tbs, and returns where it differs from the profile or the draft. It runs before every
// signature, as a check of our own encoder.
func (d *draft) check(tbs []byte, poisoned bool, sctList []byte) error {
	if err := compare(tbs, &d.template, poisoned, sctList); err != nil {
		return fmt.Errorf("our own certificate is not the profile's: %w", err)
	}
	return nil
}
