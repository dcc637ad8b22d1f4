//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// everybody is the weight of who needs the token alone.
const everybody = 1 << 30

// grace is how long who logs in anew waits for the calls under way. It is more than signatures
// take, and less than an attempt of a signer.Signer at one, so that those who are kept waiting
// meanwhile still get theirs.
const grace = 250 * time.Millisecond

// share is the use of handles of private objects, which a logout voids.
type share struct {
	token *token
	login uint64 // see token.logins
}

// share waits while somebody logs out. share.end has to follow.
func (t *token) share(ctx context.Context) (*share, error) {
	if err := t.use.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("waiting for another login to end: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &share{t, t.logins}
	t.shares[s] = struct{}{}
	return s, nil
}

// end gives the share back. It fails if the share was revoked: whatever came of the handles
// meanwhile is worth nothing, as their numbers may have been given to other objects.
func (s *share) end() error {
	s.token.mu.Lock()
	_, held := s.token.shares[s]
	delete(s.token.shares, s)
	s.token.mu.Unlock()
	if !held {
		return signer.Transient(errAnotherLogin, 0)
	}
	s.token.use.Release(1)
	return nil
}

// revoke gives all shares back.
func (t *token) revoke() {
	t.mu.Lock()
	revoked := len(t.shares)
	clear(t.shares)
	t.mu.Unlock()
	t.use.Release(int64(revoked))
}

// alone keeps everybody from using handles. Calls that have not returned after the grace lose
// their shares: they may hang for ever, and the keys of the token could then never be opened
// anew, nor a new PIN come into use, without a restart. One that was only slow is an attempt
// lost. A call of ours that hangs keeps the token no longer than ctx.
func (t *token) alone(ctx context.Context) (release func(), err error) {
	timer := time.AfterFunc(grace, t.revoke)
	defer timer.Stop()
	if err := t.use.Acquire(ctx, everybody); err != nil {
		return nil, fmt.Errorf("waiting for calls under way to end, in order to log in anew: %w", err)
	}
	return once(ctx, func() { t.use.Release(everybody) }), nil
}

// once returns a function that calls give, unless that was done when ctx ended: what is held
// by a call that hangs is given to others.
func once(ctx context.Context, give func()) func() {
	give = sync.OnceFunc(give)
	stop := context.AfterFunc(ctx, give)
	return func() {
		stop()
		give()
	}
}
