// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// Conform reports where c, a root or an intermediate that issues leaves, departs from the
// certificate specification; nil if nowhere. parent is nil for a root. It checks more than a
// server checks when it loads a chain: it is for certificates that this package creates.
func Conform(c, parent *x509.Certificate) error {
	var errs []error
	demand := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	demand(len(c.Subject.CommonName) > 0 && len(c.Subject.Organization) == 1, "the subject %s does not have one common name and one organization", c.Subject)
	demand(c.Version == 3, "the version is %d; it should be 3", c.Version)
	demand(c.SerialNumber.Sign() > 0 && len(c.SerialNumber.Bytes()) <= 20 && c.SerialNumber.BitLen() > 64, "the serial number is not positive, of at most 20 bytes and random")
	demand(c.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign, "the key usage is not keyCertSign and cRLSign alone")
	demand(c.BasicConstraintsValid && c.IsCA, "basic constraints do not say CA:TRUE")
	demand(len(c.SubjectKeyId) > 0, "there is no subject key identifier")
	demand(len(c.UnhandledCriticalExtensions) == 0, "there is a critical extension that verifiers do not know")
	demand(c.NotAfter.After(c.NotBefore), "it ends before it begins")
	errs = append(errs, checkKey(c.PublicKey))
	if parent == nil {
		demand(bytes.Equal(c.RawIssuer, c.RawSubject), "the root's issuer is not its subject")
		demand(len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0, "the root has extended key usages")
		demand(len(c.AuthorityKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId), "the root's authority key identifier is another's")
		return errors.Join(errs...)
	}
	demand(bytes.Equal(c.RawIssuer, parent.RawSubject), "the issuer is %s, and the parent is %s", c.Issuer, parent.Subject)
	demand(slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) && len(c.UnknownExtKeyUsage) == 0, "the extended key usage is not codeSigning alone")
	demand(c.MaxPathLen == 0 && c.MaxPathLenZero, "the path length is not 0")
	demand(bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId), "the authority key identifier is not the parent's subject key identifier")
	demand(!c.NotBefore.Before(parent.NotBefore) && !c.NotAfter.After(parent.NotAfter), "its validity is not within its parent's")
	return errors.Join(errs...)
}

// rehearse creates the certificate with a temporary key, and checks it against the
// specification, so that the CA's own key never signs the first attempt.
func rehearse(template, parent *x509.Certificate, key any) error {
	throwaway, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	draft, issuer := *template, *parent
	draft.SignatureAlgorithm = x509.ECDSAWithSHA256
	issuer.PublicKey = nil // otherwise CreateCertificate requires its private key
	selfSigned := template == parent
	if selfSigned {
		issuer = draft
	}
	der, err := x509.CreateCertificate(rand.Reader, &draft, &issuer, key, throwaway)
	if err != nil {
		return fmt.Errorf("rehearsing: %w", err)
	}
	rehearsed, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("rehearsing: %w", err)
	}
	if selfSigned {
		parent = nil
	}
	if err := Conform(rehearsed, parent); err != nil {
		return fmt.Errorf("rehearsing: %w", err)
	}
	return nil
}

// standIn returns a temporary key, for a rehearsal before the real key is generated.
func standIn() (crypto.Signer, error) { return GenerateKey("ecdsa-p256") }

// publicOrStandIn returns the public key of an existing external key, or a stand-in.
func publicOrStandIn(external *ExternalKey) (crypto.PublicKey, error) {
	if external != nil && external.Signer != nil {
		return external.Signer.Public(), nil
	}
	key, err := standIn()
	if err != nil {
		return nil, err
	}
	return key.Public(), nil
}
