// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

var (
	errNoLogNow = errors.New("no log is in its time: each has retired, or is not active yet")
	// errOutrun is the error of a log that had not answered when another log had.
	errOutrun = errors.New("another log answered")
)

// turn is a log in a race.
type turn struct {
	*member
	rank     int       // in the order of the race; the lowest first
	attempts int       // that have been started
	started  time.Time // when the last attempt started
	at       time.Time // the log must not be asked earlier
}

// answer is the result of one attempt.
type answer struct {
	*turn
	sct SCT
	err error
}

// race returns the first SCT that verifies. It asks the first log at once, and each further log when
// the last one has had the hedge delay, or as soon as any has failed. When all have been asked, it
// asks those with a temporary failure again in the same manner, after a pause. Without an SCT, it
// returns the error of each log. It waits for no attempt once it has an SCT or ctx has ended: Add
// cancels them.
//
// The attempts of the only log run on this goroutine: a hand-over to another one would cost more than
// the race. Such an attempt returns with its context, as Log requires.
func (l *Logs) race(ctx context.Context, sub Submission) (SCT, error) {
	waiting := l.order(time.Now())
	if len(waiting) == 0 {
		return SCT{}, errNoLogNow
	}
	// A log has at most one attempt at a time, so that none ever blocks on this channel.
	answers := make(chan answer, len(waiting))
	alone := len(waiting) == 1
	var failures []error
	var due time.Time // when the next log may be asked
	var running []*turn
	for ctx.Err() == nil {
		t, wait := l.next(ctx, waiting, due)
		if t == nil && len(running) == 0 {
			break
		}
		if t != nil && wait == 0 {
			waiting, running = without(waiting, t), append(running, t)
			t.attempts++
			t.started = time.Now()
			due = t.started.Add(l.hedge)
			if alone {
				answers <- submit(ctx, t, sub)
			} else {
				go func() { answers <- submit(ctx, t, sub) }()
			}
			continue
		}
		var turned <-chan time.Time
		if t != nil {
			turned = time.After(wait)
		}
		select {
		case <-turned:
		case <-ctx.Done():
		case a := <-answers:
			if a.err == nil { // here, where the stack is large enough
				a.err = a.verify(a.sct, sub, l.now())
			}
			if a.err != nil && ctx.Err() != nil {
				break // the end of ctx causes the failure, and is the same for all
			}
			running = without(running, a.turn)
			l.settle(ctx, a.turn, a.err)
			if a.err == nil {
				l.abandon(ctx, running, errOutrun)
				return a.sct, nil
			}
			failures = append(failures, fmt.Errorf("log %s: %w", a.Name(), a.err))
			due = time.Time{}
			if pause := pauseAfter(a.err, a.attempts); pause >= 0 && a.attempts < maxAttempts {
				a.at = time.Now().Add(pause)
				waiting = append(waiting, a.turn)
			}
		}
	}
	failures = append(failures, l.abandon(ctx, running, ctx.Err())...)
	return SCT{}, errors.Join(append(failures, unasked(waiting)...)...)
}

// unasked returns an error for each of the logs that a race has not asked.
func unasked(waiting []*turn) (failures []error) {
	for _, t := range waiting {
		if t.attempts == 0 {
			rest := max(time.Until(t.breaker.Rest()), 0)
			failures = append(failures, fmt.Errorf("log %s: not asked in the time left; its Retry-After ends in %s", t.Name(), rest.Round(time.Millisecond)))
		}
	}
	return failures
}

// order returns the logs to which submissions are allowed now, in the order in which a race asks
// them: first a log with a half-open breaker, then those with closed breakers by preference, and
// last those with open breakers. A race probes one log at most, so that a log which still hangs
// costs at most the hedge delay.
func (l *Logs) order(now time.Time) []*turn {
	turns, list := make([]turn, len(l.logs)), make([]*turn, 0, len(l.logs))
	clock, probes := l.now(), 0
	for i, m := range l.logs {
		if !m.window.includes(clock) {
			continue
		}
		t := &turns[i]
		t.member = m
		switch {
		case m.breaker.Closed():
			t.rank = 1
		case probes == 0 && m.breaker.Probe(now):
			probes++
		default:
			t.rank = 2
		}
		list = append(list, t)
	}
	slices.SortStableFunc(list, func(a, b *turn) int { return a.rank - b.rank })
	return list
}

// next returns the log to ask next and how long to wait before that; nil if too little time would be
// left. A log that has not been asked comes before one that has.
func (l *Logs) next(ctx context.Context, waiting []*turn, due time.Time) (t *turn, wait time.Duration) {
	now := time.Now()
	for _, other := range waiting {
		if rest := max(other.at.Sub(now), other.breaker.Rest().Sub(now), 0); t == nil || rest < wait {
			t, wait = other, rest
		}
	}
	wait = max(wait, due.Sub(now))
	if deadline, _ := ctx.Deadline(); wait > 0 && deadline.Sub(now)-wait < min(minAttempt, l.hedge) {
		return nil, 0
	}
	return t, wait
}

func without(turns []*turn, t *turn) []*turn {
	return slices.DeleteFunc(turns, func(other *turn) bool { return other == t })
}

// settle counts and logs how an attempt ended.
func (l *Logs) settle(ctx context.Context, t *turn, err error) {
	t.observe(ctx, time.Since(t.started), err)
	name := slog.String("log", t.Name())
	if err == nil {
		if t.breaker.Succeeded(time.Now()) {
			l.logger.LogAttrs(ctx, slog.LevelInfo, "Certificate Transparency log has recovered: its breaker has closed", name)
		}
		return
	}
	var rest time.Duration
	var retryable *RetryableError
	if errors.As(err, &retryable) {
		rest = retryable.After
	}
	if t.breaker.Failed(time.Now(), err, rest) {
		l.logger.LogAttrs(ctx, slog.LevelError, "Certificate Transparency log has failed several times in a row: its breaker has opened",
			name, slog.Int("failures", breakerThreshold), slog.Any("error", err))
	}
}

// abandon settles the attempts that still run when a race ends, and returns their errors. A log that
// was silent for the whole hedge delay has failed. A log that had less time has not.
func (l *Logs) abandon(ctx context.Context, running []*turn, cause error) (failures []error) {
	for _, t := range running {
		elapsed := time.Since(t.started)
		err := fmt.Errorf("no answer within %s: %w", elapsed.Round(time.Millisecond), cause)
		if elapsed >= l.hedge {
			l.settle(ctx, t, err)
		} else {
			t.observe(ctx, elapsed, context.Canceled)
		}
		failures = append(failures, fmt.Errorf("log %s: %w", t.Name(), err))
	}
	return failures
}

// submit makes one attempt. It turns a panic of a log into an error: it would stop the process.
func submit(ctx context.Context, t *turn, sub Submission) (a answer) {
	a.turn = t
	defer func() {
		if p := recover(); p != nil {
			a.err = fmt.Errorf("panic: %v", p)
		}
	}()
	a.sct, a.err = t.Submit(ctx, sub)
	return a
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
