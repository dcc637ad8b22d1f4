// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// SANKind is the kind of a subject alternative name. The zero value is no kind.
type SANKind uint8

// The kinds.
const (
	SANEmail    SANKind = iota + 1 // rfc822Name
	SANURI                         // uniformResourceIdentifier
	SANUserName                    // otherName 1.3.6.1.4.1.57264.1.7, "user!domain"
)

// String returns the kind's name in ASN.1; for the otherName also its meaning.
func (k SANKind) String() string {
	switch k {
	case SANEmail:
		return "rfc822Name"
	case SANURI:
		return "uniformResourceIdentifier"
	case SANUserName:
		return "otherName (user name)"
	default:
		return "invalid"
	}
}

// SAN is the one subject alternative name of a certificate. The value of a user name is
// "user!domain". Two values are equal (==) if and only if they encode to the same bytes.
type SAN struct {
	Kind  SANKind
	Value string
}

// Check returns why a certificate cannot hold s; nil if it can. s must have a kind and a value
// without control characters: ASCII for an address or URI, UTF-8 for a user name. A URI must also
// be one that crypto/x509 reads back. The error never holds the value.
func (s SAN) Check() error {
	var err error
	switch s.Kind {
	case SANEmail:
		err = checkIA5(s.Value)
	case SANURI:
		if err = checkIA5(s.Value); err == nil {
			err = checkURI(s.Value)
		}
	case SANUserName:
		err = checkText(s.Value)
	default:
		return fmt.Errorf("the subject alternative name has the unknown kind %d", s.Kind)
	}
	if err != nil {
		return fmt.Errorf("the subject alternative name, %s, %w", s.Kind, err)
	}
	return nil
}

// checkURI returns why crypto/x509 would refuse a certificate with this URI. Without this check the
// refusal comes only after the precertificate has been logged.
func checkURI(value string) error {
	uri, err := url.Parse(value)
	if err != nil {
		// The error of net/url holds the value.
		return errors.New("does not parse as a URL")
	}
	for host, more := uri.Host, uri.Host != ""; more; {
		var label string
		label, host, more = strings.Cut(host, ".")
		if label == "" {
			return errors.New("has an empty label in its host name")
		}
		for i := 0; i < len(label); i++ {
			if label[i] <= ' ' || label[i] > '~' {
				return errors.New("has a host name beyond printable ASCII")
			}
		}
	}
	return nil
}

var (
	tagOtherName  = asn1.Tag(0).ContextSpecific().Constructed()
	tagRFC822Name = asn1.Tag(1).ContextSpecific()
	tagURI        = asn1.Tag(6).ContextSpecific()
)

// appendSAN appends the subjectAltName extension. It is critical because the subject is empty (RFC
// 5280, section 4.2.1.6). s has passed Check.
//
//	SubjectAltName ::= GeneralNames
//	GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName
//	GeneralName ::= CHOICE {
//	     otherName                       [0]     OtherName,
//	     rfc822Name                      [1]     IA5String,
//	     uniformResourceIdentifier       [6]     IA5String, … }
//	OtherName ::= SEQUENCE {
//	     type-id    OBJECT IDENTIFIER,
//	     value      [0] EXPLICIT ANY DEFINED BY type-id }
//
// The value of sigstore's otherName is a UTF8String.
func appendSAN(b []byte, s SAN) []byte {
	const userNameOID = sigstoreOID + "\x07"
	text := len(s.Value)
	utf8String := headerLen(text) + text
	otherName := len(userNameOID) + headerLen(utf8String) + utf8String

	tag, name := tagURI, text
	switch s.Kind {
	case SANEmail:
		tag = tagRFC822Name
	case SANUserName:
		tag, name = tagOtherName, otherName
	}
	names := headerLen(name) + name
	b = appendExtensionHeader(b, "\x06\x03\x55\x1d\x11", true, headerLen(names)+names)
	b = appendHeader(b, asn1.SEQUENCE, names)
	b = appendHeader(b, tag, name)
	if s.Kind == SANUserName {
		b = append(b, userNameOID...)
		b = appendHeader(b, asn1.Tag(0).ContextSpecific().Constructed(), utf8String)
		b = appendHeader(b, asn1.UTF8String, text)
	}
	return append(b, s.Value...)
}

// ParseSAN returns the name in the value of a subjectAltName extension. The value must hold exactly
// one name, of a kind that mayfly issues. ParseSAN is strict: what it accepts encodes again to the
// same bytes.
func ParseSAN(der []byte) (SAN, error) {
	in := cryptobyte.String(der)
	var names, name cryptobyte.String
	var tag asn1.Tag
	if !in.ReadASN1(&names, asn1.SEQUENCE) || !in.Empty() || !names.ReadAnyASN1(&name, &tag) {
		return SAN{}, errors.New("the subject alternative name is not a DER sequence of at least one name")
	}
	if !names.Empty() {
		return SAN{}, errors.New("the subject alternative name holds more than one name")
	}
	var s SAN
	switch tag {
	case tagRFC822Name:
		s = SAN{SANEmail, string(name)}
	case tagURI:
		s = SAN{SANURI, string(name)}
	case tagOtherName:
		text, err := parseUserName(name)
		if err != nil {
			return SAN{}, err
		}
		s = SAN{SANUserName, text}
	default:
		return SAN{}, fmt.Errorf("the subject alternative name has the tag %#x, which is neither rfc822Name, URI nor otherName", uint8(tag))
	}
	if err := s.Check(); err != nil {
		return SAN{}, err
	}
	return s, nil
}

func parseUserName(otherName cryptobyte.String) (string, error) {
	var typeID, value, text cryptobyte.String
	if !otherName.ReadASN1Element(&typeID, asn1.OBJECT_IDENTIFIER) ||
		!otherName.ReadASN1(&value, asn1.Tag(0).ContextSpecific().Constructed()) || !otherName.Empty() {
		return "", errors.New("the otherName is not an identifier and a value in DER")
	}
	if string(typeID) != sigstoreOID+"\x07" {
		return "", fmt.Errorf("the otherName is not of type %s", OIDUserName)
	}
	if !value.ReadASN1(&text, asn1.UTF8String) || !value.Empty() {
		return "", errors.New("the otherName does not hold one DER UTF8String")
	}
	return string(text), nil
}

// SANOf returns the one subject alternative name of c.
func SANOf(c *x509.Certificate) (SAN, error) {
	var der []byte
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(OIDSubjectAltName) {
			continue
		}
		if der != nil {
			return SAN{}, errors.New("the certificate has two subjectAltName extensions")
		}
		der = ext.Value
	}
	if der == nil {
		return SAN{}, errors.New("the certificate has no subjectAltName extension")
	}
	return ParseSAN(der)
}
