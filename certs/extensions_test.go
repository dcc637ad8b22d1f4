// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509/pkix"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// readExtensions parses consecutive DER extensions, strictly.
func readExtensions(der []byte) (exts []pkix.Extension, ok bool) {
	in := cryptobyte.String(der)
	for !in.Empty() {
		var e pkix.Extension
		var ext, value cryptobyte.String
		if !in.ReadASN1(&ext, cryptobyte_asn1.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&e.Id) {
			return nil, false
		}
		if ext.PeekASN1Tag(cryptobyte_asn1.BOOLEAN) && (!ext.ReadASN1Boolean(&e.Critical) || !e.Critical) {
			return nil, false
		}
		if !ext.ReadASN1(&value, cryptobyte_asn1.OCTET_STRING) || !ext.Empty() {
			return nil, false
		}
		e.Value = value
		exts = append(exts, e)
	}
	return exts, true
}

func TestExtensionsCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		arc  Arc
		text string
		want string // part of the error; "" for none
	}{
		"plain":         {BuildTrigger, "push", ""},
		"beyond ASCII":  {GithubWorkflowName, "Zürich 世界 👩‍💻", ""},
		"non-character": {GithubWorkflowName, "\ufffd", ""},
		"newline":       {GithubWorkflowName, "a\nb", "GithubWorkflowName (.4) holds the control character U+000A at byte 1"},
		"NUL":           {TokenSubject, "\x00", "TokenSubject (.24) holds the control character U+0000"},
		"DEL":           {TokenSubject, "a\x7f", "U+007F"},
		"C1":            {TokenSubject, "a\u0085", "U+0085"},
		"not UTF-8":     {TokenSubject, "ab\xff", "is not UTF-8"},
		"cut short":     {TokenSubject, "ab\xe4\xb8", "is not UTF-8"},
		"surrogate":     {TokenSubject, "\xed\xa0\x80", "is not UTF-8"},
		"arc 0":         {0, "x", "there is no extension .0"},
		"arc 7":         {7, "x", "there is no extension .7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var e Extensions
			e[test.arc] = test.text
			checkError(t, e.Check(), test.want)
		})
	}
}

func TestParseExtensions(t *testing.T) {
	t.Parallel()
	want := full()
	exts, ok := readExtensions(want.append(nil))
	if !ok {
		t.Fatal("cannot read what was encoded")
	}
	// Extensions of other arcs are ignored at every position.
	exts = append(exts, pkix.Extension{Id: OIDSCTList, Value: []byte{4, 0}}, pkix.Extension{Id: OIDSigstore})
	exts = slices.Insert(exts, 3, pkix.Extension{Id: OIDSubjectAltName, Critical: true})
	got, err := ParseExtensions(exts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseExtensionsIsStrict(t *testing.T) {
	t.Parallel()
	ext := func(value string, arcs ...int) pkix.Extension {
		return pkix.Extension{Id: append(slices.Clone(OIDSigstore), arcs...), Value: []byte(value)}
	}
	critical := ext("a", 1)
	critical.Critical = true
	for name, test := range map[string]struct {
		exts []pkix.Extension
		want string
	}{
		"critical":            {[]pkix.Extension{critical}, "none is critical"},
		"twice":               {[]pkix.Extension{ext("a", 1), ext("a", 1)}, ".1 follows .1"},
		"descending":          {[]pkix.Extension{ext("a", 2), ext("a", 1)}, ".1 follows .2"},
		"the user name's arc": {[]pkix.Extension{ext("a", 7)}, "57264.1.7 is not one of the table"},
		"arc 0":               {[]pkix.Extension{ext("a", 0)}, "not one of the table"},
		"arc 25":              {[]pkix.Extension{ext("\x0c\x01a", 25)}, "57264.1.25 is not one of the table"},
		"arc 257":             {[]pkix.Extension{ext("a", 257)}, "57264.1.257 is not one of the table"},
		"below an arc":        {[]pkix.Extension{ext("a", 1, 1)}, "57264.1.1.1 is not one of the table"},
		"empty raw":           {[]pkix.Extension{ext("", 1)}, "its text is empty"},
		"empty string":        {[]pkix.Extension{ext("\x0c\x00", 8)}, "its text is empty"},
		"raw in .8":           {[]pkix.Extension{ext("https://a.example", 8)}, "not one DER UTF8String"},
		"IA5String":           {[]pkix.Extension{ext("\x16\x01a", 8)}, "not one DER UTF8String"},
		"trailing":            {[]pkix.Extension{ext("\x0c\x01aa", 8)}, "not one DER UTF8String"},
		"long-form length":    {[]pkix.Extension{ext("\x0c\x81\x01a", 8)}, "not one DER UTF8String"},
		"DER in .1":           {[]pkix.Extension{ext("\x0c\x01a", 1)}, "control character"},
		"not UTF-8":           {[]pkix.Extension{ext("\x0c\x01\xff", 8)}, "not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseExtensions(test.exts)
			checkError(t, err, test.want)
			if got != (Extensions{}) {
				t.Errorf("returns %v beside the error", got)
			}
		})
	}
}

// FuzzParseExtensions: what parses encodes again to the same bytes.
func FuzzParseExtensions(f *testing.F) {
	e := full()
	f.Add(e.append(nil))
	f.Add([]byte("\x30\x13\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x08\x04\x05\x0c\x03abc"))
	f.Add([]byte("\x30\x13\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x08\x04\x05\x0c\x81\x02ab"))
	f.Fuzz(func(t *testing.T, der []byte) {
		exts, ok := readExtensions(der)
		if !ok {
			return
		}
		for _, ext := range exts {
			if len(ext.Id) <= len(OIDSigstore) || !slices.Equal(ext.Id[:len(OIDSigstore)], OIDSigstore) {
				return
			}
		}
		e, err := ParseExtensions(exts)
		if err != nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Fatalf("accepted, but would not be written: %v", err)
		}
		if got := e.append(nil); !bytes.Equal(got, der) {
			t.Fatalf("%x came back as %x", der, got)
		}
	})
}
