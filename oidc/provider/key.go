// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// signingKey is a private key with its `kid` and one reusable signer.
type signingKey struct {
	private jose.JSONWebKey
	signer  jose.Signer
}

// newSigningKey returns private as a signing key; if it is nil, a new key.
func newSigningKey(alg jose.SignatureAlgorithm, id string, private crypto.Signer) (key *signingKey, err error) {
	if private == nil {
		if private, err = generateKey(alg); err != nil {
			return nil, err
		}
	}
	key = &signingKey{private: jose.JSONWebKey{Key: private, KeyID: id, Algorithm: string(alg), Use: "sig"}}
	key.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key.private}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("making signer: %w", err)
	}
	return key, nil
}

// generateKey returns a new private key of the type that alg needs (RFC 7518, section 3.1).
func generateKey(alg jose.SignatureAlgorithm) (key crypto.Signer, err error) {
	switch alg {
	case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("choosing a key: %q is none of RS, PS and ES with 256, 384 or 512, and EdDSA", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}
	return key, nil
}
