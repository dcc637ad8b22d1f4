// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"

	"github.com/mayfly-ca/mayfly/certs"
)

// Crypto returns key in the form that crypto/x509 takes to create certificates and requests:
// those of the CA itself, once in years. ctx bounds each signature. The only scheme is the key's
// own (certs.SignatureAlgorithmFor); every other scheme is refused.
func Crypto(ctx context.Context, key Key) crypto.MessageSigner { return messageSigner{ctx, key} }

type messageSigner struct {
	ctx context.Context
	key Key
}

func (s messageSigner) Public() crypto.PublicKey { return s.key.Public() }

// Sign always refuses: a digest does not show what is signed.
func (messageSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("this key signs messages, not digests")
}

// SignMessage implements crypto.MessageSigner.
func (s messageSigner) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	algorithm, err := certs.SignatureAlgorithmFor(s.key.Public())
	if err != nil {
		return nil, err
	}
	if _, pss := opts.(*rsa.PSSOptions); pss || opts.HashFunc() != algorithm.Hash() {
		return nil, fmt.Errorf("the key signs with %s alone", algorithm)
	}
	return s.key.Sign(s.ctx, message)
}

// Describe returns the kind of public for errors: "ECDSA P-256", "RSA of 4096 bits".
func Describe(public crypto.PublicKey) string {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return "an ECDSA key on " + public.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", public.N.BitLen())
	case ed25519.PublicKey:
		return "an Ed25519 key"
	default:
		return fmt.Sprintf("a key of type %T", public)
	}
}
