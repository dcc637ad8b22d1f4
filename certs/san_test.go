// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
)

// sanValue returns the value of the extension that holds s.
func sanValue(t testing.TB, s SAN) []byte {
	t.Helper()
	exts, ok := readExtensions(appendSAN(nil, s))
	if !ok || len(exts) != 1 || !exts[0].Critical || !exts[0].Id.Equal(OIDSubjectAltName) {
		t.Fatalf("not one critical SAN: %x", appendSAN(nil, s))
	}
	return exts[0].Value
}

func parseSAN(der []byte) (SAN, error) {
	return SANOf(&x509.Certificate{Extensions: []pkix.Extension{{Id: OIDSCTList}, {Id: OIDSubjectAltName, Critical: true, Value: der}}})
}

func TestSANLengths(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 100, 110, 120, 126, 127, 128, 240, 255, 256, 65_535, 65_536} {
		for _, kind := range []SANKind{SANEmail, SANURI, SANUserName} {
			want := SAN{kind, strings.Repeat("a", n)}
			if got, err := parseSAN(sanValue(t, want)); err != nil || got != want {
				t.Errorf("%v of %d octets came back as %d octets, %v", kind, n, len(got.Value), err)
			}
		}
	}
}

func TestSANCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		san  SAN
		want string
	}{
		"no kind":                {SAN{0, "a@b.cd"}, "unknown kind 0"},
		"unknown kind":           {SAN{4, "a@b.cd"}, "unknown kind 4"},
		"empty email":            {SAN{SANEmail, ""}, "rfc822Name, is empty"},
		"empty URI":              {SAN{SANURI, ""}, "uniformResourceIdentifier, is empty"},
		"empty user name":        {SAN{SANUserName, ""}, "otherName (user name), is empty"},
		"email beyond ASCII":     {SAN{SANEmail, "ü@b.cd"}, "beyond ASCII at byte 0"},
		"email with control":     {SAN{SANEmail, "a\x00@b.cd"}, "U+0000"},
		"URI beyond ASCII":       {SAN{SANURI, "https://ü"}, "beyond ASCII at byte 8"},
		"URI with control":       {SAN{SANURI, "https://a\x7f"}, "U+007F"},
		"URI not UTF-8":          {SAN{SANURI, "https://a/\xff"}, "not UTF-8"},
		"URI with a bad escape":  {SAN{SANURI, "https://a%zz/secret"}, "does not parse"},
		"URI with empty label":   {SAN{SANURI, "https://a..b/"}, "empty label"},
		"URI with dot at end":    {SAN{SANURI, "https://a.b./"}, "empty label"},
		"URI with dot in front":  {SAN{SANURI, "https://.b/"}, "empty label"},
		"URI with escaped space": {SAN{SANURI, "https://a%20b/"}, "does not parse"},
		"user name with control": {SAN{SANUserName, "a\u0085!b"}, "U+0085"},
		"user name not UTF-8":    {SAN{SANUserName, "a\xff!b"}, "not UTF-8"},
		"user name beyond ASCII": {SAN{SANUserName, "ü!b"}, ""},
		"URI with port":          {SAN{SANURI, "https://a.example:8443/x//y/../z?q=%2F"}, ""},
		"URI without host":       {SAN{SANURI, "urn:example:a"}, ""},
		"SPIFFE ID":              {SAN{SANURI, "spiffe://domain/ns/default"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.san.Check()
			checkError(t, err, test.want)
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds the value: %v", err)
			}
		})
	}
}

func TestSANOfIsStrict(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ der, want string }{
		"nothing":             {"", "one name"},
		"no name":             {"\x30\x00", "one name"},
		"two names":           {"\x30\x06\x81\x01a\x81\x01b", "one name"},
		"trailing":            {"\x30\x03\x81\x01a\x00", "one name"},
		"long-form length":    {"\x30\x81\x03\x81\x01a", "one name"},
		"indefinite length":   {"\x30\x80\x81\x01a\x00\x00", "one name"},
		"DNS name":            {"\x30\x03\x82\x01a", "tag 0x82"},
		"constructed email":   {"\x30\x03\xa1\x01a", "tag 0xa1"},
		"primitive otherName": {"\x30\x03\x80\x01a", "tag 0x80"},
		"empty email":         {"\x30\x02\x81\x00", "is empty"},
		"another otherName":   {"\x30\x13\xa0\x11\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03\xa0\x03\x0c\x01a", "otherName"},
		"arc 8 as otherName":  {"\x30\x13\xa0\x11\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x08\xa0\x03\x0c\x01a", "otherName"},
		"IA5String inside":    {"\x30\x13\xa0\x11\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x07\xa0\x03\x16\x01a", "otherName"},
		"two strings inside":  {"\x30\x16\xa0\x14\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x07\xa0\x06\x0c\x01a\x0c\x01a", "otherName"},
		"value missing":       {"\x30\x0e\xa0\x0c\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x07", "otherName"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseSAN([]byte(test.der))
			checkError(t, err, test.want)
			if got != (SAN{}) {
				t.Errorf("returns %v beside the error", got)
			}
		})
	}
}

// FuzzSANOf: what parses encodes again to the same bytes.
func FuzzSANOf(f *testing.F) {
	for _, san := range []SAN{{SANEmail, "a@b.cd"}, {SANURI, "https://a.example/b"}, {SANUserName, "é!b.c"}} {
		f.Add(sanValue(f, san))
	}
	f.Add([]byte("\x30\x06\x81\x01a\x81\x01b"))
	f.Fuzz(func(t *testing.T, der []byte) {
		san, err := parseSAN(der)
		if err != nil {
			return
		}
		if err := san.Check(); err != nil {
			t.Fatalf("accepted, but would not be written: %v", err)
		}
		if got := sanValue(t, san); !bytes.Equal(got, der) {
			t.Fatalf("%x came back as %x", der, got)
		}
	})
}

// FuzzTBS: what Check accepts reads back the same from a certificate that crypto/x509 parses.
func FuzzTBS(f *testing.F) {
	f.Add(uint8(1), "a@b.cd", "push", uint8(24), "subject")
	f.Add(uint8(2), "https://a.example:8443/b%20c?d#e", "", uint8(7), "a\nb")
	f.Add(uint8(2), "https://[::1%25eth0]:1/", "Grüße", uint8(9), strings.Repeat("x", 300))
	f.Add(uint8(3), "é!b.c", "", uint8(0), "")
	ca := newAuthority(f)
	template := ca.template(f)
	f.Fuzz(func(t *testing.T, kind uint8, value, raw string, arc uint8, text string) {
		template := template
		template.SAN, template.Extensions = SAN{SANKind(kind), value}, Extensions{GithubWorkflowName: raw}
		template.Extensions[int(arc)%len(template.Extensions)] = text
		tbs, err := NewTBS(template)
		if refused := template.SAN.Check() != nil || template.Extensions.Check() != nil; refused != (err != nil) {
			t.Fatalf("Check refuses: %v; NewTBS: %v", refused, err)
		}
		if err != nil {
			return
		}
		c := must(x509.ParseCertificate(Assemble(tbs.Logged(), template.SignatureAlgorithm, nil)))(t)
		if got, err := SANOf(c); err != nil || got != template.SAN {
			t.Fatalf("%q came back as %q, %v", template.SAN, got, err)
		}
		if got, err := ParseExtensions(c.Extensions); err != nil || got != template.Extensions {
			t.Fatalf("%q came back as %q, %v", template.Extensions, got, err)
		}
	})
}
