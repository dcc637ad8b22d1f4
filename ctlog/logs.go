// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

const (
	// defaultBudget leaves half a second of the 4.5 s that a whole answer may take.
	defaultBudget = 4 * time.Second
	// defaultHedge is how long a race waits for a log before it asks the next one too.
	defaultHedge = 300 * time.Millisecond
	// breakerThreshold is how many failures in a row open a breaker. While it is open, a race asks the
	// log only after all others; while it is half-open, the next submission asks this log first.
	breakerThreshold = 5
	// probeInterval is how long a breaker stays open before one submission tries the log
	// again. The probe costs that submission the hedge delay at most.
	probeInterval = 5 * time.Second
	// maxRest bounds a log's Retry-After, so that a mistake of the log does not end its use.
	maxRest = time.Minute
	// lineInterval is the minimum time between log lines about failures of one log with the
	// same result.
	lineInterval = time.Minute
)

// Config names the logs to submit to.
type Config struct {
	// Logs are in order of preference. At least one is required: a CA without a log has no
	// *Logs at all.
	Logs []LogConfig
	// Budget bounds Add, including all retries; zero for 4 s.
	Budget time.Duration
	// Hedge is how long a race waits for a log before it asks the next one as well; zero for
	// 300 ms, and at most half of Budget. A log that is silent for longer while another one
	// answers counts as failing.
	Hedge time.Duration
	// Now is the clock against which SCTs are checked; nil for time.Now.
	Now func() time.Time
	// Confirm, if set, is called once there is a verified SCT. Add returns its error in place of the SCT.
	Confirm func() error
	// Logger receives the changes of each log's breaker, and failed attempts: one line a
	// minute for each log and result. nil for none.
	Logger *slog.Logger
	// Registerer registers the metrics mayfly_ct_…; nil for none.
	Registerer prometheus.Registerer
}

// LogConfig is a log and the public key that verifies its answers.
type LogConfig struct {
	Log Log
	// PublicKey is PEM, ECDSA P-256. It is mandatory.
	PublicKey []byte
	// TrustsSubmitter: the log does not verify the precertificate's signature, although RFC 6962,
	// section 3.1, requires it of logs. The submitter must have verified it.
	TrustsSubmitter bool
	// Window is when submissions to the log are allowed; by default always.
	Window Window
	// Timestamp, if set, receives the timestamp of each SCT with a signature that verifies, also of one that
	// is refused for its timestamp.
	Timestamp func(time.Time)
}

// Window is when submissions to a log are allowed. Verifiers must know a log's key before its
// first timestamp, as they must know an intermediate before its first certificate: until
// Begin the log is only in the trusted root.
type Window struct {
	Begin time.Time // of the first submission; zero for at once
	End   time.Time // of submissions; zero for never
}

// Check refuses a window that ends before it begins. Its errors have key paths.
func (w Window) Check() error {
	if !w.End.IsZero() && !w.End.After(w.Begin) {
		return keypath.Errorf([]string{"retire_at"}, "the log would retire before it is used; retire_at must be after activate_at")
	}
	return nil
}

// includes reports whether submissions are allowed at now.
func (w Window) includes(now time.Time) bool {
	return !now.Before(w.Begin) && (w.End.IsZero() || now.Before(w.End))
}

// Logs submits precertificates and verifies the answers. It is safe for concurrent use; only
// each log's breaker changes.
type Logs struct {
	logs            []*member
	budget, hedge   time.Duration
	now             func() time.Time
	confirm         func() error // may be nil
	logger          *slog.Logger
	trustsSubmitter bool // whether any log does, whatever its window
}

// member is a log with its key, window, breaker and metrics.
type member struct {
	Log
	key       *PublicKey
	window    Window
	timestamp func(time.Time)
	breaker   *breaker.Breaker
	log       breaker.Sparing
	results   map[result]prometheus.Counter
	duration  prometheus.Observer
}

// New returns the logs of cfg. It makes no request. Errors have key paths such as ["budget"]
// and ["logs", "0", "public_key"].
func New(cfg Config) (*Logs, error) {
	l := &Logs{budget: cmp.Or(cfg.Budget, defaultBudget), now: cfg.Now, confirm: cfg.Confirm, logger: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))}
	l.hedge = min(cmp.Or(cfg.Hedge, defaultHedge), l.budget/2)
	if l.now == nil {
		l.now = time.Now
	}
	var errs []error
	if l.budget < minAttempt {
		errs = append(errs, keypath.Errorf([]string{"budget"}, "%s is too short for any log to answer; give at least %s", l.budget, minAttempt))
	}
	if cfg.Hedge < 0 {
		errs = append(errs, keypath.Errorf([]string{"hedge"}, "%s is no delay", cfg.Hedge))
	}
	if len(cfg.Logs) == 0 {
		errs = append(errs, keypath.Errorf([]string{"logs"}, "there is no log; name one, or disable Certificate Transparency explicitly"))
	}
	for i, lc := range cfg.Logs {
		errs = append(errs, keypath.Prefix(l.addMember(lc), "logs", strconv.Itoa(i)))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l.register(cfg.Registerer)
	return l, nil
}

func (l *Logs) addMember(cfg LogConfig) error {
	if cfg.Log == nil {
		return errors.New("there is no log")
	}
	key, err := ParsePublicKey(cfg.PublicKey)
	if err != nil {
		return keypath.Errorf([]string{"public_key"}, "%w", err)
	}
	for _, other := range l.logs {
		if other.Name() == cfg.Log.Name() {
			return keypath.Errorf([]string{"url"}, "the log %s is named twice", cfg.Log.Name())
		}
		if other.key.id == key.id {
			return keypath.Errorf([]string{"public_key"}, "this is also the key of the log %s; each log has its own", other.Name())
		}
	}
	l.logs = append(l.logs, &member{
		Log: cfg.Log, key: key, window: cfg.Window, timestamp: cfg.Timestamp, log: breaker.Sparing{Logger: l.logger, Interval: lineInterval},
		breaker: &breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest},
	})
	l.trustsSubmitter = l.trustsSubmitter || cfg.TrustsSubmitter
	return cfg.Window.Check()
}

// verify verifies an answer of the log at now.
func (m *member) verify(sct SCT, sub Submission, now time.Time) error {
	err := m.key.Verify(sct, sub, now)
	if m.timestamp != nil && (err == nil || errors.As(err, new(wrongTime))) {
		m.timestamp(Time(sct.Timestamp))
	}
	return err
}

// TrustsSubmitter reports whether one of the logs does: then the caller must verify a
// precertificate's signature before Add.
func (l *Logs) TrustsSubmitter() bool { return l.trustsSubmitter }

// Add returns one verified SCT for sub, from the log that is the first to give one. Any
// failure of the logs is a CT_UNAVAILABLE, which comes when the budget ends at the latest,
// and its cause holds the failure of each log.
func (l *Logs) Add(ctx context.Context, sub Submission) (SCT, error) {
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	sct, err := l.race(ctx, sub)
	if err != nil {
		e := refusal.New(refusal.CTUnavailable,
			"no Certificate Transparency log recorded the certificate in time, so none was issued; try again")
		e.RetryAfter = l.rest()
		return SCT{}, e.Because(err)
	}
	if l.confirm != nil {
		err = l.confirm()
	}
	return sct, err
}

// rest returns how long it takes until a log may be asked: zero, unless every log has asked
// for a backoff.
func (l *Logs) rest() time.Duration {
	now, clock, least := time.Now(), l.now(), time.Duration(maxRest)
	for _, m := range l.logs {
		if m.window.includes(clock) {
			least = min(least, m.breaker.StatusAt(now).Rest)
		}
	}
	return least
}

// LogStatus is the condition of a log at one moment. LastError may quote the log's answer.
type LogStatus struct {
	Name string
	breaker.Status
}

// Status returns the condition of each log, in order of preference.
func (l *Logs) Status() (list []LogStatus) {
	now := time.Now()
	for _, m := range l.logs {
		list = append(list, LogStatus{Name: m.Name(), Status: m.breaker.StatusAt(now)})
	}
	return list
}
