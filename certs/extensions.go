// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Extensions are the texts of sigstore's extensions in one certificate. The index is the arc; ""
// means that the certificate lacks the extension. Index 0 and 7 stay "". Two values are equal (==)
// if and only if they encode to the same bytes.
type Extensions [maxArc + 1]string

// All returns the extensions that are present, ascending by arc, with their texts.
func (e *Extensions) All() iter.Seq2[Extension, string] {
	return func(yield func(Extension, string) bool) {
		for _, extension := range table() {
			if text := e[extension.Arc]; text != "" && !yield(extension, text) {
				return
			}
		}
	}
}

// Check returns why a certificate cannot hold e; nil if it can. It refuses a text that is not UTF-8
// or holds control characters, and a text at an index that the table lacks. The error names the
// extension and never holds its text.
func (e *Extensions) Check() error {
	for i, text := range e {
		if text == "" {
			continue
		}
		if i < int(IssuerV1) || i == int(userNameArc) {
			return fmt.Errorf("there is no extension .%d", i)
		}
		if err := checkText(text, false); err != nil {
			extension, _ := find(func(e *Extension) bool { return e.Arc == Arc(i) })
			return fmt.Errorf("extension %s (.%d) %w", extension.Name, i, err)
		}
	}
	return nil
}

// sigstoreOID is an extension's OBJECT IDENTIFIER, DER, without its last arc. That arc is one octet
// for the whole table.
const sigstoreOID = "\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01"

// append appends the extensions that are present, ascending by arc, DER. e has passed Check.
func (e *Extensions) append(b []byte) []byte {
	for i, text := range e {
		if text == "" {
			continue
		}
		oid := [len(sigstoreOID) + 1]byte{len(sigstoreOID): byte(i)}
		copy(oid[:], sigstoreOID)
		if Arc(i).Raw() {
			b = append(appendExtensionHeader(b, string(oid[:]), false, len(text)), text...)
		} else {
			b = appendElement(appendExtensionHeader(b, string(oid[:]), false, sizeOf(len(text))), asn1.UTF8String, text)
		}
	}
	return b
}

// ParseExtensions returns sigstore's extensions from exts, all extensions of a certificate. It
// ignores other arcs. It is strict: what it accepts encodes again to the same bytes in the same
// order. An extension that breaks the order, or is repeated, critical, empty, or at an arc that the
// table lacks, is an error.
func ParseExtensions(exts []pkix.Extension) (Extensions, error) {
	var e Extensions
	last := Arc(0)
	for _, ext := range exts {
		if len(ext.Id) <= len(OIDSigstore) || !slices.Equal(ext.Id[:len(OIDSigstore)], OIDSigstore) {
			continue
		}
		number := ext.Id[len(OIDSigstore)]
		if len(ext.Id) != len(OIDSigstore)+1 || number < int(IssuerV1) || number > int(maxArc) || Arc(number) == userNameArc {
			return Extensions{}, fmt.Errorf("extension %s is not one of the table", ext.Id)
		}
		arc := Arc(number)
		if arc <= last || ext.Critical {
			return Extensions{}, fmt.Errorf("extension .%d follows .%d and has critical %t; they ascend, and none is critical", arc, last, ext.Critical)
		}
		text, err := parseValue(arc, ext.Value)
		if err != nil {
			return Extensions{}, fmt.Errorf("parsing extension .%d: %w", arc, err)
		}
		e[arc], last = text, arc
	}
	return e, nil
}

func parseValue(arc Arc, value []byte) (string, error) {
	if !arc.Raw() {
		in := cryptobyte.String(value)
		var text cryptobyte.String
		if !in.ReadASN1(&text, asn1.UTF8String) || !in.Empty() {
			return "", errors.New("it is not one DER UTF8String")
		}
		value = text
	}
	if err := checkText(string(value), false); err != nil {
		return "", fmt.Errorf("its text %w", err)
	}
	return string(value), nil
}
