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

// Limits on the wait of requests and on the fetches that requests cause.
const (
	maxWait      = 3 * time.Second  // wait of a request for a fetch
	firstBackoff = time.Second      // after the first failure
	maxBackoff   = 30 * time.Second // after many failures
	maxWaiting   = 128              // requests of one entry that wait up to maxWait
	crowdedWait  = maxWait / 12     // wait of the other requests, for a static issuer

	// Of two fetches for tokens that the keys do not verify, the second starts checkInterval to
	// checkInterval + checkJitter after the first. There are thus never three in a minute, and no
	// new key waits for 35 s.
	checkInterval = 31 * time.Second
	checkJitter   = 3 * time.Second
	// settled is the age up to which keys decide: a token that they do not verify is refused. It is
	// not below fetchTimeout, so that keys from a current fetch always decide.
	settled = fetchTimeout
)

// shared is the state that all sources of a Verifier share.
type shared struct {
	refresh, lifetime time.Duration
	allowLoopback     bool
	insecureHosts     []string
	now               func() time.Time
	logger            *slog.Logger
	observe           func(Fetch) // may be nil
	callers           *callers
	proxiesKnown      bool
	waiting           *share.Places // requests of all wildcard entries that wait for a fetch
}

// keys are the keys of one issuer at one time. They are immutable.
type keys struct {
	issuerURL  string
	jwksURI    string
	algorithms []string // algorithms that the issuer signs with and the entry accepts
	list       []publicKey
	fetchedAt  time.Time     // time of the request for them
	interval   time.Duration // from fetchedAt until the next fetch is due
}

// source provides the keys of one issuer URL: the last good answer, and at most one current fetch
// for a newer one.
type source struct {
	*shared
	entry     *entry
	issuerURL string
	// pool limits the fetches for wildcard issuers, because callers choose their number; nil for a
	// static issuer.
	pool *pool

	// current is the last good answer; nil before the first. Only the flight writes it.
	current atomic.Pointer[keys]

	// failed wakes Run after a failure; it has room for one.
	failed chan struct{}

	mu          sync.Mutex   // guards the fields below
	flight      *flight      // the current fetch, or nil
	paid        bool         // the first fetch has been counted in pool.begun
	failures    int          // consecutive failures
	lastErr     error        // of the last fetch; nil if it was good
	retryAt     time.Time    // no request starts a fetch before; zero after a success
	checkAt     time.Time    // no token that the keys do not verify starts a fetch before
	checks      [2]time.Time // times at which the last two such fetches started
	lastSuccess time.Time    // zero if there has been none
	lastFailure time.Time
}

func newSource(common *shared, e *entry, issuerURL string) *source {
	return &source{shared: common, entry: e, issuerURL: issuerURL, failed: make(chan struct{}, 1)}
}

// wildcard reports whether a pattern matched the issuer URL, so that clients choose it.
func (s *source) wildcard() bool { return s.pool != nil }

// request is a token with the client that sent it and the time when it came.
type request struct {
	token   *idToken
	client  netip.Addr
	arrived time.Time
}

// verify verifies the signature of r's token.
//
// A refusal is final only if the keys were read after the request came, or at most settled before
// it: the issuer may have a new key, under a new `kid` or an old one. Otherwise verify reads older
// keys again, or returns a refusal that the client can retry. It also reads newer keys again if
// they lack the token's `kid` and the limit permits it.
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

// verifyAgain verifies with newer keys a token that the keys seen refused.
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

// keysFor returns the present keys. If there are none or they are too old, it waits for a fetch, at
// most maxWait.
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
// Run keeps static issuers fresh. Each use of a wildcard issuer's keys refreshes them: in the
// background after half of their interval, and after the whole interval while the request waits.
// While the issuer fails, no request waits.
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
		_, _ = s.attempt(seen, client, now) // its result is for later requests
		return known
	default:
		return nil
	}
}

// await waits for f, which is nil if there is no fetch, and returns the keys that are usable then,
// or nil. The error is err, or the reason why the wait ended early.
func (s *source) await(ctx context.Context, f *flight, err error, client netip.Addr) (*keys, error) {
	if f != nil {
		err = s.wait(ctx, f, client)
	}
	return s.usable(s.current.Load(), s.now()), err
}

// wait waits for f. Issuers that hang must not fill the server's places for requests. Callers
// choose the issuers of a pattern, so no client gets all of the pattern's places.
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

// usable returns k, or nil if k is too old.
func (s *source) usable(k *keys, now time.Time) *keys {
	if k != nil && now.Sub(k.fetchedAt) < s.lifetime {
		return k
	}
	return nil
}

// unreachable returns the refusal if the issuer's current keys are unavailable. cause, which may be
// nil, is why this request has none; unreachable adds why the issuer has none.
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
