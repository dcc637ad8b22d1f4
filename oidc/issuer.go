// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// Limits on the wait of requests and on the fetches that requests cause.
const (
	maxWait      = 3 * time.Second  // wait of a request for a fetch
	firstBackoff = time.Second      // after the first failure
	maxBackoff   = 30 * time.Second // after many failures
	maxWaiting   = 128              // requests of one entry that wait up to maxWait
	crowdedWait  = maxWait / 12     // wait of the other requests, for a static issuer

	// Of two checks, the second starts checkInterval to checkInterval + checkJitter after the first.
	// There are thus never three in a minute, and no new key waits for 35 s.
	checkInterval = 31 * time.Second
	checkJitter   = 3 * time.Second
	// settled is the age up to which keys decide: a token that they do not verify is refused. It is
	// not below fetchTimeout, so that keys from a current fetch always decide.
	settled = fetchTimeout
)

// shared is what all issuers of a Verifier share.
type shared struct {
	cfg     *Config
	waiting *share.Places // requests of all wildcard entries that wait for a fetch
}

// issuer holds the last good keys of one issuer URL, and decides when they are fetched again.
type issuer struct {
	*shared
	url   string
	entry *entry // only what entry.fetchesAs compares is read here
	pool  *pool  // of the wildcard entry; nil for a static issuer

	proven  bool   // keys have been read once; guarded by pool.mu
	lastUse uint64 // pool.uses at the last use; guarded by pool.mu

	mu       sync.Mutex    // guards the fields below
	keys     *keys         // nil before the first good answer
	fetching chan struct{} // closed when the current fetch ends; nil if there is none
	failures int           // consecutive failed fetches
	lastErr  error         // of the last fetch; nil if it was good
	due      time.Time     // no fetch but a check starts before, and while the issuer fails no check either
	checkAt  time.Time     // no check starts before
	checks   [2]time.Time  // when the last two checks started
	reported State         // after the last fetch; "" before the first
	noticed  noticed
}

// verify verifies the signature of x.token for client.
//
// A refusal is final only if the keys were read after the request came, or at most settled before
// it: the issuer may have a new key, under a new `kid` or an old one. verify reads older keys again,
// and newer ones that lack the token's `kid`, or returns a refusal that the client can retry.
func (i *issuer) verify(ctx context.Context, x *examination, client netip.Addr) (err error) {
	if x.keys, err = i.keysFor(ctx, client, x.now); err != nil {
		return err
	}
	x.step = "signature"
	refused := x.keys.verify(ctx, x.token, x.now)
	age := x.now.Sub(x.keys.fetchedAt)
	if !isInvalid(refused) || age <= settled && (age < 0 || x.keys.has(x.token.keyID)) {
		return refused
	}
	known, unread := i.newer(ctx, x.keys, client)
	failed := known == nil
	switch {
	case failed:
	case known != x.keys:
		x.keys = known
		if refused = known.verify(ctx, x.token, x.now); refused == nil {
			i.confirm()
		}
	default:
		failed = !errors.As(unread, new(notYet)) || i.failing()
	}
	if isInvalid(refused) && (failed || x.now.Sub(x.keys.fetchedAt) > settled) {
		return i.unreachable(errors.Join(unread, refused))
	}
	return refused
}

func isInvalid(err error) bool {
	return err != nil && refusal.From(err).Reason == refusal.SignatureInvalid
}

// keysFor returns the present keys, or waits for a fetch if there are none or they are too old. Run
// refreshes the keys of static issuers, and each use those of a wildcard issuer: in the background
// once they are due, and while the request waits once they have the age of Config.KeyRefresh. While
// the issuer fails, no request waits.
func (i *issuer) keysFor(ctx context.Context, client netip.Addr, now time.Time) (*keys, error) {
	i.mu.Lock()
	known, due, failing := i.keys, i.due, i.failures > 0
	i.mu.Unlock()
	if i.usable(known, now) {
		// Behind many static issuers that hang, Run may come late.
		if now.Before(due) || i.pool == nil && now.Sub(known.fetchedAt) < i.cfg.KeyRefresh {
			return known, nil
		}
		if failing || now.Sub(known.fetchedAt) < i.cfg.KeyRefresh {
			_, _ = i.fetch(nil, client, now) // for later requests
			return known, nil
		}
	}
	known, err := i.newer(ctx, nil, client)
	if known == nil {
		return nil, i.unreachable(err)
	}
	return known, nil
}

// newer waits for a fetch; see fetch for refused. It returns the keys that are usable then, or nil,
// and an error if there was no fetch or the wait ended early.
func (i *issuer) newer(ctx context.Context, refused *keys, client netip.Addr) (*keys, error) {
	done, err := i.fetch(refused, client, i.cfg.Now())
	if done != nil {
		err = i.wait(ctx, done, client)
	}
	i.mu.Lock()
	known := i.keys
	i.mu.Unlock()
	if !i.usable(known, i.cfg.Now()) {
		return nil, err
	}
	return known, err
}

// usable reports whether k are keys that are not too old.
func (i *issuer) usable(k *keys, now time.Time) bool {
	return k != nil && now.Sub(k.fetchedAt) < i.cfg.KeyLifetime
}

// wait returns after done is closed, or with an error if ctx or the time for it ends first. Issuers
// that hang must not fill the server's places for requests. Callers choose the issuers of a
// pattern, so no client gets all of the pattern's places.
func (i *issuer) wait(ctx context.Context, done <-chan struct{}, client netip.Addr) error {
	most, now := maxWait, i.cfg.Now()
	if i.pool != nil {
		if !i.waiting.Take(client, now) {
			return i.pool.tooMany(i.waiting, client, now)
		}
		defer i.waiting.Give(client)
	}
	switch {
	case i.entry.waiting.Take(client, now):
		defer i.entry.waiting.Give(client)
	case i.pool != nil:
		return i.pool.tooMany(i.entry.waiting, client, now)
	default:
		most = crowdedWait
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the issuer: %w", ctx.Err())
	}
}

// fetch returns a channel that is closed when the current fetch ends. There is at most one at a
// time; fetch joins it, or starts one for a request of client if it is due. With refused, the keys that
// do not verify a token, the fetch is a check for newer keys, with a limit of its own. If newer keys
// are present already, fetch returns nil.
func (i *issuer) fetch(refused *keys, client netip.Addr, now time.Time) (<-chan struct{}, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	check, last := refused != nil, i.keys
	switch wait := i.next(check).Sub(now); {
	case i.fetching != nil:
		return i.fetching, nil
	case check && last != refused:
		return nil, nil
	case wait > 0:
		return nil, notYet(wait)
	}
	release := func() {}
	if i.pool != nil {
		var err error
		if release, err = i.pool.admit(check, last != nil, client, now); err != nil {
			return nil, err
		}
	}
	if check {
		// With jitter, replicas that received the same token do not connect at the same time.
		i.checkAt = now.Add(checkInterval + rand.N(checkJitter))
		i.checks = [2]time.Time{i.checks[1], now}
	}
	done := make(chan struct{})
	i.fetching = done
	go func() {
		defer close(done)
		defer release()
		i.record(i.read(last))
	}()
	return done, nil
}

// next returns the time from which a request may cause a fetch. While the issuer fails, a check may
// start at the time of the next retry. The caller holds i.mu.
func (i *issuer) next(check bool) time.Time {
	if check && i.failures == 0 {
		return i.checkAt
	}
	return i.due
}

// confirm records that a check brought a new key. If it was the only check of the last minute, another
// new key may be looked for soon: an issuer may replace its key twice in a short time. No client can
// cause this with tokens that the issuer did not sign.
func (i *issuer) confirm() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.checks[1].Sub(i.checks[0]) > time.Minute {
		i.checkAt = i.checks[1].Add(settled)
	}
}

// notYet is the error if the next fetch is permitted only after this time.
type notYet time.Duration

func (w notYet) Error() string {
	return fmt.Sprintf("the next fetch is permitted in %s", time.Duration(w))
}

func (i *issuer) failing() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failures > 0
}

func (i *issuer) isFetching() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetching != nil
}

// record stores the result of the current fetch. It may get both good keys and the error of a
// discovery document.
func (i *issuer) record(k *keys, err error) {
	now := i.cfg.Now()
	err = brief(err)
	i.mu.Lock()
	if k != nil {
		i.keys = k
	}
	if i.lastErr = err; err != nil {
		i.noticed.failure, i.noticed.failedAt = err, now
		i.failures++
		i.due = now.Add(backoff(i.failures))
	} else {
		i.failures, i.due = 0, k.fetchedAt.Add(i.pause())
	}
	i.fetching = nil
	before, status := i.reported, i.status(now)
	i.reported = status.State
	i.mu.Unlock()
	if i.pool != nil {
		i.pool.record(i, status, err)
	}
	i.report(before, status)
}

// pause returns the time from one fetch to the next.
func (i *issuer) pause() time.Duration {
	refresh := i.cfg.KeyRefresh
	if i.pool != nil {
		return refresh / 2
	}
	// Early enough to finish within Config.KeyRefresh, which is a guarantee, even if the issuer is slow.
	return max(refresh-refresh/10-rand.N(refresh/10), firstBackoff)
}

// backoff returns the pause after the given number of consecutive failures: from firstBackoff to
// maxBackoff, with jitter so that replicas do not connect at the same time.
func backoff(failures int) time.Duration {
	pause := min(firstBackoff<<min(failures-1, 5), maxBackoff*4/5)
	return pause + rand.N(pause/4)
}

// unreachable returns the refusal if the issuer's current keys are unavailable. cause, which may be
// nil, is why this request has none; unreachable adds why the issuer has none.
func (i *issuer) unreachable(cause error) error {
	var tooMany *refusal.Error
	if errors.As(cause, &tooMany) && tooMany.Reason.Kind() == refusal.SlowDown {
		return tooMany
	}
	i.mu.Lock()
	var wait notYet
	if !errors.As(cause, &wait) && i.fetching == nil {
		wait = notYet(i.next(true).Sub(i.cfg.Now()))
	}
	lastErr := i.lastErr
	i.mu.Unlock()
	e := refusal.New(refusal.IssuerUnreachable,
		"the current keys of the token's issuer %s cannot be read at this moment; try again later", quote(i.url))
	e.RetryAfter = max(time.Duration(wait), time.Second)
	return e.Because(errors.Join(cause, lastErr))
}
