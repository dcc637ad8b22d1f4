// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"

	"github.com/mayfly-ca/mayfly/certs"
)

// Object identifiers of standard extensions (RFC 5280, section 4.2.1).
var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// leaf is an unsigned certificate, as a verifier parses it.
type leaf struct {
	*x509.Certificate
	// template is everything that may differ between two certificates of the profile.
	template certs.Template
	// last is the poison or the SCT list; zero if the last extension is neither.
	last pkix.Extension
}

// parseLeaf parses tbs with crypto/x509. It shares no code with the encoder in package certs.
func parseLeaf(tbs []byte, algorithm certs.SignatureAlgorithm) (*leaf, error) {
	c, err := x509.ParseCertificate(certs.Assemble(tbs, algorithm, nil))
	if err != nil {
		return nil, fmt.Errorf("parsing it as a certificate that is signed with %s (RFC 5280, sections 4.1 and 4.1.2.3): %w", algorithm, err)
	}
	// crypto/x509 ignores data behind the TBSCertificate; the signature would cover all of tbs.
	if !bytes.Equal(c.RawTBSCertificate, tbs) {
		return nil, fmt.Errorf("%d octets follow its TBSCertificate (RFC 5280, section 4.1)", len(tbs)-len(c.RawTBSCertificate))
	}
	l := &leaf{Certificate: c, template: certs.Template{
		SerialNumber: c.SerialNumber.Bytes(), SignatureAlgorithm: algorithm, Issuer: c.RawIssuer, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		PublicKey: c.RawSubjectPublicKeyInfo, AuthorityKeyID: c.AuthorityKeyId,
	}}
	if l.template.SAN, err = certs.SANOf(c); err != nil {
		return nil, fmt.Errorf("reading its one name (RFC 5280, section 4.2.1.6): %w", err)
	}
	if l.template.Extensions, err = certs.ParseExtensions(c.Extensions); err != nil {
		return nil, fmt.Errorf("reading its claims: %w", err)
	}
	if end := c.Extensions[len(c.Extensions)-1]; end.Id.Equal(certs.OIDPoison) || end.Id.Equal(certs.OIDSCTList) {
		l.last = end
	}
	return l, nil
}

// check returns what l lacks of the certificate of the profile that want describes; nil if they are
// the same but for the content of an SCT list.
func (l *leaf) check(want *certs.Template) error {
	t := &l.template
	for _, e := range l.Extensions {
		if critical := e.Id.Equal(oidKeyUsage) || e.Id.Equal(certs.OIDSubjectAltName) || e.Id.Equal(certs.OIDPoison); critical != e.Critical {
			return fmt.Errorf("extension %s has critical %t, not %t (RFC 5280, section 4.2; RFC 6962, sections 3.1 and 3.3)", e.Id, e.Critical, critical)
		}
	}
	// crypto/x509 refuses duplicates. So if the five standard extensions and the claims are there, a
	// right number leaves no place for another extension.
	number := 5
	for _, claim := range t.Extensions {
		if claim != "" {
			number++
		}
	}
	if l.last.Id != nil {
		number++
	}
	subjectKeyID, err := certs.SubjectKeyID(l.RawSubjectPublicKeyInfo)
	if err != nil {
		return err
	}
	for _, field := range []struct {
		equal bool
		name  string
	}{
		{l.Version == 3, "version 3 (RFC 5280, section 4.1.2.1)"},
		{bytes.Equal(t.SerialNumber, want.SerialNumber), "the expected serial number (RFC 5280, section 4.1.2.2)"},
		{l.SignatureAlgorithm == want.SignatureAlgorithm.X509(), "the authority's signature algorithm (RFC 5280, section 4.1.2.3)"},
		{bytes.Equal(t.Issuer, want.Issuer), "the authority's name as its issuer (RFC 5280, section 4.1.2.4)"},
		{t.NotBefore.Equal(want.NotBefore) && t.NotAfter.Equal(want.NotAfter), "the expected validity (RFC 5280, section 4.1.2.5)"},
		{bytes.Equal(l.RawSubject, []byte{0x30, 0x00}), "an empty subject (RFC 5280, section 4.1.2.6)"},
		{bytes.Equal(t.PublicKey, want.PublicKey), "the expected public key, in its one encoding (RFC 5280, section 4.1.2.7)"},
		{bytes.Equal(t.AuthorityKeyID, want.AuthorityKeyID) && len(t.AuthorityKeyID) > 0, "the authority's key identifier (RFC 5280, section 4.2.1.1)"},
		{bytes.Equal(l.SubjectKeyId, subjectKeyID), "the identifier of its own key (RFC 5280, section 4.2.1.2)"},
		{l.KeyUsage == x509.KeyUsageDigitalSignature, "the key usage digitalSignature alone (RFC 5280, section 4.2.1.3)"},
		{t.SAN == want.SAN, "the expected subject alternative name (RFC 5280, section 4.2.1.6)"},
		{!l.BasicConstraintsValid && !l.IsCA, "no basic constraints (RFC 5280, section 4.2.1.9)"},
		{len(l.ExtKeyUsage) == 1 && l.ExtKeyUsage[0] == x509.ExtKeyUsageCodeSigning && len(l.UnknownExtKeyUsage) == 0,
			"the extended key usage codeSigning alone (RFC 5280, section 4.2.1.12)"},
		{t.Extensions == want.Extensions, "the expected claims"},
		{len(l.Extensions) == number, "no other extension (RFC 5280, section 4.2), and poison or SCT list last (RFC 6962, sections 3.1 and 3.3)"},
		{!l.last.Id.Equal(certs.OIDPoison) || bytes.Equal(l.last.Value, asn1.NullBytes), "a poison that holds NULL (RFC 6962, section 3.1)"},
	} {
		if !field.equal {
			return fmt.Errorf("it must have %s", field.name)
		}
	}
	return nil
}
