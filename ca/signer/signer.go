// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"cmp"
	"context"
	"crypto"
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
	// retryPause precedes the second attempt.
	retryPause = 25 * time.Millisecond
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
)

// Config is the configuration of a Signer.
type Config struct {
	// Name is the authority's, for errors and metrics.
	Name string
	// Kind is the kind of place that holds the key, for metrics: "pkcs11", "awskms".
	Kind string
	// Public is the expected key: that of the authority's certificate.
	Public crypto.PublicKey
	// Open opens the key: at the first use, and again after the key was lost. Two calls never
	// overlap. Its ctx outlives the request that needs the key.
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
	// Logger receives when the breaker opens and closes, and when the key is opened; nil for
	// none.
	Logger *slog.Logger
}

// Signer is a private key with deadlines, retries and a breaker. It is safe for concurrent use.
type Signer struct {
	name, kind string
	public     crypto.PublicKey
	algorithm  certs.SignatureAlgorithm
	local      Key // the key if it is in this process's memory, otherwise nil
	open       func(context.Context) (Key, error)
	verified   bool
	limits     limits
	calls      chan struct{} // an element for each call under way
	breaker    breaker.Breaker
	observe    observer
	logger     *slog.Logger

	proven  atomic.Bool // a signature has verified
	tending atomic.Bool // a self-test of Tend is under way
	// lastResult is when an attempt last gave a result that says something about the key, in
	// nanoseconds since epoch.
	lastResult atomic.Int64
	epoch      time.Time
	openings   singleflight.Group

	mu     sync.Mutex // guards the fields below
	key    Key        // nil until it is opened, and after it was lost
	closed bool
}

// limits bound a signature with all its attempts, and one attempt.
type limits struct{ timeout, attempt time.Duration }

// New returns a Signer and opens nothing. SelfTest opens the key, and finds what is wrong.
func New(cfg Config) (*Signer, error) {
	algorithm, err := certs.SignatureAlgorithmFor(cfg.Public)
	if err != nil {
		return nil, err
	}
	s := &Signer{
		name: cfg.Name, kind: cfg.Kind, public: cfg.Public, algorithm: algorithm, open: cfg.Open, verified: cfg.Verified,
		limits:  limits{cmp.Or(cfg.Timeout, defaultTimeout), cmp.Or(cfg.Attempt, defaultAttempt)},
		calls:   make(chan struct{}, cmp.Or(cfg.Concurrency, defaultConcurrency)),
		breaker: breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest},
		observe: cfg.Metrics.observer(cfg.Name, cfg.Kind), logger: cfg.Logger, epoch: time.Now(),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return s, nil
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
func (s *Signer) Name() string { return s.name }

// Public returns the public key.
func (s *Signer) Public() crypto.PublicKey { return s.public }

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
	now := time.Now()
	if !s.breaker.Closed() && (s.resultAge() < s.probeDelay() || !s.breaker.Probe(now)) {
		return nil, s.notTried(now)
	}
	return s.try(ctx, message, verify, s.limits)
}

func (s *Signer) signLocally(ctx context.Context, message []byte, verify bool) (signature []byte, err error) {
	began := time.Now()
	signature, err = s.local.Sign(ctx, message)
	if err == nil && verify {
		err = s.verify(signature, message)
	}
	s.observe.attempt(resultOf(err), time.Since(began))
	if err != nil {
		return nil, err
	}
	return signature, nil
}

// verify refuses a signature that does not verify. A place that computes wrongly, by fault or by
// attack, could otherwise disclose the key (an RSA-CRT fault does) or cause a certificate that
// no client can use.
func (s *Signer) verify(signature, message []byte) error {
	if err := s.algorithm.Verify(s.public, message, signature); err != nil {
		return &invalidError{fmt.Errorf("it signed, and %w: the key is not the one of the certificate, or is used with another scheme than %s, or the module or service computes wrongly", err, s.algorithm)}
	}
	return nil
}

type invalidError struct{ error }

func (e *invalidError) Unwrap() error { return e.error }

// notTried returns the error of a signature for which the key was not called.
func (s *Signer) notTried(now time.Time) error {
	status := s.breaker.StatusAt(now)
	s.observe.attempt(resultNotTried, 0)
	return Transient(fmt.Errorf("the key was not called, as it has failed several times in a row, the last time with: %w", status.LastError), max(status.Probe, status.Rest, time.Millisecond))
}
