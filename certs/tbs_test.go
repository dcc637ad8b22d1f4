// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"
	"time"
)

// TestSplicing: the forms share every byte before the last extension except the lengths, and
// creating one does not change another.
func TestSplicing(t *testing.T) {
	t.Parallel()
	tbs := newTBS(t, newAuthority(t).template(t))
	first := tbs.Precertificate()
	kept := bytes.Clone(first)
	for _, form := range [][]byte{tbs.Logged(), tbs.Certificate(sctList), tbs.Certificate(nil), tbs.Precertificate()} {
		if !bytes.Contains(form, tbs.head) || !bytes.Contains(form, tbs.extensions) {
			t.Error("a form lacks the common bytes")
		}
		for i := range form {
			form[i] = 0xff
		}
	}
	if !bytes.Equal(first, kept) || !bytes.Equal(tbs.Precertificate(), kept) {
		t.Error("the forms share memory")
	}
	if !bytes.Equal(tbs.Logged(), tbs.Certificate(nil)) {
		t.Error("the certificate without SCTs is not what is logged")
	}
}

func TestNewTBSRefuses(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serial := func(first byte, n int) []byte { return append([]byte{first}, make([]byte, n-1)...) }
	for name, test := range map[string]struct {
		change func(*Template)
		want   string
	}{
		"serial missing":         {func(t *Template) { t.SerialNumber = nil }, "serial number"},
		"serial of 19 octets":    {func(t *Template) { t.SerialNumber = serial(1, 19) }, "exactly 20 octets"},
		"serial of 21 octets":    {func(t *Template) { t.SerialNumber = serial(1, 21) }, "exactly 20 octets"},
		"serial zero":            {func(t *Template) { t.SerialNumber = serial(0, 20) }, "positive"},
		"serial short inside":    {func(t *Template) { t.SerialNumber[0], t.SerialNumber[1] = 0, 0x80 }, "exactly 20 octets"},
		"serial negative":        {func(t *Template) { t.SerialNumber[0] = 0x80 }, "positive"},
		"algorithm missing":      {func(t *Template) { t.SignatureAlgorithm = SignatureAlgorithm{} }, "signature algorithm"},
		"issuer missing":         {func(t *Template) { t.Issuer = nil }, "issuer"},
		"issuer empty":           {func(t *Template) { t.Issuer = []byte("\x30\x00") }, "non-empty DER name"},
		"issuer trailing":        {func(t *Template) { t.Issuer = append(slices.Clone(t.Issuer), 0) }, "issuer"},
		"issuer not a name":      {func(t *Template) { t.Issuer = []byte("\x0c\x01a") }, "issuer"},
		"NotBefore fractional":   {func(t *Template) { t.NotBefore = t.NotBefore.Add(1) }, "whole seconds"},
		"NotAfter fractional":    {func(t *Template) { t.NotAfter = t.NotAfter.Add(time.Millisecond) }, "whole seconds"},
		"validity empty":         {func(t *Template) { t.NotAfter = t.NotBefore }, "ends before it begins"},
		"validity reversed":      {func(t *Template) { t.NotBefore, t.NotAfter = t.NotAfter, t.NotBefore }, "ends before it begins"},
		"validity zero":          {func(t *Template) { t.NotBefore = time.Time{} }, "between the years"},
		"validity of 10000":      {func(t *Template) { t.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "between the years"},
		"key missing":            {func(t *Template) { t.PublicKey = nil }, "SubjectPublicKeyInfo"},
		"key trailing":           {func(t *Template) { t.PublicKey = append(slices.Clone(t.PublicKey), 0) }, "SubjectPublicKeyInfo"},
		"authority key missing":  {func(t *Template) { t.AuthorityKeyID = nil }, "authority key identifier"},
		"SAN missing":            {func(t *Template) { t.SAN = SAN{} }, "subject alternative name"},
		"SAN empty":              {func(t *Template) { t.SAN.Value = "" }, "is empty"},
		"SAN with control":       {func(t *Template) { t.SAN.Value += "\n" }, "control character"},
		"extension with control": {func(t *Template) { t.Extensions[BuildTrigger] = "a\x1b[2J" }, "BuildTrigger (.20) holds the control character U+001B"},
		"extension .7":           {func(t *Template) { t.Extensions[7] = "a" }, "no extension .7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			template := ca.template(t)
			test.change(&template)
			tbs, err := NewTBS(template)
			checkError(t, err, test.want)
			if tbs != nil {
				t.Error("returns a TBS beside the error")
			}
		})
	}
}

func TestNewSerial(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		serial := NewSerial()
		if len(serial) != SerialNumberSize || serial[0] == 0 || serial[0] > 0x7f || seen[string(serial)] {
			t.Fatalf("serial number %x", serial)
		}
		seen[string(serial)] = true
	}
}

func TestSubjectKeyID(t *testing.T) {
	t.Parallel()
	// The key is from RFC 8032, section 7.1, test 1; the hash is from openssl sha256 over its 32
	// octets.
	spki := must(hex.DecodeString("302a300506032b6570032100" + "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))(t)
	if got := must(SubjectKeyID(spki))(t); hex.EncodeToString(got) != "21fe31dfa154a261626bf854046fd2271b7bed4b" {
		t.Errorf("SubjectKeyID = %x", got)
	}
	for name, der := range map[string]string{
		"no key":      "\x30\x02\x30\x00",
		"empty key":   "\x30\x05\x30\x00\x03\x01\x00",
		"no bits":     "\x30\x04\x30\x00\x03\x00",
		"unused bits": "\x30\x06\x30\x00\x03\x02\x01\x00",
		"more inside": "\x30\x08\x30\x00\x03\x02\x00\x01\x05\x00",
		"trailing":    "\x30\x06\x30\x00\x03\x02\x00\x01\x00",
	} {
		if got, err := SubjectKeyID([]byte(der)); err == nil {
			t.Errorf("%s: SubjectKeyID = %x", name, got)
		}
	}
}

func BenchmarkNewTBS(b *testing.B) {
	template := newAuthority(b).template(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewTBS(template); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSplice(b *testing.B) {
	tbs := newTBS(b, newAuthority(b).template(b))
	b.ReportAllocs()
	for b.Loop() {
		tbs.Precertificate()
		tbs.Logged()
		tbs.Certificate(sctList)
	}
}
