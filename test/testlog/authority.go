// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
)

// Authority is a root and an intermediate, P-256, that issue chains for a log: for tests of
// logs and of their submitters that need no whole CA.
type Authority struct {
	Root, Intermediate *x509.Certificate

	key       *ecdsa.PrivateKey
	algorithm certs.SignatureAlgorithm
	now       func() time.Time
	leafSPKI  []byte
}

// NewAuthority returns an authority with certificates valid from an hour before now() and for
// a year. Its leaves begin at now().
func NewAuthority(now func() time.Time) (*Authority, error) {
	a := &Authority{now: now}
	var keys [3]*ecdsa.PrivateKey // of the root, the intermediate and the leaves
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("generating key: %w", err)
		}
	}
	rootKey := keys[0]
	a.key = keys[1]
	var err error
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "testlog root", Organization: []string{"testlog"}},
		NotBefore: now().Add(-time.Hour), NotAfter: now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	if a.Root, err = createCertificate(template, template, rootKey, rootKey); err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	template.SerialNumber, template.Subject.CommonName = big.NewInt(2), "testlog intermediate"
	template.ExtKeyUsage, template.MaxPathLenZero = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, true
	if a.Intermediate, err = createCertificate(template, a.Root, a.key, rootKey); err != nil {
		return nil, fmt.Errorf("creating intermediate: %w", err)
	}
	if a.algorithm, err = certs.SignatureAlgorithmFor(a.key.Public()); err != nil {
		return nil, err
	}
	if a.leafSPKI, err = x509.MarshalPKIXPublicKey(keys[2].Public()); err != nil {
		return nil, fmt.Errorf("marshalling leaf key: %w", err)
	}
	return a, nil
}

func createCertificate(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Draft is a signed precertificate, which becomes a certificate as soon as it has an SCT.
type Draft struct {
	Submission ctlog.Submission

	authority *Authority
	tbs       *certs.TBS
}

// Draft signs a new precertificate of a build.
func (a *Authority) Draft() (*Draft, error) {
	return a.DraftFor(certs.SAN{Kind: certs.SANURI, Value: "https://build.example/workflow"}, "https://issuer.example")
}

// DraftFor signs a new precertificate with this name and the URL of a token's issuer.
func (a *Authority) DraftFor(san certs.SAN, issuer string) (*Draft, error) {
	serial, err := certs.NewSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	var extensions certs.Extensions
	extensions[certs.IssuerV1], extensions[certs.IssuerV2] = issuer, issuer
	notBefore := a.now().Truncate(time.Second)
	tbs, err := certs.NewTBS(certs.Template{
		SerialNumber: serial, SignatureAlgorithm: a.algorithm, Issuer: a.Intermediate.RawSubject,
		NotBefore: notBefore, NotAfter: notBefore.Add(10 * time.Minute),
		PublicKey: a.leafSPKI, AuthorityKeyID: a.Intermediate.SubjectKeyId,
		SAN: san, Extensions: extensions,
	})
	if err != nil {
		return nil, fmt.Errorf("assembling TBS: %w", err)
	}
	precertificate, err := a.sign(tbs.Precertificate())
	if err != nil {
		return nil, err
	}
	return &Draft{authority: a, tbs: tbs, Submission: ctlog.Submission{
		Chain:         [][]byte{precertificate, a.Intermediate.Raw, a.Root.Raw},
		TBS:           tbs.Logged(),
		IssuerKeyHash: sha256.Sum256(a.Intermediate.RawSubjectPublicKeyInfo),
	}}, nil
}

// Certificate signs the certificate, DER, that holds scts.
func (d *Draft) Certificate(scts ...ctlog.SCT) ([]byte, error) {
	list, err := ctlog.MarshalSCTList(scts...)
	if err != nil {
		return nil, err
	}
	return d.authority.sign(d.tbs.Certificate(list))
}

func (a *Authority) sign(tbs []byte) ([]byte, error) {
	sig, err := a.algorithm.Sign(rand.Reader, a.key, tbs)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return certs.Assemble(tbs, a.algorithm, sig), nil
}
