// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	stdasn1 "encoding/asn1"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
)

// Object identifiers of standard extensions (RFC 5280, section 4.2.1).
var (
	oidBasicConstraints = stdasn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = stdasn1.ObjectIdentifier{2, 5, 29, 30}
	oidAuthorityKeyID   = stdasn1.ObjectIdentifier{2, 5, 29, 35}
)

// compare returns how tbs differs from the certificate of the profile that t describes; nil if it does
// not. Its last extension must be the poison, or hold sctList; without both there is none.
//
// compare is a check of the encoder in package certs, and shares no code with it but SubjectKeyID and the
// identifiers of algorithms. It expects a value of every element, so it refuses each other form, order and element by construction.
func compare(tbs []byte, t *certs.Template, poisoned bool, sctList []byte) error {
	content := only(tbs, asn1.SEQUENCE)
	var serial, validity [40]byte
	elements := [...][]byte{
		[]byte("\xa0\x03\x02\x01\x02"), append(append(serial[:0], 0x02, byte(len(t.SerialNumber))), t.SerialNumber...), t.SignatureAlgorithm.Identifier(),
		t.Issuer, appendValidity(validity[:0], t.NotBefore.UTC(), t.NotAfter.UTC()), []byte("\x30\x00"), t.PublicKey,
	}
	for i, name := range [...]string{"version 3", "the expected serial number", "the authority's signature algorithm", "the authority's name as its issuer",
		"the expected validity, in its one encoding", "an empty subject", "the expected public key, in its one encoding"} {
		if !skip(&content, elements[i]) {
			return fmt.Errorf("it must have %s (RFC 5280, section 4.1.2.%d)", name, i+1)
		}
	}
	extensions := only(only(content, asn1.Tag(3).ContextSpecific().Constructed()), asn1.SEQUENCE)
	if missing := compareExtensions(extensions, t, poisoned, sctList); missing != "" {
		return fmt.Errorf("it must have extensions alone after its public key (RFC 5280, sections 4.1.2.8 and 4.1.2.9), and there %s", missing)
	}
	return nil
}

// compareExtensions returns the first extension that in, a list of extensions, lacks; "" if in is the
// expected list.
func compareExtensions(in cryptobyte.String, t *certs.Template, poisoned bool, sctList []byte) (missing string) {
	subjectKeyID, err := certs.SubjectKeyID(t.PublicKey)
	switch {
	case string(nextExtension(&in, "\x06\x03\x55\x1d\x0f", true)) != "\x03\x02\x07\x80":
		return "first the key usage digitalSignature alone, critical (RFC 5280, section 4.2.1.3)"
	case string(nextExtension(&in, "\x06\x03\x55\x1d\x25", false)) != "\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03":
		return "next the extended key usage codeSigning alone, not critical (RFC 5280, section 4.2.1.12)"
	case !bytes.Equal(only(nextExtension(&in, "\x06\x03\x55\x1d\x0e", false), asn1.OCTET_STRING), subjectKeyID) || err != nil:
		return "next the identifier of its own key, not critical (RFC 5280, section 4.2.1.2)"
	case !bytes.Equal(only(only(nextExtension(&in, "\x06\x03\x55\x1d\x23", false), asn1.SEQUENCE), asn1.Tag(0).ContextSpecific()), t.AuthorityKeyID) || len(t.AuthorityKeyID) == 0:
		return "next the authority's key identifier alone, not critical (RFC 5280, section 4.2.1.1)"
	case !isName(only(nextExtension(&in, "\x06\x03\x55\x1d\x11", true), asn1.SEQUENCE), t.SAN):
		return "next the expected subject alternative name, critical (RFC 5280, section 4.2.1.6)"
	}
	for arc, text := range t.Extensions {
		if text == "" {
			continue
		}
		claim := nextExtension(&in, "\x06\x0a"+sigstore+string(rune(arc)), false)
		if arc > lastRaw {
			claim = only(claim, asn1.UTF8String)
		}
		if string(claim) != text {
			return "next the expected claims, ascending and not critical"
		}
	}
	switch {
	case poisoned && string(nextExtension(&in, "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03", true)) != "\x05\x00":
		return "a poison that is critical and holds NULL (RFC 6962, section 3.1)"
	case len(sctList) > 0 && !bytes.Equal(only(nextExtension(&in, "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02", false), asn1.OCTET_STRING), sctList):
		return "the expected SCT list, not critical (RFC 6962, section 3.3)"
	case !in.Empty():
		return "no other extension (RFC 5280, section 4.2)"
	}
	return ""
}

const (
	sigstore = "\x2b\x06\x01\x04\x01\x83\xbf\x30\x01" // the arc of the claims
	lastRaw  = 6                                      // up to .6 the value of a claim is its text, from .8 on a UTF8String
)

// isName reports whether names, the contents of GeneralNames, is san alone.
func isName(names cryptobyte.String, san certs.SAN) bool {
	switch constructed := asn1.Tag(0).ContextSpecific().Constructed(); san.Kind {
	case certs.SANEmail:
		return string(only(names, asn1.Tag(1).ContextSpecific())) == san.Value
	case certs.SANURI:
		return string(only(names, asn1.Tag(6).ContextSpecific())) == san.Value
	case certs.SANUserName:
		name := only(names, constructed)
		return skip(&name, "\x06\x0a"+sigstore+"\x07") && string(only(only(name, constructed), asn1.UTF8String)) == san.Value
	}
	return false
}

// appendValidity appends a Validity of two times in UTC (RFC 5280, section 4.1.2.5).
func appendValidity(b []byte, times ...time.Time) []byte {
	b = append(b, 0x30, 0)
	for _, t := range times {
		layout := "\x17\x0d060102150405Z" // UTCTime
		if t.Year() >= 2050 {
			layout = "\x18\x0f20060102150405Z" // GeneralizedTime
		}
		b = t.AppendFormat(b, layout)
	}
	b[1] = byte(len(b) - 2)
	return b
}

// nextExtension returns the value of the next extension of in if it has an OBJECT IDENTIFIER, the whole
// element; otherwise nil.
func nextExtension(in *cryptobyte.String, id string, critical bool) cryptobyte.String {
	var e cryptobyte.String
	if !in.ReadASN1(&e, asn1.SEQUENCE) || !skip(&e, id) || critical && !skip(&e, "\x01\x01\xff") {
		return nil
	}
	return only(e, asn1.OCTET_STRING)
}

// only returns the contents of in if in is one element with a tag; otherwise nil.
func only(in cryptobyte.String, tag asn1.Tag) (contents cryptobyte.String) {
	if !in.ReadASN1(&contents, tag) || !in.Empty() {
		return nil
	}
	return contents
}

// skip reports whether in begins with octets, and skips them.
func skip[T string | []byte](in *cryptobyte.String, octets T) bool {
	return len(*in) >= len(octets) && string((*in)[:len(octets)]) == string(octets) && in.Skip(len(octets))
}
