// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
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
	// JSON is PEM as a list of JSON strings, without the quotes at its ends.
	JSON string
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
	chain := &Chain{Certificates: certificates, NotBefore: certificates[0].NotBefore, NotAfter: certificates[0].NotAfter}
	var errs []error
	for i, c := range certificates {
		parent := certificates[min(i+1, len(certificates)-1)] // a root is its own parent
		for _, err := range append(checkCA(c, i), checkLink(c, parent)...) {
			errs = append(errs, fmt.Errorf("certificate %d of the chain (%s) %w", i+1, c.Subject, err))
		}
		if extension(c, oidNameConstraints) != nil {
			chain.constrained = append(chain.constrained, c)
		}
		chain.DER = append(chain.DER, c.Raw)
		chain.PEM = append(chain.PEM, strings.TrimSuffix(string(pem.Encode("CERTIFICATE", c.Raw)), "\n"))
	}
	chain.JSON = strings.ReplaceAll(strings.Join(chain.PEM, `","`), "\n", `\n`)
	if len(certificates) > 1 && !slices.Contains(certificates[0].ExtKeyUsage, x509.ExtKeyUsageCodeSigning) {
		errs = append(errs, errors.New("the issuing CA has no extended key usage codeSigning; clients reject certificates below it"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return chain, nil
}

// Equal reports whether both chains hold the same certificates.
func (c *Chain) Equal(other *Chain) bool { return slices.EqualFunc(c.DER, other.DER, bytes.Equal) }

// ValidAt returns why the chain is not valid at now; nil if it is.
func (c *Chain) ValidAt(now time.Time) error {
	for _, c := range c.Certificates {
		if now.After(c.NotAfter) {
			return fmt.Errorf("the CA certificate %s ended at %s; replace the chain and its key", c.Subject, stamp(c.NotAfter))
		}
		if now.Before(c.NotBefore) {
			return fmt.Errorf("the CA certificate %s begins at %s; wait for it, or set the clock right", c.Subject, stamp(c.NotBefore))
		}
	}
	return nil
}

// checkCA returns what is wrong with c as a CA with below intermediates between itself and the
// leaf.
func checkCA(c *x509.Certificate, below int) (errs []error) {
	basic := extension(c, oidBasicConstraints)
	rsaKey, isRSA := c.PublicKey.(*rsa.PublicKey)
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		// RFC 5280, section 4.2.1.9. crypto/x509 does not check the criticality, but
		// sigstore-python requests strict checks of OpenSSL.
		{!c.BasicConstraintsValid || !c.IsCA, "is no CA (basic constraints CA:TRUE is missing)"},
		{basic != nil && !basic.Critical, "has basic constraints that are not critical"},
		{(c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < below, fmt.Sprintf("allows %d CA certificates below it, and the chain has %d", c.MaxPathLen, below)},
		// RFC 5280, section 4.1.2.6. Without this check every request would fail, and only at run time.
		{bytes.Equal(c.RawSubject, []byte{0x30, 0x00}), "has an empty subject; a CA needs a name"},
		// RFC 5280, section 4.2.1.3.
		{c.KeyUsage&x509.KeyUsageCertSign == 0, "has no key usage keyCertSign, and some clients (sigstore-python) refuse every certificate below; issue it again with it"},
		// Extended key usages of CAs restrict the certificates below them in every client's verifier.
		{len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny),
			"has extended key usages without codeSigning, so nothing below it may sign code"},
		// RFC 5280, section 4.2.1.2.
		{len(c.SubjectKeyId) == 0, "has no subject key identifier"},
		{len(c.UnhandledCriticalExtensions) > 0, fmt.Sprintf("has a critical extension that verifiers do not know %v", c.UnhandledCriticalExtensions)},
		{isRSA && (rsaKey.N.BitLen() < 2048 || rsaKey.E < 65537), "has an RSA key of less than 2048 bits, or with an exponent below 65537"},
	} {
		if rule.broken {
			errs = append(errs, errors.New(rule.text))
		}
	}
	if _, err := certs.SignatureAlgorithmFor(c.PublicKey); err != nil {
		errs = append(errs, fmt.Errorf("has a key that signs no certificates: %w", err))
	}
	if err := checkNameConstraints(c); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkLink returns what is wrong between child and parent, the next certificate in the chain; a
// root is its own parent.
func checkLink(child, parent *x509.Certificate) (errs []error) {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return []error{fmt.Errorf("is issued by %q, not by %q; the order is issuing CA first, root last, and the chain must end in its root", child.Issuer, parent.Subject)}
	}
	if err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
		errs = append(errs, fmt.Errorf("is not signed by the next one (a root: by itself): %w", err))
	}
	// CheckSignature still accepts SHA-1 for compatibility. Verifiers do not, and a collision would
	// give an attacker another CA below the same root.
	if child != parent && (child.SignatureAlgorithm == x509.SHA1WithRSA || child.SignatureAlgorithm == x509.ECDSAWithSHA1) {
		errs = append(errs, fmt.Errorf("is signed with %s, which verifiers refuse; SHA-256 or longer is expected", child.SignatureAlgorithm))
	}
	if err := checkAuthorityKeyID(child, parent); err != nil {
		errs = append(errs, err)
	}
	if child.NotBefore.Before(parent.NotBefore) || child.NotAfter.After(parent.NotAfter) {
		errs = append(errs, fmt.Errorf("is valid outside the validity of the next one (%s to %s)", stamp(parent.NotBefore), stamp(parent.NotAfter)))
	}
	return errs
}

// checkAuthorityKeyID reports an authority key identifier in child that names another certificate
// than parent (RFC 5280, section 4.2.1.1). crypto/x509 ignores issuer and serial number. They name
// another certificate after the root was issued again; OpenSSL then finds no path.
func checkAuthorityKeyID(child, parent *x509.Certificate) error {
	root := child == parent // a root needs no key identifier
	if !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) && !(root && len(child.AuthorityKeyId) == 0) {
		return errors.New("has an authority key identifier that is not the next one's subject key identifier")
	}
	var id struct {
		KeyIdentifier []byte          `asn1:"optional,tag:0"`
		Issuer        []asn1.RawValue `asn1:"optional,tag:1"`
		SerialNumber  *big.Int        `asn1:"optional,tag:2"`
	}
	if e := extension(child, oidAuthorityKeyID); e == nil {
		return nil
	} else if rest, err := asn1.Unmarshal(e.Value, &id); err != nil || len(rest) > 0 {
		return errors.New("has an authority key identifier that is not DER (RFC 5280, section 4.2.1.1)")
	}
	isParents := func(n asn1.RawValue) bool { // directoryName [4], which is EXPLICIT as Name is a CHOICE
		return n.Class == asn1.ClassContextSpecific && n.Tag == 4 && bytes.Equal(n.Bytes, parent.RawIssuer)
	}
	if id.Issuer != nil && !slices.ContainsFunc(id.Issuer, isParents) || id.SerialNumber != nil && id.SerialNumber.Cmp(parent.SerialNumber) != 0 {
		return errors.New("has an authority key identifier with the issuer or serial number of another certificate than the next one; have it issued again, with the key identifier alone")
	}
	return nil
}

// extension returns the extension of c with the OID id; nil if there is none.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) *pkix.Extension {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
	if i < 0 {
		return nil
	}
	return &c.Extensions[i]
}
