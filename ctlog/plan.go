// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// maxAttempts is how often one log is asked at most within one race.
	maxAttempts = 4
	// firstBackoff precedes a log's second attempt; each further one waits three times as long.
	firstBackoff = 100 * time.Millisecond
	// minAttempt is the time that must be left after a wait for an attempt to make sense.
	minAttempt = 250 * time.Millisecond
)

// plan is the policy of one race: which log to ask, and when. It starts nothing and reads no
// clock.
//
// A race asks the first log at once. It asks each further log when the last one has had the
// hedge delay to answer, or as soon as any has failed. When all have been asked, it asks those
// with a temporary failure again in the same manner, after a pause.
type plan struct {
	turns    []turn // in the order in which to ask the logs
	hedge    time.Duration
	deadline time.Time
	due      time.Time // when the next log may be asked
}

// turn is the state of one log in a race.
type turn struct {
	*member
	attempts int       // that have been started
	pending  bool      // the last attempt is running
	started  time.Time // when the last attempt started
	at       time.Time // the log must not be asked earlier
	out      bool      // the log is not asked again
}

// order returns the logs in the order in which a race asks them: first a log with a half-open
// breaker, then those with closed breakers by preference, and last those with open breakers.
// A race probes one log at most, so that a log which still hangs costs at most the hedge
// delay.
func order(logs []*member, now time.Time) []turn {
	turns := make([]turn, 0, len(logs))
	var probe, hidden []turn
	for _, m := range logs {
		switch {
		case m.breaker.Closed():
			turns = append(turns, turn{member: m})
		case probe == nil && m.breaker.Probe(now):
			probe = []turn{{member: m}}
		default:
			hidden = append(hidden, turn{member: m})
		}
	}
	return append(append(probe, turns...), hidden...)
}

// next returns the index of the log to ask now; or -1, and for how long to wait for answers
// before the next log may be asked. The wait is negative if no other log will be asked.
func (p *plan) next(now time.Time) (i int, wait time.Duration) {
	i = -1
	for k := range p.turns {
		t := &p.turns[k]
		if t.pending || t.out || t.attempts == maxAttempts {
			continue
		}
		// A log whose rest is over keeps its place before those that were asked already.
		if rest := t.breaker.Rest(); rest.After(now) && rest.After(t.at) {
			t.at = rest
		}
		if i < 0 || t.at.Before(p.turns[i].at) {
			i = k
		}
	}
	if i < 0 {
		return -1, -1
	}
	wait = max(p.due.Sub(now), p.turns[i].at.Sub(now))
	switch {
	case wait <= 0:
		return i, 0
	case p.deadline.Sub(now)-wait < min(minAttempt, p.hedge):
		return -1, -1
	default:
		return -1, wait
	}
}

// asked records that an attempt starts.
func (p *plan) asked(i int, now time.Time) {
	t := &p.turns[i]
	t.attempts++
	t.pending, t.started = true, now
	p.due = now.Add(p.hedge)
}

// failed records that the running attempt has failed: the next log may be asked at once, and
// this one after the pause, or never if that is negative.
func (p *plan) failed(i int, now time.Time, pause time.Duration) {
	t := &p.turns[i]
	t.pending = false
	t.out = pause < 0
	t.at = now.Add(pause)
	p.due = now
}

// pending reports whether an answer may still come.
func (p *plan) pending() bool {
	return slices.ContainsFunc(p.turns, func(t turn) bool { return t.pending })
}

// pauseAfter returns how long to wait after a log's failed attempt before the log is asked
// again; a negative time means never. It takes up to a half off at random, so that requests
// which failed together are not retried together.
func pauseAfter(err error, attempts int) time.Duration {
	var retryable *RetryableError
	if !errors.As(err, &retryable) {
		return -1
	}
	backoff := firstBackoff
	for range attempts - 1 {
		backoff *= 3
	}
	return max(backoff-rand.N(backoff/2), min(retryable.After, maxRest))
}
