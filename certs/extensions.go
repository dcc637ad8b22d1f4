// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"iter"

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
		if !Arc(i).inTable() {
			return fmt.Errorf("there is no extension .%d", i)
		}
		if err := checkText(text); err != nil {
			extension, _ := ExtensionByArc(Arc(i))
			return fmt.Errorf("extension %s (.%d) %w", extension.Name, i, err)
		}
	}
	return nil
}

// sigstoreOID is an extension's OBJECT IDENTIFIER, DER, without its last arc. That arc is one octet
// for the whole table.
const sigstoreOID = "\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01"

// size returns the number of octets that append appends.
func (e *Extensions) size() int {
	size := 0
	for i, text := range e {
		if text != "" {
			value := valueLen(Arc(i), text)
			content := len(sigstoreOID) + 1 + headerLen(value) + value
			size += headerLen(content) + content
		}
	}
	return size
}

// append appends the extensions that are present, ascending by arc, DER. e has passed Check.
func (e *Extensions) append(b []byte) []byte {
	for i, text := range e {
		if text == "" {
			continue
		}
		arc, value := Arc(i), valueLen(Arc(i), text)
		oid := [len(sigstoreOID) + 1]byte{}
		copy(oid[:], sigstoreOID)
		oid[len(sigstoreOID)] = byte(arc)
		b = appendExtensionHeader(b, string(oid[:]), false, value)
		if !arc.raw() {
			b = appendHeader(b, asn1.UTF8String, len(text))
		}
		b = append(b, text...)
	}
	return b
}

// valueLen returns the length of the contents of extnValue for text.
func valueLen(arc Arc, text string) int {
	if arc.raw() {
		return len(text)
	}
	return headerLen(len(text)) + len(text)
}

// ParseExtensions returns sigstore's extensions from exts, all extensions of a certificate. It
// ignores other arcs. It is strict: what it accepts encodes again to the same bytes in the same
// order. An extension that breaks the order, or is repeated, critical, empty, or at an arc that the
// table lacks, is an error.
func ParseExtensions(exts []pkix.Extension) (Extensions, error) {
	var e Extensions
	last := Arc(0)
	for _, ext := range exts {
		if !hasPrefix(ext.Id, OIDSigstore) {
			continue
		}
		number := ext.Id[len(ext.Id)-1]
		if len(ext.Id) != len(OIDSigstore)+1 || number < 0 || number > int(maxArc) || !Arc(number).inTable() {
			return Extensions{}, fmt.Errorf("extension %s is not one of the table", ext.Id)
		}
		arc := Arc(number)
		if arc <= last {
			return Extensions{}, fmt.Errorf("extension .%d follows .%d, against the ascending order", arc, last)
		}
		if ext.Critical {
			return Extensions{}, fmt.Errorf("extension .%d is critical", arc)
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
	if !arc.raw() {
		in := cryptobyte.String(value)
		var text cryptobyte.String
		if !in.ReadASN1(&text, asn1.UTF8String) || !in.Empty() {
			return "", errors.New("it is not one DER UTF8String")
		}
		value = text
	}
	if err := checkText(string(value)); err != nil {
		return "", fmt.Errorf("its text %w", err)
	}
	return string(value), nil
}

// hasPrefix reports whether oid is below prefix.
func hasPrefix(oid, prefix []int) bool {
	if len(oid) <= len(prefix) {
		return false
	}
	for i, arc := range prefix {
		if oid[i] != arc {
			return false
		}
	}
	return true
}
