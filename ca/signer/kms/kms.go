// SPDX-License-Identifier: Apache-2.0

// Package kms holds what the keys of key-management services share: it computes the digest, stops
// a call when its context ends, and classifies errors. Each service has a package below this one,
// so that a program links only the clients that it imports.
//
// Only packages below it import it.
package kms

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Service is a key's service, for the operator.
type Service struct {
	// Name is the service's name, and URI the key's URI there (kms.uri).
	Name, URI string
	// Hint states what to look at if the service refuses: credentials and permissions.
	Hint string
	// Status returns the HTTP status and the header of the answer in an error of the service's
	// client; zero if there was no answer.
	Status func(error) (int, http.Header)
}

// maxErrorText bounds the length of a service's error text: some clients print whole responses.
const maxErrorText = 1000

// Explain returns err, of the service's client, as the text for an operator. It is a signer.Failure
// if the service may recover.
func (s Service) Explain(ctx context.Context, err error) error {
	text := strings.ToValidUTF8(strings.Join(strings.Fields(err.Error()), " "), "?")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	if ctx.Err() != nil {
		return fmt.Errorf("waiting for %s: %w (%s)", s.Name, ctx.Err(), text)
	}
	status, header := s.Status(err)
	unreached := status == 0 && (errors.As(err, new(net.Error)) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
	if unreached || slices.Contains([]int{408, 429, 500, 502, 503, 504}, status) {
		return signer.Transient(fmt.Errorf("%s fails or is not reached, for the key %s (kms.uri): %s", s.Name, s.URI, text), httputil.RetryAfter(header, time.Now()))
	}
	return fmt.Errorf("%s does not let mayfly use the key %s (kms.uri): %s; %s", s.Name, s.URI, text, s.Hint)
}

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

// FromSigstore returns the key that sigstore's client of the service names. The service's hash
// for the key must be the one that certificates use. It refuses a key with which the client panics,
// such as one of AWS that signs with nothing.
func FromSigstore(ctx context.Context, client kms.SignerVerifier, service Service) (cfg Config, err error) {
	defer recovered(&err)
	public, err := client.PublicKey(options.WithContext(ctx))
	if err != nil {
		return Config{}, service.Explain(ctx, err)
	}
	_, hash, err := client.CryptoSigner(ctx, nil)
	if err != nil {
		return Config{}, service.Explain(ctx, err)
	}
	// New reports an error of this.
	if algorithm, err := certs.SignatureAlgorithmFor(public); err == nil && algorithm.Hash() != 0 && hash.HashFunc() != algorithm.Hash() {
		return Config{}, keypath.Errorf([]string{"uri"}, "%s is %s that signs with %s, and certificates of such a key take %s; create a key that signs with that",
			service.URI, signer.Describe(public), hash.HashFunc(), algorithm.Hash())
	}
	sign := func(ctx context.Context, digest []byte, hash crypto.Hash) (signature []byte, err error) {
		defer recovered(&err)
		return client.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest), options.WithCryptoSignerOpts(hash))
	}
	return Config{Public: public, Sign: sign, Service: service}, nil
}

// recovered makes an error of a panic of sigstore's client, which does not expect every answer.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the service's client does not understand its answer: is the key one that signs? (%v)", p)
	}
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
	if err != nil || algorithm.Hash() == 0 {
		return nil, keypath.Errorf([]string{"uri"}, "%s is %s, which is not supported at key-management services; create an ECDSA key on P-256, P-384 or P-521, or an RSA key", cfg.Service.URI, signer.Describe(cfg.Public))
	}
	k := &key{Config: cfg, hash: algorithm.Hash()}
	k.life, k.end = context.WithCancel(context.Background())
	return k, nil
}

// Public implements signer.Key.
func (k *key) Public() crypto.PublicKey { return k.Config.Public }

// Sign implements signer.Key. After a refusal the key must be opened again, which reads the
// credentials again.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.life, cancel)()
	h := k.hash.New()
	h.Write(message)
	var signature []byte
	err := cmp.Or(k.life.Err(), ctx.Err()) // not every client checks its context
	if err == nil {
		signature, err = k.Config.Sign(ctx, h.Sum(nil), k.hash)
	}
	switch {
	case k.life.Err() != nil:
		return nil, signer.ErrClosed
	case err == nil:
		return signature, nil
	}
	if err = k.Service.Explain(ctx, err); ctx.Err() == nil && !signer.IsTransient(err) {
		err = signer.Stale(err)
	}
	return nil, err
}

// Close implements signer.Key.
func (k *key) Close() error {
	closed := k.life.Err() != nil
	k.end()
	if closed || k.Release == nil {
		return nil
	}
	return k.Release()
}
