//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

// maxSessions bounds the signatures of one key that callers wait for at a time, one in each
// session. One more session keeps the login, which ends with the last session (section 5.6).
const maxSessions = 8

// Open opens a key in a token: it loads the module, logs in and looks the key up. Errors have
// the key paths ["module"], ["token"], ["pin_file"] and ["label"]. A call of a module cannot be
// interrupted, so Open may not return when ctx ends.
func (m *Modules) Open(ctx context.Context, cfg Config) (signer.Key, error) {
	module, err := m.load(cfg)
	if err != nil {
		return nil, err
	}
	s, err := module.session(ctx, cfg, 0)
	if err != nil {
		return nil, err
	}
	k := &key{session: *s, busy: make(chan struct{}, maxSessions), idle: make(chan p11.SessionHandle, maxSessions)}
	if k.private, k.public, err = s.find(); err == nil {
		k.algorithm, err = certs.SignatureAlgorithmFor(k.public)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return k, nil
}

// key is a private key in a token. Its own session keeps the login, and signs nothing.
type key struct {
	session
	private   p11.ObjectHandle
	public    crypto.PublicKey
	algorithm certs.SignatureAlgorithm
	busy      chan struct{}          // an element for each signature that a caller waits for
	idle      chan p11.SessionHandle // sessions to sign in
	closed    atomic.Bool
}

// Public returns the public key, as the token states it.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements signer.Key. A call that hangs when ctx ends takes only its session from others.
// The caller of Sign bounds the number of such calls.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	release, err := acquire(ctx, k.busy)
	if err != nil {
		return nil, signer.Busy(err)
	}
	defer release()
	signature, err := k.sign(message)
	if err != nil {
		return nil, fmt.Errorf("signing with the key %q (pkcs11.label) in the token %q: %w", k.cfg.Label, k.cfg.Token, err)
	}
	return signature, nil
}

func (k *key) sign(message []byte) (signature []byte, err error) {
	switch {
	case k.closed.Load():
		return nil, signer.ErrClosed
	case k.token.logins.Load() != k.logins:
		return nil, signer.Stale(errors.New("this process has logged in to the token again, after which the key is looked up again"))
	}
	var session p11.SessionHandle
	select {
	case session = <-k.idle:
	default:
		if session, err = k.lib.OpenSession(k.slot, p11.CKF_SERIAL_SESSION); err != nil {
			return nil, k.failed("C_OpenSession", err)
		}
	}
	mechanism, input := input(k.public, k.algorithm.Hash(), message)
	call := "C_SignInit"
	if err = k.lib.SignInit(session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, k.private); err == nil {
		call = "C_Sign"
		signature, err = k.lib.Sign(session, input)
	}
	if err != nil {
		_ = k.lib.CloseSession(session) // its state is unknown
		return nil, k.failed(call, err)
	}
	select {
	case k.idle <- session:
	default: // there are more sessions after calls that hung
		_ = k.lib.CloseSession(session)
	}
	if k.closed.Load() {
		k.closeIdle()
	}
	return output(k.public, signature)
}

// failed returns the error of a call, which may mean that the login is lost.
func (k *key) failed(call string, err error) error {
	if remedy, _ := remedyFor(err); remedy == signer.Reopen && k.token.logins.Load() == k.logins {
		k.token.doubted.Store(true)
	}
	return failure(call, err)
}

// Close implements signer.Key. A session in use is closed after its signature.
func (k *key) Close() error {
	if !k.closed.Swap(true) {
		k.closeIdle()
		k.end()
	}
	return nil
}

func (k *key) closeIdle() {
	for {
		select {
		case session := <-k.idle:
			_ = k.lib.CloseSession(session) // an error changes nothing
		default:
			return
		}
	}
}
