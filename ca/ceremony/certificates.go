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
	"slices"
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
	// CommonName is the common name of the certificate. By default an intermediate's is "ORGANIZATION
	// intermediate ID".
	CommonName string `key:"common_name"`
	// Organization is the organization of the certificate, by default the root's.
	Organization string `key:"organization"`
}

func (s Subject) check() error {
	return errors.Join(checkName("common name", s.CommonName), checkName("organization", s.Organization))
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the CA has no %s; it needs one", what)
	case !utf8.ValidString(name):
		return fmt.Errorf("the %s is not valid UTF-8", what)
	case utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("the %s has %d characters; %d at most fit", what, utf8.RuneCountInString(name), maxName)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("the %s %.100q holds a character that cannot be printed", what, name)
		}
	}
	return nil
}

func (s Subject) name() pkix.Name {
	return pkix.Name{CommonName: s.CommonName, Organization: []string{s.Organization}}
}

// newRoot returns a self-signed root: CA:TRUE, key usage certSign and cRLSign, no extended key
// usage, no limit on path length. It is valid for 10 years unless planned states otherwise. Without
// key, it is only rehearsed.
func newRoot(planned PlannedCertificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	template, err := newTemplate(planned, public, planned.NotBefore.AddDate(rootYears, 0, 0))
	if err == nil {
		template.MaxPathLen = -1
		template, err = issue(template, nil, public, key)
	}
	if err != nil {
		return nil, fmt.Errorf("creating root: %w", err)
	}
	return template, nil
}

// newIntermediate returns an intermediate that issues leaves: CA:TRUE, path length 0, key usage
// certSign and cRLSign, extended key usage codeSigning, and as authority key identifier its
// parent's subject key identifier. It is valid for 3 years, and no longer than its parent, unless
// planned states otherwise. Without key, which is the parent's, it is only rehearsed.
func newIntermediate(planned PlannedCertificate, public crypto.PublicKey, parent *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	end := planned.NotBefore.AddDate(intermediateYears, 0, 0)
	if end.After(parent.NotAfter) {
		end = parent.NotAfter
	}
	template, err := newTemplate(planned, public, end)
	if err == nil {
		template.MaxPathLenZero = true
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		template.PublicKey = public
		err = checkBelow(parent, template)
	}
	if err == nil {
		template, err = issue(template, parent, public, key)
	}
	if err != nil {
		return nil, fmt.Errorf("creating intermediate: %w", err)
	}
	return template, nil
}

// checkBelow refuses a parent below which verifiers accept no other CA (RFC 5280, section 6.1),
// and a name, a key or a validity that is not allowed below it.
func checkBelow(parent, child *x509.Certificate) error {
	key, comparable := parent.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !parent.IsCA || parent.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("its parent %s is no CA", parent.Subject)
	case parent.MaxPathLenZero:
		return fmt.Errorf("its parent %s may not have CAs below it (path length 0)", parent.Subject)
	case len(parent.SubjectKeyId) == 0:
		return fmt.Errorf("its parent %s has no subject key identifier", parent.Subject)
	case child.Subject.String() == parent.Subject.String():
		return fmt.Errorf("its name is that of its parent, %s; a chain needs different names", parent.Subject)
	case comparable && key.Equal(child.PublicKey):
		return errors.New("its key is that of its parent; each needs its own, or the parent's cannot be kept offline")
	case child.NotBefore.Before(parent.NotBefore) || child.NotAfter.After(parent.NotAfter):
		return fmt.Errorf("it would be valid from %s to %s, which is not within its parent's %s to %s",
			stamp(child.NotBefore), stamp(child.NotAfter), stamp(parent.NotBefore), stamp(parent.NotAfter))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// newTemplate returns the common template of root and intermediate, which is valid until end unless
// planned states otherwise.
func newTemplate(planned PlannedCertificate, key crypto.PublicKey, end time.Time) (*x509.Certificate, error) {
	if !planned.NotAfter.IsZero() {
		end = planned.NotAfter
	}
	begin, end := planned.NotBefore.UTC().Truncate(time.Second), end.UTC().Truncate(time.Second)
	if err := errors.Join(planned.Subject.check(), checkKey(key)); err != nil {
		return nil, err
	}
	if !end.After(begin) {
		return nil, fmt.Errorf("it would end at %s, which is not after its beginning at %s", stamp(end), stamp(begin))
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
		SerialNumber:          new(big.Int).SetBytes(certs.NewSerial()),
		Subject:               planned.Subject.name(),
		NotBefore:             begin,
		NotAfter:              end,
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

// issue creates a certificate below parent; a root has none. It rehearses with a throwaway key, so
// that the CA's own key never signs the first attempt. Without key, it only rehearses.
func issue(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	throwaway, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	nameless := parent
	if parent != nil {
		copied := *parent
		copied.PublicKey = nil // otherwise CreateCertificate requires its private key
		nameless = &copied
	}
	rehearsed, err := sign(template, nameless, public, throwaway)
	if err != nil {
		return nil, fmt.Errorf("rehearsing: %w", err)
	}
	if key == nil {
		return rehearsed, nil
	}
	certificate, err := sign(template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	above := parent
	if above == nil {
		above = certificate
	}
	if err := certificate.CheckSignatureFrom(above); err != nil {
		return nil, fmt.Errorf("verifying what was signed: %w", err)
	}
	return certificate, nil
}

// sign signs template, and compares the result with the certificate specification.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	algorithm, err := certs.SignatureAlgorithmFor(key.Public())
	if err != nil {
		return nil, err
	}
	template.SignatureAlgorithm = algorithm.X509()
	issuer := parent
	if issuer == nil {
		issuer = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing it: %w", err)
	}
	if !bytes.Equal(certificate.SubjectKeyId, template.SubjectKeyId) {
		return nil, errors.New("the subject key identifier was lost")
	}
	return certificate, Conform(certificate, parent)
}

// Conform reports where c, a root or an intermediate that issues leaves, departs from the
// certificate specification; nil if nowhere. parent is nil for a root. It checks more than a
// server checks when it loads a chain: it is for certificates that this package creates.
func Conform(c, parent *x509.Certificate) error {
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	require(len(c.Subject.CommonName) > 0 && len(c.Subject.Organization) == 1, "the subject %s does not have one common name and one organization", c.Subject)
	require(c.Version == 3, "the version is %d; it should be 3", c.Version)
	require(c.SerialNumber.Sign() > 0 && len(c.SerialNumber.Bytes()) <= 20 && c.SerialNumber.BitLen() > 64, "the serial number is not positive, of at most 20 bytes and random")
	require(c.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign, "the key usage is not keyCertSign and cRLSign alone")
	require(c.BasicConstraintsValid && c.IsCA, "basic constraints do not say CA:TRUE")
	require(len(c.SubjectKeyId) > 0, "there is no subject key identifier")
	require(len(c.UnhandledCriticalExtensions) == 0, "there is a critical extension that verifiers do not know")
	require(c.NotAfter.After(c.NotBefore), "it ends before it begins")
	errs = append(errs, checkKey(c.PublicKey))
	if parent == nil {
		require(bytes.Equal(c.RawIssuer, c.RawSubject), "the root's issuer is not its subject")
		require(len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0, "the root has extended key usages")
		require(len(c.AuthorityKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId), "the root's authority key identifier is another's")
		return errors.Join(errs...)
	}
	require(bytes.Equal(c.RawIssuer, parent.RawSubject), "the issuer is %s, and the parent is %s", c.Issuer, parent.Subject)
	require(slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) && len(c.UnknownExtKeyUsage) == 0, "the extended key usage is not codeSigning alone")
	require(c.MaxPathLen == 0 && c.MaxPathLenZero, "the path length is not 0")
	require(bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId), "the authority key identifier is not the parent's subject key identifier")
	require(!c.NotBefore.Before(parent.NotBefore) && !c.NotAfter.After(parent.NotAfter), "its validity is not within its parent's")
	return errors.Join(errs...)
}
