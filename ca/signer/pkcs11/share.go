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

// everybody is the weight of exclusive use of the token.
const everybody = 1 << 30

// grace is how long a new login waits for the calls under way. It is longer than a signature takes.
// It is shorter than an attempt of a signer.Signer, so that callers that wait meanwhile still get
// their signatures.
const grace = 250 * time.Millisecond

// share is the use of handles of private objects, which a logout voids.
type share struct {
	token *token
	login uint64 // see token.logins
}

// share waits during a logout. The caller must call share.end.
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

// end returns the share. It fails if the share was revoked. Results from the handles are then
// worthless, as their numbers may have been given to other objects.
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

// revoke takes all shares back.
func (t *token) revoke() {
	t.mu.Lock()
	revoked := len(t.shares)
	clear(t.shares)
	t.mu.Unlock()
	t.use.Release(int64(revoked))
}

// alone excludes all users of handles. Calls that have not returned after the grace lose their
// shares: if they hang for ever, the keys could otherwise not be opened again, nor a new PIN used,
// without a restart. A call that was only slow loses one attempt. A call of ours that hangs keeps
// the token no longer than ctx.
func (t *token) alone(ctx context.Context) (release func(), err error) {
	timer := time.AfterFunc(grace, t.revoke)
	defer timer.Stop()
	if err := t.use.Acquire(ctx, everybody); err != nil {
		return nil, fmt.Errorf("waiting for calls under way to end, in order to log in again: %w", err)
	}
	return once(ctx, func() { t.use.Release(everybody) }), nil
}

// once returns a function that calls give, unless the end of ctx has already done so: other calls
// get what a hanging call holds.
func once(ctx context.Context, give func()) func() {
	give = sync.OnceFunc(give)
	stop := context.AfterFunc(ctx, give)
	return func() {
		stop()
		give()
	}
}
