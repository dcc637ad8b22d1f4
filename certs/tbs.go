// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// SerialNumberSize is the size of every serial number in octets, the largest that RFC 5280, section
// 4.1.2.2, allows. With the top bit clear a serial number has 159 bits.
const SerialNumberSize = 20

// NewSerial returns a random serial number of SerialNumberSize octets. The top bit is clear and the
// first octet is not zero, so that its DER always has the same length.
func NewSerial() []byte {
	serial := make([]byte, SerialNumberSize)
	_, _ = rand.Read(serial) // it never returns an error
	serial[0] = max(serial[0]&0x7f, 1)
	return serial
}

// Template holds everything that differs between two certificates.
type Template struct {
	// SerialNumber is a positive integer, big-endian, of exactly SerialNumberSize octets. Its first
	// octet is from 0x01 to 0x7f.
	SerialNumber []byte
	// SignatureAlgorithm is the issuing CA's.
	SignatureAlgorithm SignatureAlgorithm
	// Issuer is the subject in the issuing CA's certificate, byte for byte, DER; not empty.
	Issuer []byte
	// NotBefore and NotAfter are whole seconds from 1950 to 9999, both inclusive; NotAfter is
	// later. They may be in any time zone; the certificate holds UTC.
	NotBefore, NotAfter time.Time
	// PublicKey is the SubjectPublicKeyInfo to certify, DER.
	PublicKey []byte
	// AuthorityKeyID is the issuing CA's subject key identifier; not empty.
	AuthorityKeyID []byte
	// SAN is the one subject alternative name.
	SAN SAN
	// Extensions are the texts of sigstore's extensions.
	Extensions Extensions
}

// TBS is a TBSCertificate that lacks only its last extension. The precertificate and the
// certificate are spliced from the same bytes, so only that extension can differ. TBS is immutable.
type TBS struct {
	head       []byte // version to subjectPublicKeyInfo
	extensions []byte // all but the last, in a row
}

// NewTBS assembles the TBSCertificate that template describes.
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
//
// The extensions have this order: key usage, extended key usage, subject and authority key
// identifier, subject alternative name, sigstore's ascending by arc, and last the SCT list or the
// poison. The errors name the field of template that is wrong.
func NewTBS(template Template) (*TBS, error) {
	t := &template
	subjectKeyID, err := t.check()
	if err != nil {
		return nil, err
	}

	const version, serialHeader, validity, emptySubject = "\xa0\x03\x02\x01\x02", 2, 2 + 2*17, "\x30\x00"
	head := make([]byte, 0, len(version)+serialHeader+SerialNumberSize+len(t.SignatureAlgorithm.identifier)+
		len(t.Issuer)+validity+len(emptySubject)+len(t.PublicKey))
	head = append(head, version...)
	head = appendElement(head, asn1.INTEGER, t.SerialNumber)
	head = append(head, t.SignatureAlgorithm.identifier...)
	head = append(head, t.Issuer...)
	head = appendValidity(head, t.NotBefore.UTC(), t.NotAfter.UTC())
	head = append(head, emptySubject...)
	head = append(head, t.PublicKey...)

	// The five standard extensions without the SAN's value have fewer than 128 octets, and each of
	// sigstore's has at most 24 around a text below 64 KiB.
	size := 128 + len(t.AuthorityKeyID) + len(t.SAN.Value)
	for _, text := range t.Extensions {
		if text != "" {
			size += 24 + len(text)
		}
	}
	extensions := append(make([]byte, 0, size), keyUsage...)
	extensions = append(extensions, extKeyUsage...)
	extensions = appendKeyIDs(extensions, subjectKeyID, t.AuthorityKeyID)
	extensions = appendSAN(extensions, t.SAN)
	extensions = t.Extensions.append(extensions)
	return &TBS{head: head, extensions: extensions}, nil
}

const (
	// Critical; BIT STRING with digitalSignature alone (RFC 5280, section 4.2.1.3).
	keyUsage = "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80"
	// SEQUENCE of id-kp-codeSigning alone (section 4.2.1.12).
	extKeyUsage = "\x30\x13\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03"
	// Critical; NULL (RFC 6962, section 3.1).
	poison = "\x30\x13\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03\x01\x01\xff\x04\x02\x05\x00"
	// The identifier alone.
	sctListOID = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
)

// check returns the subject key identifier of t's key, or an error that names what is wrong with t.
func (t *Template) check() (subjectKeyID []byte, err error) {
	if len(t.SerialNumber) != SerialNumberSize || t.SerialNumber[0] == 0 || t.SerialNumber[0] > 0x7f {
		return nil, fmt.Errorf("the serial number is not a positive integer of exactly %d octets", SerialNumberSize)
	}
	if t.SignatureAlgorithm == (SignatureAlgorithm{}) {
		return nil, errors.New("the signature algorithm is missing")
	}
	issuer, rdns := cryptobyte.String(t.Issuer), cryptobyte.String(nil)
	if !issuer.ReadASN1(&rdns, asn1.SEQUENCE) || !issuer.Empty() || rdns.Empty() {
		// RFC 5280, section 4.1.2.4: the issuer's name must not be empty.
		return nil, errors.New("the issuer is not one non-empty DER name")
	}
	for _, date := range []time.Time{t.NotBefore, t.NotAfter} {
		if date.Nanosecond() != 0 {
			return nil, errors.New("the validity is not in whole seconds")
		}
		// RFC 5280, section 4.1.2.5, has no form for years outside of these.
		if year := date.UTC().Year(); year < 1950 || year > 9999 {
			return nil, errors.New("the validity is not between the years 1950 and 9999")
		}
	}
	if !t.NotAfter.After(t.NotBefore) {
		return nil, errors.New("the validity ends before it begins")
	}
	if len(t.AuthorityKeyID) == 0 {
		return nil, errors.New("the authority key identifier is missing")
	}
	if err := t.SAN.Check(); err != nil {
		return nil, err
	}
	if err := t.Extensions.Check(); err != nil {
		return nil, err
	}
	return SubjectKeyID(t.PublicKey)
}

// appendValidity appends both dates, UTC: a UTCTime until 2049 and a GeneralizedTime from 2050 on
// (RFC 5280, section 4.1.2.5).
//
//	Validity ::= SEQUENCE { notBefore Time, notAfter Time }
//	Time ::= CHOICE { utcTime UTCTime, generalTime GeneralizedTime }
func appendValidity(b []byte, dates ...time.Time) []byte {
	contents := make([]byte, 0, 2*17)
	for _, date := range dates {
		tag, layout := asn1.UTCTime, "060102150405Z"
		if date.Year() >= 2050 {
			tag, layout = asn1.GeneralizedTime, "20060102150405Z"
		}
		contents = date.AppendFormat(appendHeader(contents, tag, len(layout)), layout)
	}
	return appendElement(b, asn1.SEQUENCE, contents)
}

// appendKeyIDs appends the extensions of RFC 5280, sections 4.2.1.2 and 4.2.1.1. The authority key
// identifier holds the key identifier only.
//
//	SubjectKeyIdentifier ::= KeyIdentifier
//	KeyIdentifier ::= OCTET STRING
//	AuthorityKeyIdentifier ::= SEQUENCE { keyIdentifier [0] IMPLICIT KeyIdentifier OPTIONAL, … }
func appendKeyIDs(b []byte, subject, authority []byte) []byte {
	b = appendExtensionHeader(b, "\x06\x03\x55\x1d\x0e", false, sizeOf(len(subject)))
	b = appendElement(b, asn1.OCTET_STRING, subject)
	keyID := sizeOf(len(authority))
	b = appendExtensionHeader(b, "\x06\x03\x55\x1d\x23", false, sizeOf(keyID))
	b = appendHeader(b, asn1.SEQUENCE, keyID)
	return appendElement(b, asn1.Tag(0).ContextSpecific(), authority)
}

// Precertificate returns the TBSCertificate, DER, with the poison as its last extension.
func (t *TBS) Precertificate() []byte { return t.splice([]byte(poison)) }

// Logged returns the TBSCertificate, DER, without poison and SCT list. It is the tbs_certificate of
// the PreCert that an SCT signs (RFC 6962, section 3.2).
func (t *TBS) Logged() []byte { return t.splice(nil) }

// Certificate returns the TBSCertificate, DER, with the SCT list as its last extension. sctList is
// the SignedCertificateTimestampList in TLS encoding, its length included (RFC 6962, section 3.3).
// An empty sctList gives a certificate without that extension, only for a CA without Certificate
// Transparency.
func (t *TBS) Certificate(sctList []byte) []byte {
	if len(sctList) == 0 {
		return t.splice(nil)
	}
	last := appendExtensionHeader(make([]byte, 0, len(sctList)+40), sctListOID, false, sizeOf(len(sctList)))
	return t.splice(appendElement(last, asn1.OCTET_STRING, sctList))
}

// splice appends last to the other extensions, and puts the lengths of the three enclosing elements
// before them.
func (t *TBS) splice(last []byte) []byte {
	list := len(t.extensions) + len(last)
	explicit := sizeOf(list)
	content := len(t.head) + sizeOf(explicit)

	b := make([]byte, 0, sizeOf(content))
	b = append(appendHeader(b, asn1.SEQUENCE, content), t.head...)
	b = appendHeader(b, asn1.Tag(3).ContextSpecific().Constructed(), explicit)
	b = append(appendHeader(b, asn1.SEQUENCE, list), t.extensions...)
	return append(b, last...)
}

// Assemble returns the Certificate, DER, of a TBSCertificate, DER, and the signature over it. It
// checks nothing. With an empty sig a parser can read the result before anything is signed.
//
//	Certificate  ::=  SEQUENCE  {
//	     tbsCertificate       TBSCertificate,
//	     signatureAlgorithm   AlgorithmIdentifier,
//	     signatureValue       BIT STRING  }
func Assemble(tbs []byte, alg SignatureAlgorithm, sig []byte) []byte {
	const unusedBits = "\x00"
	bits := len(unusedBits) + len(sig)
	content := len(tbs) + len(alg.identifier) + sizeOf(bits)

	b := make([]byte, 0, sizeOf(content))
	b = append(appendHeader(b, asn1.SEQUENCE, content), tbs...)
	b = append(b, alg.identifier...)
	b = append(appendHeader(b, asn1.BIT_STRING, bits), unusedBits...)
	return append(b, sig...)
}

// SubjectKeyID returns the key identifier of a SubjectPublicKeyInfo, DER (RFC 7093, section 2,
// method 1). It is the leftmost 160 bits of the SHA-256 hash over the contents of the BIT STRING
// subjectPublicKey, without the octet of unused bits.
func SubjectKeyID(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var info, key cryptobyte.String
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() || !info.SkipASN1(asn1.SEQUENCE) ||
		!info.ReadASN1(&key, asn1.BIT_STRING) || !info.Empty() {
		return nil, errors.New("the public key is not one DER SubjectPublicKeyInfo")
	}
	var unusedBits uint8
	if !key.ReadUint8(&unusedBits) || unusedBits != 0 || key.Empty() {
		return nil, errors.New("the public key is empty, or not of whole octets")
	}
	sum := sha256.Sum256(key)
	return sum[:20:20], nil
}
