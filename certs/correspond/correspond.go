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
	// 1.3.6.1.4.1.11129.2.4.3 and .2 (RFC 6962, sections 3.1 and 3.3).
	poisonOID  = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
	sctListOID = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
	// The poison, critical, NULL. It has one encoding.
	poison = "\x30\x13" + poisonOID + "\x01\x01\xff\x04\x02\x05\x00"
)

// Check returns nil if and only if certificate corresponds to precertificate (RFC 6962, section
// 3.1), byte by byte. Both are a TBSCertificate in DER.
//
// All fields before the extensions must be equal, and neither may have unique IDs. Exactly one
// poison is removed from the precertificate and exactly one SCT list from the certificate. The
// other extensions must be equal and in the same order. The error names the first difference.
func Check(precertificate, certificate []byte) error {
	// room is for the extensions of every certificate of ours, so that split allocates nothing.
	var room [4][32]cryptobyte.String
	preFields, preExtensions, poisons, err := split(precertificate, poisonOID, room[0][:0], room[1][:0])
	if err != nil {
		return fmt.Errorf("parsing the precertificate: %w", err)
	}
	fields, extensions, lists, err := split(certificate, sctListOID, room[2][:0], room[3][:0])
	if err != nil {
		return fmt.Errorf("parsing the certificate: %w", err)
	}
	for i, name := range [...]string{"version", "serial number", "signature algorithm", "issuer", "validity", "subject", "public key"} {
		if !bytes.Equal(preFields[i], fields[i]) {
			return fmt.Errorf("the %s of precertificate and certificate differ", name)
		}
	}
	if len(poisons) != 1 || string(poisons[0]) != poison {
		return fmt.Errorf("the precertificate has not one critical poison with the value NULL; it has %d extensions with that identifier", len(poisons))
	}
	if len(lists) != 1 || !isSCTList(lists[0]) {
		return fmt.Errorf("the certificate has not one uncritical SCT list in an OCTET STRING; it has %d extensions with that identifier", len(lists))
	}
	if len(preExtensions) != len(extensions) {
		return fmt.Errorf("the precertificate has %d extensions beside the poison, the certificate %d beside the SCT list", len(preExtensions), len(extensions))
	}
	for i := range extensions {
		if !bytes.Equal(preExtensions[i], extensions[i]) {
			return fmt.Errorf("extension %d of precertificate and certificate differ", i+1)
		}
	}
	return nil
}

// split returns the fields before the extensions. It appends the extensions with the OID last to lasts,
// and the other ones to others. Each is a whole DER element.
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
func split(tbs []byte, last string, others, lasts []cryptobyte.String) (fields [7]cryptobyte.String, _, _ []cryptobyte.String, _ error) {
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
		var extension, inside, id cryptobyte.String
		if ok = list.ReadASN1Element(&extension, asn1.SEQUENCE); !ok {
			break
		}
		rest := extension
		ok = rest.ReadASN1(&inside, asn1.SEQUENCE) && inside.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER)
		if string(id) == last {
			lasts = append(lasts, extension)
		} else {
			others = append(others, extension)
		}
	}
	if !ok {
		return fields, nil, nil, errors.New("it is not a TBSCertificate of version 3 with extensions, in DER")
	}
	return fields, others, lasts, nil
}

// isSCTList reports whether extension, which has the OID of an SCT list, is not critical and holds a
// list in a nested OCTET STRING (RFC 6962, section 3.3).
func isSCTList(extension cryptobyte.String) bool {
	var content, value, list cryptobyte.String
	return extension.ReadASN1(&content, asn1.SEQUENCE) && content.SkipASN1(asn1.OBJECT_IDENTIFIER) &&
		content.ReadASN1(&value, asn1.OCTET_STRING) && content.Empty() &&
		value.ReadASN1(&list, asn1.OCTET_STRING) && value.Empty() && !list.Empty()
}
