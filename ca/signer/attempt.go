// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// retryPause precedes the second attempt.
const retryPause = 25 * time.Millisecond

// errNoAnswer is the error of a call that used up its time without an answer.
var errNoAnswer = errors.New("there was no answer in time")

// try creates a signature in at most two attempts.
func (s *Signer) try(ctx context.Context, message []byte, verify bool, timeout, attempt time.Duration) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	signature, err := s.attempt(ctx, bounded, message, verify, attempt)
	var f *Failure
	if !errors.As(err, &f) || f.Remedy == Wait || f.RetryAfter > 0 {
		return signature, err
	}
	select {
	case <-time.After(retryPause):
	case <-bounded.Done():
		return nil, err
	}
	if deadline, _ := bounded.Deadline(); time.Until(deadline) < attempt/2 {
		return nil, err
	}
	return s.attempt(ctx, bounded, message, verify, attempt)
}

// attempt makes one attempt, and counts its result. It verifies the signature, unless verify is
// false, the place of the key has verified it, and the key has signed and not failed since. caller
// is the caller's context; ctx bounds the time that is left for all attempts.
func (s *Signer) attempt(caller, ctx context.Context, message []byte, verify bool, limit time.Duration) ([]byte, error) {
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done(): // which is not the key's fault
		s.series.count("busy", 0)
		return nil, Busy(fmt.Errorf("%d signatures were under way, and none of them finished in time: %w", cap(s.calls), ctx.Err()))
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	key, err := s.get(ctx)
	var signature []byte
	if err != nil {
		<-s.calls
	} else if signature, err = call(ctx, s.calls, func() ([]byte, error) { return key.Sign(ctx, message) }); err == nil && (verify || !s.cfg.Verified || !s.healthy()) {
		err = s.verify(signature, message)
	}
	took := time.Since(began)
	if err != nil {
		err = s.classify(caller, ctx, took, err)
		s.failed(caller, key, message, err)
		signature = nil
	} else {
		s.succeeded(ctx)
	}
	s.series.count(resultOf(err), took)
	return signature, err
}

// call calls do in a new goroutine, since not every kind of key can be interrupted, and does not
// wait for it after ctx has ended. It takes an element out of underWay when do has really returned.
func call[T any](ctx context.Context, underWay <-chan struct{}, do func() (T, error)) (T, error) {
	type answer struct {
		result T
		err    error
	}
	answers := make(chan answer, 1) // has room for an answer that arrives too late
	go func() {
		defer func() { <-underWay }()
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("panic: %v", p)
			}
			answers <- a
		}()
		a.result, a.err = do()
	}()
	select {
	case a := <-answers:
		return a.result, a.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
}

// classify returns err as a Failure if ctx has ended: of the key if it had the time of an attempt. If
// the caller has left or had less time, the error says nothing about the key.
func (s *Signer) classify(caller, ctx context.Context, took time.Duration, err error) error {
	_, closed := s.opened()
	switch {
	case errors.Is(err, ErrClosed) && closed == nil:
		return Stale(err) // another attempt has dropped the key meanwhile
	case ctx.Err() == nil, errors.As(err, new(*Failure)), errors.Is(caller.Err(), context.Canceled):
		return err
	case took < s.cfg.Attempt/2:
		return Busy(fmt.Errorf("too little time was left for an answer: %w", err))
	}
	return Transient(fmt.Errorf("%w (%s): %w", errNoAnswer, took.Round(time.Millisecond), err), 0)
}

// succeeded counts a success.
func (s *Signer) succeeded(ctx context.Context) {
	now := time.Now()
	s.mu.Lock()
	s.proven, s.lastResult = true, now
	s.mu.Unlock()
	if s.breaker.Succeeded(now) {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "the key of an authority has recovered: its breaker has closed")
	}
}

// failed counts err, unless it says nothing about the key, and drops a key that is no longer usable.
func (s *Signer) failed(caller context.Context, key Key, message []byte, err error) {
	var f *Failure
	failure := errors.As(err, &f)
	switch {
	case failure && f.Remedy == Wait, !failure && caller.Err() != nil:
		return
	case errors.Is(err, ErrNotPermitted) && string(message) != SelfTestMessage: // every key can sign a self-test
		return
	}
	now := time.Now()
	s.mu.Lock()
	s.lastResult = now
	s.mu.Unlock()
	var rest time.Duration
	// A service near its quota sends a Retry-After now and then, which is for one caller only.
	if failure && s.breaker.StatusAt(now).Failures+1 >= breakerThreshold {
		rest = f.RetryAfter
	}
	if s.breaker.Failed(now, err, rest) {
		s.cfg.Logger.LogAttrs(caller, slog.LevelError, "the key of an authority has failed several times in a row: its breaker has opened",
			slog.Int("failures", breakerThreshold), slog.Any("error", err))
	}
	// While no caller gets an answer, the connection of the key may lead nowhere.
	if key != nil && (failure && f.Remedy == Reopen || errors.Is(err, errNoAnswer) && !s.breaker.Closed()) {
		s.drop(caller, key, err)
	}
}

// get returns the key, and opens it if necessary. One opening serves all callers that wait for it.
func (s *Signer) get(ctx context.Context) (Key, error) {
	if key, err := s.opened(); key != nil || err != nil {
		return key, err
	}
	opening := s.openings.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
		defer cancel()
		select {
		case s.hung <- struct{}{}:
		default:
			return nil, Transient(fmt.Errorf("%d openings of the key hang; restart mayfly", cap(s.hung)), 0)
		}
		key, err := call(ctx, s.hung, func() (Key, error) { return s.open(ctx) })
		if err != nil && ctx.Err() != nil && !errors.As(err, new(*Failure)) || errors.Is(err, context.DeadlineExceeded) {
			err = Transient(fmt.Errorf("opening the key: %w: %w", errNoAnswer, err), 0)
		}
		return key, err
	})
	select {
	case result := <-opening:
		key, _ := result.Val.(Key)
		return key, result.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("opening the key continues: %w", ctx.Err())
	}
}

// opened returns the key if it is open, and ErrClosed after Close.
func (s *Signer) opened() (Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	return s.key, nil
}

// open opens the key for all callers. It keeps a key that comes too late for this opening.
func (s *Signer) open(ctx context.Context) (Key, error) {
	if key, err := s.opened(); key != nil || err != nil {
		return key, err // an earlier opening has just succeeded
	}
	key, err := s.cfg.Open(ctx)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(s.cfg.Public) {
		err := fmt.Errorf("it is not the key of the authority's certificate: found %s, and the certificate has %s; name the key that belongs to it", Describe(key.Public()), Describe(s.cfg.Public))
		return nil, errors.Join(err, key.Close())
	}
	s.mu.Lock()
	needed := !s.closed && s.key == nil
	if needed {
		s.key = key
	}
	s.mu.Unlock()
	if !needed {
		return nil, errors.Join(ErrClosed, key.Close())
	}
	return key, nil
}

// drop closes key, so that the next attempt opens the key again.
func (s *Signer) drop(ctx context.Context, key Key, why error) {
	s.mu.Lock()
	current := s.key == key
	if current {
		s.key = nil
	}
	s.mu.Unlock()
	if !current {
		return // another caller was first
	}
	level := slog.LevelWarn
	if !s.breaker.Closed() {
		level = slog.LevelDebug // it was logged before
	}
	s.cfg.Logger.LogAttrs(ctx, level, "the key of an authority was lost, and is opened again", slog.Any("error", why))
	go func() { _ = key.Close() }() // Close may hang, and the key is no longer usable either way
}

// Close closes the key. The Signer refuses later signatures.
func (s *Signer) Close() error {
	s.mu.Lock()
	key := s.key
	s.key, s.closed = nil, true
	s.mu.Unlock()
	if key == nil {
		return nil
	}
	return key.Close()
}
