// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	// defaultTimeout bounds one signature with all its attempts: two signatures and a log must
	// fit into the 4.5 s that the most impatient client waits.
	defaultTimeout = 1500 * time.Millisecond
	// defaultAttempt bounds one attempt, so that there is time for another.
	defaultAttempt = 700 * time.Millisecond
	// openTimeout bounds the opening of a key, which may log in, list and look up.
	openTimeout = 5 * time.Second
	// proveTimeout bounds the first signature of a key. Only a start or a reload waits for it.
	proveTimeout = 10 * time.Second
	// defaultConcurrency bounds the calls of one key that are under way. Calls that hang count
	// until they return, so that a key that hangs costs a bounded number of threads.
	defaultConcurrency = 64

	breakerThreshold = 5
	// probeInterval is how long a breaker stays open before a probe: an outage lasts that much
	// longer for clients.
	probeInterval = time.Second
	// selfTestInterval is the age of the last result at which Tend tests a key that has not failed.
	selfTestInterval = 15 * time.Second
)

// SelfTestMessage is the message that a self-test signs. It can never be a certificate, which
// begins with the octet of a SEQUENCE.
const SelfTestMessage = "mayfly signer self-test"

// Config is the configuration of a Signer.
type Config struct {
	// Name is the authority's, for errors and metrics.
	Name string
	// Kind is the kind of place that holds the key, for metrics: "pkcs11", "awskms".
	Kind string
	// Public is the expected key: that of the authority's certificate.
	Public crypto.PublicKey
	// Open opens the key: at the first use, and again after the key was lost. Its ctx outlives the
	// request that needs the key. Calls overlap only if one has not returned when its ctx ended.
	Open func(ctx context.Context) (Key, error)
	// Timeout bounds a signature, Attempt one attempt at it; zero for 1.5 s and 700 ms.
	Timeout, Attempt time.Duration
	// Verified states that the place of the key has verified its signatures, as another process of
	// ours has. Sign may then skip that, as with a key in memory.
	Verified bool
	// Concurrency bounds the calls that are under way; zero for 64.
	Concurrency int
	// Metrics receives the results of attempts; nil for none.
	Metrics *Metrics
	// Logger receives when the breaker opens and closes, and when the key is lost; nil for none.
	Logger *slog.Logger
}

// Signer is a private key with deadlines, retries and a breaker. It is safe for concurrent use.
type Signer struct {
	cfg       Config // with defaults
	algorithm certs.SignatureAlgorithm
	local     Key           // the key if it is in this process's memory, otherwise nil
	calls     chan struct{} // an element for each signature under way
	hung      chan struct{} // an element for each opening under way
	openings  singleflight.Group
	breaker   breaker.Breaker
	series    series
	tending   atomic.Bool // a self-test of Tend is under way

	mu         sync.Mutex // guards the fields below
	key        Key        // nil until it is opened, and after it was lost
	closed     bool
	proven     bool      // a signature has verified
	lastResult time.Time // when an attempt last gave a result that says something about the key
}

// New returns a Signer and opens nothing. SelfTest opens the key, and finds what is wrong.
func New(cfg Config) (*Signer, error) {
	algorithm, err := certs.SignatureAlgorithmFor(cfg.Public)
	if err != nil {
		return nil, err
	}
	cfg.Timeout, cfg.Attempt = cmp.Or(cfg.Timeout, defaultTimeout), cmp.Or(cfg.Attempt, defaultAttempt)
	cfg.Concurrency = cmp.Or(cfg.Concurrency, defaultConcurrency)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)).With(slog.String("authority", cfg.Name), slog.String("kind", cfg.Kind))
	return &Signer{
		cfg: cfg, algorithm: algorithm, series: cfg.Metrics.series(cfg.Name, cfg.Kind),
		calls: make(chan struct{}, cfg.Concurrency), hung: make(chan struct{}, cfg.Concurrency),
		breaker: breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest}, lastResult: time.Now(),
	}, nil
}

// Local returns the Signer of a private key in this process's memory. Such a key computes at
// once, so the Signer has no deadline, no breaker, and nothing to open.
func Local(name string, key crypto.Signer, metrics *Metrics) (*Signer, error) {
	s, err := New(Config{Name: name, Kind: "file", Public: key.Public(), Metrics: metrics})
	if err != nil {
		return nil, err
	}
	s.local = InMemory(key)
	return s, nil
}

// Name returns the name of the authority.
func (s *Signer) Name() string { return s.cfg.Name }

// Public returns the public key.
func (s *Signer) Public() crypto.PublicKey { return s.cfg.Public }

// Algorithm returns the signature algorithm of the key.
func (s *Signer) Algorithm() certs.SignatureAlgorithm { return s.algorithm }

// Sign returns the signature over message, which is not hashed. Sign has verified the signature,
// unless the key is in this process's memory, or is Verified and has not failed. The caller may then
// send the signature only to a log, which verifies it.
func (s *Signer) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return s.sign(ctx, message, false)
}

// SignVerified is Sign, but always verifies the signature.
func (s *Signer) SignVerified(ctx context.Context, message []byte) ([]byte, error) {
	return s.sign(ctx, message, true)
}

func (s *Signer) sign(ctx context.Context, message []byte, verify bool) ([]byte, error) {
	if s.local != nil {
		return s.signLocally(ctx, message, verify)
	}
	if now := time.Now(); !s.breaker.Closed() && (s.resultAge() < s.probeDelay() || !s.breaker.Probe(now)) {
		s.series.count("not_asked", 0)
		status := s.breaker.StatusAt(now)
		return nil, Transient(fmt.Errorf("the key was not called, as it has failed several times in a row, the last time with: %w", status.LastError), max(status.Probe, status.Rest, time.Millisecond))
	}
	return s.try(ctx, message, verify, s.cfg.Timeout, s.cfg.Attempt)
}

func (s *Signer) signLocally(ctx context.Context, message []byte, verify bool) ([]byte, error) {
	began := time.Now()
	signature, err := s.local.Sign(ctx, message)
	if err == nil && verify {
		err = s.verify(signature, message)
	}
	s.series.count(resultOf(err), time.Since(began))
	if err != nil {
		return nil, err
	}
	return signature, nil
}

var errInvalid = errors.New("the key is not the one of the certificate, or is used with another scheme, or the module or service computes wrongly")

// verify refuses a signature that does not verify. A place that computes wrongly, by fault or by
// attack, could otherwise disclose the key (an RSA-CRT fault does) or cause a certificate that
// no client can use.
func (s *Signer) verify(signature, message []byte) error {
	if err := s.algorithm.Verify(s.cfg.Public, message, signature); err != nil {
		return fmt.Errorf("it signed, and %w: %w", err, errInvalid)
	}
	return nil
}

// Confirm verifies a signature that Sign has returned, perhaps unverified. A wrong one counts against the key.
func (s *Signer) Confirm(ctx context.Context, signature, message []byte) error {
	err := s.verify(signature, message)
	if err != nil {
		s.series.count(resultOf(err), 0) // Sign has counted ok
		s.failed(ctx, nil, message, err)
	}
	return err
}

// SelfTest opens the key if necessary, then creates and verifies a signature. It ignores the
// breaker.
func (s *Signer) SelfTest(ctx context.Context) error {
	return s.selfTest(ctx, s.cfg.Timeout, s.cfg.Attempt)
}

// Prove is SelfTest with longer timeouts: the first opening of a key may have to find
// credentials, connect and log in.
func (s *Signer) Prove(ctx context.Context) error { return s.selfTest(ctx, proveTimeout, openTimeout) }

func (s *Signer) selfTest(ctx context.Context, timeout, attempt time.Duration) (err error) {
	if s.local == nil {
		_, err = s.try(ctx, []byte(SelfTestMessage), true, timeout, attempt)
		return err
	}
	if _, err = s.signLocally(ctx, []byte(SelfTestMessage), true); err != nil {
		s.breaker.Failed(time.Now(), err, 0)
	} else {
		s.succeeded(ctx)
	}
	return err
}

// Tend starts a self-test in the background if one is due, and does not wait for it. The caller
// must call Tend every second or so.
func (s *Signer) Tend(ctx context.Context) {
	interval := selfTestInterval
	if !s.healthy() {
		interval = probeInterval + s.probeDelay()
	}
	if s.local != nil || s.resultAge() < interval || s.breaker.Rest().After(time.Now()) || !s.tending.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer s.tending.Store(false)
		_ = s.SelfTest(ctx) // the breaker remembers the result
	}()
}

// resultAge returns the age of the last result that says something about the key.
func (s *Signer) resultAge() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.lastResult)
}

// probeDelay is the additional interval between two probes of a failed key. Calls may never return,
// and once all hang the key cannot be tried again: this makes them last for half an hour.
func (s *Signer) probeDelay() time.Duration {
	return time.Duration(len(s.calls)+len(s.hung)) * probeInterval
}

// healthy reports whether the last result that says something about the key was a success.
func (s *Signer) healthy() bool {
	status := s.Status()
	return status.Proven && status.Failures == 0
}

// Status is the state of a Signer at one moment.
type Status struct {
	Name, Kind string
	// Local reports that the key is in this process's memory; the fields below then have the results of
	// self-tests only, and its breaker stops nothing.
	Local bool
	// Proven reports whether the key has ever created a signature that verified.
	Proven bool
	breaker.Status
}

// Status returns the state of the Signer. It calls no key.
func (s *Signer) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Name: s.cfg.Name, Kind: s.cfg.Kind, Local: s.local != nil, Proven: s.proven, Status: s.breaker.StatusAt(time.Now())}
}

// Check returns an error if the Signer is not ready. It calls the key only if the key is in this
// process's memory, so that a key that hangs cannot make Check hang.
func (s *Signer) Check(ctx context.Context) error {
	status := s.Status()
	switch {
	case status.Local:
		return s.SelfTest(ctx)
	case status.State != breaker.Closed:
		return fmt.Errorf("its breaker is %s: %w", status.State, status.LastError)
	case !status.Proven && status.LastError != nil:
		return fmt.Errorf("it has never signed: %w", status.LastError)
	case !status.Proven:
		return errors.New("it has never signed")
	}
	return nil
}
