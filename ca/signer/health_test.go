// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// The breaker opens, admits only one caller a second, and closes after the first signature.
func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{}
		p.fails.Store(&errPermanent)
		s := p.signer(t, signer.Config{})
		for range 5 {
			if err := sign(t, s); !errors.Is(err, errPermanent) {
				t.Errorf("error %v", err)
			}
		}
		for range 3 {
			err := sign(t, s)
			var f *signer.Failure
			if !errors.As(err, &f) || f.RetryAfter <= 0 || f.RetryAfter > time.Second || !errors.Is(err, errPermanent) {
				t.Errorf("an open breaker: %v", err)
			}
		}
		if got := p.signs.Load(); got != 5 {
			t.Errorf("it was asked %d times, want 5", got)
		}
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "breaker is open: 403") {
			t.Errorf("readiness says %v", err)
		}
		time.Sleep(time.Second)
		for range 3 { // one of the three is the probe
			_ = sign(t, s)
		}
		if got := p.signs.Load(); got != 6 {
			t.Errorf("it was asked %d times, want 6", got)
		}
		p.fails.Store(nil)
		time.Sleep(time.Second)
		for range 3 {
			if err := sign(t, s); err != nil {
				t.Errorf("after it was well again: %v", err)
			}
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("readiness says %v", err)
		}
	})
}

// The Signer respects a Retry-After for ten seconds at most, once several callers got one: a
// service near its quota sends one now and then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, throttled := &place{}, signer.Transient(errors.New("429"), time.Hour)
		p.fails.Store(&throttled)
		s := p.signer(t, signer.Config{})
		for n := range 5 {
			err := sign(t, s)
			var f *signer.Failure
			if !errors.As(err, &f) || f.RetryAfter != 10*time.Second || p.signs.Load() != int32(n)+1 {
				t.Errorf("after %d attempts: %v", p.signs.Load(), err)
			}
		}
		p.fails.Store(nil)
		time.Sleep(9 * time.Second)
		if err := sign(t, s); err == nil || p.signs.Load() != 5 {
			t.Errorf("it was asked %d times: %v", p.signs.Load(), err)
		}
		time.Sleep(time.Second)
		if err := sign(t, s); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := &place{onSign: func(_ context.Context, n int) error {
			if n%20 == 0 {
				return signer.Transient(errors.New("429"), 3*time.Second)
			}
			return nil
		}}
		s, refused := p.signer(t, signer.Config{}), 0
		for range 200 {
			if err := sign(t, s); err != nil {
				refused++
			}
		}
		if refused != 10 {
			t.Errorf("%d of 200 were refused, want the 10 that were throttled", refused)
		}
	})
}

// With too many callers a healthy key still serves as many as it can. The overload does not count
// against the key: the breaker stays closed, and the key is not opened again.
func TestOverload(t *testing.T) {
	t.Parallel()
	for name, concurrency := range map[string]int{"in our queue": 8, "in the key's own": 64} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sessions := make(chan struct{}, 8)
				p := &place{onSign: func(ctx context.Context, _ int) error {
					select {
					case sessions <- struct{}{}:
					case <-ctx.Done():
						return signer.Busy(ctx.Err())
					}
					defer func() { <-sessions }()
					time.Sleep(20 * time.Millisecond)
					return nil
				}}
				s := p.signer(t, signer.Config{Concurrency: concurrency})
				var signed atomic.Int64
				var all sync.WaitGroup
				end := time.Now().Add(2 * time.Second)
				for range 300 {
					all.Go(func() {
						for time.Now().Before(end) {
							if err := sign(t, s); err == nil {
								signed.Add(1)
							} else if !signer.IsTransient(err) {
								t.Errorf("a refusal that does not pass: %v", err)
							}
						}
					})
				}
				all.Wait()
				if got := signed.Load(); got < 700 {
					t.Errorf("%d signatures in two seconds of which 800 are possible", got)
				}
				if status := s.Status(); status.Failures != 0 || p.opens.Load() != 1 {
					t.Errorf("it was opened %d times, and has %d failures: %v", p.opens.Load(), status.Failures, status.LastError)
				}
			})
		})
	}
}

// A key that never returns is tried seldom once half of the calls are used up. It is used again
// as soon as new calls get answers.
func TestCallsThatNeverReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var well atomic.Bool
		never := make(chan struct{})
		p := &place{onSign: func(context.Context, int) error {
			if !well.Load() {
				<-never
			}
			return nil
		}}
		s := p.signer(t, signer.Config{})
		for range 600 {
			s.Tend(t.Context())
			_ = sign(t, s)
			time.Sleep(time.Second)
		}
		if got := p.signs.Load(); got > 55 {
			t.Errorf("in ten minutes it was asked %d times, and soon nothing is left to ask it with", got)
		}
		well.Store(true)
		for range 300 {
			s.Tend(t.Context())
			time.Sleep(time.Second)
		}
		if err := sign(t, s); err != nil {
			t.Errorf("it answers again: %v", err)
		}
		close(never)
	})
}

// Tend tests an idle key now and then, and a failing key each second. It does not test a key
// that signs anyway.
func TestTend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &place{}
		s := p.signer(t, signer.Config{})
		tend := func(d time.Duration) (asked int32) {
			before := p.signs.Load()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				s.Tend(t.Context())
				synctest.Wait()
			}
			return p.signs.Load() - before
		}
		if got := tend(2 * time.Second); got != 1 {
			t.Errorf("a new key was tested %d times, want once", got)
		}
		if got := tend(time.Minute); got != 4 {
			t.Errorf("an idle key was tested %d times in a minute, want 4", got)
		}
		for range 60 {
			if err := sign(t, s); err != nil {
				t.Fatal(err)
			}
			if got := tend(time.Second); got != 0 {
				t.Fatalf("a key that signs was tested besides")
			}
		}
		p.fails.Store(&errPermanent)
		if got := tend(time.Minute); got < 40 {
			t.Errorf("a key that fails was tested %d times in a minute", got)
		}
		if status := s.Status(); status.State == breaker.Closed {
			t.Error("its breaker is closed")
		}
		p.fails.Store(nil)
		tend(2 * time.Second)
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("nobody asked for a certificate, and readiness says %v", err)
		}
	})
}
