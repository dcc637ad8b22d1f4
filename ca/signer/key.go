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
	"crypto/rand"
	"errors"
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

// MessageError is the refusal of one message. It says nothing about the Key or other messages.
type MessageError struct{ Err error }

// Error returns the text of the reason.
func (e *MessageError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *MessageError) Unwrap() error { return e.Err }

// IsTransient reports whether err may pass by itself: a Failure, or a deadline.
func IsTransient(err error) bool {
	var f *Failure
	return errors.As(err, &f) || errors.Is(err, context.DeadlineExceeded)
}

// ErrClosed is the error of a Key that has been closed.
var ErrClosed = errors.New("the key has been closed")

// inMemory is a Key in this process's memory.
type inMemory struct{ key crypto.Signer }

// InMemory returns the Key of a private key in this process's memory: an *ecdsa.PrivateKey,
// *rsa.PrivateKey or ed25519.PrivateKey. Close does not erase the key.
func InMemory(key crypto.Signer) Key { return inMemory{key} }

func (k inMemory) Public() crypto.PublicKey { return k.key.Public() }

func (k inMemory) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	algorithm, err := certs.SignatureAlgorithmFor(k.key.Public())
	if err != nil {
		return nil, err
	}
	return algorithm.Sign(rand.Reader, k.key, message)
}

func (inMemory) Close() error { return nil }

// InMemory marks a Key that has nothing to release.
func (inMemory) InMemory() {}
