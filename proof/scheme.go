// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	stdasn1 "encoding/asn1"
	"math/big"
	"strconv"
)

// scheme is how a key signs. It follows from the key's kind and size alone. If a key could sign in
// two ways, a signature of one could be taken for the other's.
type scheme struct {
	algorithm string // name in a policy
	title     string // name in messages
	x509      x509.SignatureAlgorithm
	oid       string // of x509
	// challengeForm describes the signature of a challenge, to complete "with …".
	challengeForm string
}

// schemeOf returns the scheme of pub. For a key of another kind it returns the zero scheme, which
// verifies nothing. An RSA key of any size has a scheme; the policy limits the size.
func schemeOf(pub crypto.PublicKey) scheme {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if pub.N == nil {
			return scheme{}
		}
		bits := strconv.Itoa(pub.N.BitLen())
		return scheme{"rsa-" + bits, "RSA with a modulus of " + bits + " bits", x509.SHA256WithRSA, "1.2.840.113549.1.1.11", "RSA PKCS #1 v1.5 and SHA-256"}
	case *ecdsa.PublicKey:
		const form = ", in ASN.1 DER or IEEE P1363"
		switch pub.Curve {
		case elliptic.P256():
			return scheme{"ecdsa-p256", "ECDSA on P-256", x509.ECDSAWithSHA256, "1.2.840.10045.4.3.2", "ECDSA and SHA-256" + form}
		case elliptic.P384():
			return scheme{"ecdsa-p384", "ECDSA on P-384", x509.ECDSAWithSHA384, "1.2.840.10045.4.3.3", "ECDSA and SHA-384" + form}
		case elliptic.P521():
			return scheme{"ecdsa-p521", "ECDSA on P-521", x509.ECDSAWithSHA512, "1.2.840.10045.4.3.4", "ECDSA and SHA-512" + form}
		}
	case ed25519.PublicKey:
		return scheme{"ed25519", "Ed25519", x509.PureEd25519, "1.3.101.112", "Ed25519 over the value itself, not over a hash of it"}
	}
	return scheme{}
}

// verify reports whether sig is pub's signature over message in the one encoding of X.509: ASN.1
// for ECDSA. s must be the scheme of pub, which the policy allows.
func (s scheme) verify(pub crypto.PublicKey, message, sig []byte) bool {
	c := x509.Certificate{PublicKey: pub}
	return c.CheckSignature(s.x509, message, sig) == nil
}

// verifyP1363 reports whether sig is pub's ECDSA signature as r‖s, each as long as the curve's
// order (IEEE Std 1363-2000, annex E.3.1). WebCrypto returns this form.
func (s scheme) verifyP1363(pub crypto.PublicKey, message, sig []byte) bool {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || len(sig) != 2*((key.Params().N.BitLen()+7)/8) {
		return false
	}
	half := len(sig) / 2
	der, err := stdasn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])})
	return err == nil && s.verify(pub, message, der)
}
