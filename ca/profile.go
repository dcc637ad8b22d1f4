// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

const (
	// DefaultLifetime is what sigstore's verifiers and timestamps are made for.
	DefaultLifetime = 10 * time.Minute
	minLifetime     = 1 * time.Minute
	maxLifetime     = 60 * time.Minute

	// backdate is how long before the clock's time a certificate begins, so that a verifier
	// or timestamp authority whose clock is a little behind does not find it not yet valid.
	backdate = 5 * time.Second
)

// Profile is what every certificate of this CA looks like: a leaf for code signing with an
// empty subject, one critical SAN, and a fixed lifetime. It is immutable.
type Profile struct {
	lifetime time.Duration
}

// NewProfile returns the profile with the lifetime given, a whole number of seconds from
// one minute to one hour; zero means DefaultLifetime.
func NewProfile(lifetime time.Duration) (*Profile, error) {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	if lifetime < minLifetime || lifetime > maxLifetime || lifetime%time.Second != 0 {
		return nil, fmt.Errorf("the certificate lifetime is %s; it is a whole number of seconds from %s to %s", lifetime, minLifetime, maxLifetime)
	}
	return &Profile{lifetime: lifetime}, nil
}

// Lifetime is how long a certificate is valid.
func (p *Profile) Lifetime() time.Duration { return p.lifetime }

// draft is one certificate before any signature: what it is to hold, and its TBS. A draft
// belongs to one request and one authority.
type draft struct {
	authority *Authority
	template  certs.Template
	tbs       *certs.TBS
}

// draft returns the certificate that names id and holds key, issued by authority at now.
// Its refusals are CA_EXPIRING, where the certificate would outlive a CA above it.
func (p *Profile) draft(authority *Authority, now time.Time, id *identity.Identity, key *proof.PublicKey, serial []byte) (*draft, error) {
	if err := authority.ValidAt(now); err != nil {
		return nil, refusal.New(refusal.CAExpiring, "the certificate authority's own certificate is not valid now; tell its operator").Because(err)
	}
	notBefore := now.Add(-backdate).UTC().Truncate(time.Second)
	// sigstore-java picks the CA by the leaf's NotBefore, so it must not precede the CA's.
	if notBefore.Before(authority.chain.NotBefore) {
		notBefore = authority.chain.NotBefore.UTC()
	}
	// RFC 5280, section 4.1.2.5: NotAfter is inclusive; for sigstore's clients the profile
	// is exact in the difference.
	notAfter := notBefore.Add(p.lifetime)
	if notAfter.After(authority.chain.NotAfter) {
		return nil, refusal.New(refusal.CAExpiring, "the certificate authority's own certificate ends before a certificate of %s would; tell its operator", p.lifetime).
			Because(fmt.Errorf("authority %q ends at %s", authority.id, authority.chain.NotAfter.UTC().Format(time.RFC3339)))
	}
	issuing := authority.chain.Certificates[0]
	template := certs.Template{
		SerialNumber:       serial,
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

// check parses tbs as a verifier will, and tells where it is not the profile's, or not what
// the draft says. It stands between our own encoder and every signature. last is the OID
// of the extension that must come last; nil where none of the two may be there.
func (d *draft) check(tbs []byte, last asn1.ObjectIdentifier) error {
	unsigned, err := x509.ParseCertificate(certs.Assemble(tbs, d.authority.algorithm, nil))
	if err != nil {
		return fmt.Errorf("parsing our own certificate: %w", err)
	}
	t := d.template
	subjectKeyID, err := certs.SubjectKeyID(t.PublicKey)
	if err != nil {
		return err
	}
	san, err := certs.SANOf(unsigned)
	if err != nil {
		return err
	}
	extensions, err := certs.ParseExtensions(unsigned.Extensions)
	if err != nil {
		return err
	}
	serial := unsigned.SerialNumber
	for _, property := range []struct {
		ok   bool
		what string
	}{
		{unsigned.Version == 3, "version 3 (RFC 5280, section 4.1.2.1)"},
		{serial.Sign() == 1 && bytes.Equal(serial.Bytes(), t.SerialNumber), "the serial number of the draft (section 4.1.2.2)"},
		{unsigned.SignatureAlgorithm == d.authority.algorithm.X509(), "the authority's signature algorithm (section 4.1.2.3)"},
		{bytes.Equal(unsigned.RawIssuer, t.Issuer), "the authority's name as issuer (section 4.1.2.4)"},
		{unsigned.NotBefore.Equal(t.NotBefore) && unsigned.NotAfter.Equal(t.NotAfter), "the validity of the draft (section 4.1.2.5)"},
		{bytes.Equal(unsigned.RawSubject, []byte{0x30, 0x00}), "an empty subject (section 4.1.2.6)"},
		{bytes.Equal(unsigned.RawSubjectPublicKeyInfo, t.PublicKey), "the key that was proved (section 4.1.2.7)"},
		{unsigned.KeyUsage == x509.KeyUsageDigitalSignature, "key usage digitalSignature alone (section 4.2.1.3)"},
		{len(unsigned.ExtKeyUsage) == 1 && unsigned.ExtKeyUsage[0] == x509.ExtKeyUsageCodeSigning && len(unsigned.UnknownExtKeyUsage) == 0,
			"extended key usage codeSigning alone (section 4.2.1.12)"},
		{!unsigned.IsCA && !unsigned.BasicConstraintsValid, "no basic constraints (section 4.2.1.9)"},
		{bytes.Equal(unsigned.SubjectKeyId, subjectKeyID), "the subject key identifier of its key (section 4.2.1.2)"},
		{bytes.Equal(unsigned.AuthorityKeyId, t.AuthorityKeyID), "the authority's key identifier (section 4.2.1.1)"},
		{san == t.SAN, "the identity of the token as its one name (section 4.2.1.6)"},
		{extensions == t.Extensions, "the claims of the token in its extensions"},
	} {
		if !property.ok {
			return fmt.Errorf("our own certificate lacks %s", property.what)
		}
	}
	return checkExtensionList(unsigned, t, last)
}

// checkExtensionList tells whether the certificate holds more than the profile's
// extensions, each once, with the profile's criticality, and last at the end.
func checkExtensionList(c *x509.Certificate, t certs.Template, last asn1.ObjectIdentifier) error {
	want := 5 // key usage, extended key usage, subject and authority key identifier, SAN
	for _, value := range t.Extensions {
		if value != "" {
			want++
		}
	}
	if last != nil {
		want++
		if end := c.Extensions[len(c.Extensions)-1]; !end.Id.Equal(last) || end.Critical != last.Equal(certs.OIDPoison) {
			return fmt.Errorf("our own certificate does not end in extension %s", last)
		}
	}
	if len(c.Extensions) != want {
		return fmt.Errorf("our own certificate has %d extensions instead of %d", len(c.Extensions), want)
	}
	for _, e := range c.Extensions {
		critical := e.Id.Equal(oidKeyUsage) || e.Id.Equal(certs.OIDSubjectAltName) || e.Id.Equal(certs.OIDPoison)
		if e.Critical != critical {
			return errors.New("our own certificate has an extension of the wrong criticality: " + e.Id.String())
		}
	}
	return nil
}

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}
