// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/certs"
)

// leaf is an unsigned certificate of the profile, as a verifier parses it.
type leaf struct {
	*x509.Certificate
	// template is everything that may differ between two certificates of the profile.
	template certs.Template
	// last is the poison or the SCT list; zero if it has neither.
	last pkix.Extension
}

// parseLeaf parses tbs with crypto/x509, and requires everything that is the same in every
// certificate of the profile. It shares no code with the encoder in package certs. The caller
// compares the template.
func parseLeaf(tbs []byte, algorithm certs.SignatureAlgorithm) (*leaf, error) {
	c, err := x509.ParseCertificate(certs.Assemble(tbs, algorithm, nil))
	if err != nil {
		return nil, fmt.Errorf("parsing it as a certificate that is signed with %s (RFC 5280, sections 4.1 and 4.1.2.3): %w", algorithm, err)
	}
	// crypto/x509 ignores data behind the TBSCertificate; the signature would cover all of tbs.
	if !bytes.Equal(c.RawTBSCertificate, tbs) {
		return nil, fmt.Errorf("%d octets follow its TBSCertificate (RFC 5280, section 4.1)", len(tbs)-len(c.RawTBSCertificate))
	}
	if err := checkFixed(c, algorithm); err != nil {
		return nil, err
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
	return l, l.checkExtensions()
}

// checkFixed checks the fields that are the same in every certificate.
func checkFixed(c *x509.Certificate, algorithm certs.SignatureAlgorithm) error {
	switch {
	case c.Version != 3:
		return fmt.Errorf("its version is %d, not 3 (RFC 5280, section 4.1.2.1)", c.Version)
	case c.SignatureAlgorithm != algorithm.X509():
		return fmt.Errorf("its signature algorithm is %s, not the authority's %s (RFC 5280, section 4.1.2.3)", c.SignatureAlgorithm, algorithm)
	case !bytes.Equal(c.RawSubject, []byte{0x30, 0x00}):
		return fmt.Errorf("its subject is %q, not empty (RFC 5280, section 4.1.2.6)", c.Subject)
	case c.PublicKey == nil:
		return errors.New("its public key is of an unknown kind (RFC 5280, section 4.1.2.7)")
	case c.BasicConstraintsValid || c.IsCA:
		return fmt.Errorf("it has basic constraints, with CA %t; a leaf has none (RFC 5280, section 4.2.1.9)", c.IsCA)
	case c.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("its key usage is %#x, not digitalSignature alone, %#x (RFC 5280, section 4.2.1.3)", int(c.KeyUsage), int(x509.KeyUsageDigitalSignature))
	case len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning || len(c.UnknownExtKeyUsage) != 0:
		return fmt.Errorf("its extended key usages are %v and %v, not codeSigning alone (RFC 5280, section 4.2.1.12)", c.ExtKeyUsage, c.UnknownExtKeyUsage)
	case len(c.AuthorityKeyId) == 0:
		return errors.New("it has no authority key identifier (RFC 5280, section 4.2.1.1)")
	}
	subjectKeyID, err := certs.SubjectKeyID(c.RawSubjectPublicKeyInfo)
	if err != nil {
		return fmt.Errorf("reading its public key (RFC 5280, section 4.1.2.7): %w", err)
	}
	if !bytes.Equal(c.SubjectKeyId, subjectKeyID) {
		return fmt.Errorf("its subject key identifier is %x, not that of its key, %x (RFC 5280, section 4.2.1.2)", c.SubjectKeyId, subjectKeyID)
	}
	return nil
}

// Object identifiers of standard extensions (RFC 5280, section 4.2.1).
var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// checkExtensions checks the criticality and the number of the extensions. The five standard ones
// and the claims are known to be present, and crypto/x509 refuses duplicates. So a right number
// leaves no place for another extension.
func (l *leaf) checkExtensions() error {
	number := 5
	for _, claim := range l.template.Extensions {
		if claim != "" {
			number++
		}
	}
	if end := l.Extensions[len(l.Extensions)-1]; end.Id.Equal(certs.OIDPoison) || end.Id.Equal(certs.OIDSCTList) {
		l.last, number = end, number+1
	}
	if len(l.Extensions) != number {
		return fmt.Errorf("it has %d extensions, and %d of them are the profile's and in their place (RFC 5280, section 4.2; RFC 6962, sections 3.1 and 3.3)", len(l.Extensions), number)
	}
	for _, e := range l.Extensions {
		critical := e.Id.Equal(oidKeyUsage) || e.Id.Equal(certs.OIDSubjectAltName) || e.Id.Equal(certs.OIDPoison)
		if e.Critical != critical {
			return fmt.Errorf("extension %s has critical %t, not %t (RFC 5280, section 4.2; RFC 6962, sections 3.1 and 3.3)", e.Id, e.Critical, critical)
		}
	}
	if l.last.Id.Equal(certs.OIDPoison) && !bytes.Equal(l.last.Value, asn1.NullBytes) {
		return fmt.Errorf("its poison holds %x, not NULL (RFC 6962, section 3.1)", l.last.Value)
	}
	return nil
}

// matches returns the first field in which the leaf differs from want; nil if there is none.
func (l *leaf) matches(want *certs.Template) error {
	t := &l.template
	for _, field := range []struct {
		equal bool
		name  string
	}{
		{bytes.Equal(t.SerialNumber, want.SerialNumber), "serial number (RFC 5280, section 4.1.2.2)"},
		{bytes.Equal(t.Issuer, want.Issuer), "issuer (section 4.1.2.4)"},
		{t.NotBefore.Equal(want.NotBefore) && t.NotAfter.Equal(want.NotAfter), "validity (section 4.1.2.5)"},
		{bytes.Equal(t.PublicKey, want.PublicKey), "public key (section 4.1.2.7)"},
		{bytes.Equal(t.AuthorityKeyID, want.AuthorityKeyID), "authority key identifier (section 4.2.1.1)"},
		{t.SAN == want.SAN, "subject alternative name (section 4.2.1.6)"},
		{t.Extensions == want.Extensions, "claims"},
	} {
		if !field.equal {
			return fmt.Errorf("it has another %s than expected", field.name)
		}
	}
	return nil
}
