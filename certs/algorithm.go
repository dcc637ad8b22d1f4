// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
)

// SignatureAlgorithm is the algorithm that a CA signs certificates with. It follows from the kind
// of the CA's key alone. Values compare with ==. The zero value is no algorithm: it signs and
// verifies nothing.
type SignatureAlgorithm struct {
	x509       x509.SignatureAlgorithm
	hash       crypto.Hash
	identifier string // AlgorithmIdentifier, DER
}

// SignatureAlgorithmFor returns the algorithm for pub: an *ecdsa.PublicKey on P-256 (SHA-256),
// P-384 (SHA-384) or P-521 (SHA-512), an *rsa.PublicKey (PKCS #1 v1.5 with SHA-256) or an
// ed25519.PublicKey.
func SignatureAlgorithmFor(pub crypto.PublicKey) (SignatureAlgorithm, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		// RFC 5758, section 3.2: no parameters.
		switch pub.Curve {
		case elliptic.P256():
			return SignatureAlgorithm{x509.ECDSAWithSHA256, crypto.SHA256, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"}, nil
		case elliptic.P384():
			return SignatureAlgorithm{x509.ECDSAWithSHA384, crypto.SHA384, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"}, nil
		case elliptic.P521():
			return SignatureAlgorithm{x509.ECDSAWithSHA512, crypto.SHA512, "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"}, nil
		}
		return SignatureAlgorithm{}, errors.New("no signature algorithm for an ECDSA key on a curve other than P-256, P-384 and P-521")
	case *rsa.PublicKey:
		// RFC 4055, section 5: the parameters are NULL.
		return SignatureAlgorithm{x509.SHA256WithRSA, crypto.SHA256, "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"}, nil
	case ed25519.PublicKey:
		if len(pub) != ed25519.PublicKeySize { // crypto/ed25519 panics
			return SignatureAlgorithm{}, errors.New("the Ed25519 key is not of 32 bytes")
		}
		// RFC 8410, section 3: no parameters.
		return SignatureAlgorithm{x509.PureEd25519, 0, "\x30\x05\x06\x03\x2b\x65\x70"}, nil
	default:
		return SignatureAlgorithm{}, fmt.Errorf("no signature algorithm for a key of type %T", pub)
	}
}

// Hash returns the hash that is signed. It is 0 for Ed25519, which signs the message itself.
func (a SignatureAlgorithm) Hash() crypto.Hash { return a.hash }

// Identifier returns the AlgorithmIdentifier, DER.
func (a SignatureAlgorithm) Identifier() []byte { return []byte(a.identifier) }

// X509 returns the algorithm's name in crypto/x509.
func (a SignatureAlgorithm) X509() x509.SignatureAlgorithm { return a.x509 }

// String returns the name that crypto/x509 gives the algorithm.
func (a SignatureAlgorithm) String() string { return a.x509.String() }

// Sign returns signer's signature over tbs, which is not hashed, in the form that certificates
// hold. Sign passes rand to signer unchanged. It does not call a signer with another kind of key.
func (a SignatureAlgorithm) Sign(rand io.Reader, signer crypto.Signer, tbs []byte) ([]byte, error) {
	if err := a.fits(signer.Public()); err != nil {
		return nil, err
	}
	return crypto.SignMessage(signer, rand, tbs, a.hash)
}

// Verify returns nil if sig is pub's signature over tbs, which is not hashed.
func (a SignatureAlgorithm) Verify(pub crypto.PublicKey, tbs, sig []byte) error {
	if err := a.fits(pub); err != nil {
		return err
	}
	c := x509.Certificate{PublicKey: pub}
	if c.CheckSignature(a.x509, tbs, sig) != nil {
		return fmt.Errorf("the %s signature does not verify", a)
	}
	return nil
}

func (a SignatureAlgorithm) fits(pub crypto.PublicKey) error {
	wanted, err := SignatureAlgorithmFor(pub)
	if err == nil && a != wanted {
		err = fmt.Errorf("the key signs with %s, not with %s", wanted, a)
	}
	return err
}
