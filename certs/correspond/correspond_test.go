// SPDX-License-Identifier: Apache-2.0

package correspond_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/certs/correspond"
)

// certificate is a TBSCertificate for encoding/asn1, so that tests can change one field of it at a
// time.
type certificate struct {
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
	Behind          asn1.BitString   `asn1:"optional,tag:4"`
}

var sctList = []byte{0, 5, 0, 3, 1, 2, 3}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// pair returns the TBSCertificates of a precertificate and its certificate.
func pair() (pre, cert []byte) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public()
	tbs := must(certs.NewTBS(certs.Template{
		SerialNumber:       bytes.Repeat([]byte{1}, certs.SerialNumberSize),
		SignatureAlgorithm: must(certs.SignatureAlgorithmFor(key)),
		Issuer:             must(asn1.Marshal(pkix.Name{CommonName: "mayfly"}.ToRDNSequence())),
		NotBefore:          time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		NotAfter:           time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC),
		PublicKey:          must(x509.MarshalPKIXPublicKey(key)),
		AuthorityKeyID:     []byte("authority"),
		SAN:                certs.SAN{Kind: certs.SANEmail, Value: "alice@example.com"},
		Extensions:         certs.Extensions{certs.IssuerV1: "https://issuer.example", certs.IssuerV2: "https://issuer.example"},
	}))
	return tbs.Precertificate(), tbs.Certificate(sctList)
}

// change returns der after f has changed it.
func change(der []byte, f func(*certificate)) []byte {
	var c certificate
	if rest := must(asn1.Unmarshal(der, &c)); len(rest) != 0 {
		panic("trailing data")
	}
	f(&c)
	return must(asn1.Marshal(c))
}

func TestCheck(t *testing.T) {
	pre, cert := pair()
	if err := correspond.Check(pre, cert); err != nil {
		t.Error(err)
	}
	if got := testing.AllocsPerRun(10, func() { _ = correspond.Check(pre, cert) }); got != 0 {
		t.Errorf("%g allocations", got)
	}
	// The helper that applies the mutations below changes nothing itself.
	nothing := func(*certificate) {}
	if !bytes.Equal(change(pre, nothing), pre) || !bytes.Equal(change(cert, nothing), cert) {
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
	pre, cert := pair()
	other := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}}
	for name, f := range map[string]func(*certificate){
		"version 2":               func(c *certificate) { c.Version = 1 },
		"version 1":               func(c *certificate) { c.Version = 0 },
		"serial number":           func(c *certificate) { c.Serial = lastByte(c.Serial) },
		"signature algorithm":     func(c *certificate) { c.Signature = other },
		"issuer":                  func(c *certificate) { c.Issuer = lastByte(c.Issuer) },
		"validity":                func(c *certificate) { c.Validity = lastByte(c.Validity) },
		"subject":                 func(c *certificate) { c.Subject = c.Issuer },
		"public key":              func(c *certificate) { c.PublicKey = lastByte(c.PublicKey) },
		"issuer unique ID":        func(c *certificate) { c.IssuerUniqueID = asn1.BitString{Bytes: []byte{1}, BitLength: 8} },
		"subject unique ID":       func(c *certificate) { c.SubjectUniqueID = asn1.BitString{Bytes: []byte{1}, BitLength: 8} },
		"field behind":            func(c *certificate) { c.Behind = asn1.BitString{Bytes: []byte{1}, BitLength: 8} },
		"extension's value":       func(c *certificate) { c.Extensions[2].Value[5] ^= 1 },
		"extension's criticality": func(c *certificate) { c.Extensions[1].Critical = true },
		"extension's identifier":  func(c *certificate) { c.Extensions[1].Id = asn1.ObjectIdentifier{2, 5, 29, 38} },
		"extensions' order": func(c *certificate) {
			c.Extensions[5], c.Extensions[6] = c.Extensions[6], c.Extensions[5]
		},
		"extension more": func(c *certificate) {
			c.Extensions = append(c.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}})
		},
		"extension less": func(c *certificate) { c.Extensions = slices.Delete(c.Extensions, 0, 1) },
		"no extensions":  func(c *certificate) { c.Extensions = nil },
		"poison and SCT list": func(c *certificate) {
			c.Extensions = append(c.Extensions, pkix.Extension{Id: certs.OIDPoison, Critical: true, Value: []byte{5, 0}},
				pkix.Extension{Id: certs.OIDSCTList, Value: append([]byte{4, byte(len(sctList))}, sctList...)})
		},
		"last extension twice": func(c *certificate) {
			c.Extensions = append(c.Extensions, c.Extensions[len(c.Extensions)-1])
		},
		"last extension missing": func(c *certificate) {
			c.Extensions = c.Extensions[:len(c.Extensions)-1]
		},
		"last extension's criticality": func(c *certificate) {
			last := &c.Extensions[len(c.Extensions)-1]
			last.Critical = !last.Critical
		},
		"last extension's value": func(c *certificate) {
			c.Extensions[len(c.Extensions)-1].Value = []byte{5, 0, 0}
		},
	} {
		if correspond.Check(pre, change(cert, f)) == nil || correspond.Check(change(pre, f), cert) == nil {
			t.Errorf("%s: the change is not found", name)
		}
	}
}

func TestCheckSCTList(t *testing.T) {
	t.Parallel()
	pre, cert := pair()
	for name, value := range map[string]string{"no OCTET STRING": string(sctList), "trailing": "\x04\x05\x00\x03\x00\x01a\x00", "nothing": "\x04\x00"} {
		if correspond.Check(pre, change(cert, func(c *certificate) { c.Extensions[at(c.Extensions, certs.OIDSCTList)].Value = []byte(value) })) == nil {
			t.Errorf("%s: the list corresponds", name)
		}
	}
}

// TestCheckPlaceOfThePoison: RFC 6962 does not fix the place of the poison and the SCT list.
func TestCheckPlaceOfThePoison(t *testing.T) {
	t.Parallel()
	pre, cert := pair()
	moved := change(pre, func(c *certificate) {
		i := at(c.Extensions, certs.OIDPoison)
		poison := c.Extensions[i]
		c.Extensions = slices.Insert(slices.Delete(c.Extensions, i, i+1), 0, poison)
	})
	if err := correspond.Check(moved, cert); err != nil {
		t.Error(err)
	}
}

func TestCheckRefusesOtherPairs(t *testing.T) {
	t.Parallel()
	pre, cert := pair()
	_, stranger := pair()
	for name, test := range map[string]struct{ pre, cert []byte }{
		"nothing":             {nil, nil},
		"no certificate":      {pre, nil},
		"two precertificates": {pre, pre},
		"two certificates":    {cert, cert},
		"exchanged":           {cert, pre},
		"another's":           {pre, stranger},
		"trailing":            {pre, append(bytes.Clone(cert), 0)},
		"cut short":           {pre, cert[:len(cert)-1]},
	} {
		if correspond.Check(test.pre, test.cert) == nil {
			t.Errorf("%s corresponds", name)
		}
	}
}

// TestCheckFindsEveryByte changes each byte of the precertificate.
func TestCheckFindsEveryByte(t *testing.T) {
	t.Parallel()
	pre, cert := pair()
	for i := range pre {
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
	pre, cert := pair()
	f.Add(pre, cert)
	f.Add(cert, pre)
	f.Add([]byte("\x30\x00"), []byte(nil))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if err := correspond.Check(a, b); err == nil && bytes.Equal(a, b) {
			t.Fatal("it corresponds to itself")
		}
	})
}
