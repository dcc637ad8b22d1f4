// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// flight is one fetch of discovery document and key set, for which any number of requests wait.
type flight struct {
	done chan struct{} // closed when the source has been updated
}

// attempt joins the current fetch or starts one, for a request of client for which seen is too old.
// It starts none before retryAt. If it returns neither flight nor error, newer keys than seen are
// present already.
func (s *source) attempt(seen *keys, client netip.Addr, now time.Time) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, done, err := s.join(seen, s.retryAt.Sub(now)); done {
		return f, err
	}
	return s.start(context.Background(), client)
}

// check is attempt for a token that seen does not verify, while the issuer may have a newer key
// that does. It starts none before nextCheck, and for a pattern stays within the total of its
// issuers.
func (s *source) check(seen *keys, client netip.Addr, now time.Time) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, done, err := s.join(seen, s.nextCheck().Sub(now)); done {
		return f, err
	}
	if s.pool != nil && !s.pool.checks.Take(client, now) {
		_, wait := s.pool.checks.State(client, now)
		return nil, notYet(wait)
	}
	f, err := s.start(context.Background(), client)
	if err == nil {
		// With jitter, replicas that received the same token do not connect at the same time.
		s.checkAt = now.Add(checkInterval + rand.N(checkJitter))
		s.checks = [2]time.Time{s.checks[1], now}
	}
	return f, err
}

// The caller calls confirm when a check brought a new key. A second new key is then checked for
// without the usual pause, so that an issuer may replace its key twice in a short time. No client
// can cause this with tokens that the issuer did not sign.
func (s *source) confirm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checks[1].Sub(s.checks[0]) > time.Minute {
		s.checkAt = s.checks[1].Add(settled)
	}
}

// join returns the current fetch. done is false if the caller must start a fetch. The caller holds
// s.mu.
func (s *source) join(seen *keys, wait time.Duration) (f *flight, done bool, err error) {
	switch {
	case s.flight != nil:
		return s.flight, true, nil
	case s.current.Load() != seen:
		return nil, true, nil
	case wait > 0:
		return nil, true, notYet(wait)
	default:
		return nil, false, nil
	}
}

// nextCheck returns the time from which a token that the keys do not verify may cause a fetch.
// While the issuer fails, that is the time of the next retry. The caller holds s.mu.
func (s *source) nextCheck() time.Time {
	if s.failures > 0 {
		return s.retryAt
	}
	return s.checkAt
}

// notYet is the error if the next fetch is permitted only after this time.
type notYet time.Duration

func (w notYet) Error() string {
	return fmt.Sprintf("the next fetch is permitted in %s", time.Duration(w))
}

// force is attempt without conditions, for Run. The fetch stops when ctx ends.
func (s *source) force(ctx context.Context) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, nil
	}
	return s.start(ctx, netip.Addr{})
}

func (s *source) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures > 0
}

// start begins a fetch of discovery document and key set, for a request of client. The fetch
// outlives the request, because other requests wait for it too. The caller holds s.mu, and s.flight
// is nil.
func (s *source) start(ctx context.Context, client netip.Addr) (*flight, error) {
	release := func() {}
	if s.pool != nil {
		var err error
		if release, err = s.pool.admit(s, client, s.now()); err != nil {
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

// fetch reads the document and the keys. It treats a panic of a parser as a failure of the issuer;
// the process continues.
func (s *source) fetch(ctx context.Context) (k *keys, err error) {
	defer func() {
		if p := recover(); p != nil {
			k, err = nil, fmt.Errorf("panic while reading the issuer's answer: %v", p)
		}
	}()
	return s.fetchKeys(ctx)
}

// land records the result of the current fetch. It may get both good keys and the error of a
// discovery document.
func (s *source) land(ctx context.Context, k *keys, err error) {
	now := s.now()
	err = brief(err)
	stopped := err != nil && ctx.Err() != nil // Run has stopped; the error is not the issuer's
	s.mu.Lock()
	if k != nil {
		s.current.Store(k)
		s.lastSuccess = now
	}
	s.flight = nil
	failures := s.failures
	switch {
	case err == nil:
		s.failures, s.lastErr, s.retryAt = 0, nil, time.Time{}
	case !stopped:
		s.failures++
		failures++
		s.lastErr, s.lastFailure, s.retryAt = err, now, now.Add(backoff(s.failures))
		select {
		case s.failed <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
	if stopped {
		return
	}
	if s.pool != nil {
		s.pool.landed(s, now, err)
	}
	s.report(ctx, failures, k != nil, err)
}

// backoff returns the pause after the given number of consecutive failures: from firstBackoff to
// maxBackoff, with jitter so that replicas do not connect at the same time.
func backoff(failures int) time.Duration {
	const longest = maxBackoff * 4 / 5
	pause := longest
	if failures < 6 {
		pause = min(firstBackoff<<(failures-1), longest)
	}
	return pause + rand.N(pause/4)
}

// wait returns after the source has been updated. It returns an error if ctx ends or most has
// passed first.
func (f *flight) wait(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the issuer: %w", ctx.Err())
	}
}
