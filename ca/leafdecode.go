// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
)

// variable is what differs between two certificates of one authority.
type variable struct {
	serialNumber        []byte
	notBefore, notAfter time.Time
	publicKey           []byte
	san                 certs.SAN
	extensions          certs.Extensions
	poison              bool
	sctList             []byte // nil if there is none
}

// decodeTBS decodes from tbs the input of certs.NewTBS. It ignores all other content, and most
// errors. Its caller encodes the result again and compares (LeafPolicy.admit). There a misread
// value is only another encoding.
//
//	TBSCertificate  ::=  SEQUENCE  {
//	     version         [0]  EXPLICIT Version DEFAULT v1,
//	     serialNumber         CertificateSerialNumber,
//	     signature            AlgorithmIdentifier,
//	     issuer               Name,
//	     validity             Validity,
//	     subject              Name,
//	     subjectPublicKeyInfo SubjectPublicKeyInfo,
//	     …
//	     extensions      [3]  EXPLICIT Extensions OPTIONAL }
func decodeTBS(tbs []byte) (*variable, error) {
	var (
		v                                                   = new(variable)
		in                                                  = cryptobyte.String(tbs)
		content, serial, validity, key, explicit, exts, ext cryptobyte.String
	)
	if !in.ReadASN1(&content, asn1.SEQUENCE) ||
		!content.SkipASN1(asn1.Tag(0).ContextSpecific().Constructed()) ||
		!content.ReadASN1(&serial, asn1.INTEGER) ||
		!content.SkipASN1(asn1.SEQUENCE) || // signature
		!content.SkipASN1(asn1.SEQUENCE) || // issuer
		!content.ReadASN1(&validity, asn1.SEQUENCE) ||
		!readTime(&validity, &v.notBefore) || !readTime(&validity, &v.notAfter) ||
		!content.SkipASN1(asn1.SEQUENCE) || // subject
		!content.ReadASN1Element(&key, asn1.SEQUENCE) ||
		!content.ReadASN1(&explicit, asn1.Tag(3).ContextSpecific().Constructed()) ||
		!explicit.ReadASN1(&exts, asn1.SEQUENCE) {
		return nil, errors.New("its fields are not those of a TBSCertificate of version 3 in DER (RFC 5280, section 4.1)")
	}
	v.serialNumber, v.publicKey = serial, key
	for !exts.Empty() {
		if !exts.ReadASN1(&ext, asn1.SEQUENCE) {
			return nil, errors.New("its extensions are not a row of DER sequences (RFC 5280, section 4.2)")
		}
		if err := v.decodeExtension(ext); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// readTime reads a Time (RFC 5280, section 4.1.2.5).
func readTime(in *cryptobyte.String, t *time.Time) bool {
	if in.PeekASN1Tag(asn1.UTCTime) {
		return in.ReadASN1UTCTime(t)
	}
	return in.ReadASN1GeneralizedTime(t)
}

// Object identifiers, DER.
const (
	derSubjectAltName = "\x06\x03\x55\x1d\x11"
	derPoison         = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
	derSCTList        = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
	derSigstore       = "\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01" // and one octet for the arc
)

// decodeExtension reads one
//
//	Extension  ::=  SEQUENCE  {
//	     extnID      OBJECT IDENTIFIER,
//	     critical    BOOLEAN DEFAULT FALSE,
//	     extnValue   OCTET STRING }
func (v *variable) decodeExtension(ext cryptobyte.String) (err error) {
	var id, value cryptobyte.String
	if !ext.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER) || !ext.SkipOptionalASN1(asn1.BOOLEAN) || !ext.ReadASN1(&value, asn1.OCTET_STRING) {
		return errors.New("it has an extension that is not an identifier and a value in DER (RFC 5280, section 4.2)")
	}
	switch string(id) {
	case derSubjectAltName:
		if v.san, err = certs.ParseSAN(value); err != nil {
			return fmt.Errorf("reading its one name (RFC 5280, section 4.2.1.6): %w", err)
		}
	case derPoison:
		v.poison = true
	case derSCTList:
		// RFC 6962, section 3.3: an OCTET STRING inside the extension's own.
		var list cryptobyte.String
		if !value.ReadASN1(&list, asn1.OCTET_STRING) || list.Empty() {
			return errors.New("its SCT list is not one OCTET STRING with a list in it (RFC 6962, section 3.3)")
		}
		v.sctList = list
	default:
		v.decodeClaim(string(id), value)
	}
	return nil
}

// decodeClaim decodes an extension of sigstore's arc; it ignores other extensions.
func (v *variable) decodeClaim(id string, value cryptobyte.String) {
	last, claim := strings.CutPrefix(id, derSigstore)
	if !claim || len(last) != 1 || int(last[0]) >= len(v.extensions) {
		return
	}
	if arc := certs.Arc(last[0]); arc > certs.GithubWorkflowRef {
		var text cryptobyte.String
		if !value.ReadASN1(&text, asn1.UTF8String) {
			return
		}
		value = text
	}
	v.extensions[last[0]] = string(value)
}
