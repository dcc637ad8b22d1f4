// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
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
		err = checkText(s.Value, true)
	case SANURI:
		if err = checkText(s.Value, true); err == nil {
			err = checkURI(s.Value)
		}
	case SANUserName:
		err = checkText(s.Value, false)
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
	unprintable := func(r rune) bool { return r <= ' ' || r > '~' }
	for label := range strings.SplitSeq(uri.Host, ".") {
		if uri.Host != "" && (label == "" || strings.ContainsFunc(label, unprintable)) {
			return errors.New("has a host name with an empty label, or beyond printable ASCII")
		}
	}
	return nil
}

var (
	tagOtherName      = asn1.Tag(0).ContextSpecific().Constructed()
	tagOtherNameValue = asn1.Tag(0).ContextSpecific().Constructed()
	tagRFC822Name     = asn1.Tag(1).ContextSpecific()
	tagURI            = asn1.Tag(6).ContextSpecific()
)

const userNameOID = sigstoreOID + "\x07"

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
	text := sizeOf(len(s.Value))
	otherName := len(userNameOID) + sizeOf(text)
	names, tag := text, tagURI
	switch s.Kind {
	case SANEmail:
		tag = tagRFC822Name
	case SANUserName:
		names = sizeOf(otherName)
	}
	b = appendExtensionHeader(b, "\x06\x03\x55\x1d\x11", true, sizeOf(names))
	b = appendHeader(b, asn1.SEQUENCE, names)
	if s.Kind != SANUserName {
		return appendElement(b, tag, s.Value)
	}
	b = append(appendHeader(b, tagOtherName, otherName), userNameOID...)
	return appendElement(appendHeader(b, tagOtherNameValue, text), asn1.UTF8String, s.Value)
}

// SANOf returns the one subject alternative name of c, of a kind that mayfly issues. It is strict:
// what it accepts encodes again to the same bytes.
func SANOf(c *x509.Certificate) (SAN, error) {
	// crypto/x509 refuses two extensions with one OID.
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(OIDSubjectAltName) })
	if i < 0 {
		return SAN{}, errors.New("the certificate has no subjectAltName extension")
	}
	in := cryptobyte.String(c.Extensions[i].Value)
	var names, name cryptobyte.String
	var tag asn1.Tag
	if !in.ReadASN1(&names, asn1.SEQUENCE) || !in.Empty() || !names.ReadAnyASN1(&name, &tag) || !names.Empty() {
		return SAN{}, errors.New("the subject alternative name is not a DER sequence of one name")
	}
	var s SAN
	switch tag {
	case tagRFC822Name:
		s = SAN{SANEmail, string(name)}
	case tagURI:
		s = SAN{SANURI, string(name)}
	case tagOtherName:
		var value, text cryptobyte.String
		if !bytes.HasPrefix(name, []byte(userNameOID)) || !name.Skip(len(userNameOID)) || !name.ReadASN1(&value, tagOtherNameValue) || !name.Empty() ||
			!value.ReadASN1(&text, asn1.UTF8String) || !value.Empty() {
			return SAN{}, fmt.Errorf("the otherName is not one DER UTF8String of the type %s", OIDUserName)
		}
		s = SAN{SANUserName, string(text)}
	default:
		return SAN{}, fmt.Errorf("the subject alternative name has the tag %#x, which is neither rfc822Name, URI nor otherName", uint8(tag))
	}
	if err := s.Check(); err != nil {
		return SAN{}, err
	}
	return s, nil
}
