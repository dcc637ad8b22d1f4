// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// errNoAnswer is the error of a call that used up its time without an answer.
var errNoAnswer = errors.New("there was no answer in time")

// try creates a signature in at most two attempts.
func (s *Signer) try(ctx context.Context, message []byte, verify bool, l limits) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	signature, err := s.attempt(ctx, bounded, message, verify, l.attempt)
	var f *Failure
	if !errors.As(err, &f) || f.Remedy == Wait || f.RetryAfter > 0 {
		return signature, err
	}
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		if deadline, ok := bounded.Deadline(); ok && time.Until(deadline) < l.attempt/2 {
			return nil, err
		}
		return s.attempt(ctx, bounded, message, verify, l.attempt)
	case <-bounded.Done():
		return nil, err
	}
}

// attempt makes one attempt, and counts its result. It verifies the signature, unless verify is
// false, the place of the key has verified it, and the key has signed and not failed since. caller
// is the caller's context; ctx bounds the time that is left for all attempts.
func (s *Signer) attempt(caller, ctx context.Context, message []byte, verify bool, limit time.Duration) ([]byte, error) {
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done(): // which is not the key's fault
		s.observe.attempt(resultBusy, 0)
		return nil, Busy(fmt.Errorf("%d signatures were under way, and none of them finished in time: %w", cap(s.calls), ctx.Err()))
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	key, err := s.get(ctx)
	var signature []byte
	if err != nil {
		<-s.calls
	} else if signature, err = s.call(ctx, key, message); err == nil && (verify || !s.verified || !s.healthy()) {
		err = s.verify(signature, message)
	}
	if err != nil {
		err = s.classify(caller, ctx, time.Since(began), err)
		s.failed(caller, key, message, err)
		signature = nil
	} else {
		s.succeeded(ctx)
	}
	s.observe.attempt(resultOf(err), time.Since(began))
	return signature, err
}

// call calls the key in a new goroutine, since not every kind of key can be interrupted, and does
// not wait for it after ctx has ended. It releases the slot in calls that its caller took when the
// call of the key has really returned.
func (s *Signer) call(ctx context.Context, key Key, message []byte) ([]byte, error) {
	type answer struct {
		signature []byte
		err       error
	}
	answers := make(chan answer, 1) // has room for an answer that arrives too late
	go func() {
		defer func() { <-s.calls }()
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("panic: %v", p)
			}
			answers <- a
		}()
		a.signature, a.err = key.Sign(ctx, message)
	}()
	select {
	case a := <-answers:
		return a.signature, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// classify returns err as a Failure if ctx has ended: of the key if it had the time of an attempt. If
// the caller has left or had less time, the error says nothing about the key.
func (s *Signer) classify(caller, ctx context.Context, took time.Duration, err error) error {
	switch {
	case errors.Is(err, ErrClosed) && !s.isClosed():
		return Stale(err) // another attempt has dropped the key meanwhile
	case ctx.Err() == nil, errors.As(err, new(*Failure)), errors.Is(caller.Err(), context.Canceled):
		return err
	case took < s.limits.attempt/2:
		return Busy(fmt.Errorf("too little time was left for an answer: %w", err))
	}
	return Transient(fmt.Errorf("%w (%s): %w", errNoAnswer, took.Round(time.Millisecond), err), 0)
}

// succeeded counts a success.
func (s *Signer) succeeded(ctx context.Context) {
	s.proven.Store(true)
	s.lastResult.Store(int64(time.Since(s.epoch)))
	if s.breaker.Succeeded() {
		s.logger.LogAttrs(ctx, slog.LevelInfo, "the key of an authority has recovered: its breaker has closed", slog.String("authority", s.name), slog.String("kind", s.kind))
	}
}

// failed counts err, unless it says nothing about the key, and drops a key that is no longer usable.
func (s *Signer) failed(caller context.Context, key Key, message []byte, err error) {
	var f *Failure
	failure := errors.As(err, &f)
	switch {
	case failure && f.Remedy == Wait, !failure && caller.Err() != nil:
		return
	case errors.As(err, new(*MessageError)) && string(message) != SelfTestMessage: // every key can sign a self-test
		return
	}
	s.lastResult.Store(int64(time.Since(s.epoch)))
	var rest time.Duration
	// A service near its quota sends a Retry-After now and then, which is for one caller only.
	if failure && s.breaker.StatusAt(time.Now()).Failures+1 >= breakerThreshold {
		rest = f.RetryAfter
	}
	if s.breaker.Failed(time.Now(), err, rest) {
		s.logger.LogAttrs(caller, slog.LevelError, "the key of an authority has failed several times in a row: its breaker has opened",
			slog.String("authority", s.name), slog.String("kind", s.kind), slog.Int("failures", breakerThreshold), slog.Any("error", err))
	}
	// While no caller gets an answer, the connection of the key may lead nowhere.
	if key != nil && (failure && f.Remedy == Reopen || errors.Is(err, errNoAnswer) && !s.breaker.Closed()) {
		s.drop(caller, key, err)
	}
}
