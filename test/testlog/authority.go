// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
)

// Authority is a root and an intermediate, P-256, that issue chains for a log: for tests of
// logs and of their submitters that need no whole CA.
type Authority struct {
	Root, Intermediate *x509.Certificate

	key, leafKey *ecdsa.PrivateKey
	now          func() time.Time
}

// NewAuthority returns an authority with certificates valid from an hour before now() and for
// a year. Its leaves begin at now().
func NewAuthority(tb testing.TB, now func() time.Time) *Authority {
	tb.Helper()
	rootKey := newKey(tb)
	a := &Authority{key: newKey(tb), leafKey: newKey(tb), now: now}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "testlog root", Organization: []string{"testlog"}},
		NotBefore: now().Add(-time.Hour), NotAfter: now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	a.Root = newCertificate(tb, template, template, rootKey, rootKey)
	template.SerialNumber, template.Subject.CommonName = big.NewInt(2), "testlog intermediate"
	template.ExtKeyUsage, template.MaxPathLenZero = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, true
	a.Intermediate = newCertificate(tb, template, a.Root, a.key, rootKey)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(tb)
}

func newCertificate(tb testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey))(tb)
	return must(x509.ParseCertificate(der))(tb)
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return value
	}
}

// Draft is a signed precertificate, which becomes a certificate as soon as it has an SCT.
type Draft struct {
	Submission ctlog.Submission

	authority *Authority
	tbs       *certs.TBS
}

// Draft signs a new precertificate of a build.
func (a *Authority) Draft(tb testing.TB) *Draft {
	tb.Helper()
	return a.DraftFor(tb, certs.SAN{Kind: certs.SANURI, Value: "https://build.example/workflow"}, "https://issuer.example")
}

// DraftFor signs a new precertificate with this name and the URL of a token's issuer.
func (a *Authority) DraftFor(tb testing.TB, san certs.SAN, issuer string) *Draft {
	tb.Helper()
	var extensions certs.Extensions
	extensions[certs.IssuerV1], extensions[certs.IssuerV2] = issuer, issuer
	notBefore := a.now().Truncate(time.Second)
	tbs := must(certs.NewTBS(certs.Template{
		SerialNumber: certs.NewSerial(), SignatureAlgorithm: must(certs.SignatureAlgorithmFor(a.key.Public()))(tb),
		Issuer: a.Intermediate.RawSubject, NotBefore: notBefore, NotAfter: notBefore.Add(10 * time.Minute),
		PublicKey: must(x509.MarshalPKIXPublicKey(a.leafKey.Public()))(tb), AuthorityKeyID: a.Intermediate.SubjectKeyId,
		SAN: san, Extensions: extensions,
	}))(tb)
	return &Draft{authority: a, tbs: tbs, Submission: ctlog.Submission{
		Chain:         [][]byte{a.sign(tb, tbs.Precertificate()), a.Intermediate.Raw, a.Root.Raw},
		TBS:           tbs.Logged(),
		IssuerKeyHash: sha256.Sum256(a.Intermediate.RawSubjectPublicKeyInfo),
	}}
}

// Certificate signs the certificate, DER, that holds scts.
func (d *Draft) Certificate(tb testing.TB, scts ...ctlog.SCT) []byte {
	tb.Helper()
	return d.authority.sign(tb, d.tbs.Certificate(must(ctlog.MarshalSCTList(scts...))(tb)))
}

func (a *Authority) sign(tb testing.TB, tbs []byte) []byte {
	algorithm := must(certs.SignatureAlgorithmFor(a.key.Public()))(tb)
	return certs.Assemble(tbs, algorithm, must(algorithm.Sign(rand.Reader, a.key, tbs))(tb))
}
