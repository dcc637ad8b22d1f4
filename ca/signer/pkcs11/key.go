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

// maxSessions is how many signatures of one key are waited for at a time: a session makes one.
// One session more keeps the login, which ends with the last session (section 5.6,
// C_CloseSession).
const maxSessions = 8

// key is a private key in a token.
type key struct {
	visit // its session keeps the login and looks the key up; it signs nothing
	how   scheme

	busy    chan struct{} // an element for each signature that somebody waits for
	finding lock          // held while the visit's session is used

	mu     sync.Mutex // guards what follows, and visit.login; not held in calls
	handle p11.ObjectHandle
	idle   []p11.SessionHandle
	closed bool
	lost   error // why the key has to be opened anew; nil if it does not. Then it is closed too
}

// Public returns the public key, as the token tells it.
func (k *key) Public() crypto.PublicKey { return k.how.public }

// Sign implements signer.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.signOnce(ctx, message)
	if err != nil {
		return nil, fmt.Errorf("signing with the key %q (pkcs11.label) in the token %q: %w", k.cfg.Label, k.cfg.Token, err)
	}
	return signature, nil
}

// signOnce counts for as long as ctx lasts. A call that hangs after that takes nothing from
// others but its session; its caller bounds how many there are.
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

// signIn signs in a session, and tells whether that is still good: one in which a call failed
// is in a state that nobody knows.
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
	if err != nil && ctx.Err() == nil { // one that comes late tells nothing of the key now
		err = k.failed(err)
	}
	return signature, err == nil, err
}

// sign makes a signature, in the form that certificates hold.
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

// find returns the key's handle in a login, looked up again if there was another one: so a key
// outlives a wrong PIN in its file, which the token was asked for when the file was loaded
// again. What handles are void shows here and not in the token, which may have given their
// numbers to other objects.
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

// found returns the handle if it was found in a login.
func (k *key) found(login uint64) (p11.ObjectHandle, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.handle, k.login == login
}

// take returns a session that nobody else uses, opened if there is none. putBack has to follow.
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

// putBack gives a session back for others, or closes it.
func (k *key) putBack(session p11.SessionHandle, unharmed bool) {
	k.mu.Lock()
	keep := unharmed && !k.closed && len(k.idle) < maxSessions // there are more after calls that hung
	if keep {
		k.idle = append(k.idle, session)
	}
	k.mu.Unlock()
	if !keep {
		_ = k.lib.CloseSession(session) // it is gone either way
	}
}

// failed takes note of what the failure of a call says of the login and of the key.
func (k *key) failed(err error) error {
	if is(err, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED) {
		k.mu.Lock()
		login := k.login
		k.mu.Unlock()
		k.token.doubt(login)
	}
	return k.lose(err)
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
