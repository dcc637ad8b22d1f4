// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/certs"
)

// leaf is a certificate of the profile before it is signed, as a verifier will parse it.
type leaf struct {
	*x509.Certificate
	san        certs.SAN
	extensions certs.Extensions
}

// parseLeaf parses tbs, and requires everything that is the same in every certificate of the
// profile, whatever its name and validity. From t it reads the authority's fields: algorithm, name
// and key identifier. Its errors state what was found.
func parseLeaf(tbs []byte, t *certs.Template) (*leaf, error) {
	c, err := x509.ParseCertificate(certs.Assemble(tbs, t.SignatureAlgorithm, nil))
	if err != nil {
		return nil, fmt.Errorf("parsing it as a certificate that is signed with %s (RFC 5280, sections 4.1 and 4.1.2.3): %w", t.SignatureAlgorithm, err)
	}
	// crypto/x509 reads the first element of a certificate and ignores data after its signature;
	// the signature would cover all of tbs.
	if !bytes.Equal(c.RawTBSCertificate, tbs) {
		return nil, fmt.Errorf("%d octets follow its TBSCertificate (RFC 5280, section 4.1)", len(tbs)-len(c.RawTBSCertificate))
	}
	if err := checkLeaf(c, t); err != nil {
		return nil, err
	}
	l := &leaf{Certificate: c}
	if l.san, err = certs.SANOf(c); err != nil {
		return nil, fmt.Errorf("reading its one name (RFC 5280, section 4.2.1.6): %w", err)
	}
	if l.extensions, err = certs.ParseExtensions(c.Extensions); err != nil {
		return nil, fmt.Errorf("reading its claims: %w", err)
	}
	return l, nil
}

// checkLeaf checks each field against RFC 5280.
func checkLeaf(c *x509.Certificate, t *certs.Template) error {
	switch {
	case c.Version != 3:
		return fmt.Errorf("its version is %d, not 3 (RFC 5280, section 4.1.2.1)", c.Version)
	case c.SignatureAlgorithm != t.SignatureAlgorithm.X509():
		return fmt.Errorf("its signature algorithm is %s, not the authority's %s (RFC 5280, section 4.1.2.3)", c.SignatureAlgorithm, t.SignatureAlgorithm)
	case !bytes.Equal(c.RawIssuer, t.Issuer):
		return fmt.Errorf("its issuer is %q, which is not the authority's name octet for octet (RFC 5280, section 4.1.2.4)", c.Issuer)
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
	case !bytes.Equal(c.AuthorityKeyId, t.AuthorityKeyID):
		return fmt.Errorf("its authority key identifier is %x, not the authority's %x (RFC 5280, section 4.2.1.1)", c.AuthorityKeyId, t.AuthorityKeyID)
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

// Object identifiers of the profile's other extensions (RFC 5280, section 4.2.1).
var (
	oidSubjectKeyID   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
	// Of CA certificates.
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// checkExtensionList returns an error for an extension that the profile lacks, for another
// criticality than the profile's, and for another last extension than last. A nil last means
// neither poison nor SCT list. parseLeaf has checked that no extension of the profile is missing,
// and crypto/x509 refuses duplicates.
func (l *leaf) checkExtensionList(last asn1.ObjectIdentifier) error {
	for i, e := range l.Extensions {
		critical, ours := false, false
		switch end := i == len(l.Extensions)-1; {
		case e.Id.Equal(oidKeyUsage), e.Id.Equal(certs.OIDSubjectAltName):
			critical, ours = true, true
		case e.Id.Equal(oidSubjectKeyID), e.Id.Equal(oidAuthorityKeyID), e.Id.Equal(oidExtKeyUsage):
			ours = true
		case len(e.Id) == len(certs.OIDSigstore)+1 && e.Id[:len(certs.OIDSigstore)].Equal(certs.OIDSigstore):
			ours = true // certs.ParseExtensions has parsed it
		case end && last != nil && e.Id.Equal(last):
			critical, ours = last.Equal(certs.OIDPoison), true
		}
		if !ours {
			return fmt.Errorf("extension %s, at place %d of %d, is not the profile's, or not there (RFC 5280, section 4.2)", e.Id, i+1, len(l.Extensions))
		}
		if e.Critical != critical {
			return fmt.Errorf("extension %s has critical %t, not %t (RFC 5280, section 4.2; RFC 6962, sections 3.1 and 3.3)", e.Id, e.Critical, critical)
		}
	}
	end := l.Extensions[len(l.Extensions)-1]
	if last != nil && !end.Id.Equal(last) {
		return fmt.Errorf("its last extension is %s, not %s (RFC 6962, sections 3.1 and 3.3)", end.Id, last)
	}
	if end.Id.Equal(certs.OIDPoison) && !bytes.Equal(end.Value, asn1.NullBytes) {
		return fmt.Errorf("its poison holds %x, not NULL (RFC 6962, section 3.1)", end.Value)
	}
	return nil
}
