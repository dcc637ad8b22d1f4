// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// try creates a signature in at most maxAttempts attempts.
func (s *Signer) try(ctx context.Context, message []byte, always bool, l limits) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	pause, reopened := firstPause, false
	for n := 1; ; n++ {
		signature, verified, err := s.attempt(ctx, bounded, message, attempt{always: always, limit: l.attempt})
		if err == nil {
			if verified {
				s.succeeded(ctx)
			}
			return signature, nil
		}
		var f *Failure
		again := errors.As(err, &f)
		if again && f.Remedy == Wait || !again && (ctx.Err() != nil || ofMessage(err, message)) {
			return nil, err // the error says nothing about the key
		}
		var rest time.Duration
		if again {
			rest = f.RetryAfter
			// Opening a key again does not help if it is lost right after that.
			again = f.Remedy != Reopen || !reopened
			reopened = reopened || f.Remedy == Reopen
		}
		s.failed(ctx, err, rest)
		if !again || n == maxAttempts || rest > 0 || s.hanging() || !wait(bounded, pause, l.attempt) {
			return nil, err
		}
		pause *= 3
	}
}

// ofMessage reports whether err is about message alone. Every key can sign a self-test.
func ofMessage(err error, message []byte) bool {
	return errors.As(err, new(*MessageError)) && string(message) != SelfTestMessage
}

// wait waits for d. It returns false if ctx ends first, or leaves less than half an attempt.
func wait(ctx context.Context, d, attempt time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d+attempt/2 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errSlow is the error of a call that used up its time without an answer.
var errSlow = errors.New("there was no answer in time")

// attempt holds the settings of one attempt.
type attempt struct {
	// always requires verification of the signature even if the key is Near.
	always bool
	limit  time.Duration
}

// attempt makes one attempt and verifies the signature. It skips that only if a.always is false
// and the key is Near, is proven, and has not failed since. caller is the caller's context; ctx
// bounds the time that is left for all attempts.
func (s *Signer) attempt(caller, ctx context.Context, message []byte, a attempt) (signature []byte, verified bool, err error) {
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done():
		return nil, false, s.queued(caller)
	}
	// The wait for a free call is not the key's fault.
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	defer func() {
		s.observe.attempt(resultOf(err), time.Since(began))
		if at := int64(time.Since(s.epoch)); err == nil {
			s.learned.Store(at)
			s.signed.Store(at)
		} else if !s.gone(caller, time.Since(began)) {
			s.learned.Store(at)
		}
	}()
	key, err := s.get(bounded)
	if err != nil {
		<-s.calls
		return nil, false, s.whose(caller, bounded, began, err)
	}
	if signature, err = s.call(bounded, key, message); err != nil {
		return nil, false, s.lost(caller, bounded, key, began, err)
	}
	if _, near := key.(Near); near && !a.always && s.proven.Load() && s.breaker.StatusAt(began).Failures == 0 {
		return signature, false, nil
	}
	if err := s.verify(signature, message); err != nil {
		return nil, false, err
	}
	return signature, true, nil
}

// queued returns the error of a caller that waited for other callers and got no turn.
func (s *Signer) queued(caller context.Context) error {
	err := fmt.Errorf("%d signatures were being made, and none of them ended in time", cap(s.calls))
	s.observe.attempt(resultBusy, 0)
	if caller.Err() != nil {
		return fmt.Errorf("%w: %w", err, caller.Err())
	}
	return Busy(err)
}

// lost classifies the error of a call of key, and drops the key if it is no longer usable.
func (s *Signer) lost(caller, bounded context.Context, key Key, began time.Time, err error) error {
	if errors.Is(err, ErrClosed) && !s.isClosed() {
		err = Stale(err) // another attempt has dropped the key meanwhile
	}
	err = s.whose(caller, bounded, began, err)
	var f *Failure
	switch {
	case errors.As(err, &f) && f.Remedy == Reopen:
		s.drop(caller, key, err)
	case errors.Is(err, errSlow) && !s.breaker.Closed() && time.Duration(s.signed.Load()) < began.Sub(s.epoch):
		// No caller gets an answer: the connection of the key may lead nowhere.
		s.drop(caller, key, err)
	}
	return err
}

// gone reports whether the caller has gone, or had less time than an attempt takes. The error then
// says nothing about the key. A server that signs through another process waits one attempt only.
func (s *Signer) gone(caller context.Context, elapsed time.Duration) bool {
	err := caller.Err()
	return err != nil && (!errors.Is(err, context.DeadlineExceeded) || elapsed < s.limits.attempt/2)
}

// whose returns a transient error, which counts against the key, if the call was too slow. If the
// caller has gone or left less time than an attempt has, the error says nothing about the key.
func (s *Signer) whose(caller, bounded context.Context, began time.Time, err error) error {
	elapsed := time.Since(began)
	switch {
	case bounded.Err() == nil, errors.As(err, new(*Failure)), s.gone(caller, elapsed):
		return err
	case elapsed < s.limits.attempt/2:
		return Busy(fmt.Errorf("too little time was left for an answer: %w", err))
	}
	return Transient(fmt.Errorf("%w (%s): %w", errSlow, elapsed.Round(time.Millisecond), err), 0)
}

// call calls the key in a new goroutine, since not every kind of key can be interrupted. A Near
// key can, and needs none. call does not wait for the goroutine after ctx has ended. It releases
// the slot in calls that its caller took when the call of the key has really returned.
func (s *Signer) call(ctx context.Context, key Key, message []byte) ([]byte, error) {
	if near, ok := key.(Near); ok {
		defer func() { <-s.calls }()
		return near.Sign(ctx, message)
	}
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

func (s *Signer) succeeded(ctx context.Context) {
	s.proven.Store(true)
	if s.breaker.Succeeded() {
		s.logger.LogAttrs(ctx, slog.LevelInfo, "the key of an authority has recovered: its breaker has closed", slog.String("authority", s.name), slog.String("kind", s.kind))
	}
}

// failed counts a failure. A Retry-After for one caller keeps other callers away only once the
// breaker is open: a service near its quota sends one now and then.
func (s *Signer) failed(ctx context.Context, err error, rest time.Duration) {
	if s.breaker.StatusAt(time.Now()).Failures+1 < breakerThreshold {
		rest = 0
	}
	if s.breaker.Failed(time.Now(), err, rest) {
		s.logger.LogAttrs(ctx, slog.LevelError, "the key of an authority has failed several times in a row: its breaker has opened",
			slog.String("authority", s.name), slog.String("kind", s.kind), slog.Int("failures", breakerThreshold), slog.Any("error", err))
	}
}
