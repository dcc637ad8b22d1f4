// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// flight is one fetch of discovery document and key set that any number of requests wait for.
type flight struct {
	done chan struct{} // closed when the source has been updated
}

// attempt joins the fetch under way or starts one, for a request that found seen wanting: not
// before retryAt. Without a flight and an error, something newer than seen is there already.
func (s *source) attempt(seen *keys, now time.Time) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch wait := s.retryAt.Sub(now); {
	case s.flight != nil:
		return s.flight, nil
	case s.current.Load() != seen:
		return nil, nil
	case wait > 0:
		return nil, fmt.Errorf("the last fetch failed; the next is due in %s", wait)
	default:
		return s.start(context.Background())
	}
}

// attemptUnknownKey is attempt for a key that seen does not have: not before unknownKeyAt.
// Without a flight and an error there is nothing to wait for.
func (s *source) attemptUnknownKey(seen *keys, now time.Time) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.flight != nil:
		return s.flight, nil
	case s.current.Load() != seen, now.Before(s.unknownKeyAt):
		return nil, nil
	default:
		s.unknownKeyAt = now.Add(unknownKeyInterval)
		return s.start(context.Background())
	}
}

// force is attempt without conditions, for Run, with whose ctx the fetch ends.
func (s *source) force(ctx context.Context) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, nil
	}
	return s.start(ctx)
}

func (s *source) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures > 0
}

// start begins a fetch, which outlives the request that it is for: others wait for it too.
// s.mu is held, and s.flight is nil.
func (s *source) start(ctx context.Context) (*flight, error) {
	release := func() {}
	if s.wildcard() {
		var err error
		if release, err = s.entry.slots.take(s); err != nil {
			return nil, err
		}
	}
	f := &flight{done: make(chan struct{})}
	s.flight = f
	go func() {
		defer close(f.done)
		defer release()
		k, err := s.fetch(ctx)
		s.land(ctx, k, err)
	}()
	return f, nil
}

// fetch gets document and keys. A panic of a parser is an issuer's failure, not the end of
// the process.
func (s *source) fetch(ctx context.Context) (k *keys, err error) {
	defer func() {
		if p := recover(); p != nil {
			k, err = nil, fmt.Errorf("panic while reading the issuer's answer: %v", p)
		}
	}()
	return s.fetchKeys(ctx)
}

// land records the outcome of the fetch under way.
func (s *source) land(ctx context.Context, k *keys, err error) {
	now := s.now()
	if err == nil {
		s.current.Store(k)
		if s.found != nil {
			s.found.prove(s)
		}
	}
	stopped := err != nil && ctx.Err() != nil // Run has ended, which says nothing of the issuer
	s.mu.Lock()
	s.flight = nil
	before := s.failures
	switch {
	case err == nil:
		s.failures, s.lastErr, s.retryAt = 0, nil, time.Time{}
	case !stopped:
		s.failures++
		s.lastErr, s.retryAt = err, now.Add(backoff(s.failures))
		select {
		case s.failed <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
	if stopped {
		return
	}
	s.entry.health.record(now, err)

	// A wildcard issuer exists because a token named it, so its failures are not news.
	log := s.logger.With("issuer_entry", s.entry.Key, "issuer_url", s.issuerURL)
	switch {
	case err != nil && s.wildcard():
		log.InfoContext(ctx, "wildcard issuer cannot be reached", "error", err)
	case err != nil:
		log.WarnContext(ctx, "issuer cannot be reached", "error", err, "failures", before+1)
	case before > 0:
		log.InfoContext(ctx, "issuer can be reached again", "failures", before)
	}
}

// backoff is the pause after the given number of failures in a row, with jitter so that
// replicas do not call together.
func backoff(failures int) time.Duration {
	pause := maxBackoff
	if failures < 6 {
		pause = min(firstBackoff<<(failures-1), maxBackoff)
	}
	return pause - rand.N(pause/4)
}

// maxWaiting is how many requests wait for fetches of one entry at the same time: half of
// those that the server has in hand by default. Nothing in a token that waits has been
// verified, so that one issuer that hangs would else let anybody fill the server with it.
const maxWaiting = 256

// errCrowded tells that maxWaiting requests wait.
var errCrowded = errors.New("too many requests wait for the issuers of this entry")

// wait is f.wait for one of at most maxWaiting requests.
func (e *entry) wait(ctx context.Context, f *flight) error {
	select {
	case e.waiting <- struct{}{}:
		defer func() { <-e.waiting }()
		return f.wait(ctx)
	default:
		return errCrowded
	}
}

// wait returns when the source has been updated, or with an error when ctx ends or maxWait
// has passed.
func (f *flight) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the issuer: %w", ctx.Err())
	}
}
