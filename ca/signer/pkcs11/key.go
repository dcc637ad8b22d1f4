//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

// maxSessions is how many signatures of one key are made at a time: a session makes one. One
// session more keeps the login, which ends with the last session (section 5.6, C_CloseSession).
const maxSessions = 8

// key is a private key in a token.
type key struct {
	visit     // its session keeps the login and looks the key up; it signs nothing
	public    crypto.PublicKey
	algorithm certs.SignatureAlgorithm
	mechanism uint

	busy    chan struct{} // an element for each session that signs
	finding lock          // held while the visit's session is used

	mu     sync.Mutex // guards what follows, and visit.login; not held in calls
	handle p11.ObjectHandle
	idle   []p11.SessionHandle
	closed bool
	lost   error // why the key has to be opened anew; nil if it does not. Then it is closed too
}

// Open opens a key in a token: it loads the module, logs in and looks the key up. Errors have
// the key paths ["module"], ["token"], ["pin_file"] and ["label"]. Calls of a module cannot be
// interrupted, so it may outlast ctx where the module hangs.
func (m *Modules) Open(ctx context.Context, cfg Config) (signer.Key, error) {
	v, err := m.visit(ctx, cfg, 0)
	if err != nil {
		return nil, err
	}
	k, err := v.open(ctx)
	if err != nil {
		v.end()
		return nil, err
	}
	return k, nil
}

// open returns the key that is configured, which takes the visit over.
func (v *visit) open(ctx context.Context) (*key, error) {
	if err := v.token.use.Acquire(ctx, 1); err != nil {
		return nil, atToken(fmt.Errorf("waiting for another login to end: %w", err))
	}
	defer v.token.use.Release(1)
	if v.token.login() != v.login {
		return nil, atToken(signer.Transient(errAnotherLogin, 0))
	}
	handle, public, err := v.find()
	if err != nil {
		return nil, err
	}
	algorithm, err := certs.SignatureAlgorithmFor(public)
	if err != nil {
		return nil, atLabel("the key %q: %w", v.cfg.Label, err)
	}
	k := &key{visit: *v, handle: handle, public: public, algorithm: algorithm, mechanism: p11.CKM_RSA_PKCS, busy: make(chan struct{}, maxSessions), finding: newLock()}
	if _, ec := public.(*ecdsa.PublicKey); ec {
		k.mechanism = p11.CKM_ECDSA
	}
	return k, nil
}

// Public returns the public key, as the token tells it.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.sign(ctx, message)
	if err != nil {
		return nil, fmt.Errorf("signing with the key %q (pkcs11.label) in the token %q: %w", k.cfg.Label, k.cfg.Token, err)
	}
	return signature, nil
}

func (k *key) sign(ctx context.Context, message []byte) (signature []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	session, err := k.take(ctx)
	if err != nil {
		return nil, err
	}
	unharmed := false // a session in which a call failed is in a state that nobody knows
	defer func() { k.putBack(session, unharmed) }()
	if err := k.token.use.Acquire(ctx, 1); err != nil {
		unharmed = true
		return nil, fmt.Errorf("waiting for a login to end: %w", err)
	}
	defer k.token.use.Release(1)
	handle, err := k.find(ctx)
	if err != nil {
		unharmed = true
		return nil, err
	}
	if err := k.lib.SignInit(session, []*p11.Mechanism{p11.NewMechanism(k.mechanism, nil)}, handle); err != nil {
		return nil, k.failed("C_SignInit", err)
	}
	raw, err := k.lib.Sign(session, toBeSigned(k.public, k.algorithm.Hash(), message))
	if err != nil {
		return nil, k.failed("C_Sign", err)
	}
	unharmed = true
	if public, ec := k.public.(*ecdsa.PublicKey); ec {
		return derSignature(raw, size(public.Curve))
	}
	return raw, nil
}

// find returns the key's handle, looked up again if there was another login: so a key outlives
// a wrong PIN in its file, which the token was asked for when the file was loaded again. What
// handles are void shows here and not in the token, which may have given their numbers to
// other objects.
func (k *key) find(ctx context.Context) (p11.ObjectHandle, error) {
	now := k.token.login()
	if handle, ok := k.found(now); ok {
		return handle, nil
	}
	if err := k.finding.acquire(ctx); err != nil {
		return 0, fmt.Errorf("waiting for the key to be looked up again: %w", err)
	}
	defer k.finding.release()
	if handle, ok := k.found(now); ok {
		return handle, nil
	}
	if !k.token.keepsSessionsOf(k.login) {
		return 0, k.lose(signer.Stale(errAnotherLogin))
	}
	handle, public, err := k.visit.find()
	if err != nil {
		return 0, k.lose(signer.Stale(fmt.Errorf("looking the key up after another login: %w", err)))
	}
	if same, ok := public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(k.public) {
		return 0, k.lose(signer.Stale(errors.New("there is another key of this label in the token since another login")))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.handle, k.login = handle, now
	return handle, nil
}

// found returns the handle if it was found in a login.
func (k *key) found(login uint64) (p11.ObjectHandle, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.handle, k.login == login
}

// take returns a session that nobody else uses, opened if there is none. putBack has to follow.
func (k *key) take(ctx context.Context) (p11.SessionHandle, error) {
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for one of %d signatures in the token to end: %w", maxSessions, ctx.Err())
	}
	session, found, err := k.takeIdle()
	if err == nil && !found {
		session, err = k.lib.OpenSession(k.slot, p11.CKF_SERIAL_SESSION)
		err = k.failed("C_OpenSession", err)
	}
	if err != nil {
		<-k.busy
		return 0, err
	}
	return session, nil
}

func (k *key) takeIdle() (session p11.SessionHandle, found bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch last := len(k.idle) - 1; {
	case k.lost != nil:
		return 0, false, k.lost
	case k.closed:
		return 0, false, signer.ErrClosed
	case last >= 0:
		session, k.idle = k.idle[last], k.idle[:last]
		return session, true, nil
	}
	return 0, false, nil
}

// putBack gives a session back for others, or closes it.
func (k *key) putBack(session p11.SessionHandle, unharmed bool) {
	k.mu.Lock()
	keep := unharmed && !k.closed
	if keep {
		k.idle = append(k.idle, session)
	}
	k.mu.Unlock()
	if !keep {
		_ = k.lib.CloseSession(session) // it is gone either way
	}
	<-k.busy
}

// failed is failure, and remembers when the key has to be opened anew.
func (k *key) failed(call string, err error) error {
	if err == nil {
		return nil
	}
	if is(err, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED) {
		k.mu.Lock()
		login := k.login
		k.mu.Unlock()
		k.token.doubt(login)
	}
	return k.lose(failure(call, err))
}

// lose has every signature from here on fail as err did, if that is of a key that has to be
// opened anew: whoever got the key before it was replaced is to come again. The sessions are
// closed first, as a token may have no other ones.
func (k *key) lose(err error) error {
	if remedy(err) != signer.Reopen {
		return err
	}
	k.mu.Lock()
	if k.lost == nil && !k.closed {
		k.lost = err
	}
	k.mu.Unlock()
	_ = k.Close() // it has no error
	return err
}

// Close implements signer.Key. Sessions that sign are closed when they have.
func (k *key) Close() error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil
	}
	idle := k.idle
	k.idle, k.closed = nil, true
	k.mu.Unlock()
	for _, session := range idle {
		_ = k.lib.CloseSession(session) // it is gone either way
	}
	k.end()
	return nil
}
