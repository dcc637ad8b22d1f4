// SPDX-License-Identifier: Apache-2.0

// Package breaker remembers how the last attempts at a service outside of this process ended,
// so that a failing service costs no time. Each user decides what an open breaker means: the
// process asks a log after all others, and does not ask a signing key at all.
//
// Every package may import it.
package breaker

import (
	"sync"
	"time"
)

// State is the state of a breaker.
type State uint8

// The states. A new breaker is closed.
const (
	Closed   State = iota // fewer failures in a row than the threshold
	Open                  // several attempts in a row failed
	HalfOpen              // it was open for the interval: one attempt finds out whether the service has recovered
)

// String returns the value of the label "state".
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	default:
		return "open"
	}
}

// States returns all states, for metrics.
func States() []State { return []State{Closed, HalfOpen, Open} }

// Breaker is a breaker. It reads no clock: now always comes from time.Now, so that changes of
// the wall clock do not affect it. It is safe for concurrent use.
type Breaker struct {
	// Threshold is how many failures in a row open the breaker.
	Threshold int
	// Interval is how long the breaker stays open before one attempt may be made again.
	Interval time.Duration
	// MaxRest bounds the backoff that a service can ask for.
	MaxRest time.Duration

	mu        sync.Mutex // guards the fields below
	failures  int        // in a row
	lastError error      // of the last failure
	probeAt   time.Time  // when an open breaker becomes half-open
	restUntil time.Time  // until then, the service asks for no attempts
}

func (b *Breaker) stateAt(now time.Time) State {
	switch {
	case b.failures < b.Threshold:
		return Closed
	case now.Before(b.probeAt):
		return Open
	default:
		return HalfOpen
	}
}

// Closed reports whether the breaker is closed.
func (b *Breaker) Closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures < b.Threshold
}

// Probe reports whether this caller must find out whether the service has recovered. For every
// other caller the breaker is then open for another interval, so that a probe that never
// finishes needs no cleanup.
func (b *Breaker) Probe(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stateAt(now) != HalfOpen || now.Before(b.restUntil) {
		return false
	}
	b.probeAt = now.Add(b.Interval)
	return true
}

// Succeeded closes the breaker, and reports whether it was not closed before.
func (b *Breaker) Succeeded() (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.failures >= b.Threshold
	b.failures, b.lastError = 0, nil
	return changed
}

// Failed counts a failure, after which the service asks for no attempts during rest. It
// reports whether that has opened the breaker.
func (b *Breaker) Failed(now time.Time, err error, rest time.Duration) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.lastError = err
	b.probeAt = now.Add(b.Interval)
	if until := now.Add(min(rest, b.MaxRest)); rest > 0 && until.After(b.restUntil) {
		b.restUntil = until
	}
	return b.failures == b.Threshold
}

// Rest returns until when the service asks for no attempts.
func (b *Breaker) Rest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.restUntil
}

// Status is the condition of a breaker at one moment.
type Status struct {
	State State
	// Failures is how many attempts have failed since the last success.
	Failures int
	// LastError is the error of the last failure, for the operator. It is nil where Failures
	// is zero.
	LastError error
	// Probe is how long an open breaker remains open; zero for any other state.
	Probe time.Duration
	// Rest is the remaining backoff that the service has asked for (Retry-After); zero for
	// none.
	Rest time.Duration
}

// StatusAt returns the breaker's status at now.
func (b *Breaker) StatusAt(now time.Time) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{State: b.stateAt(now), Failures: b.failures, LastError: b.lastError, Rest: max(b.restUntil.Sub(now), 0)}
	if s.State == Open {
		s.Probe = b.probeAt.Sub(now)
	}
	return s
}
