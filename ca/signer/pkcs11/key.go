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
)

// maxSessions bounds the signatures of one key that callers wait for at a time, one in each
// session. One extra session keeps the login, which ends with the last session (section 5.6,
// C_CloseSession).
const maxSessions = 8

// key is a private key in a token.
type key struct {
	visit // its session keeps the login and looks the key up; it signs nothing
	how   scheme

	busy    chan struct{} // an element for each signature that a caller waits for
	finding lock          // held while the visit's session is used

	mu     sync.Mutex // guards the fields below, and visit.login; not held in calls
	handle p11.ObjectHandle
	idle   []p11.SessionHandle
	closed bool
	lost   error // why the key must be opened again; nil if it need not. If set, the key is closed too
}

// Public returns the public key, as the token states it.
func (k *key) Public() crypto.PublicKey { return k.how.public }

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.signOnce(ctx, message)
	if err != nil {
		return nil, fmt.Errorf("signing with the key %q (pkcs11.label) in the token %q: %w", k.cfg.Label, k.cfg.Token, err)
	}
	return signature, nil
}

// signOnce counts as a signature until ctx ends. A call that hangs after that takes only its
// session from others. The caller of signOnce bounds the number of such calls.
func (k *key) signOnce(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, signer.Busy(fmt.Errorf("waiting for one of %d signatures in the token to end: %w", maxSessions, ctx.Err()))
	}
	defer once(ctx, func() { <-k.busy })()
	session, err := k.take()
	if err != nil {
		return nil, err
	}
	signature, unharmed, err := k.signIn(ctx, session, message)
	k.putBack(session, unharmed)
	return signature, err
}

// signIn signs in a session, and reports whether that session is still usable. After a failed call
// the state of a session is unknown.
func (k *key) signIn(ctx context.Context, session p11.SessionHandle, message []byte) (signature []byte, unharmed bool, err error) {
	share, err := k.token.share(ctx)
	if err != nil {
		return nil, true, err
	}
	handle, err := k.find(ctx, share.login)
	if err != nil {
		_ = share.end()
		return nil, true, err
	}
	signature, err = k.sign(session, handle, k.how, message)
	if revoked := share.end(); revoked != nil {
		return nil, false, revoked
	}
	if err != nil && ctx.Err() == nil { // a late error says nothing about the key now
		err = k.failed(err)
	}
	return signature, err == nil, err
}

// sign creates a signature, in the form that certificates hold.
func (v *visit) sign(session p11.SessionHandle, handle p11.ObjectHandle, how scheme, message []byte) ([]byte, error) {
	if err := v.lib.SignInit(session, []*p11.Mechanism{p11.NewMechanism(how.mechanism, nil)}, handle); err != nil {
		return nil, failure("C_SignInit", err)
	}
	raw, err := v.lib.Sign(session, toBeSigned(how.public, how.algorithm.Hash(), message))
	if err != nil {
		return nil, failure("C_Sign", err)
	}
	if public, ec := how.public.(*ecdsa.PublicKey); ec {
		return derSignature(raw, size(public.Curve))
	}
	return raw, nil
}

// find returns the key's handle in the login now. After another login it looks the key up again. So
// a key survives a reload that tried a wrong PIN from its file. find detects void handles, since
// the token cannot: it may have given their numbers to other objects.
func (k *key) find(ctx context.Context, now uint64) (p11.ObjectHandle, error) {
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
	if same, ok := public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(k.how.public) {
		return 0, k.lose(signer.Stale(errors.New("there is another key of this label in the token since another login")))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.handle, k.login = handle, now
	return handle, nil
}

// found returns the handle, and whether it was found in login.
func (k *key) found(login uint64) (p11.ObjectHandle, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.handle, k.login == login
}

// take returns an unused session, opened if necessary. The caller must call putBack.
func (k *key) take() (p11.SessionHandle, error) {
	session, found, err := k.takeIdle()
	if err != nil || found {
		return session, err
	}
	session, err = k.lib.OpenSession(k.slot, p11.CKF_SERIAL_SESSION)
	return session, k.failed(failure("C_OpenSession", err))
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

// failed records what the failure of a call implies for the login and the key.
func (k *key) failed(err error) error {
	if is(err, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED) {
		k.mu.Lock()
		login := k.login
		k.mu.Unlock()
		k.token.doubt(login)
	}
	return k.lose(err)
}

// lose makes every later signature fail like err, if err means that the key must be opened again:
// a caller that still holds this key must then get the new one. lose closes the sessions first, as
// the token may have no others.
func (k *key) lose(err error) error {
	if remedy(err) != signer.Reopen {
		return err
	}
	k.mu.Lock()
	if k.lost == nil && !k.closed {
		k.lost = err
	}
	k.mu.Unlock()
	_ = k.Close() // it returns no error
	return err
}

// Close implements signer.Key. A session in use is closed after its signature.
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
		_ = k.lib.CloseSession(session) // an error changes nothing
	}
	k.end()
	return nil
}
