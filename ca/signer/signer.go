// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	// defaultTimeout bounds one signature with all its attempts: two of them and a log have to
	// fit into the 4.5 s that the most impatient client waits.
	defaultTimeout = 1500 * time.Millisecond
	// defaultAttempt bounds one attempt, so that there is time for another.
	defaultAttempt = 700 * time.Millisecond
	// maxAttempts is how often one signature is tried.
	maxAttempts = 3
	// firstPause precedes the second attempt; the third one waits three times as long.
	firstPause = 25 * time.Millisecond
	// openTimeout bounds the opening of a key, which may log in, list and look up.
	openTimeout = 5 * time.Second
	// proveTimeout bounds the first signature of a key, for which nobody waits but a start or a
	// reload.
	proveTimeout = 10 * time.Second
	// defaultConcurrency is how many calls of one key are under way at most. Those that hang
	// count until they return, so that a place that hangs costs a bounded number of threads.
	defaultConcurrency = 64

	breakerThreshold = 5
	// probeInterval is how long an open breaker stays so: the time that an outage lasts longer
	// for clients than it does.
	probeInterval = time.Second
)

// Config is a Signer to be.
type Config struct {
	// Name is the authority's, for errors and metrics.
	Name string
	// Kind is where the key lies, for metrics: "pkcs11", "awskms".
	Kind string
	// Public is the key that is wanted: that of the authority's certificate.
	Public crypto.PublicKey
	// Open opens the key: at the first use, and again whenever it is lost. It is never called
	// twice at a time. Its ctx outlives the request that needs the key.
	Open func(ctx context.Context) (Key, error)
	// Timeout bounds a signature, Attempt one attempt at it; zero for 1.5 s and 700 ms.
	Timeout, Attempt time.Duration
	// Concurrency is how many calls are under way at most; zero for 64.
	Concurrency int
	// Metrics gets how attempts ended; nil for nowhere.
	Metrics *Metrics
	// Logger gets when the breaker opens and closes, and when the key is opened; nil for
	// nowhere.
	Logger *slog.Logger
}

// Signer is a private key that can be relied on. It is safe for concurrent use.
type Signer struct {
	name, kind string
	public     crypto.PublicKey
	algorithm  certs.SignatureAlgorithm
	local      Key // the key, where it is in this process's memory; else nil
	open       func(context.Context) (Key, error)
	limits     limits
	calls      chan struct{} // an element for each call under way
	breaker    breaker.Breaker
	observe    observer
	logger     *slog.Logger

	proven  atomic.Bool // a signature has verified
	tending atomic.Bool // Tend has a self-test under way
	// learned is when an attempt last told something of the key, and signed when one last
	// succeeded, in nanoseconds since epoch.
	learned, signed atomic.Int64
	epoch           time.Time

	mu      sync.Mutex // guards what follows
	key     Key        // nil until it is opened, and after it was lost
	opening *opening   // nil if nobody opens it
	closed  bool
}

// limits bound a signature with all its attempts, and one attempt.
type limits struct{ timeout, attempt time.Duration }

// opening is an attempt to open the key, for which everybody waits who needs it.
type opening struct {
	done chan struct{} // closed when key and err are there
	key  Key
	err  error
}

// New returns a Signer. Nothing is opened: SelfTest does, and finds what is wrong.
func New(cfg Config) (*Signer, error) {
	algorithm, err := certs.SignatureAlgorithmFor(cfg.Public)
	if err != nil {
		return nil, err
	}
	s := &Signer{
		name: cfg.Name, kind: cfg.Kind, public: cfg.Public, algorithm: algorithm, open: cfg.Open,
		limits:  limits{orDefault(cfg.Timeout, defaultTimeout), orDefault(cfg.Attempt, defaultAttempt)},
		calls:   make(chan struct{}, orDefault(cfg.Concurrency, defaultConcurrency)),
		breaker: breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest},
		observe: cfg.Metrics.observer(cfg.Name, cfg.Kind), logger: cfg.Logger, epoch: time.Now(),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Local returns the Signer of a private key in this process's memory. It computes at once,
// and so has no deadline, no breaker, and nothing to open.
func Local(name string, key crypto.Signer, metrics *Metrics) (*Signer, error) {
	s, err := New(Config{Name: name, Kind: "file", Public: key.Public(), Metrics: metrics})
	if err != nil {
		return nil, err
	}
	s.local = InMemory(key)
	return s, nil
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// Name is the authority's.
func (s *Signer) Name() string { return s.name }

// Public returns the public key.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Algorithm is how it signs.
func (s *Signer) Algorithm() certs.SignatureAlgorithm { return s.algorithm }

// Sign returns the signature over message, not hashed. It has been verified, unless the key is
// in this process's memory, or Near with nothing held against it: it may go to a log, which
// verifies it, and nowhere else.
func (s *Signer) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return s.sign(ctx, message, false)
}

func (s *Signer) sign(ctx context.Context, message []byte, always bool) ([]byte, error) {
	if s.local != nil {
		return s.signLocally(ctx, message, always)
	}
	now := time.Now()
	if rest := s.breaker.Rest().Sub(now); rest > 0 {
		return nil, s.keptAway(rest, "wants to be left alone")
	}
	if !s.breaker.Closed() && !s.breaker.Probe(now) {
		return nil, s.keptAway(s.breaker.StatusAt(now).Probe, "has failed several times in a row")
	}
	return s.try(ctx, message, always, s.limits)
}

// SignVerified is Sign, and the signature has been verified always.
func (s *Signer) SignVerified(ctx context.Context, message []byte) ([]byte, error) {
	return s.sign(ctx, message, true)
}

func (s *Signer) signLocally(ctx context.Context, message []byte, always bool) (signature []byte, err error) {
	began := time.Now()
	signature, err = s.local.Sign(ctx, message)
	if err == nil && always {
		err = s.verify(signature, message)
	}
	s.observe.attempt(resultOf(err), time.Since(began))
	if err != nil {
		return nil, err
	}
	return signature, nil
}

// verify refuses a signature that does not verify: a place that computes wrongly, by fault or
// by attack, would else give away the key (an RSA-CRT fault does) or make a certificate that
// nobody can use.
func (s *Signer) verify(signature, message []byte) error {
	if err := s.algorithm.Verify(s.public, message, signature); err != nil {
		return &invalidError{fmt.Errorf("it signed, and %w: the key is not the one of the certificate, or is used with another scheme than %s, or the module or service computes wrongly", err, s.algorithm)}
	}
	return nil
}

type invalidError struct{ error }

func (e *invalidError) Unwrap() error { return e.error }

// keptAway is the error of a signature that was not tried.
func (s *Signer) keptAway(rest time.Duration, why string) error {
	err := fmt.Errorf("the key was not asked: it %s", why)
	if last := s.breaker.StatusAt(time.Now()).LastError; last != nil {
		err = fmt.Errorf("%w, the last time with: %w", err, last)
	}
	s.observe.attempt(resultKeptAway, 0)
	return Transient(err, max(rest, time.Millisecond))
}

// try makes a signature in at most maxAttempts attempts.
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
		if again && f.Remedy == Wait || !again && ctx.Err() != nil {
			return nil, err // nothing is known of the key
		}
		var rest time.Duration
		if again {
			rest = f.RetryAfter
			// What is lost right after it was opened is not mended by opening it.
			again = f.Remedy != Reopen || !reopened
			reopened = reopened || f.Remedy == Reopen
		}
		s.failed(ctx, err, rest)
		if !again || n == maxAttempts || rest > 0 || !wait(bounded, pause, l.attempt) {
			return nil, err
		}
		pause *= 3
	}
}

// wait waits for d; false if ctx ends before, or too soon after for half an attempt.
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

// errSlow is a call that had its time and gave no answer.
var errSlow = errors.New("there was no answer in time")

// attempt is how one attempt is made.
type attempt struct {
	// always has the signature verified though the key is Near.
	always bool
	limit  time.Duration
}

// attempt makes one attempt and verifies what comes of it: always, or unless the key is Near,
// has proven itself, and has not failed since. caller is the context of who asked, ctx what is
// left of the time for all attempts.
func (s *Signer) attempt(caller, ctx context.Context, message []byte, a attempt) (signature []byte, verified bool, err error) {
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done():
		return nil, false, s.queued(caller)
	}
	// What was waited for before is no fault of the key's.
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	defer func() {
		s.observe.attempt(resultOf(err), time.Since(began))
		if at := int64(time.Since(s.epoch)); err == nil {
			s.learned.Store(at)
			s.signed.Store(at)
		} else if caller.Err() == nil {
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

// queued is the error of who has waited for others and had no turn.
func (s *Signer) queued(caller context.Context) error {
	err := fmt.Errorf("%d signatures were being made, and none of them ended in time", cap(s.calls))
	s.observe.attempt(resultBusy, 0)
	if caller.Err() != nil {
		return fmt.Errorf("%w: %w", err, caller.Err())
	}
	return Busy(err)
}

// lost says what the err of a call of key is, and drops the key if it is of no more use.
func (s *Signer) lost(caller, bounded context.Context, key Key, began time.Time, err error) error {
	if errors.Is(err, ErrClosed) && !s.isClosed() {
		err = Stale(err) // somebody else has dropped it meanwhile
	}
	err = s.whose(caller, bounded, began, err)
	var f *Failure
	switch {
	case errors.As(err, &f) && f.Remedy == Reopen:
		s.drop(caller, key, err)
	case errors.Is(err, errSlow) && !s.breaker.Closed() && time.Duration(s.signed.Load()) < began.Sub(s.epoch):
		// What is silent to everybody may have a connection that leads nowhere.
		s.drop(caller, key, err)
	}
	return err
}

// whose tells a call that was too slow, which may pass and counts against the key, from a
// caller that has gone or gave it less time than an attempt has, which says nothing.
func (s *Signer) whose(caller, bounded context.Context, began time.Time, err error) error {
	elapsed := time.Since(began)
	switch {
	case bounded.Err() == nil, errors.As(err, new(*Failure)), caller.Err() != nil:
		return err
	case elapsed < s.limits.attempt/2:
		return Busy(fmt.Errorf("too little time was left for an answer: %w", err))
	}
	return Transient(fmt.Errorf("%w (%s): %w", errSlow, elapsed.Round(time.Millisecond), err), 0)
}

// call calls the key: in a goroutine of its own, which nobody waits for once ctx has ended,
// since not every place can be interrupted. One that is Near can. It gives back the element of
// calls that its caller took, when the call has really ended.
func (s *Signer) call(ctx context.Context, key Key, message []byte) ([]byte, error) {
	if near, ok := key.(Near); ok {
		defer func() { <-s.calls }()
		return near.Sign(ctx, message)
	}
	type answer struct {
		signature []byte
		err       error
	}
	answers := make(chan answer, 1) // room for the answer that nobody waits for
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

// get returns the key, opened if it is not.
func (s *Signer) get(ctx context.Context) (Key, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	if key := s.key; key != nil {
		s.mu.Unlock()
		return key, nil
	}
	o := s.opening
	if o == nil {
		o = &opening{done: make(chan struct{})}
		s.opening = o
		go s.openKey(context.WithoutCancel(ctx), o)
	}
	s.mu.Unlock()
	select {
	case <-o.done:
		return o.key, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("opening the key: %w", ctx.Err())
	}
}

// openKey opens the key for all who wait for o.
func (s *Signer) openKey(ctx context.Context, o *opening) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	o.key, o.err = s.openMatching(ctx)
	if o.err != nil && ctx.Err() != nil && !IsTransient(o.err) || errors.Is(o.err, context.DeadlineExceeded) {
		o.err = Transient(fmt.Errorf("opening the key: %w: %w", errSlow, o.err), 0)
	}
	s.mu.Lock()
	s.opening = nil
	closed := s.closed
	if o.err == nil && !closed {
		s.key = o.key
	}
	s.mu.Unlock()
	close(o.done)
	s.observe.opened(o.err)
	switch {
	case o.err == nil && closed:
		_ = o.key.Close() // nobody has signed with it
	case o.err == nil:
		s.logger.LogAttrs(ctx, slog.LevelDebug, "the key of an authority was opened", slog.String("authority", s.name), slog.String("kind", s.kind))
	}
}

func (s *Signer) openMatching(ctx context.Context) (key Key, err error) {
	defer func() {
		if p := recover(); p != nil {
			key, err = nil, fmt.Errorf("opening the key: panic: %v", p)
		}
	}()
	key, err = s.open(ctx)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(s.public) {
		err := fmt.Errorf("it is not the key of the authority's certificate: found %s, and the certificate has %s; name the key that belongs to it", Describe(key.Public()), Describe(s.public))
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

func (s *Signer) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// drop forgets key, so that the next attempt opens it anew.
func (s *Signer) drop(ctx context.Context, key Key, why error) {
	s.mu.Lock()
	lost := s.key == key
	if lost {
		s.key = nil
	}
	s.mu.Unlock()
	if !lost {
		return // somebody else was first
	}
	level := slog.LevelWarn
	if !s.breaker.Closed() {
		level = slog.LevelDebug // it was said
	}
	s.logger.LogAttrs(ctx, level, "the key of an authority was lost, and is opened anew",
		slog.String("authority", s.name), slog.String("kind", s.kind), slog.Any("error", why))
	go func() { _ = key.Close() }() // it may hang, and is of no more use either way
}

func (s *Signer) succeeded(ctx context.Context) {
	s.proven.Store(true)
	if s.breaker.Succeeded() {
		s.logger.LogAttrs(ctx, slog.LevelInfo, "the key of an authority is well again: its breaker has closed", slog.String("authority", s.name), slog.String("kind", s.kind))
	}
}

// failed counts a failure. That one caller was told to come later keeps the others away only
// once the breaker is open: a place near its quota says so now and then.
func (s *Signer) failed(ctx context.Context, err error, rest time.Duration) {
	if s.breaker.StatusAt(time.Now()).Failures+1 < breakerThreshold {
		rest = 0
	}
	if s.breaker.Failed(time.Now(), err, rest) {
		s.logger.LogAttrs(ctx, slog.LevelError, "the key of an authority has failed several times in a row: its breaker has opened",
			slog.String("authority", s.name), slog.String("kind", s.kind), slog.Int("failures", breakerThreshold), slog.Any("error", err))
	}
}

// Close gives the key back. Signatures after it are refused.
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
