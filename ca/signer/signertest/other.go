// SPDX-License-Identifier: Apache-2.0

package signertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
)

// otherKey returns a different public key of the same kind as public.
func otherKey(public crypto.PublicKey) (crypto.PublicKey, error) {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return publicOf(ecdsa.GenerateKey(public.Curve, rand.Reader))
	case *rsa.PublicKey:
		return publicOf(rsa.GenerateKey(rand.Reader, public.N.BitLen()))
	case ed25519.PublicKey:
		other, _, err := ed25519.GenerateKey(rand.Reader)
		return other, err
	default:
		return publicOf(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
}

func publicOf(key crypto.Signer, err error) (crypto.PublicKey, error) {
	if err != nil {
		return nil, err
	}
	return key.Public(), nil
}
