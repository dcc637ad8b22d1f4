// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Run discovers all static issuers at once and keeps their keys fresh until ctx ends; then it
// returns nil. It must run for as long as Verify is in use: a failed issuer is tried again
// after 1 to 30 seconds, a good one after Config.KeyRefresh.
//
// It holds up nothing: Verify may be called before, and then waits for the one issuer that
// it needs.
func (v *Verifier) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, src := range v.static {
		all.Go(func() { src.maintain(ctx) })
	}
	all.Go(func() { v.summarize(ctx) })
	<-ctx.Done()
	all.Wait()
	return nil
}

// maintain fetches again and again until ctx ends.
func (s *source) maintain(ctx context.Context) {
	// What Inherit brought is as old as it is; the next fetch is due when it would have been.
	if (s.current.Load() != nil || s.failing()) && !s.sleep(ctx) {
		return
	}
	for {
		if f, err := s.force(ctx); err == nil {
			select {
			case <-f.done:
			case <-ctx.Done():
				return
			}
		}
		if !s.sleep(ctx) {
			return
		}
	}
}

// sleep returns true when the next fetch is due, and false when ctx has ended. A request's
// fetch that fails meanwhile makes it due earlier.
func (s *source) sleep(ctx context.Context) bool {
	for {
		timer := time.NewTimer(s.pause())
		select {
		case <-timer.C:
			return true
		case <-s.failed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// pause is the time until the next fetch is due. It begins early enough to end within the
// interval even if the issuer is slow: Config.KeyRefresh is a promise.
func (s *source) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, known := s.now(), s.current.Load()
	if s.failures > 0 || known == nil {
		return min(max(s.retryAt.Sub(now), firstBackoff), maxBackoff)
	}
	due := known.interval - known.interval/10 - rand.N(known.interval/10+1)
	if known.interval < s.refresh { // by the issuer's max-age, which nothing is promised of
		due = max(due, minRefresh)
	}
	return min(max(known.fetchedAt.Add(due).Sub(now), firstBackoff), s.refresh)
}
