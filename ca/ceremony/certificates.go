// SPDX-License-Identifier: Apache-2.0

// Package ceremony creates the CA's own certificates, keys and files, by the certificate
// specification that clients rely on. `mayfly ca …` runs it; packages that serve requests
// must not import it.
package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/certs"
)

const (
	rootYears         = 10
	intermediateYears = 3
	// maxName is the upper bound of common and organization names (RFC 5280, appendix A.1,
	// ub-common-name and ub-organization-name), in characters.
	maxName = 64
)

// Subject is the name of a CA. Both parts are mandatory.
type Subject struct {
	CommonName   string
	Organization string
}

func (s Subject) check() error {
	return errors.Join(checkName("common name", s.CommonName, maxName), checkName("organization", s.Organization, maxName))
}

func checkName(what, name string, limit int) error {
	switch {
	case name == "":
		return fmt.Errorf("the CA has no %s; it needs one", what)
	case !utf8.ValidString(name):
		return fmt.Errorf("the %s is not valid UTF-8", what)
	case utf8.RuneCountInString(name) > limit:
		return fmt.Errorf("the %s has %d characters; %d at most fit", what, utf8.RuneCountInString(name), limit)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("the %s %.100q holds a character that cannot be printed", what, name)
		}
	}
	return nil
}

// RootConfig describes a new root.
type RootConfig struct {
	Subject Subject
	// Signer is the root's own key: ECDSA on P-256, P-384 or P-521, or RSA of at least 2048
	// bits. The key may be one that never leaves its module.
	Signer crypto.Signer
	// NotBefore is truncated to the second.
	NotBefore time.Time
	// NotAfter is 10 years after NotBefore if it is zero.
	NotAfter time.Time
}

// Root returns a new self-signed root: CA:TRUE, key usage certSign and cRLSign, no extended key
// usage, no limit on path length.
func Root(cfg RootConfig) (*x509.Certificate, error) {
	notAfter := cfg.NotAfter
	if notAfter.IsZero() {
		notAfter = cfg.NotBefore.AddDate(rootYears, 0, 0)
	}
	template, err := newTemplate(cfg.Subject, cfg.Signer.Public(), cfg.NotBefore, notAfter)
	if err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	template.MaxPathLen = -1
	certificate, err := sign(template, template, cfg.Signer.Public(), cfg.Signer)
	if err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	return certificate, nil
}

// IntermediateConfig describes a new intermediate.
type IntermediateConfig struct {
	Subject Subject
	// PublicKey is the intermediate's, of the kinds that RootConfig.Signer accepts.
	PublicKey crypto.PublicKey
	// Parent is the CA that certifies it, usually the root.
	Parent *x509.Certificate
	// ParentSigner is Parent's key.
	ParentSigner crypto.Signer
	// NotBefore is truncated to the second. It must not be before Parent's.
	NotBefore time.Time
	// NotAfter is 3 years after NotBefore or Parent's, whichever comes first, if it is zero.
	// It must not be after Parent's.
	NotAfter time.Time
}

// Intermediate returns a new intermediate that issues leaves: CA:TRUE, path length 0, key usage
// certSign and cRLSign, extended key usage codeSigning, and as authority key identifier its
// parent's subject key identifier.
func Intermediate(cfg IntermediateConfig) (*x509.Certificate, error) {
	template, err := cfg.template()
	if err != nil {
		return nil, fmt.Errorf("creating intermediate: %w", err)
	}
	certificate, err := sign(template, cfg.Parent, cfg.PublicKey, cfg.ParentSigner)
	if err != nil {
		return nil, fmt.Errorf("creating intermediate: %w", err)
	}
	return certificate, nil
}

// rehearse finds the errors of Intermediate before the parent signs.
func (cfg IntermediateConfig) rehearse() error {
	template, err := cfg.template()
	if err == nil {
		err = rehearse(template, cfg.Parent, cfg.PublicKey)
	}
	if err != nil {
		return fmt.Errorf("creating intermediate: %w", err)
	}
	return nil
}

func (cfg IntermediateConfig) template() (*x509.Certificate, error) {
	if err := checkParent(cfg.Parent); err != nil {
		return nil, err
	}
	notAfter := cfg.NotAfter
	if notAfter.IsZero() {
		notAfter = cfg.NotBefore.AddDate(intermediateYears, 0, 0)
		if notAfter.After(cfg.Parent.NotAfter) {
			notAfter = cfg.Parent.NotAfter
		}
	}
	template, err := newTemplate(cfg.Subject, cfg.PublicKey, cfg.NotBefore, notAfter)
	if err != nil {
		return nil, err
	}
	template.MaxPathLenZero = true
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	template.PublicKey = cfg.PublicKey
	return template, checkWithin(cfg.Parent, template)
}

// checkParent refuses a CA below which verifiers would accept no other CA (RFC 5280, section
// 6.1).
func checkParent(parent *x509.Certificate) error {
	switch {
	case !parent.IsCA || parent.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("its parent %s is no CA", parent.Subject)
	case parent.MaxPathLenZero:
		return fmt.Errorf("its parent %s may not have CAs below it (path length 0)", parent.Subject)
	case len(parent.SubjectKeyId) == 0:
		return fmt.Errorf("its parent %s has no subject key identifier", parent.Subject)
	}
	return nil
}

// checkWithin refuses a name, a key or a validity that is not allowed below parent.
func checkWithin(parent, child *x509.Certificate) error {
	if child.Subject.String() == parent.Subject.String() {
		return fmt.Errorf("its name is that of its parent, %s; a chain needs different names", parent.Subject)
	}
	if key, ok := parent.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && key.Equal(child.PublicKey) {
		return errors.New("its key is that of its parent; each needs its own, or the parent's cannot be kept offline")
	}
	if child.NotBefore.Before(parent.NotBefore) || child.NotAfter.After(parent.NotAfter) {
		return fmt.Errorf("it would be valid from %s to %s, which is not within its parent's %s to %s",
			child.NotBefore.Format(time.RFC3339), child.NotAfter.Format(time.RFC3339),
			parent.NotBefore.UTC().Format(time.RFC3339), parent.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// newTemplate returns the common template of root and intermediate.
func newTemplate(subject Subject, key crypto.PublicKey, notBefore, notAfter time.Time) (*x509.Certificate, error) {
	notBefore, notAfter = notBefore.UTC().Truncate(time.Second), notAfter.UTC().Truncate(time.Second)
	if err := errors.Join(subject.check(), checkKey(key)); err != nil {
		return nil, err
	}
	if !notAfter.After(notBefore) {
		return nil, fmt.Errorf("it would end at %s, which is not after its beginning at %s", notAfter.Format(time.RFC3339), notBefore.Format(time.RFC3339))
	}
	serial, err := certs.NewSerial(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("drawing serial number: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshalling public key: %w", err)
	}
	keyID, err := certs.SubjectKeyID(spki)
	if err != nil {
		return nil, fmt.Errorf("computing subject key identifier: %w", err)
	}
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: subject.CommonName, Organization: []string{subject.Organization}},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SubjectKeyId:          keyID,
	}, nil
}

// checkKey refuses keys that clients refuse for a CA, including Ed25519.
func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		default:
			return fmt.Errorf("the CA's key is ECDSA on %s; the curve should be P-256, P-384 or P-521", key.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 || key.E != 65537 {
			return fmt.Errorf("the CA's key is RSA of %d bits with exponent %d; it should have at least 2048 bits and exponent 65537", key.N.BitLen(), key.E)
		}
		return nil
	default:
		return fmt.Errorf("the CA's key is a %T, which not all clients accept; it should be ECDSA or RSA", key)
	}
}

// sign creates the certificate, and checks before and after that verifiers will accept it.
func sign(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	algorithm, err := certs.SignatureAlgorithmFor(signer.Public())
	if err != nil {
		return nil, err
	}
	if err := rehearse(template, parent, key); err != nil {
		return nil, err
	}
	template.SignatureAlgorithm = algorithm.X509()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing what was signed: %w", err)
	}
	issuer := parent
	if parent == template {
		issuer = certificate
	}
	if err := certificate.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("verifying what was signed: %w", err)
	}
	if !bytes.Equal(certificate.SubjectKeyId, template.SubjectKeyId) {
		return nil, errors.New("the subject key identifier was lost in signing")
	}
	above := parent
	if parent == template {
		above = nil
	}
	if err := Conform(certificate, above); err != nil {
		return nil, fmt.Errorf("checking what was signed: %w", err)
	}
	return certificate, nil
}
