// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Run discovers all static issuers at once and keeps their keys fresh until ctx ends; then it
// returns nil. It must run while Verify is in use. It retries a failed issuer after 1 to 30
// seconds, and fetches from a good one after Config.KeyRefresh.
//
// A caller may call Verify before Run. Verify then waits only for the one issuer that it needs.
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

// maintain repeats the fetch until ctx ends.
func (s *source) maintain(ctx context.Context) {
	// Inherited keys keep their age; the next fetch is due at the same time as before.
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

// sleep returns true when the next fetch is due, and false when ctx has ended. If a request's fetch
// fails meanwhile, the next fetch is due earlier.
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

// pause returns the time until the next fetch is due. The fetch starts early enough to finish
// within the interval even if the issuer is slow, because Config.KeyRefresh is a guarantee.
func (s *source) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, known := s.now(), s.current.Load()
	if s.failures > 0 || known == nil {
		return min(max(s.retryAt.Sub(now), firstBackoff), maxBackoff)
	}
	due := known.interval - known.interval/10 - rand.N(known.interval/10+1)
	if known.interval < s.refresh { // from the issuer's max-age, for which there is no guarantee
		due = max(due, minRefresh)
	}
	return min(max(known.fetchedAt.Add(due).Sub(now), firstBackoff), s.refresh)
}
