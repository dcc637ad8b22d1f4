// SPDX-License-Identifier: Apache-2.0

// Package kms holds what the keys of key-management services share: it computes the digest, stops
// a call when its context ends, and explains errors to the operator. Each service has a package
// below this one, so that a program links only the clients that it imports.
//
// Only packages below it import it.
package kms

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config is a key at a service.
type Config struct {
	// Public is the key's public half, as the service returns it.
	Public crypto.PublicKey
	// Sign lets the service sign digest, which hash produced, in one attempt. It returns the
	// signature in the form that certificates hold.
	Sign func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error)
	// Service explains the errors of Sign.
	Service Service
	// Release releases what the key holds; nil for nothing.
	Release func() error
}

// key is a key at a service.
type key struct {
	Config
	hash crypto.Hash
	life context.Context // canceled by Close
	end  context.CancelFunc
}

// New returns the key. It refuses an Ed25519 key: services sign messages of bounded size with such
// a key, and no digests.
func New(cfg Config) (signer.Key, error) {
	algorithm, err := certs.SignatureAlgorithmFor(cfg.Public)
	if err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%s: %w; make the key an ECDSA or RSA key", cfg.Service.URI, err)
	}
	if _, ok := cfg.Public.(ed25519.PublicKey); ok {
		return nil, keypath.Errorf([]string{"uri"}, "%s is %s, which is not supported at key-management services; make it an ECDSA key on P-256 or P-384, or an RSA key", cfg.Service.URI, signer.Describe(cfg.Public))
	}
	k := &key{Config: cfg, hash: algorithm.Hash()}
	k.life, k.end = context.WithCancel(context.Background())
	return k, nil
}

// Public implements signer.Key.
func (k *key) Public() crypto.PublicKey { return k.Config.Public }

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	// Not every client checks its context, so no request is sent for a caller that has gone.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.life, cancel)()
	if k.life.Err() != nil {
		return nil, signer.ErrClosed
	}
	h := k.hash.New()
	h.Write(message)
	signature, err := k.Config.Sign(ctx, h.Sum(nil), k.hash)
	switch {
	case k.life.Err() != nil:
		return nil, signer.ErrClosed
	case err == nil:
		return signature, nil
	}
	return nil, k.Service.Explain(ctx, err)
}

// Close implements signer.Key.
func (k *key) Close() error {
	if k.life.Err() != nil {
		return nil
	}
	k.end()
	if k.Release == nil {
		return nil
	}
	return k.Release()
}

// SignerVerifier is the part of sigstore's client of a service that this package uses.
type SignerVerifier interface {
	PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error)
	SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error)
	CryptoSigner(ctx context.Context, errFunc func(error)) (crypto.Signer, crypto.SignerOpts, error)
}

// FromSigstore returns the key that sigstore's client of the service names. The service's hash
// for the key must be the one that certificates use.
func FromSigstore(ctx context.Context, client SignerVerifier, service Service) (Config, error) {
	public, err := client.PublicKey(options.WithContext(ctx))
	if err != nil {
		return Config{}, service.Explain(ctx, err)
	}
	if public == nil {
		return Config{}, service.Explain(ctx, errors.New("the answer holds no public key"))
	}
	_, hash, err := client.CryptoSigner(ctx, nil)
	if err != nil {
		return Config{}, service.Explain(ctx, err)
	}
	// New reports an error of this.
	if algorithm, err := certs.SignatureAlgorithmFor(public); err == nil && algorithm.Hash() != 0 && hash.HashFunc() != algorithm.Hash() {
		return Config{}, keypath.Errorf([]string{"uri"}, "%s is %s that signs with %s, and certificates of such a key take %s; make a key that signs with that",
			service.URI, signer.Describe(public), hash.HashFunc(), algorithm.Hash())
	}
	sign := func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
		signature, err := client.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest), options.WithCryptoSignerOpts(hash))
		if err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
		return signature, nil
	}
	return Config{Public: public, Sign: sign, Service: service}, nil
}
