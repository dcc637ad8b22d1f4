// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// poisonExtension is the whole poison extension: its OID 1.3.6.1.4.1.11129.2.4.3, critical,
// and NULL (RFC 6962, section 3.1).
const poisonExtension = "\x30\x13\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03\x01\x01\xff\x04\x02\x05\x00"

// withoutPoison returns a TBSCertificate, DER, without its poison extension: the form that an
// SCT covers. It keeps all else byte for byte, and reports whether there was a poison.
//
//	TBSCertificate ::= SEQUENCE {              RFC 5280, section 4.1
//	    …                                      (kept)
//	    extensions [3] EXPLICIT Extensions OPTIONAL }
//	Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension
func withoutPoison(der []byte) (tbs []byte, poisoned bool, err error) {
	var (
		input, fields cryptobyte.String = der, nil
		tag                             = asn1.Tag(3).Constructed().ContextSpecific()
		kept          []byte
	)
	if !input.ReadASN1(&fields, asn1.SEQUENCE) || !input.Empty() {
		return nil, false, errTBS
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(der)))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for !fields.Empty() {
			if !fields.PeekASN1Tag(tag) {
				var field cryptobyte.String
				var any asn1.Tag
				if !fields.ReadAnyASN1Element(&field, &any) {
					b.SetError(errTBS)
					return
				}
				b.AddBytes(field)
				continue
			}
			var wrapped cryptobyte.String
			if !fields.ReadASN1(&wrapped, tag) || !fields.Empty() {
				b.SetError(errTBS)
				return
			}
			if kept, poisoned, err = dropPoison(wrapped); err != nil {
				b.SetError(err)
				return
			}
			if len(kept) > 0 {
				b.AddASN1(tag, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(kept) })
				})
			}
		}
	})
	tbs, err = b.Bytes()
	return tbs, poisoned, err
}

// dropPoison returns a list's extensions without the poison, of which there may be one.
func dropPoison(list cryptobyte.String) (kept []byte, poisoned bool, err error) {
	var extensions cryptobyte.String
	if !list.ReadASN1(&extensions, asn1.SEQUENCE) || !list.Empty() {
		return nil, false, errTBS
	}
	for !extensions.Empty() {
		var extension cryptobyte.String
		if !extensions.ReadASN1Element(&extension, asn1.SEQUENCE) {
			return nil, false, errTBS
		}
		if !bytes.Equal(extension, []byte(poisonExtension)) {
			kept = append(kept, extension...)
			continue
		}
		if poisoned {
			return nil, false, errTBS
		}
		poisoned = true
	}
	return kept, poisoned, nil
}

var errTBS = errors.New("the TBSCertificate is malformed")
