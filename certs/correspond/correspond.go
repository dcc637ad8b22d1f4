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
	// The poison: 1.3.6.1.4.1.11129.2.4.3, critical, NULL (RFC 6962, section 3.1). It has one
	// encoding.
	poison = "\x30\x13\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03\x01\x01\xff\x04\x02\x05\x00"
	// 1.3.6.1.4.1.11129.2.4.2 and .3 (sections 3.3 and 3.1).
	sctListOID = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
	poisonOID  = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
)

// Check returns nil if and only if certificate corresponds to precertificate (RFC 6962, section
// 3.1), byte by byte. Both are a TBSCertificate in DER.
//
// All fields before the extensions must be equal, and neither may have unique IDs. Exactly one
// poison is removed from the precertificate and exactly one SCT list from the certificate. The
// other extensions must be equal and in the same order. The error names the first difference.
func Check(precertificate, certificate []byte) error {
	preFields, preExtensions, err := split(precertificate)
	if err != nil {
		return fmt.Errorf("parsing the precertificate: %w", err)
	}
	fields, extensions, err := split(certificate)
	if err != nil {
		return fmt.Errorf("parsing the certificate: %w", err)
	}
	for i, name := range [...]string{"version", "serial number", "signature algorithm", "issuer", "validity", "subject", "public key"} {
		if !bytes.Equal(preFields[i], fields[i]) {
			return fmt.Errorf("the %s of precertificate and certificate differ", name)
		}
	}
	preExtensions, poisons := without(preExtensions, poisonOID)
	extensions, lists := without(extensions, sctListOID)
	if len(poisons) != 1 || string(poisons[0]) != poison {
		return fmt.Errorf("the precertificate has not one critical poison with the value NULL, but %x", poisons)
	}
	if len(lists) != 1 {
		return fmt.Errorf("the certificate has %d SCT lists instead of one", len(lists))
	}
	if err := checkSCTList(lists[0]); err != nil {
		return fmt.Errorf("the certificate's SCT list: %w", err)
	}
	if len(preExtensions) != len(extensions) {
		return fmt.Errorf("the precertificate has %d extensions beside the poison, the certificate %d beside the SCT list", len(preExtensions), len(extensions))
	}
	for i := range extensions {
		if !bytes.Equal(preExtensions[i], extensions[i]) {
			return fmt.Errorf("extension %d of precertificate and certificate differ", i+1)
		}
		if id := identifier(extensions[i]); string(id) == poisonOID || string(id) == sctListOID {
			return errors.New("the other one of poison and SCT list is present too")
		}
	}
	return nil
}

// split returns the fields before the extensions, and the extensions; each is a whole DER element.
//
//	TBSCertificate  ::=  SEQUENCE  {
//	     version         [0]  EXPLICIT Version DEFAULT v1,
//	     serialNumber         CertificateSerialNumber,
//	     signature            AlgorithmIdentifier,
//	     issuer               Name,
//	     validity             Validity,
//	     subject              Name,
//	     subjectPublicKeyInfo SubjectPublicKeyInfo,
//	     extensions      [3]  EXPLICIT Extensions OPTIONAL }
//	Extensions  ::=  SEQUENCE SIZE (1..MAX) OF Extension
//
// Unique identifiers before the extensions, which conforming CAs must not generate (RFC 5280,
// section 4.1.2.8), are an error.
func split(tbs []byte) (fields [7]cryptobyte.String, extensions []cryptobyte.String, err error) {
	in := cryptobyte.String(tbs)
	var content, explicit, list cryptobyte.String
	ok := in.ReadASN1(&content, asn1.SEQUENCE) && in.Empty()
	for i, tag := range [...]asn1.Tag{asn1.Tag(0).ContextSpecific().Constructed(), asn1.INTEGER, asn1.SEQUENCE, asn1.SEQUENCE, asn1.SEQUENCE, asn1.SEQUENCE, asn1.SEQUENCE} {
		ok = ok && content.ReadASN1Element(&fields[i], tag)
	}
	ok = ok && string(fields[0]) == "\xa0\x03\x02\x01\x02" && // version 3
		content.ReadASN1(&explicit, asn1.Tag(3).ContextSpecific().Constructed()) && content.Empty() &&
		explicit.ReadASN1(&list, asn1.SEQUENCE) && explicit.Empty()
	for ok && !list.Empty() {
		var extension cryptobyte.String
		ok = list.ReadASN1Element(&extension, asn1.SEQUENCE)
		extensions = append(extensions, extension)
	}
	if !ok {
		return fields, nil, errors.New("it is not a TBSCertificate of version 3 with extensions, in DER")
	}
	return fields, extensions, nil
}

// identifier returns the OBJECT IDENTIFIER of an extension, the whole element; nil if there is
// none.
func identifier(extension cryptobyte.String) (id cryptobyte.String) {
	if extension.ReadASN1(&extension, asn1.SEQUENCE) {
		extension.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER)
	}
	return id
}

// without returns extensions without those that have the identifier oid, and the latter.
func without(extensions []cryptobyte.String, oid string) (rest, removed []cryptobyte.String) {
	rest = make([]cryptobyte.String, 0, len(extensions))
	for _, e := range extensions {
		if string(identifier(e)) == oid {
			removed = append(removed, e)
		} else {
			rest = append(rest, e)
		}
	}
	return rest, removed
}

// checkSCTList applies RFC 6962, section 3.3: the extension is not critical, and its value is a
// nested OCTET STRING that holds a SignedCertificateTimestampList:
//
//	opaque SerializedSCT<1..2^16-1>;
//	struct { SerializedSCT sct_list <1..2^16-1>; } SignedCertificateTimestampList;
func checkSCTList(extension cryptobyte.String) error {
	var content, value, octets, list, sct cryptobyte.String
	if !extension.ReadASN1(&content, asn1.SEQUENCE) || !content.SkipASN1(asn1.OBJECT_IDENTIFIER) ||
		!content.ReadASN1(&value, asn1.OCTET_STRING) || !content.Empty() ||
		!value.ReadASN1(&octets, asn1.OCTET_STRING) || !value.Empty() {
		return errors.New("it is not an uncritical OCTET STRING")
	}
	if !octets.ReadUint16LengthPrefixed(&list) || !octets.Empty() || list.Empty() {
		return errors.New("it is not one list of at least one SCT")
	}
	for !list.Empty() {
		if !list.ReadUint16LengthPrefixed(&sct) || sct.Empty() {
			return errors.New("it holds something that is not an SCT")
		}
	}
	return nil
}
