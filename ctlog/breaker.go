// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"sync"
	"time"
)

const (
	// breakerThreshold is how many failures in a row open a breaker.
	breakerThreshold = 5
	// probeInterval is how long a breaker stays open before one submission asks the log
	// again. It costs that submission the hedge delay at most.
	probeInterval = 5 * time.Second
	// maxRest bounds a log's Retry-After, so that a slip of the log's does not end its use.
	maxRest = time.Minute
)

// State is the state of a log's breaker.
type State uint8

// The states. Nothing is known against a log at the start.
const (
	Closed   State = iota // the log is asked in its turn
	Open                  // it failed several times in a row, and is asked only where no other can be
	HalfOpen              // it was open for long enough: the next submission asks this log first
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

// breaker remembers how a log's last attempts ended. It reads no clock: now is always of
// time.Now, and so immune to changes of the wall clock.
type breaker struct {
	mu        sync.Mutex // guards what follows
	failures  int        // in a row
	lastError error      // of the last of them
	probeAt   time.Time  // when an open breaker becomes half-open
	restUntil time.Time  // the log wants to be left alone until then
}

func (b *breaker) stateAt(now time.Time) State {
	switch {
	case b.failures < breakerThreshold:
		return Closed
	case now.Before(b.probeAt):
		return Open
	default:
		return HalfOpen
	}
}

// closed tells whether the log is in good standing.
func (b *breaker) closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures < breakerThreshold
}

// probe tells whether the caller is the one that has to ask the log now, to see whether it is
// well again. For everybody else the breaker is then open for another interval, so that a
// probe that is never finished needs nobody to take it back.
func (b *breaker) probe(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stateAt(now) != HalfOpen || now.Before(b.restUntil) {
		return false
	}
	b.probeAt = now.Add(probeInterval)
	return true
}

// succeeded closes the breaker, and tells whether it was not closed before.
func (b *breaker) succeeded() (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.failures >= breakerThreshold
	b.failures, b.lastError = 0, nil
	return changed
}

// failed counts a failure, after which the log wants to be left alone for rest, and tells
// whether it has opened the breaker.
func (b *breaker) failed(now time.Time, err error, rest time.Duration) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.lastError = err
	b.probeAt = now.Add(probeInterval)
	if rest > 0 {
		b.restUntil = later(b.restUntil, now.Add(min(rest, maxRest)))
	}
	return b.failures == breakerThreshold
}

// rest returns until when the log wants to be left alone.
func (b *breaker) rest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.restUntil
}

// LogStatus is how a log is doing at one moment.
type LogStatus struct {
	// Name is the log's.
	Name string
	// State is its breaker's.
	State State
	// Failures is how many attempts have failed since the last that did not.
	Failures int
	// LastError is that of the last of them: for the operator, since it may quote what the
	// log answered. It is nil where Failures is zero.
	LastError error
	// Probe is how long an open breaker remains so; zero for any other.
	Probe time.Duration
	// Rest is how long the log still wants to be left alone (Retry-After), and is; zero for
	// not at all.
	Rest time.Duration
}

func (m *member) status(now time.Time) LogStatus {
	b := &m.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	s := LogStatus{
		Name: m.Name(), State: b.stateAt(now), Failures: b.failures, LastError: b.lastError,
		Rest: max(b.restUntil.Sub(now), 0),
	}
	if s.State == Open {
		s.Probe = b.probeAt.Sub(now)
	}
	return s
}

// Status tells how each log is doing, in order of preference.
func (l *Logs) Status() []LogStatus {
	now := time.Now()
	list := make([]LogStatus, 0, len(l.logs))
	for _, m := range l.logs {
		list = append(list, m.status(now))
	}
	return list
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
