// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// authority is a CA for tests; a test changes one field of its template and checks the result.
type authority struct {
	key  crypto.Signer
	alg  SignatureAlgorithm
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority { return authorityWith(t, ecdsaKey(t, elliptic.P256())) }

func authorityWith(t testing.TB, key crypto.Signer) *authority {
	t.Helper()
	alg, err := SignatureAlgorithmFor(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{Organization: []string{"mayfly"}, CommonName: "mayfly test authority"},
		NotBefore:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, alg, cert}
}

func (a *authority) template(t testing.TB) Template {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(ecdsaKey(t, elliptic.P256()).Public())
	if err != nil {
		t.Fatal(err)
	}
	serial, err := NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Template{
		SerialNumber:       serial,
		SignatureAlgorithm: a.alg,
		Issuer:             a.cert.RawSubject,
		NotBefore:          time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		NotAfter:           time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC),
		PublicKey:          spki,
		AuthorityKeyID:     a.cert.SubjectKeyId,
		SAN:                SAN{SANURI, "https://github.com/owner/repo/.github/workflows/release.yml@refs/tags/v1.0.0"},
		Extensions:         full(),
	}
}

// sign returns the certificate, signed.
func (a *authority) sign(t testing.TB, tbs []byte) []byte {
	t.Helper()
	sig, err := a.alg.Sign(rand.Reader, a.key, tbs)
	if err != nil {
		t.Fatal(err)
	}
	return Assemble(tbs, a.alg, sig)
}

func newTBS(t testing.TB, template Template) *TBS {
	t.Helper()
	tbs, err := NewTBS(template)
	if err != nil {
		t.Fatal(err)
	}
	return tbs
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var sctList = append([]byte{0, 121, 0, 119}, bytes.Repeat([]byte{0xab}, 119)...)
