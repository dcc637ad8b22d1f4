// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"math/big"
	"strconv"
)

// scheme is how a key signs. It follows from the key's kind and size alone. If a key could sign in
// two ways, a signature of one could be taken for the other's.
type scheme struct {
	algorithm string // name in KeyPolicyConfig
	title     string // name in messages
	hash      crypto.Hash
	// challengeForm describes the signature of a challenge, to complete "with …".
	challengeForm string
	// oid is the signature algorithm of a CSR, and oidName its name.
	oid, oidName string
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
		return scheme{"rsa-" + bits, "RSA with a modulus of " + bits + " bits", crypto.SHA256,
			"RSA PKCS #1 v1.5 and SHA-256", "1.2.840.113549.1.1.11", "sha256WithRSAEncryption"}
	case *ecdsa.PublicKey:
		const form = ", in ASN.1 DER or IEEE P1363"
		switch pub.Curve {
		case elliptic.P256():
			return scheme{"ecdsa-p256", "ECDSA on P-256", crypto.SHA256, "ECDSA and SHA-256" + form, "1.2.840.10045.4.3.2", "ecdsa-with-SHA256"}
		case elliptic.P384():
			return scheme{"ecdsa-p384", "ECDSA on P-384", crypto.SHA384, "ECDSA and SHA-384" + form, "1.2.840.10045.4.3.3", "ecdsa-with-SHA384"}
		case elliptic.P521():
			return scheme{"ecdsa-p521", "ECDSA on P-521", crypto.SHA512, "ECDSA and SHA-512" + form, "1.2.840.10045.4.3.4", "ecdsa-with-SHA512"}
		}
	case ed25519.PublicKey:
		return scheme{"ed25519", "Ed25519", 0, "Ed25519 over the value itself, not over a hash of it", "1.3.101.112", "Ed25519"}
	}
	return scheme{}
}

// verify reports whether sig is pub's signature over message in the one encoding of X.509: ASN.1
// for ECDSA. s must be the scheme of pub.
func (s scheme) verify(pub crypto.PublicKey, message, sig []byte) bool {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, s.hash, s.digest(message), sig) == nil
	case *ecdsa.PublicKey:
		// VerifyASN1 refuses trailing bytes and negative or padded integers.
		return ecdsa.VerifyASN1(pub, s.digest(message), sig)
	case ed25519.PublicKey:
		return len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, message, sig)
	default:
		return false
	}
}

// verifyP1363 reports whether sig is pub's ECDSA signature as r‖s, each as long as the curve's
// order (IEEE Std 1363-2000, annex E.3.1). WebCrypto returns this form.
func (s scheme) verifyP1363(pub crypto.PublicKey, message, sig []byte) bool {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve == nil {
		return false
	}
	size := (key.Curve.Params().N.BitLen() + 7) / 8
	if len(sig) != 2*size {
		return false
	}
	r, t := new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])
	return ecdsa.Verify(key, s.digest(message), r, t)
}

func (s scheme) digest(message []byte) []byte {
	switch s.hash {
	case crypto.SHA256:
		sum := sha256.Sum256(message)
		return sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(message)
		return sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512(message)
		return sum[:]
	default:
		return nil
	}
}
