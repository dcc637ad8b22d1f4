// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// How long requests wait, and how often they may cause a fetch.
const (
	maxWait            = 3 * time.Second  // of a request, for a fetch
	firstBackoff       = time.Second      // after the first failure
	maxBackoff         = 30 * time.Second // after many
	unknownKeyInterval = 30 * time.Second // between fetches for a key that is not known, at least
	maxWaiting         = 128              // requests of one entry that wait for so long
	crowdedWait        = maxWait / 12     // of the others
)

// shared is what all sources of a Verifier have in common.
type shared struct {
	refresh, lifetime time.Duration
	allowLoopback     bool
	now               func() time.Time
	logger            *slog.Logger
	observe           func(Fetch) // may be nil
	callers           *callers
}

// keys are the keys of one issuer as they were at one time. They are immutable.
type keys struct {
	issuerURL  string
	jwksURI    string
	algorithms []string // that the issuer signs with and the entry accepts
	list       []publicKey
	fetchedAt  time.Time     // when they were asked for
	interval   time.Duration // from fetchedAt until they are to be fetched anew

	discoveredAt time.Time // when the document was asked for that jwksURI and algorithms are of
}

// source is where the keys of one issuer URL come from: the last good answer, and at most
// one fetch under way for a newer one.
type source struct {
	*shared
	entry     *entry
	issuerURL string
	// pool bounds the fetches for wildcard issuers, whose number callers choose; nil for a
	// static issuer.
	pool *pool

	// current is the last good answer; nil before the first. Written by the flight alone.
	current atomic.Pointer[keys]

	// failed wakes Run after a failure; it has room for one.
	failed chan struct{}

	mu           sync.Mutex // guards what follows
	flight       *flight    // the fetch under way, or nil
	paid         bool       // the first fetch has been counted in pool.begun
	failures     int        // in a row
	lastErr      error      // of the last fetch; nil if it was good
	retryAt      time.Time  // no request starts a fetch before; zero after a success
	unknownKeyAt time.Time  // no unknown key starts a fetch before
	lastSuccess  time.Time  // zero where there has been none
	lastFailure  time.Time
}

func newSource(common *shared, e *entry, issuerURL string) *source {
	return &source{shared: common, entry: e, issuerURL: issuerURL, failed: make(chan struct{}, 1)}
}

// wildcard tells whether a pattern led here, so that callers choose the issuer URL.
func (s *source) wildcard() bool { return s.pool != nil }

// keysFor returns keys with which to verify token, which client sent. It waits for a fetch,
// maxWait at most, where there are no keys yet, where they are too old, or where none has the
// token's `kid`.
func (s *source) keysFor(ctx context.Context, token *idToken, client netip.Addr) (*keys, error) {
	if narrow := s.entry.SigningAlgorithms; len(narrow) > 0 && !slices.Contains(narrow, token.alg) {
		return nil, algorithmRefused(token.alg, narrow, s.issuerURL)
	}
	now, seen := s.now(), s.current.Load()
	known := s.atHand(seen, client, now)
	if known == nil || !known.has(token.keyID) {
		start := s.attempt
		if known != nil {
			start = s.attemptUnknownKey
			if !slices.Contains(known.algorithms, token.alg) {
				start = s.attemptUnknownAlgorithm
			}
		}
		f, err := start(seen, client, now)
		if known, err = s.await(ctx, f, err, token.keyID, client); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(known.algorithms, token.alg) {
		return nil, algorithmRefused(token.alg, known.algorithms, s.issuerURL)
	}
	return known, nil
}

// atHand returns the last good answer, seen, if a request may use it without waiting.
//
// Run keeps static issuers fresh. The keys of a wildcard issuer are refreshed by their use:
// behind the request's back in time, else before its eyes; while the issuer fails, the last
// good ones do without either.
func (s *source) atHand(seen *keys, client netip.Addr, now time.Time) *keys {
	known := s.usable(seen, now)
	if known == nil || !s.wildcard() {
		return known
	}
	age := now.Sub(known.fetchedAt)
	switch {
	case age < known.interval/2:
		return known
	case age < known.interval || s.failing():
		_, _ = s.attempt(seen, client, now) // its outcome is for later requests
		return known
	default:
		return nil
	}
}

// await waits for f, unless err says that there is none, and returns the keys that there are
// then. They need not have keyID.
func (s *source) await(ctx context.Context, f *flight, err error, keyID string, client netip.Addr) (*keys, error) {
	if f != nil {
		err = s.wait(ctx, f, client)
	}
	known := s.usable(s.current.Load(), s.now())
	// While the issuer fails, a key may exist and be out of our reach: not the caller's fault.
	if known == nil || !known.has(keyID) && (err != nil || s.failing()) {
		return nil, s.unreachable(err)
	}
	return known, nil
}

// wait waits for f. An issuer that hangs must not take all the room that the server has for
// requests; and since callers choose the issuers of a pattern, no client takes all of theirs.
func (s *source) wait(ctx context.Context, f *flight, client netip.Addr) error {
	switch now := s.now(); {
	case s.entry.waiting.Take(client, now):
		defer s.entry.waiting.Give(client)
		return f.wait(ctx, maxWait)
	case s.wildcard():
		return s.pool.tooMany(client, now)
	default:
		return f.wait(ctx, crowdedWait)
	}
}

// usable returns k unless it is too old.
func (s *source) usable(k *keys, now time.Time) *keys {
	if k != nil && now.Sub(k.fetchedAt) < s.lifetime {
		return k
	}
	return nil
}

// unreachable is the refusal where no usable keys are at hand. cause, which may be nil, is why
// this request had none; why the issuer has none is added.
func (s *source) unreachable(cause error) error {
	var tooMany *refusal.Error
	if errors.As(cause, &tooMany) {
		return tooMany
	}
	s.mu.Lock()
	retry, lastErr := s.retryAt.Sub(s.now()), s.lastErr
	s.mu.Unlock()
	e := refusal.New(refusal.IssuerUnreachable,
		"the keys of the token's issuer %s cannot be had at this moment; try again", quote(s.issuerURL))
	e.RetryAfter = max(retry, time.Second)
	return e.Because(errors.Join(cause, lastErr))
}
