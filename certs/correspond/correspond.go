// SPDX-License-Identifier: Apache-2.0

// Package correspond checks that a certificate is the one that its precertificate promised. The CA
// checks its own work before it signs a certificate. So this package shares no code with package
// certs, which assembles certificates, and imports no package of mayfly. Package ca may import it.
package correspond

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// 1.3.6.1.4.1.11129.2.4.3 and .2, DER (RFC 6962, sections 3.1 and 3.3).
	poisonOID  = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
	sctListOID = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
)

// Check returns nil if and only if certificate corresponds to precertificate (RFC 6962, section
// 3.1), byte by byte. Both are a Certificate in DER. Check does not verify their signatures.
//
// All fields before the extensions must be equal, and neither may have unique IDs. Exactly one
// poison is removed from the precertificate and exactly one SCT list from the certificate. The
// other extensions must be equal and in the same order. The error names the first field that
// differs.
func Check(precertificate, certificate []byte) error {
	pre, err := parse(precertificate)
	if err != nil {
		return fmt.Errorf("parsing the precertificate: %w", err)
	}
	cert, err := parse(certificate)
	if err != nil {
		return fmt.Errorf("parsing the certificate: %w", err)
	}
	for _, field := range []struct {
		name      string
		pre, cert []byte
	}{
		{"version", pre.version, cert.version},
		{"serial number", pre.serialNumber, cert.serialNumber},
		{"signature algorithm", pre.signature, cert.signature},
		{"issuer", pre.issuer, cert.issuer},
		{"validity", pre.validity, cert.validity},
		{"subject", pre.subject, cert.subject},
		{"public key", pre.publicKey, cert.publicKey},
	} {
		if !bytes.Equal(field.pre, field.cert) {
			return fmt.Errorf("the %s of precertificate and certificate differ", field.name)
		}
	}

	preExtensions, err := without(pre.extensions, poisonOID, checkPoison)
	if err != nil {
		return fmt.Errorf("the precertificate's poison: %w", err)
	}
	certExtensions, err := without(cert.extensions, sctListOID, checkSCTList)
	if err != nil {
		return fmt.Errorf("the certificate's SCT list: %w", err)
	}
	if len(preExtensions) != len(certExtensions) {
		return fmt.Errorf("the precertificate has %d extensions beside the poison, the certificate %d beside the SCT list", len(preExtensions), len(certExtensions))
	}
	for i := range preExtensions {
		if !bytes.Equal(preExtensions[i].element, certExtensions[i].element) {
			return fmt.Errorf("extension %d of precertificate and certificate differ", i+1)
		}
	}
	return nil
}

// parsed is a certificate; each field is a whole DER element.
type parsed struct {
	version, serialNumber, signature, issuer, validity, subject, publicKey cryptobyte.String
	extensions                                                             []extension
}

type extension struct {
	element  cryptobyte.String
	oid      cryptobyte.String // the whole element, too
	critical bool
	value    cryptobyte.String // contents of extnValue
}

// parse reads
//
//	Certificate  ::=  SEQUENCE  {
//	     tbsCertificate       TBSCertificate,
//	     signatureAlgorithm   AlgorithmIdentifier,
//	     signatureValue       BIT STRING  }
//
// without trailing data.
func parse(der []byte) (*parsed, error) {
	in := cryptobyte.String(der)
	var certificate, tbs, algorithm cryptobyte.String
	if !in.ReadASN1(&certificate, asn1.SEQUENCE) {
		return nil, errors.New("it is not a DER sequence")
	}
	if !in.Empty() {
		return nil, errors.New("data follow it")
	}
	if !certificate.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!certificate.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!certificate.SkipASN1(asn1.BIT_STRING) || !certificate.Empty() {
		return nil, errors.New("it is not a TBSCertificate, an algorithm and a signature")
	}
	p, err := parseTBS(tbs)
	if err != nil {
		return nil, err
	}
	// RFC 5280, section 4.1.1.2: the two identifiers of the algorithm must be the same.
	if !bytes.Equal(p.signature, algorithm) {
		return nil, errors.New("the signature algorithm differs from the one inside of the TBSCertificate")
	}
	return p, nil
}

// parseTBS reads the contents of
//
//	TBSCertificate  ::=  SEQUENCE  {
//	     version         [0]  EXPLICIT Version DEFAULT v1,
//	     serialNumber         CertificateSerialNumber,
//	     signature            AlgorithmIdentifier,
//	     issuer               Name,
//	     validity             Validity,
//	     subject              Name,
//	     subjectPublicKeyInfo SubjectPublicKeyInfo,
//	     issuerUniqueID  [1]  IMPLICIT UniqueIdentifier OPTIONAL,
//	     subjectUniqueID [2]  IMPLICIT UniqueIdentifier OPTIONAL,
//	     extensions      [3]  EXPLICIT Extensions OPTIONAL }
//	Version  ::=  INTEGER  {  v1(0), v2(1), v3(2)  }
//	Extensions  ::=  SEQUENCE SIZE (1..MAX) OF Extension
func parseTBS(tbs cryptobyte.String) (*parsed, error) {
	p := new(parsed)
	if !tbs.ReadASN1Element(&p.version, asn1.Tag(0).ContextSpecific().Constructed()) ||
		string(p.version) != "\xa0\x03\x02\x01\x02" {
		return nil, errors.New("it is not of version 3")
	}
	if !tbs.ReadASN1Element(&p.serialNumber, asn1.INTEGER) ||
		!tbs.ReadASN1Element(&p.signature, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&p.issuer, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&p.validity, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&p.subject, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&p.publicKey, asn1.SEQUENCE) {
		return nil, errors.New("its fields are not those of a TBSCertificate")
	}
	for _, tag := range []asn1.Tag{1, 2} {
		if id := tag.ContextSpecific(); tbs.PeekASN1Tag(id) || tbs.PeekASN1Tag(id.Constructed()) {
			// RFC 5280, section 4.1.2.8: conforming CAs must not generate unique identifiers.
			return nil, errors.New("it has a unique identifier")
		}
	}
	var explicit, list cryptobyte.String
	if !tbs.ReadASN1(&explicit, asn1.Tag(3).ContextSpecific().Constructed()) || !tbs.Empty() ||
		!explicit.ReadASN1(&list, asn1.SEQUENCE) || !explicit.Empty() {
		return nil, errors.New("its extensions are missing, or are not what ends it")
	}
	for !list.Empty() {
		e, err := parseExtension(&list)
		if err != nil {
			return nil, err
		}
		p.extensions = append(p.extensions, e)
	}
	return p, nil
}

// parseExtension reads one
//
//	Extension  ::=  SEQUENCE  {
//	     extnID      OBJECT IDENTIFIER,
//	     critical    BOOLEAN DEFAULT FALSE,
//	     extnValue   OCTET STRING }
//
// in DER, which omits critical if it is FALSE.
func parseExtension(list *cryptobyte.String) (extension, error) {
	var e extension
	if !list.ReadASN1Element(&e.element, asn1.SEQUENCE) {
		return extension{}, errors.New("its extensions are not a row of DER sequences")
	}
	element := e.element
	var content cryptobyte.String
	if !element.ReadASN1(&content, asn1.SEQUENCE) || !content.ReadASN1Element(&e.oid, asn1.OBJECT_IDENTIFIER) {
		return extension{}, errors.New("it has an extension without an identifier")
	}
	if content.PeekASN1Tag(asn1.BOOLEAN) && (!content.ReadASN1Boolean(&e.critical) || !e.critical) {
		return extension{}, errors.New("it has an extension whose criticality is not DER")
	}
	if !content.ReadASN1(&e.value, asn1.OCTET_STRING) || !content.Empty() {
		return extension{}, errors.New("it has an extension without one value")
	}
	return e, nil
}

// without returns extensions, in order, without the extension oid, which must be present exactly
// once and pass check. If oid is the poison, an SCT list must be absent, and the reverse.
func without(extensions []extension, oid string, check func(extension) error) ([]extension, error) {
	var rest []extension
	found := 0
	for _, e := range extensions {
		switch string(e.oid) {
		case oid:
			if err := check(e); err != nil {
				return nil, err
			}
			found++
		case poisonOID, sctListOID:
			return nil, errors.New("poison and SCT list change places")
		default:
			rest = append(rest, e)
		}
	}
	if found != 1 {
		return nil, fmt.Errorf("it is there %d times instead of once", found)
	}
	return rest, nil
}

// checkPoison applies RFC 6962, section 3.1: "a special critical poison extension […] whose
// extnValue OCTET STRING contains ASN.1 NULL data (0x05 0x00)".
func checkPoison(e extension) error {
	if !e.critical || string(e.value) != "\x05\x00" {
		return errors.New("it is not critical with the value NULL")
	}
	return nil
}

// checkSCTList applies RFC 6962, section 3.3: the value is a nested OCTET STRING that holds a
// SignedCertificateTimestampList:
//
//	opaque SerializedSCT<1..2^16-1>;
//	struct { SerializedSCT sct_list <1..2^16-1>; } SignedCertificateTimestampList;
func checkSCTList(e extension) error {
	value := e.value
	var octets, list cryptobyte.String
	if e.critical || !value.ReadASN1(&octets, asn1.OCTET_STRING) || !value.Empty() {
		return errors.New("it is not an uncritical OCTET STRING")
	}
	if !octets.ReadUint16LengthPrefixed(&list) || !octets.Empty() || list.Empty() {
		return errors.New("it is not one list of at least one SCT")
	}
	for !list.Empty() {
		var sct cryptobyte.String
		if !list.ReadUint16LengthPrefixed(&sct) || sct.Empty() {
			return errors.New("it holds something that is not an SCT")
		}
	}
	return nil
}
