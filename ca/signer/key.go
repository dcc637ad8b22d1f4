// SPDX-License-Identifier: Apache-2.0

// Package signer is the private key of a certificate authority, wherever it lies: in this
// process's memory, in a hardware module, at a key-management service, in another process.
// A Key is the key where it lies; each kind has a package below this one. A Signer is a Key
// that can be relied on: it has deadlines, tries again what may pass, opens anew what was
// lost, keeps away from what is out, and hands nothing on that does not verify.
//
// It may be imported by ca, ca/ceremony, internal/app and the commands.
package signer

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
)

// Key is one private key where it lies. It is safe for concurrent use.
//
// The text of its errors is for an operator, and so names the setting and the mend; it never
// holds a secret. An error is permanent, which is that the same again would fail again, unless
// it has a Failure in its chain.
type Key interface {
	// Public returns the public key as the place tells it where the private one lies: an
	// *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey. It asks nobody.
	Public() crypto.PublicKey
	// Sign returns the signature over message, not hashed, by the algorithm that
	// certs.SignatureAlgorithmFor gives the key, in the form that certificates hold. It makes
	// one attempt, and may leave it to its caller to verify the signature. It should return
	// when ctx ends; its caller does not wait for it longer than that.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// Close gives back what the key holds, and may be called while Sign runs: that then ends
	// with an error. Sign after Close is an error. A second Close does nothing.
	Close() error
}

// Near is a Key in another process of ours on this machine. Its Sign returns as soon as its ctx
// ends, and does not panic, so that it is called without a goroutine of its own. The other
// process verifies what comes from outside of it, so that Signer.Sign may hand on its signatures
// as those of a key in memory.
type Near interface {
	Key
	// Near does nothing.
	Near()
}

// Remedy is what may help after a failure.
type Remedy uint8

const (
	// Retry: it may pass by itself, so the same again is worth an attempt.
	Retry Remedy = iota + 1
	// Reopen: this Key is of no more use, and one that is opened anew may be: a session
	// was lost, or the credentials with which it was opened are no longer good.
	Reopen
	// Wait: nothing is wrong, but all that can sign at a time do.
	Wait
)

// Failure is an error of a Key, or of opening one, after which something may help. It is
// always used as *Failure and found with errors.As.
type Failure struct {
	Remedy Remedy
	// RetryAfter is for how long the place wants to be left alone; zero for not at all.
	RetryAfter time.Duration
	// Err is what happened.
	Err error
}

// Error is what happened.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns what happened.
func (f *Failure) Unwrap() error { return f.Err }

// maxRest bounds for how long a place can want to be left alone, so that a slip of its own does
// not end its use.
const maxRest = 10 * time.Second

// Transient tells that err may pass by itself. after is for how long the place wants to be
// left alone, ten seconds at most; zero for not at all.
func Transient(err error, after time.Duration) error {
	return &Failure{Remedy: Retry, RetryAfter: min(after, maxRest), Err: err}
}

// Busy tells that err is of a wait for others to be done: it says nothing against the Key.
func Busy(err error) error { return &Failure{Remedy: Wait, Err: err} }

// Stale tells that err is of a Key that has to be opened anew.
func Stale(err error) error { return &Failure{Remedy: Reopen, Err: err} }

// MessageError is the refusal of one message, which tells nothing of the Key and of others.
type MessageError struct{ Err error }

// Error is why it was refused.
func (e *MessageError) Error() string { return e.Err.Error() }

// Unwrap returns why it was refused.
func (e *MessageError) Unwrap() error { return e.Err }

// IsTransient tells whether err may pass by itself: a Failure, or a deadline.
func IsTransient(err error) bool {
	var f *Failure
	return errors.As(err, &f) || errors.Is(err, context.DeadlineExceeded)
}

// ErrClosed is what a Key returns that has been closed.
var ErrClosed = errors.New("the key has been closed")

// inMemory is a Key in this process's memory.
type inMemory struct{ key crypto.Signer }

// InMemory returns the Key of a private key in this process's memory: an *ecdsa.PrivateKey,
// *rsa.PrivateKey or ed25519.PrivateKey. Close forgets nothing.
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

// InMemory tells those who ask that there is nothing to give back.
func (inMemory) InMemory() {}
