// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// errOutrun is the error of a log that had not answered when another log had.
var errOutrun = errors.New("another log answered")

// answer is the result of one submission.
type answer struct {
	turn int
	sct  SCT
	err  error
}

// race asks logs according to its plan, and returns the first SCT that verifies. Add, which
// has given ctx its deadline, then cancels ctx, and with it the other attempts: race neither
// waits for them nor verifies their SCTs. Without an SCT, race returns the error of each log
// when the plan or ctx ends.
//
// Only submit runs in other goroutines. The caller's goroutine alone changes the plan, the
// breakers and the metrics.
func (l *Logs) race(ctx context.Context, sub Submission) (SCT, error) {
	open := l.open()
	if len(open) == 0 {
		return SCT{}, errNoLogNow
	}
	deadline, _ := ctx.Deadline()
	p := &plan{turns: order(open, time.Now()), hedge: l.hedge, deadline: deadline}
	// The buffer has room for every submission, so that none ever blocks on its answer.
	answers := make(chan answer, maxAttempts*len(p.turns))
	var failures []error
	for ctx.Err() == nil {
		now := time.Now()
		i, wait := p.next(now)
		if i >= 0 {
			p.asked(i, now)
			go func(m *member) { answers <- submit(ctx, m, sub, i) }(p.turns[i].member)
			continue
		}
		if wait < 0 && !p.pending() {
			break
		}
		a, ok := receive(ctx, answers, wait)
		if !ok {
			continue // the next log's turn has come, or ctx has ended
		}
		t := &p.turns[a.turn]
		if a.err == nil {
			a.err = t.key.Verify(a.sct, sub, l.now())
		}
		if a.err == nil {
			t.pending = false
			l.succeeded(ctx, t)
			l.abandon(ctx, p, errOutrun)
			return a.sct, nil
		}
		if ctx.Err() != nil {
			break // the end of ctx causes the failure, and is the same for all
		}
		failures = append(failures, fmt.Errorf("log %s: %w", t.Name(), a.err))
		l.failed(ctx, t, a.err)
		p.failed(a.turn, time.Now(), pauseAfter(a.err, t.attempts))
	}
	failures = append(failures, l.abandon(ctx, p, ctx.Err())...)
	return SCT{}, errors.Join(append(failures, unasked(p)...)...)
}

// receive returns the next answer. It returns none after the wait, unless that is negative,
// and none when ctx ends.
func receive(ctx context.Context, answers <-chan answer, wait time.Duration) (answer, bool) {
	var turn <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		turn = timer.C
	}
	select {
	case a := <-answers:
		return a, true
	case <-turn:
	case <-ctx.Done():
	}
	return answer{}, false
}

// submit makes one attempt. It runs in its own goroutine, so a panic that it did not turn into
// an error would stop the process.
func submit(ctx context.Context, m *member, sub Submission, turn int) (a answer) {
	a.turn = turn
	defer func() {
		if p := recover(); p != nil {
			a.err = fmt.Errorf("panic: %v", p)
		}
	}()
	a.sct, a.err = m.Submit(ctx, sub)
	return a
}

// abandon settles the attempts that still run when a race ends for the given reason, and
// returns their errors. A log that was silent for the whole hedge delay has failed; a log
// that had less time has not.
func (l *Logs) abandon(ctx context.Context, p *plan, reason error) []error {
	var silent []error
	for i := range p.turns {
		t := &p.turns[i]
		if !t.pending {
			continue
		}
		elapsed := time.Since(t.started)
		err := fmt.Errorf("no answer within %s: %w", elapsed.Round(time.Millisecond), reason)
		if elapsed >= l.hedge {
			l.failed(ctx, t, err)
		} else {
			l.observe(ctx, t, context.Canceled)
		}
		silent = append(silent, fmt.Errorf("log %s: %w", t.Name(), err))
	}
	return silent
}

// unasked returns, for each log that was never asked, the reason.
func unasked(p *plan) []error {
	var errs []error
	for i := range p.turns {
		t := &p.turns[i]
		if rest := time.Until(t.breaker.Rest()); t.attempts == 0 && rest > 0 {
			errs = append(errs, fmt.Errorf("log %s: not asked, since its Retry-After ends in %s", t.Name(), rest.Round(time.Millisecond)))
		} else if t.attempts == 0 {
			errs = append(errs, fmt.Errorf("log %s: not asked, since there was no time left", t.Name()))
		}
	}
	return errs
}

// succeeded counts an attempt that returned a verified SCT.
func (l *Logs) succeeded(ctx context.Context, t *turn) {
	l.observe(ctx, t, nil)
	if t.breaker.Succeeded() {
		l.logger.LogAttrs(ctx, slog.LevelInfo, "Certificate Transparency log has recovered: its breaker has closed", slog.String("log", t.Name()))
	}
}

// failed counts a failed attempt, and honours the log's Retry-After.
func (l *Logs) failed(ctx context.Context, t *turn, err error) {
	l.observe(ctx, t, err)
	var rest time.Duration
	var retryable *RetryableError
	if errors.As(err, &retryable) {
		rest = retryable.After
	}
	if t.breaker.Failed(time.Now(), err, rest) {
		l.logger.LogAttrs(ctx, slog.LevelError, "Certificate Transparency log has failed several times in a row: its breaker has opened",
			slog.String("log", t.Name()), slog.Int("failures", breakerThreshold), slog.Any("error", err))
	}
}

// observe counts and logs how the attempt ended.
func (l *Logs) observe(ctx context.Context, t *turn, err error) {
	elapsed, result := time.Since(t.started), resultOf(err)
	t.results[result].Inc()
	t.duration.Observe(elapsed.Seconds())
	level := slog.LevelWarn
	switch result {
	case resultOK:
		return
	case resultInvalid:
		level = slog.LevelError
	case resultCanceled:
		level = slog.LevelDebug
	}
	t.log.Log(ctx, level, "Certificate Transparency log gave no SCT: "+string(result),
		slog.String("log", t.Name()), slog.String("result", string(result)),
		slog.Duration("elapsed", elapsed), slog.Any("error", err))
}
