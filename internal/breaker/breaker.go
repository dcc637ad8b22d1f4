// SPDX-License-Identifier: Apache-2.0

// Package breaker remembers how the last attempts at a service outside of this process ended,
// so that a failing service costs no time. Each user decides what an open breaker means: the
// process asks a log after all others, and does not ask a signing key at all.
//
// Every package may import it.
package breaker

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// State is the state of a breaker, and the value of the label "state".
type State string

// The states. A new breaker is closed.
const (
	Closed   State = "closed"    // fewer failures in a row than the threshold
	Open     State = "open"      // several attempts in a row failed
	HalfOpen State = "half-open" // it was open for the interval: one attempt finds out whether the service has recovered
)

// States returns all states, for metrics.
func States() []State { return []State{Closed, HalfOpen, Open} }

// Breaker is a breaker. It reads no clock: now always comes from time.Now, so that changes of
// the wall clock do not affect it. It is safe for concurrent use.
type Breaker struct {
	Threshold int           // how many failures in a row open the breaker
	Interval  time.Duration // how long the breaker stays open before one attempt may be made again
	MaxRest   time.Duration // bounds the backoff that a service can ask for

	mu        sync.Mutex // guards the fields below
	status    Status     // its State, LastError, Probe and Rest are unset
	probeAt   time.Time  // when an open breaker becomes half-open
	restUntil time.Time  // until then, the service asks for no attempts
}

// Closed reports whether the breaker is closed.
func (b *Breaker) Closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status.Failures < b.Threshold
}

// Probe reports whether this caller must find out whether the service has recovered. For every
// other caller the breaker is then open for another interval, so that a probe that never
// finishes needs no cleanup.
func (b *Breaker) Probe(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.status.Failures < b.Threshold || now.Before(b.probeAt) || now.Before(b.restUntil) {
		return false
	}
	b.probeAt = now.Add(b.Interval)
	return true
}

// Succeeded closes the breaker, and reports whether it was not closed before.
func (b *Breaker) Succeeded(now time.Time) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if changed = b.status.Failures >= b.Threshold; changed {
		b.status.Since = now
	}
	b.status.Failures, b.status.SucceededAt = 0, now
	return changed
}

// Failed counts a failure, after which the service asks for no attempts during rest. It
// reports whether that has opened the breaker.
func (b *Breaker) Failed(now time.Time, err error, rest time.Duration) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Failures++
	b.status.LastFailure, b.status.FailedAt = err, now
	b.probeAt = now.Add(b.Interval)
	if until := now.Add(min(rest, b.MaxRest)); rest > 0 && until.After(b.restUntil) {
		b.restUntil = until
	}
	if changed = b.status.Failures == b.Threshold; changed {
		b.status.Since = now
	}
	return changed
}

// Rest returns until when the service asks for no attempts.
func (b *Breaker) Rest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.restUntil
}

// Status is the condition of a breaker.
type Status struct {
	State     State
	Failures  int           // since the last success
	LastError error         // for the operator; nil where Failures is zero
	Probe     time.Duration // how long an open breaker remains open
	Rest      time.Duration // the remaining backoff that the service has asked for (Retry-After)
	Since     time.Time     // when the breaker last opened or closed; zero for never
	// LastFailure is the last error, also after a success. The times are of the last of each.
	LastFailure           error
	FailedAt, SucceededAt time.Time
}

// StatusAt returns the breaker's status at now.
func (b *Breaker) StatusAt(now time.Time) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.State, s.Rest = HalfOpen, max(b.restUntil.Sub(now), 0)
	if s.Failures > 0 {
		s.LastError = s.LastFailure
	}
	if b.status.Failures < b.Threshold {
		s.State = Closed
	} else if now.Before(b.probeAt) {
		s.State, s.Probe = Open, b.probeAt.Sub(now)
	}
	return s
}

// Sparing is a log whose size neither an outage nor a client can inflate. It is safe for
// concurrent use.
type Sparing struct {
	Logger   *slog.Logger
	Interval time.Duration // the minimum time between two lines with the same message

	mu    sync.Mutex
	lines map[string]line // under mu; by message, of which there are few
}

// line is the last line with a message, and how many were left out since.
type line struct {
	at   time.Time
	left int
}

// Log logs a record. It leaves out a warning or worse that comes too soon after another with
// the same message; the next line states how many it left out.
func (s *Sparing) Log(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	if level >= slog.LevelWarn {
		s.mu.Lock()
		last, next := s.lines[message], line{at: time.Now()}
		tooSoon := next.at.Sub(last.at) < s.Interval
		if tooSoon {
			next = line{last.at, last.left + 1}
		}
		if s.lines == nil {
			s.lines = make(map[string]line)
		}
		s.lines[message] = next
		s.mu.Unlock()
		if tooSoon {
			return
		}
		if last.left > 0 {
			attrs = append(attrs, slog.Int("left_out", last.left))
		}
	}
	s.Logger.LogAttrs(ctx, level, message, attrs...)
}
