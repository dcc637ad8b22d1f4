// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// maxChainLength limits the certificates of one CA chain, the root included.
const maxChainLength = 8

// Chain is a CA certificate chain in the forms in which it is served, computed once. It is
// immutable. NewChain has checked it against the certificate specification.
type Chain struct {
	// Certificates has the issuing CA first and the root last.
	Certificates []*x509.Certificate
	// DER is Certificates[i].Raw for each.
	DER [][]byte
	// PEM is each certificate as one PEM block without a newline at its end.
	PEM []string
	// NotBefore and NotAfter are the window in which every certificate of the chain is valid.
	NotBefore, NotAfter time.Time

	// constrained are the certificates with name constraints, in the same order.
	constrained []*x509.Certificate
}

// ParseChain parses a PEM file of certificates, the issuing CA first and the root last, and checks
// it as NewChain does.
func ParseChain(data []byte) (*Chain, error) {
	certificates, err := pem.Certificates(data)
	if err != nil {
		return nil, fmt.Errorf("reading the chain, the issuing CA first and the root last: %w", err)
	}
	if len(certificates) > maxChainLength {
		return nil, fmt.Errorf("the chain holds more than %d certificates", maxChainLength)
	}
	return NewChain(certificates)
}

// NewChain checks that certificates, the issuing CA first and the root last, are a chain by the
// certificate specification. It checks CA:TRUE, key usage, extended key usage, path length, key
// identifiers, order, signatures, nesting of validity and strength of keys. It does not read the
// clock. It reports all errors at once.
func NewChain(certificates []*x509.Certificate) (*Chain, error) {
	if len(certificates) == 0 {
		return nil, errors.New("the chain holds no certificate; it must hold the issuing CA first and the root last")
	}
	var errs []error
	var constrained []*x509.Certificate
	for i, c := range certificates {
		name := fmt.Sprintf("certificate %d of the chain (%s)", i+1, c.Subject)
		if extension(c, oidNameConstraints) != nil {
			constrained = append(constrained, c)
		}
		for _, err := range checkCA(c, i) {
			errs = append(errs, fmt.Errorf("%s %w", name, err))
		}
		if i+1 < len(certificates) {
			for _, err := range checkLink(c, certificates[i+1]) {
				errs = append(errs, fmt.Errorf("%s %w", name, err))
			}
			continue
		}
		if err := checkAuthorityKeyID(c, c); err != nil {
			errs = append(errs, fmt.Errorf("%s is a root that %w", name, err))
		}
		if !bytes.Equal(c.RawIssuer, c.RawSubject) {
			errs = append(errs, fmt.Errorf("%s is issued by %q, so it is no root; the chain must end in its root", name, c.Issuer))
		} else if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
			errs = append(errs, fmt.Errorf("%s is a root whose own signature does not verify: %w", name, err))
		}
	}
	if len(certificates) > 1 && !slices.Contains(certificates[0].ExtKeyUsage, x509.ExtKeyUsageCodeSigning) {
		errs = append(errs, errors.New("the issuing CA has no extended key usage codeSigning; clients reject certificates below it"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	chain := &Chain{Certificates: certificates, NotBefore: certificates[0].NotBefore, NotAfter: certificates[0].NotAfter, constrained: constrained}
	for _, c := range certificates {
		chain.DER = append(chain.DER, c.Raw)
		block := pem.Encode("CERTIFICATE", c.Raw)
		chain.PEM = append(chain.PEM, string(bytes.TrimSuffix(block, []byte("\n"))))
	}
	return chain, nil
}

// Equal reports whether both chains hold the same certificates.
func (c *Chain) Equal(other *Chain) bool { return slices.EqualFunc(c.DER, other.DER, bytes.Equal) }

// ValidAt returns why the chain is not valid at now; nil if it is.
func (c *Chain) ValidAt(now time.Time) error {
	for _, c := range c.Certificates {
		if now.After(c.NotAfter) {
			return fmt.Errorf("the CA certificate %s ended at %s; replace the chain and its key", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		}
		if now.Before(c.NotBefore) {
			return fmt.Errorf("the CA certificate %s begins at %s; wait for it, or set the clock right", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// checkCA returns what is wrong with c as a CA with below intermediates between itself and the
// leaf.
func checkCA(c *x509.Certificate, below int) (errs []error) {
	// RFC 5280, section 4.2.1.9: without CA:TRUE the key must not verify certificates.
	if !c.BasicConstraintsValid || !c.IsCA {
		errs = append(errs, errors.New("is no CA (basic constraints CA:TRUE is missing)"))
	} else if e := extension(c, oidBasicConstraints); e == nil || !e.Critical {
		// The same section. crypto/x509 does not check this, but sigstore-python requests strict
		// checks of OpenSSL.
		errs = append(errs, errors.New("has basic constraints that are not critical"))
	}
	// RFC 5280, section 4.1.2.6: a CA has a name, which is the issuer of what it signs. Without
	// this check every request would fail, and only at run time.
	if bytes.Equal(c.RawSubject, []byte{0x30, 0x00}) {
		errs = append(errs, errors.New("has an empty subject; a CA needs a name"))
	}
	// RFC 5280, section 4.2.1.3.
	if c.KeyUsage&x509.KeyUsageCertSign == 0 {
		errs = append(errs, errors.New("has no key usage keyCertSign"))
	}
	// RFC 5280, section 4.2.1.9: the number of non-self-issued intermediates that may follow.
	if (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < below {
		errs = append(errs, fmt.Errorf("allows %d CA certificates below it, and the chain has %d", c.MaxPathLen, below))
	}
	// Extended key usages of CAs restrict the certificates below them (as in RFC 5280's successors
	// and every client's verifier).
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		errs = append(errs, errors.New("has extended key usages without codeSigning, so nothing below it may sign code"))
	}
	// RFC 5280, section 4.2.1.2: every CA certificate has a subject key identifier.
	if len(c.SubjectKeyId) == 0 {
		errs = append(errs, errors.New("has no subject key identifier"))
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		errs = append(errs, fmt.Errorf("has a critical extension that verifiers do not know (%s)", c.UnhandledCriticalExtensions[0]))
	}
	if err := checkNameConstraints(c); err != nil {
		errs = append(errs, err)
	}
	if err := checkCAKey(c.PublicKey); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkCAKey returns what is wrong with the strength or kind of a CA's key.
func checkCAKey(key any) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("has a key on the curve %s; CA keys are P-256, P-384 or P-521", key.Curve.Params().Name)
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || key.E < 65537 {
			return fmt.Errorf("has an RSA key of %d bits with exponent %d; CA keys have at least 2048 bits and exponent 65537", bits, key.E)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	default:
		return fmt.Errorf("has a key of type %T; CA keys are ECDSA, RSA or Ed25519", key)
	}
}

// checkLink returns what is wrong between child and parent, the next certificate in the chain.
func checkLink(child, parent *x509.Certificate) (errs []error) {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return []error{fmt.Errorf("is issued by %q, and the next one is %q; the order is issuing CA first, root last", child.Issuer, parent.Subject)}
	}
	if err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
		errs = append(errs, fmt.Errorf("is not signed by the next one: %w", err))
	}
	// CheckSignature still accepts SHA-1 for compatibility. Verifiers do not, and a collision would
	// give an attacker another CA below the same root.
	switch child.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		errs = append(errs, fmt.Errorf("is signed with %s, which verifiers refuse; SHA-256 or longer is expected", child.SignatureAlgorithm))
	}
	// RFC 5280, section 4.2.1.1: all but self-signed certificates identify the key that signed
	// them.
	if err := checkAuthorityKeyID(child, parent); err != nil {
		errs = append(errs, err)
	}
	if child.NotBefore.Before(parent.NotBefore) || child.NotAfter.After(parent.NotAfter) {
		errs = append(errs, fmt.Errorf("is valid outside the validity of the next one (%s to %s)",
			parent.NotBefore.UTC().Format(time.RFC3339), parent.NotAfter.UTC().Format(time.RFC3339)))
	}
	return errs
}

// checkAuthorityKeyID reports an authority key identifier in child that names another certificate
// than parent. crypto/x509 ignores issuer and serial number. They name another certificate after
// the root was issued again; OpenSSL then finds no path.
//
//	AuthorityKeyIdentifier ::= SEQUENCE {
//	     keyIdentifier             [0] KeyIdentifier           OPTIONAL,
//	     authorityCertIssuer       [1] GeneralNames            OPTIONAL,
//	     authorityCertSerialNumber [2] CertificateSerialNumber OPTIONAL  }
func checkAuthorityKeyID(child, parent *x509.Certificate) error {
	root := child == parent // a root needs no key identifier (RFC 5280, section 4.2.1.1)
	if !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) && !(root && len(child.AuthorityKeyId) == 0) {
		return errors.New("has an authority key identifier that is not the next one's subject key identifier")
	}
	e := extension(child, oidAuthorityKeyID)
	if e == nil {
		return nil
	}
	in := cryptobyte.String(e.Value)
	var content, issuer, serial cryptobyte.String
	var hasSerial bool
	if !in.ReadASN1(&content, asn1.SEQUENCE) || !content.SkipOptionalASN1(asn1.Tag(0).ContextSpecific()) ||
		!content.ReadOptionalASN1(&issuer, nil, asn1.Tag(1).ContextSpecific().Constructed()) ||
		!content.ReadOptionalASN1(&serial, &hasSerial, asn1.Tag(2).ContextSpecific()) || !content.Empty() {
		return errors.New("has an authority key identifier that is not DER (RFC 5280, section 4.2.1.1)")
	}
	// GeneralNames with one directoryName, which is EXPLICIT as Name is a CHOICE.
	var name cryptobyte.String
	hasIssuer := !issuer.Empty()
	if hasIssuer && !issuer.ReadASN1(&name, asn1.Tag(4).ContextSpecific().Constructed()) || !bytes.Equal(name, parent.RawIssuer) && hasIssuer ||
		hasSerial && new(big.Int).SetBytes(serial).Cmp(parent.SerialNumber) != 0 {
		return errors.New("has an authority key identifier with the issuer or serial number of another certificate than the next one; have it issued again, with the key identifier alone")
	}
	return nil
}

// extension returns the extension of c with the OID id; nil if there is none.
func extension(c *x509.Certificate, id stdasn1.ObjectIdentifier) *pkix.Extension {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
	if i < 0 {
		return nil
	}
	return &c.Extensions[i]
}
