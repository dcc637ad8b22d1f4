// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// must returns value, or fails the test if there is an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))(t)
}

// authority is a CA for tests; a test changes one field of its template and checks the result.
type authority struct {
	key  crypto.Signer
	alg  SignatureAlgorithm
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority { return authorityWith(t, ecdsaKey(t, elliptic.P256())) }

func authorityWith(t testing.TB, key crypto.Signer) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{Organization: []string{"mayfly"}, CommonName: "mayfly test authority"},
		NotBefore:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:         true, BasicConstraintsValid: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return &authority{key, must(SignatureAlgorithmFor(key.Public()))(t), must(x509.ParseCertificate(der))(t)}
}

func (a *authority) template(t testing.TB) Template {
	t.Helper()
	return Template{
		SerialNumber:       NewSerial(),
		SignatureAlgorithm: a.alg,
		Issuer:             a.cert.RawSubject,
		NotBefore:          time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		NotAfter:           time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC),
		PublicKey:          must(x509.MarshalPKIXPublicKey(ecdsaKey(t, elliptic.P256()).Public()))(t),
		AuthorityKeyID:     a.cert.SubjectKeyId,
		SAN:                SAN{SANURI, "https://github.com/owner/repo/.github/workflows/release.yml@refs/tags/v1.0.0"},
		Extensions:         full(),
	}
}

// full returns extensions with a different text at every arc of the table.
func full() Extensions {
	var e Extensions
	for _, extension := range Table() {
		e[extension.Arc] = "value of " + extension.Name
	}
	return e
}

func newTBS(t testing.TB, template Template) *TBS {
	t.Helper()
	return must(NewTBS(template))(t)
}

var sctList = append([]byte{0, 121, 0, 119}, bytes.Repeat([]byte{0xab}, 119)...)
