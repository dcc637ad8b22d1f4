// SPDX-License-Identifier: Apache-2.0

// Package breaker remembers how the last attempts at something outside of this process ended,
// so that what is out costs nobody's time. What an open breaker means is up to its user: a log
// is asked after all others, a signing key is not asked at all.
//
// Every package may import it.
package breaker

import (
	"sync"
	"time"
)

// State is the state of a breaker.
type State uint8

// The states. Nothing is known against anything at the start.
const (
	Closed   State = iota // all is well, as far as is known
	Open                  // it failed several times in a row
	HalfOpen              // it was open for long enough: one attempt finds out whether it is well again
)

// String is the value of the label "state".
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

// States are all of them, for metrics.
func States() []State { return []State{Closed, HalfOpen, Open} }

// Breaker is a breaker. It reads no clock: now is always of time.Now, and so immune to changes
// of the wall clock. It is safe for concurrent use.
type Breaker struct {
	// Threshold is how many failures in a row open it.
	Threshold int
	// Interval is how long it stays open before one attempt may be made again.
	Interval time.Duration
	// MaxRest bounds for how long it can want to be left alone.
	MaxRest time.Duration

	mu        sync.Mutex // guards what follows
	failures  int        // in a row
	lastError error      // of the last of them
	probeAt   time.Time  // when an open breaker becomes half-open
	restUntil time.Time  // it wants to be left alone until then
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

// Closed tells whether nothing is known against it.
func (b *Breaker) Closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures < b.Threshold
}

// Probe tells whether the caller is the one that has to find out whether it is well again. For
// everybody else the breaker is then open for another interval, so that a probe that is never
// finished needs nobody to take it back.
func (b *Breaker) Probe(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stateAt(now) != HalfOpen || now.Before(b.restUntil) {
		return false
	}
	b.probeAt = now.Add(b.Interval)
	return true
}

// Succeeded closes the breaker, and tells whether it was not closed before.
func (b *Breaker) Succeeded() (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.failures >= b.Threshold
	b.failures, b.lastError = 0, nil
	return changed
}

// Failed counts a failure, after which it wants to be left alone for rest, and tells whether
// that has opened the breaker.
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

// Rest returns until when it wants to be left alone.
func (b *Breaker) Rest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.restUntil
}

// Status is how a breaker is doing at one moment.
type Status struct {
	// State is its state.
	State State
	// Failures is how many attempts have failed since the last that did not.
	Failures int
	// LastError is that of the last of them: for the operator. It is nil where Failures is
	// zero.
	LastError error
	// Probe is how long an open breaker remains so; zero for any other.
	Probe time.Duration
	// Rest is how long it still wants to be left alone (Retry-After), and is; zero for not at
	// all.
	Rest time.Duration
}

// StatusAt tells how the breaker is doing at now.
func (b *Breaker) StatusAt(now time.Time) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{State: b.stateAt(now), Failures: b.failures, LastError: b.lastError, Rest: max(b.restUntil.Sub(now), 0)}
	if s.State == Open {
		s.Probe = b.probeAt.Sub(now)
	}
	return s
}
