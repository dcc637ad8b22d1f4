// SPDX-License-Identifier: Apache-2.0

package correspond_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/certs/correspond"
)

// certificate is a Certificate for encoding/asn1, so that tests can change one field of it at a
// time.
type certificate struct {
	TBS       tbsCertificate
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type tbsCertificate struct {
	Version         int `asn1:"optional,explicit,default:0,tag:0"`
	Serial          asn1.RawValue
	Signature       pkix.AlgorithmIdentifier
	Issuer          asn1.RawValue
	Validity        asn1.RawValue
	Subject         asn1.RawValue
	PublicKey       asn1.RawValue
	IssuerUniqueID  asn1.BitString   `asn1:"optional,tag:1"`
	SubjectUniqueID asn1.BitString   `asn1:"optional,tag:2"`
	Extensions      []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

var sctList = []byte{0, 5, 0, 3, 1, 2, 3}

// pair returns a precertificate and its certificate, without signatures.
func pair(t testing.TB) (pre, cert []byte) {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	alg, err := certs.SignatureAlgorithmFor(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := asn1.Marshal(pkix.Name{CommonName: "mayfly"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	template := certs.Template{
		SerialNumber:       bytes.Repeat([]byte{1}, certs.SerialNumberSize),
		SignatureAlgorithm: alg,
		Issuer:             issuer,
		NotBefore:          time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		NotAfter:           time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC),
		PublicKey:          spki,
		AuthorityKeyID:     []byte("authority"),
		SAN:                certs.SAN{Kind: certs.SANEmail, Value: "alice@example.com"},
	}
	template.Extensions[certs.IssuerV1] = "https://issuer.example"
	template.Extensions[certs.IssuerV2] = "https://issuer.example"
	tbs, err := certs.NewTBS(template)
	if err != nil {
		t.Fatal(err)
	}
	return certs.Assemble(tbs.Precertificate(), alg, []byte("one signature")), certs.Assemble(tbs.Certificate(sctList), alg, nil)
}

// change returns der after f has changed it.
func change(t *testing.T, der []byte, f func(*certificate)) []byte {
	t.Helper()
	var c certificate
	if rest, err := asn1.Unmarshal(der, &c); err != nil || len(rest) != 0 {
		t.Fatalf("unmarshalling: %v", err)
	}
	f(&c)
	changed, err := asn1.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func TestCheck(t *testing.T) {
	t.Parallel()
	pre, cert := pair(t)
	if err := correspond.Check(pre, cert); err != nil {
		t.Error(err)
	}
	// The helper that applies the mutations below changes nothing itself.
	nothing := func(*certificate) {}
	if !bytes.Equal(change(t, pre, nothing), pre) || !bytes.Equal(change(t, cert, nothing), cert) {
		t.Fatal("decoding and encoding changes a certificate")
	}
}

// lastByte returns raw with its last byte changed.
func lastByte(raw asn1.RawValue) asn1.RawValue {
	full := bytes.Clone(raw.FullBytes)
	full[len(full)-1] ^= 1
	return asn1.RawValue{FullBytes: full}
}

func at(exts []pkix.Extension, id asn1.ObjectIdentifier) int {
	return slices.IndexFunc(exts, func(e pkix.Extension) bool { return e.Id.Equal(id) })
}

// TestCheckFindsOneChange applies each change to the certificate, then to the precertificate
// instead.
func TestCheckFindsOneChange(t *testing.T) {
	t.Parallel()
	pre, cert := pair(t)
	other := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}}
	for name, test := range map[string]struct {
		change func(*certificate)
		want   string
	}{
		"version 2":               {func(c *certificate) { c.TBS.Version = 1 }, "version 3"},
		"version 1":               {func(c *certificate) { c.TBS.Version = 0 }, "version 3"},
		"serial number":           {func(c *certificate) { c.TBS.Serial = lastByte(c.TBS.Serial) }, "serial number"},
		"inner algorithm":         {func(c *certificate) { c.TBS.Signature = other }, "differs from the one inside"},
		"outer algorithm":         {func(c *certificate) { c.Algorithm = other }, "differs from the one inside"},
		"both algorithms":         {func(c *certificate) { c.TBS.Signature, c.Algorithm = other, other }, "signature algorithm"},
		"issuer":                  {func(c *certificate) { c.TBS.Issuer = lastByte(c.TBS.Issuer) }, "issuer"},
		"validity":                {func(c *certificate) { c.TBS.Validity = lastByte(c.TBS.Validity) }, "validity"},
		"subject":                 {func(c *certificate) { c.TBS.Subject = c.TBS.Issuer }, "subject"},
		"public key":              {func(c *certificate) { c.TBS.PublicKey = lastByte(c.TBS.PublicKey) }, "public key"},
		"issuer unique ID":        {func(c *certificate) { c.TBS.IssuerUniqueID = asn1.BitString{Bytes: []byte{1}, BitLength: 8} }, "unique identifier"},
		"subject unique ID":       {func(c *certificate) { c.TBS.SubjectUniqueID = asn1.BitString{Bytes: []byte{1}, BitLength: 8} }, "unique identifier"},
		"extension's value":       {func(c *certificate) { c.TBS.Extensions[2].Value[5] ^= 1 }, "extension 3"},
		"extension's criticality": {func(c *certificate) { c.TBS.Extensions[1].Critical = true }, "extension 2"},
		"extension's identifier":  {func(c *certificate) { c.TBS.Extensions[1].Id = asn1.ObjectIdentifier{2, 5, 29, 38} }, "extension 2"},
		"extensions' order": {func(c *certificate) {
			c.TBS.Extensions[5], c.TBS.Extensions[6] = c.TBS.Extensions[6], c.TBS.Extensions[5]
		}, "extension 6"},
		"extension more": {func(c *certificate) {
			c.TBS.Extensions = append(c.TBS.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}})
		}, "extensions beside"},
		"extension less": {func(c *certificate) { c.TBS.Extensions = slices.Delete(c.TBS.Extensions, 0, 1) }, "extensions beside"},
		"no extensions":  {func(c *certificate) { c.TBS.Extensions = nil }, "extensions are missing"},
		"poison and SCT list": {func(c *certificate) {
			c.TBS.Extensions = append(c.TBS.Extensions, pkix.Extension{Id: certs.OIDPoison, Critical: true, Value: []byte{5, 0}},
				pkix.Extension{Id: certs.OIDSCTList, Value: append([]byte{4, byte(len(sctList))}, sctList...)})
		}, "change places"},
		"last extension twice": {func(c *certificate) {
			c.TBS.Extensions = append(c.TBS.Extensions, c.TBS.Extensions[len(c.TBS.Extensions)-1])
		}, "2 times"},
		"last extension missing": {func(c *certificate) {
			c.TBS.Extensions = c.TBS.Extensions[:len(c.TBS.Extensions)-1]
		}, "0 times"},
		"last extension's criticality": {func(c *certificate) {
			last := &c.TBS.Extensions[len(c.TBS.Extensions)-1]
			last.Critical = !last.Critical
		}, "critical"},
		"last extension's value": {func(c *certificate) {
			c.TBS.Extensions[len(c.TBS.Extensions)-1].Value = []byte{5, 0, 0}
		}, "it is not"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkError(t, correspond.Check(pre, change(t, cert, test.change)), test.want)
			checkError(t, correspond.Check(change(t, pre, test.change), cert), test.want)
		})
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", want)
	} else if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want one with %q", err, want)
	}
}

func TestCheckSCTList(t *testing.T) {
	t.Parallel()
	pre, cert := pair(t)
	for name, test := range map[string]struct{ value, want string }{
		"two SCTs":             {"\x04\x08\x00\x06\x00\x01a\x00\x01b", ""},
		"no OCTET STRING":      {string(sctList), "OCTET STRING"},
		"trailing":             {"\x04\x05\x00\x03\x00\x01a\x00", "OCTET STRING"},
		"trailing inside":      {"\x04\x06\x00\x03\x00\x01a\x00", "one list"},
		"empty list":           {"\x04\x02\x00\x00", "one list"},
		"nothing":              {"\x04\x00", "one list"},
		"empty SCT":            {"\x04\x04\x00\x02\x00\x00", "not an SCT"},
		"SCT longer than list": {"\x04\x05\x00\x03\x00\x02a", "not an SCT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := change(t, cert, func(c *certificate) {
				c.TBS.Extensions[at(c.TBS.Extensions, certs.OIDSCTList)].Value = []byte(test.value)
			})
			err := correspond.Check(pre, changed)
			if test.want != "" {
				checkError(t, err, test.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCheckPlaceOfThePoison: RFC 6962 does not fix the place of the poison and the SCT list.
func TestCheckPlaceOfThePoison(t *testing.T) {
	t.Parallel()
	pre, cert := pair(t)
	moved := change(t, pre, func(c *certificate) {
		i := at(c.TBS.Extensions, certs.OIDPoison)
		poison := c.TBS.Extensions[i]
		c.TBS.Extensions = slices.Insert(slices.Delete(c.TBS.Extensions, i, i+1), 0, poison)
	})
	if err := correspond.Check(moved, cert); err != nil {
		t.Error(err)
	}
}

func TestCheckRefusesWhatIsNotDER(t *testing.T) {
	t.Parallel()
	pre, cert := pair(t)
	_, stranger := pair(t)
	for name, test := range map[string]struct {
		pre, cert []byte
		want      string
	}{
		"nothing":             {nil, nil, "parsing the precertificate"},
		"no certificate":      {pre, nil, "parsing the certificate"},
		"two precertificates": {pre, pre, "change places"},
		"two certificates":    {cert, cert, "change places"},
		"exchanged":           {cert, pre, "change places"},
		"another's":           {pre, stranger, "public key"},
		"trailing":            {pre, append(bytes.Clone(cert), 0), "data follow it"},
		"cut short":           {pre, cert[:len(cert)-1], "not a DER sequence"},
		// critical FALSE, which DER omits, in the key usage.
		"criticality written out": {bytes.Replace(pre, []byte("\x01\x01\xff"), []byte("\x01\x01\x00"), 1), cert, "criticality is not DER"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkError(t, correspond.Check(test.pre, test.cert), test.want)
		})
	}
}

// TestCheckFindsEveryByte changes each byte of the precertificate before its signature.
func TestCheckFindsEveryByte(t *testing.T) {
	t.Parallel()
	pre, cert := pair(t)
	const signature = "\x00one signature" // with its octet of unused bits
	for i := range len(pre) - len(signature) {
		for _, flip := range []byte{0x01, 0x20, 0x80, 0xff} {
			changed := bytes.Clone(pre)
			changed[i] ^= flip
			if correspond.Check(changed, cert) == nil {
				t.Errorf("corresponds with byte %d changed by %#x", i, flip)
			}
		}
	}
}

// FuzzCheck: no input causes a panic, and no certificate corresponds to itself.
func FuzzCheck(f *testing.F) {
	pre, cert := pair(f)
	f.Add(pre, cert)
	f.Add(cert, pre)
	f.Add([]byte("\x30\x00"), []byte(nil))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if err := correspond.Check(a, b); err == nil && bytes.Equal(a, b) {
			t.Fatal("it corresponds to itself")
		}
	})
}
