// SPDX-License-Identifier: Apache-2.0

// Package signer provides the private key of a certificate authority: in this process's memory, in
// a hardware module, at a key-management service, or in another process. A Key is the key in its
// place; each kind has a package below this one. A Signer makes a Key reliable: it sets deadlines,
// retries what is transient, opens a lost key again, does not call a key that keeps failing, and
// returns no signature that does not verify.
//
// It may be imported by ca, ca/ceremony, app and the commands.
package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
)

// Key is one private key in its place. It is safe for concurrent use.
//
// The text of its errors is for an operator: it names the setting and the fix, and never holds a
// secret. An error is permanent, so that a retry would fail again, unless it has a Failure in its
// chain.
type Key interface {
	// Public returns the public key, as the place of the private key states it: an
	// *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey. It makes no request.
	Public() crypto.PublicKey
	// Sign returns the signature over message, which is not hashed. The algorithm is the one
	// that certs.SignatureAlgorithmFor gives the key, the form the one that certificates hold.
	// Sign makes one attempt, and may leave the verification to its caller. It should return
	// when ctx ends; its caller waits no longer than that.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// Close releases what the key holds. It may be called while Sign runs, which then returns
	// an error. Sign after Close is an error. A second Close does nothing.
	Close() error
}

// Remedy is what may help after a failure.
type Remedy uint8

const (
	// Retry: the failure is transient, so another attempt may succeed.
	Retry Remedy = iota + 1
	// Reopen: this Key is no longer usable, but opening it again may help: a session was lost,
	// or the credentials with which it was opened are no longer valid.
	Reopen
	// Wait: nothing is wrong, but the key already signs as much as it can at a time.
	Wait
)

// Failure is an error of a Key, or of opening one, that a Remedy may mend. It is always used as
// *Failure and found with errors.As.
type Failure struct {
	Remedy Remedy
	// RetryAfter is how long the service asked not to be called; zero for not at all.
	RetryAfter time.Duration
	// Err is the cause.
	Err error
}

// Error returns the text of the cause.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// maxRest bounds RetryAfter, so that a mistake of a service does not stop its use for long.
const maxRest = 10 * time.Second

// Transient returns err as a Failure that may pass by itself. after is how long the service asked
// not to be called, ten seconds at most; zero for not at all.
func Transient(err error, after time.Duration) error {
	return &Failure{Remedy: Retry, RetryAfter: min(after, maxRest), Err: err}
}

// Busy marks err as the error of a wait for other callers: it does not count against the Key.
func Busy(err error) error { return &Failure{Remedy: Wait, Err: err} }

// Stale marks err as the error of a Key that must be opened again.
func Stale(err error) error { return &Failure{Remedy: Reopen, Err: err} }

// IsTransient reports whether err may pass by itself: a Failure, or a deadline.
func IsTransient(err error) bool {
	return errors.As(err, new(*Failure)) || errors.Is(err, context.DeadlineExceeded)
}

var (
	// ErrNotPermitted is the refusal of one message. It says nothing about the Key or other messages.
	ErrNotPermitted = errors.New("it may not sign this")
	// ErrClosed is the error of a Key that has been closed.
	ErrClosed = errors.New("the key has been closed")
)

// inMemory is a Key in this process's memory.
type inMemory struct{ crypto.Signer }

// InMemory returns the Key of a private key in this process's memory: an *ecdsa.PrivateKey,
// *rsa.PrivateKey or ed25519.PrivateKey. Close does not erase the key.
func InMemory(key crypto.Signer) Key { return inMemory{key} }

// Sign implements Key.
func (k inMemory) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	algorithm, err := certs.SignatureAlgorithmFor(k.Public())
	if err != nil {
		return nil, err
	}
	return algorithm.Sign(rand.Reader, k.Signer, message)
}

// Close implements Key.
func (inMemory) Close() error { return nil }

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

// Describe returns the kind of public for errors: "an ECDSA key on P-256", "an RSA key of 4096 bits".
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
