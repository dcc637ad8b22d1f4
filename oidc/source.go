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
	"github.com/mayfly-ca/mayfly/internal/share"
)

// How long requests wait, and how often they may cause a fetch.
const (
	maxWait      = 3 * time.Second  // of a request, for a fetch
	firstBackoff = time.Second      // after the first failure
	maxBackoff   = 30 * time.Second // after many
	maxWaiting   = 128              // requests of one entry that wait for so long
	crowdedWait  = maxWait / 12     // of the others, for a static issuer

	// Of two fetches for tokens that the keys do not verify, the second starts checkInterval to
	// checkInterval + checkJitter after the first: never three in a minute, and no new key waits
	// for 35 s.
	checkInterval = 31 * time.Second
	checkJitter   = 3 * time.Second
	// settled is the age at which keys decide: a token that they do not verify is refused. It is
	// not below fetchTimeout, so that the keys that a fetch under way brings always decide.
	settled = fetchTimeout
)

// shared is what all sources of a Verifier have in common.
type shared struct {
	refresh, lifetime time.Duration
	allowLoopback     bool
	insecureHosts     []string
	now               func() time.Time
	logger            *slog.Logger
	observe           func(Fetch) // may be nil
	callers           *callers
	proxiesKnown      bool
	waiting           *share.Places // requests that wait for a fetch, of all wildcard entries
}

// keys are the keys of one issuer as they were at one time. They are immutable.
type keys struct {
	issuerURL  string
	jwksURI    string
	algorithms []string // that the issuer signs with and the entry accepts
	list       []publicKey
	fetchedAt  time.Time     // when they were asked for
	interval   time.Duration // from fetchedAt until the next fetch is due
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

	mu          sync.Mutex   // guards what follows
	flight      *flight      // the fetch under way, or nil
	paid        bool         // the first fetch has been counted in pool.begun
	failures    int          // in a row
	lastErr     error        // of the last fetch; nil if it was good
	retryAt     time.Time    // no request starts a fetch before; zero after a success
	checkAt     time.Time    // no token that the keys do not verify starts a fetch before
	checks      [2]time.Time // when the last two such fetches started
	lastSuccess time.Time    // zero where there has been none
	lastFailure time.Time
}

func newSource(common *shared, e *entry, issuerURL string) *source {
	return &source{shared: common, entry: e, issuerURL: issuerURL, failed: make(chan struct{}, 1)}
}

// wildcard reports whether a pattern led here, so that clients choose the issuer URL.
func (s *source) wildcard() bool { return s.pool != nil }

// request is a token with the client that sent it and the time when it came.
type request struct {
	token   *idToken
	client  netip.Addr
	arrived time.Time
}

// verify verifies the signature of r's token.
//
// That keys do not verify a token is final only if they were read after the request came, or at
// most settled before it: the issuer may have a new key, under a new `kid` or an old one. Older
// keys are read again, or the refusal is one that the client can retry. So are newer ones that
// lack the token's `kid`, where the limit permits it.
func (s *source) verify(ctx context.Context, r request, steps tracer) error {
	token := r.token
	if narrow := s.entry.SigningAlgorithms; len(narrow) > 0 && !slices.Contains(narrow, token.alg) {
		err := algorithmRefused(token.alg, narrow, s.issuerURL)
		steps.keys(token, nil, err)
		return err
	}
	known, err := s.keysFor(ctx, r)
	steps.keys(token, known, err)
	if err != nil {
		return err
	}
	refused := verifySignature(ctx, token, known, r.arrived)
	age := r.arrived.Sub(known.fetchedAt)
	if isSignatureInvalid(refused) && (age > settled || age >= 0 && !known.has(token.keyID)) {
		refused = s.verifyAgain(ctx, r, known, refused)
	}
	steps.signature(token, refused)
	return refused
}

// verifyAgain verifies a token, which seen refused, with newer keys.
func (s *source) verifyAgain(ctx context.Context, r request, seen *keys, refused error) error {
	f, unread := s.check(seen, r.client, s.now())
	known, unread := s.await(ctx, f, unread, r.client)
	if known == nil {
		return s.unreachable(errors.Join(unread, refused))
	}
	if known != seen {
		if refused = verifySignature(ctx, r.token, known, r.arrived); refused == nil {
			s.confirm()
		}
	}
	var limited notYet
	failing := known == seen && (unread != nil && !errors.As(unread, &limited) || s.failing())
	if isSignatureInvalid(refused) && (failing || r.arrived.Sub(known.fetchedAt) > settled) {
		return s.unreachable(errors.Join(unread, refused))
	}
	return refused
}

func isSignatureInvalid(err error) bool {
	var e *refusal.Error
	return errors.As(err, &e) && e.Reason == refusal.SignatureInvalid
}

// keysFor returns the keys at hand. It waits for a fetch, maxWait at most, where there are none or
// they are too old.
func (s *source) keysFor(ctx context.Context, r request) (*keys, error) {
	seen := s.current.Load()
	if known := s.atHand(seen, r.client, r.arrived); known != nil {
		return known, nil
	}
	f, err := s.attempt(seen, r.client, r.arrived)
	known, err := s.await(ctx, f, err, r.client)
	if known == nil {
		return nil, s.unreachable(err)
	}
	return known, nil
}

// atHand returns the last good answer, seen, if a request may use it without waiting.
//
// Run keeps static issuers fresh. The use of a wildcard issuer's keys refreshes them: in the
// background from half of their interval on, and after it while the request waits. While the
// issuer fails, no request waits.
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

// await waits for f, which is nil where there is no fetch, and returns the keys that are usable
// then, or nil. The error is err, or why the wait ended early.
func (s *source) await(ctx context.Context, f *flight, err error, client netip.Addr) (*keys, error) {
	if f != nil {
		err = s.wait(ctx, f, client)
	}
	return s.usable(s.current.Load(), s.now()), err
}

// wait waits for f. Issuers that hang must not take all the room that the server has for
// requests; and since callers choose the issuers of a pattern, no client takes all of theirs.
func (s *source) wait(ctx context.Context, f *flight, client netip.Addr) error {
	now := s.now()
	if s.wildcard() {
		if !s.waiting.Take(client, now) {
			return s.tooMany(s.waiting, client, now)
		}
		defer s.waiting.Give(client)
	}
	switch {
	case s.entry.waiting.Take(client, now):
		defer s.entry.waiting.Give(client)
		return f.wait(ctx, maxWait)
	case s.wildcard():
		return s.tooMany(s.entry.waiting, client, now)
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

// unreachable is the refusal where the issuer's current keys are not at hand. cause, which may be
// nil, is why this request has none; why the issuer has none is added.
func (s *source) unreachable(cause error) error {
	var tooMany *refusal.Error
	if errors.As(cause, &tooMany) && tooMany.Reason.Kind() == refusal.SlowDown {
		return tooMany
	}
	s.mu.Lock()
	var wait notYet
	if !errors.As(cause, &wait) && s.flight == nil {
		wait = notYet(s.nextCheck().Sub(s.now()))
	}
	lastErr := s.lastErr
	s.mu.Unlock()
	e := refusal.New(refusal.IssuerUnreachable,
		"the current keys of the token's issuer %s cannot be read at this moment; try again later", quote(s.issuerURL))
	e.RetryAfter = max(time.Duration(wait), time.Second)
	return e.Because(errors.Join(cause, lastErr))
}
