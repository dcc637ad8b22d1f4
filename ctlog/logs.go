// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

const (
	// defaultBudget leaves half a second of the 4.5 s that a whole answer may take.
	defaultBudget = 4 * time.Second
	// maxRounds is how often a log is asked at most within one budget.
	maxRounds = 4
	// firstBackoff precedes the second round; each further one waits three times as long.
	firstBackoff = 100 * time.Millisecond
	// minAttempt is the time that must be left after a wait for another round to make sense.
	minAttempt = 250 * time.Millisecond
	// maxRetryAfter bounds what a log's Retry-After may tell our own clients.
	maxRetryAfter = time.Minute
)

// Config is the logs to submit to.
type Config struct {
	// Logs are asked in this order. At least one is needed: to run without a log is to have
	// no *Logs at all.
	Logs []LogConfig
	// Budget bounds Add, whatever it tries meanwhile; zero for 4 s.
	Budget time.Duration
	// Now is the clock that SCTs are held against; nil for time.Now.
	Now func() time.Time
	// Logger hears of every attempt that failed; nil for silence.
	Logger *slog.Logger
	// Registerer takes the metrics mayfly_ct_…; nil for none. A second Config may have the
	// same one.
	Registerer prometheus.Registerer
}

// LogConfig is a log and the key by which its answers are known.
type LogConfig struct {
	Log Log
	// PublicKey is PEM, ECDSA P-256. It is mandatory.
	PublicKey []byte
	// Window is when the log is submitted to; by default always.
	Window Window
}

// Logs submits precertificates and verifies what comes back. It is safe for concurrent use
// and immutable.
type Logs struct {
	logs   []*member
	budget time.Duration
	now    func() time.Time
	logger *slog.Logger
}

// member is a log with all that belongs to it.
type member struct {
	Log
	key      *PublicKey
	window   Window
	results  [resultCount]prometheus.Counter
	duration prometheus.Observer
}

// New returns the logs of cfg. It makes no request. Errors have key paths such as ["budget"]
// and ["logs", "0", "public_key"].
func New(cfg Config) (*Logs, error) {
	l := &Logs{budget: cfg.Budget, now: cfg.Now, logger: cfg.Logger}
	if l.budget == 0 {
		l.budget = defaultBudget
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if l.budget < minAttempt {
		errs = append(errs, keypath.Errorf([]string{"budget"}, "%s is too short for any log to answer; give at least %s", l.budget, minAttempt))
	}
	if len(cfg.Logs) == 0 {
		errs = append(errs, keypath.Errorf([]string{"logs"}, "there is no log; name one, or disable Certificate Transparency explicitly"))
	}
	metrics, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for i, lc := range cfg.Logs {
		m, err := l.newMember(lc, metrics)
		if err != nil {
			errs = append(errs, keypath.Prefix(err, "logs", strconv.Itoa(i)))
			continue
		}
		l.logs = append(l.logs, m)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return l, nil
}

func (l *Logs) newMember(cfg LogConfig, metrics *metrics) (*member, error) {
	if cfg.Log == nil {
		return nil, errors.New("there is no log")
	}
	key, err := ParsePublicKey(cfg.PublicKey)
	if err != nil {
		return nil, keypath.Errorf([]string{"public_key"}, "%w", err)
	}
	for _, other := range l.logs {
		if other.Name() == cfg.Log.Name() {
			return nil, keypath.Errorf([]string{"url"}, "the log %s is named twice", cfg.Log.Name())
		}
		if other.key.id == key.id {
			return nil, keypath.Errorf([]string{"public_key"}, "this is also the key of the log %s; each log has its own", other.Name())
		}
	}
	if err := cfg.Window.check(); err != nil {
		return nil, err
	}
	m := &member{Log: cfg.Log, key: key, window: cfg.Window, duration: metrics.duration.WithLabelValues(cfg.Log.Name())}
	for r := range resultCount {
		m.results[r] = metrics.submissions.WithLabelValues(cfg.Log.Name(), r.String())
	}
	return m, nil
}

// Add returns one SCT for sub, verified. Its refusal is CT_UNAVAILABLE, whatever the logs did,
// and holds in its cause what each of them did; any other error is a mistake in sub.
func (l *Logs) Add(ctx context.Context, sub Submission) (SCT, error) {
	if len(sub.Chain) < 2 || len(sub.TBS) == 0 {
		return SCT{}, fmt.Errorf("submitting precertificate: a chain of %d and a TBSCertificate of %d bytes are not enough", len(sub.Chain), len(sub.TBS))
	}
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	sct, retryAfter, err := l.race(ctx, sub)
	if err != nil {
		e := refusal.New(refusal.CTUnavailable,
			"no Certificate Transparency log recorded the certificate in time, so none was issued; try again")
		e.RetryAfter = min(retryAfter, maxRetryAfter)
		return SCT{}, e.Because(err)
	}
	return sct, nil
}

// race asks one log after the other and returns the first SCT that verifies. Logs whose failure
// may soon be over are asked again, after a pause, for as long as ctx has the time. Otherwise
// it returns all failures, and the longest time for which a log wants to be left alone.
func (l *Logs) race(ctx context.Context, sub Submission) (SCT, time.Duration, error) {
	var (
		failures   []error
		retryAfter time.Duration
		candidates = l.open()
		backoff    = firstBackoff
	)
	if len(candidates) == 0 {
		return SCT{}, 0, errNoLogNow
	}
	for round := 1; ; round++ {
		var (
			again []*member
			wait  = jitter(backoff)
		)
		for i, m := range candidates {
			if ctx.Err() != nil {
				break
			}
			sct, err := l.attempt(ctx, m, sub, len(candidates)-i)
			if err == nil {
				return sct, 0, nil
			}
			failures = append(failures, fmt.Errorf("log %s: %w", m.Name(), err))
			var retryable *RetryableError
			if !errors.As(err, &retryable) {
				continue
			}
			retryAfter = max(retryAfter, retryable.After)
			if fits(ctx, retryable.After) {
				again = append(again, m)
				wait = max(wait, retryable.After)
			}
		}
		if len(again) == 0 || round == maxRounds || !pause(ctx, wait) {
			// A context that ended before anybody was asked has to be an error too.
			return SCT{}, retryAfter, errors.Join(append(failures, ctx.Err())...)
		}
		candidates, backoff = again, 3*backoff
	}
}

// attempt asks one log once and verifies its answer. Where other logs are still to be asked,
// it may take its share of the time only, so that a log that hangs leaves them some.
func (l *Logs) attempt(ctx context.Context, m *member, sub Submission, logsToAsk int) (SCT, error) {
	start := time.Now()
	if deadline, ok := ctx.Deadline(); ok && logsToAsk > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, start.Add(deadline.Sub(start)/time.Duration(logsToAsk)))
		defer cancel()
	}
	sct, err := m.Submit(ctx, sub)
	if err == nil {
		err = m.key.Verify(sct, sub, l.now())
	}
	elapsed, result := time.Since(start), resultOf(err)
	m.results[result].Inc()
	m.duration.Observe(elapsed.Seconds())
	if err == nil {
		return sct, nil
	}
	level := slog.LevelWarn
	switch result {
	case resultInvalid:
		level = slog.LevelError
	case resultCanceled:
		level = slog.LevelDebug
	}
	l.logger.Log(ctx, level, "Certificate Transparency log gave no SCT",
		slog.String("log", m.Name()), slog.String("result", result.String()),
		slog.Duration("elapsed", elapsed), slog.Any("error", err))
	return SCT{}, err
}

// fits tells whether ctx has the time for a wait and an attempt after it.
func fits(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) >= wait+minAttempt)
}

// pause waits, or returns false: at once if ctx has not the time, or as soon as it ends.
func pause(ctx context.Context, wait time.Duration) bool {
	if !fits(ctx, wait) {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter takes up to a half off d, so that requests that failed together do not come back
// together.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/2) }
