//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

// maxSessions bounds the signatures of one key that callers wait for at a time, one in each
// session. One more session keeps the login, which ends with the last session (section 5.6).
const maxSessions = 8

// Open opens a key in a token: it loads the module, logs in and looks the key up. Errors have
// the key paths ["module"], ["token"], ["pin_file"] and ["label"]. Calls of a module cannot be
// interrupted; Open abandons a call that hangs when ctx ends.
func (m *Modules) Open(ctx context.Context, cfg Config) (signer.Key, error) {
	module, err := m.load(cfg)
	if err != nil {
		return nil, err
	}
	select {
	case module.openings <- struct{}{}:
	default:
		return nil, at("module", "%w", signer.Transient(fmt.Errorf("%d openings of keys hang in %s; restart mayfly", maxOpenings, module.path), 0))
	}
	var k *key
	opened := make(chan error)
	go func() {
		defer func() { <-module.openings }()
		made, err := module.open(ctx, cfg)
		k = made
		select {
		case opened <- err:
		case <-ctx.Done():
			if err == nil {
				_ = made.Close() // no caller has signed with it
			}
		}
	}()
	select {
	case err := <-opened:
		if err != nil {
			return nil, err
		}
		return k, nil
	case <-ctx.Done():
		return nil, at("module", "a call of %s hangs while the key is opened: %w", module.path, ctx.Err())
	}
}

func (m *module) open(ctx context.Context, cfg Config) (*key, error) {
	s, err := m.session(ctx, cfg, 0)
	if err != nil {
		return nil, err
	}
	k := &key{session: *s, busy: make(chan struct{}, maxSessions)}
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

	busy chan struct{} // an element for each signature that a caller waits for

	mu     sync.Mutex // guards the fields below; not held in calls
	idle   []p11.SessionHandle
	closed bool
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
	if k.token.logins.Load() != k.logins {
		return nil, signer.Stale(errors.New("this process has logged in to the token again, after which the key is looked up again"))
	}
	session, err := k.take()
	if err != nil {
		return nil, err
	}
	// After a failed call the state of a session is unknown.
	defer func() { k.putBack(session, err == nil) }()
	mechanism, input := input(k.public, k.algorithm.Hash(), message)
	if err := k.lib.SignInit(session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, k.private); err != nil {
		return nil, k.failed("C_SignInit", err)
	}
	raw, err := k.lib.Sign(session, input)
	if err != nil {
		return nil, k.failed("C_Sign", err)
	}
	return output(k.public, raw)
}

// failed returns the error of a call, which may mean that the login is lost.
func (k *key) failed(call string, err error) error {
	if remedy, _ := remedyFor(err); remedy == signer.Reopen && k.token.logins.Load() == k.logins {
		k.token.doubted.Store(true)
	}
	return failure(call, err)
}

// take returns an unused session, opened if necessary. The caller must call putBack.
func (k *key) take() (p11.SessionHandle, error) {
	k.mu.Lock()
	last, closed := len(k.idle)-1, k.closed
	if last >= 0 {
		defer k.mu.Unlock()
		session := k.idle[last]
		k.idle = k.idle[:last]
		return session, nil
	}
	k.mu.Unlock()
	if closed {
		return 0, signer.ErrClosed
	}
	session, err := k.lib.OpenSession(k.slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return 0, k.failed("C_OpenSession", err)
	}
	return session, nil
}

// putBack returns a session for reuse, or closes it.
func (k *key) putBack(session p11.SessionHandle, unharmed bool) {
	k.mu.Lock()
	keep := unharmed && !k.closed && len(k.idle) < maxSessions // there are more after calls that hung
	if keep {
		k.idle = append(k.idle, session)
	}
	k.mu.Unlock()
	if !keep {
		_ = k.lib.CloseSession(session) // an error changes nothing
	}
}

// Close implements signer.Key. A session in use is closed after its signature.
func (k *key) Close() error {
	k.mu.Lock()
	idle, closed := k.idle, k.closed
	k.idle, k.closed = nil, true
	k.mu.Unlock()
	for _, session := range idle {
		_ = k.lib.CloseSession(session) // an error changes nothing
	}
	if !closed {
		k.end()
	}
	return nil
}
