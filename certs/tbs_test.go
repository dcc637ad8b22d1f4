// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTBSReadsBack compares every field with what crypto/x509 parses.
func TestTBSReadsBack(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for name, san := range map[string]SAN{
		"email":     {SANEmail, "Alice@Example.com"},
		"URI":       {SANURI, "https://kubernetes.io/namespaces/a/serviceaccounts/b"},
		"user name": {SANUserName, "alice!example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			template := ca.template(t)
			template.SAN = san
			c := parse(t, ca.sign(t, newTBS(t, template).Certificate(sctList)))
			if err := c.CheckSignatureFrom(ca.cert); err != nil {
				t.Error(err)
			}
			keyID, err := SubjectKeyID(template.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			type fields struct {
				Version                                 int
				Serial, Issuer, Subject, Key, SKI, AKI  string
				Algorithm                               x509.SignatureAlgorithm
				NotBefore, NotAfter                     time.Time
				KeyUsage                                x509.KeyUsage
				ExtKeyUsage                             []x509.ExtKeyUsage
				Unknown, Unhandled                      int
				BasicConstraints, CA                    bool
				DNS, Email, URIs, Policies, AIA, Points []string
				SAN                                     SAN
				Extensions                              Extensions
			}
			var uris []string
			for _, uri := range c.URIs {
				uris = append(uris, uri.String())
			}
			got := fields{
				Version: c.Version, Serial: hex.EncodeToString(c.SerialNumber.Bytes()), Issuer: string(c.RawIssuer), Subject: string(c.RawSubject),
				Key: string(c.RawSubjectPublicKeyInfo), SKI: string(c.SubjectKeyId), AKI: string(c.AuthorityKeyId),
				Algorithm: c.SignatureAlgorithm, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
				KeyUsage: c.KeyUsage, ExtKeyUsage: c.ExtKeyUsage, Unknown: len(c.UnknownExtKeyUsage), Unhandled: len(c.UnhandledCriticalExtensions),
				BasicConstraints: c.BasicConstraintsValid, CA: c.IsCA,
				DNS: c.DNSNames, Email: c.EmailAddresses, URIs: uris, AIA: append(c.OCSPServer, c.IssuingCertificateURL...), Points: c.CRLDistributionPoints,
			}
			if got.SAN, err = SANOf(c); err != nil {
				t.Error(err)
			}
			if got.Extensions, err = ParseExtensions(c.Extensions); err != nil {
				t.Error(err)
			}
			want := fields{
				Version: 3, Serial: hex.EncodeToString(template.SerialNumber), Issuer: string(ca.cert.RawSubject), Subject: "\x30\x00",
				Key: string(template.PublicKey), SKI: string(keyID), AKI: string(ca.cert.SubjectKeyId),
				Algorithm: x509.ECDSAWithSHA256, NotBefore: template.NotBefore, NotAfter: template.NotAfter,
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
				SAN: san, Extensions: template.Extensions,
			}
			switch san.Kind {
			case SANEmail:
				want.Email = []string{san.Value}
			case SANURI:
				want.URIs = []string{san.Value}
			case SANUserName:
				want.Unhandled = 1 // crypto/x509 does not parse an otherName
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestExtensionOrder(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tbs := newTBS(t, ca.template(t))
	want := []string{"2.5.29.15 critical", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.17 critical"}
	for _, e := range Table() {
		want = append(want, append(slices.Clone(OIDSigstore), int(e.Arc)).String())
	}
	for name, test := range map[string]struct {
		tbs  []byte
		last []string
	}{
		"precertificate": {tbs.Precertificate(), []string{OIDPoison.String() + " critical"}},
		"certificate":    {tbs.Certificate(sctList), []string{OIDSCTList.String()}},
		"logged":         {tbs.Logged(), nil},
		"without CT":     {tbs.Certificate(nil), nil},
	} {
		var got []string
		for _, e := range parse(t, ca.sign(t, test.tbs)).Extensions {
			id := e.Id.String()
			if e.Critical {
				id += " critical"
			}
			got = append(got, id)
		}
		if diff := cmp.Diff(append(slices.Clone(want), test.last...), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

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
