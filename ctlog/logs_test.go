// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// step is how a log answers a submission.
type step = func(context.Context, ctlog.Submission) (ctlog.SCT, error)

// scripted is a log with scripted attempts; the last step repeats.
type scripted struct {
	name     string
	steps    []step
	attempts atomic.Int64
}

func (s *scripted) Name() string { return s.name }

func (s *scripted) Submit(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
	return s.steps[min(int(s.attempts.Add(1)), len(s.steps))-1](ctx, sub)
}

func failing(err error) step {
	return func(context.Context, ctlog.Submission) (ctlog.SCT, error) { return ctlog.SCT{}, err }
}

func busy(after time.Duration) step {
	return failing(&ctlog.RetryableError{After: after, Err: &ctlog.StatusError{StatusCode: 429}})
}

func hanging(ctx context.Context, _ ctlog.Submission) (ctlog.SCT, error) {
	<-ctx.Done()
	return ctlog.SCT{}, ctx.Err()
}

// after waits before the behaviour, as a slow log does.
func after(d time.Duration, behaviour step) step {
	return func(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
		select {
		case <-time.After(d):
			return behaviour(ctx, sub)
		case <-ctx.Done():
			return ctlog.SCT{}, ctx.Err()
		}
	}
}

var (
	errDown    = &ctlog.RetryableError{Err: errors.New("connecting to the log: https://log.example: connection refused")}
	errRefused = &ctlog.StatusError{StatusCode: 400, Body: "unknown root"}
)

func newLogs(t testing.TB, cfg ctlog.Config) *ctlog.Logs {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = now
	}
	logs, err := ctlog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

// wantUnavailable checks the refusal and returns it.
func wantUnavailable(t *testing.T, err error) *refusal.Error {
	t.Helper()
	var e *refusal.Error
	if !errors.As(err, &e) || e.Reason != refusal.CTUnavailable || e.Cause == nil {
		t.Fatalf("error %v, want CT_UNAVAILABLE with a cause", err)
	}
	if strings.Contains(e.Message, "http") || strings.Contains(e.Message, "refused") || !strings.Contains(e.Message, "try again") {
		t.Errorf("message %q", e.Message)
	}
	return e
}

// TestAddWithinItsBudget runs on a clock that moves only while all goroutines wait.
func TestAddWithinItsBudget(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	type steps = []step
	good := f.log.Submit
	for name, test := range map[string]struct {
		logs       []steps
		attempts   []int
		ok         bool
		least      time.Duration // that Add takes
		most       time.Duration
		retryAfter time.Duration
	}{
		"good at once":    {[]steps{{good}}, []int{1}, true, 0, 0, 0},
		"down, then good": {[]steps{{failing(errDown), good}}, []int{2}, true, 50 * time.Millisecond, 100 * time.Millisecond, 0},
		"down for good":   {[]steps{{failing(errDown)}}, []int{4}, false, 650 * time.Millisecond, 1300 * time.Millisecond, 0},
		"refusing":        {[]steps{{failing(errRefused)}}, []int{1}, false, 0, 0, 0},
		"unreadable":      {[]steps{{failing(errors.New("parsing"))}}, []int{1}, false, 0, 0, 0},
		"hanging":         {[]steps{{hanging}}, []int{1}, false, 4 * time.Second, 4 * time.Second, 0},
		"hanging after the end": {[]steps{{func(context.Context, ctlog.Submission) (ctlog.SCT, error) {
			time.Sleep(10 * time.Second)
			panic("late")
		}}, {hanging}}, []int{1, 1}, false, 4 * time.Second, 4 * time.Second, 0},
		"down, then hanging":                {[]steps{{failing(errDown), hanging}}, []int{2}, false, 4 * time.Second, 4 * time.Second, 0},
		"busy for a second":                 {[]steps{{busy(time.Second), good}}, []int{2}, true, time.Second, time.Second, 0},
		"busy for longer than we have":      {[]steps{{busy(10 * time.Second), good}}, []int{1}, false, 0, 0, 10 * time.Second},
		"busy for a day":                    {[]steps{{busy(24 * time.Hour), good}}, []int{1}, false, 0, 0, time.Minute},
		"busy until too late":               {[]steps{{busy(3900 * time.Millisecond), good}}, []int{1}, false, 0, 0, 3900 * time.Millisecond},
		"busy, and again":                   {[]steps{{busy(3 * time.Second)}}, []int{2}, false, 3 * time.Second, 3 * time.Second, 3 * time.Second},
		"first of two good":                 {[]steps{{good}, {good}}, []int{1, 0}, true, 0, 0, 0},
		"second after a refusal":            {[]steps{{failing(errRefused)}, {good}}, []int{1, 1}, true, 0, 0, 0},
		"second after a failure":            {[]steps{{failing(errDown)}, {good}}, []int{1, 1}, true, 0, 0, 0},
		"second after one that hangs":       {[]steps{{hanging}, {good}}, []int{1, 1}, true, 300 * time.Millisecond, 300 * time.Millisecond, 0},
		"both hanging":                      {[]steps{{hanging}, {hanging}}, []int{1, 1}, false, 4 * time.Second, 4 * time.Second, 0},
		"only who may recover is asked":     {[]steps{{failing(errRefused)}, {failing(errDown), good}}, []int{1, 2}, true, 50 * time.Millisecond, 100 * time.Millisecond, 0},
		"who wants too long is left alone":  {[]steps{{busy(time.Hour)}, {failing(errDown), good}}, []int{1, 2}, true, 50 * time.Millisecond, 100 * time.Millisecond, 0},
		"third after two that hang":         {[]steps{{hanging}, {hanging}, {good}}, []int{1, 1, 1}, true, 600 * time.Millisecond, 600 * time.Millisecond, 0},
		"third after hanging and refusing":  {[]steps{{hanging}, {failing(errRefused)}, {good}}, []int{1, 1, 1}, true, 300 * time.Millisecond, 300 * time.Millisecond, 0},
		"third after refusing and hanging":  {[]steps{{failing(errRefused)}, {hanging}, {good}}, []int{1, 1, 1}, true, 300 * time.Millisecond, 300 * time.Millisecond, 0},
		"the first that answers, not asks":  {[]steps{{after(450*time.Millisecond, failing(errRefused))}, {after(250*time.Millisecond, good)}}, []int{1, 1}, true, 550 * time.Millisecond, 550 * time.Millisecond, 0},
		"an answer within the delay":        {[]steps{{hanging}, {after(299*time.Millisecond, good)}}, []int{1, 1}, true, 599 * time.Millisecond, 599 * time.Millisecond, 0},
		"one hangs, the other comes back":   {[]steps{{hanging}, {failing(errDown), good}}, []int{1, 2}, true, 350 * time.Millisecond, 400 * time.Millisecond, 0},
		"a log that panics":                 {[]steps{{func(context.Context, ctlog.Submission) (ctlog.SCT, error) { panic("odd") }}, {good}}, []int{1, 1}, true, 0, 0, 0},
		"busy, hanging and down":            {[]steps{{busy(time.Hour)}, {hanging}, {failing(errDown)}}, []int{1, 1, 4}, false, 4 * time.Second, 4 * time.Second, 0},
		"all three busy":                    {[]steps{{busy(time.Hour)}, {busy(9 * time.Second)}, {busy(20 * time.Second)}}, []int{1, 1, 1}, false, 0, 0, 9 * time.Second},
		"the SCT of another log is no help": {[]steps{{newFixture(t, func(c *testlog.Config) { c.Unchecked = true }).log.Submit}, {good}}, []int{1, 1}, true, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				cfg := ctlog.Config{}
				var logs []*scripted
				for i, steps := range test.logs {
					log := &scripted{name: "log " + string(rune('a'+i)), steps: steps}
					key := f.log.PublicKeyPEM()
					if i < len(test.logs)-1 {
						key = newFixture(t, nil).log.PublicKeyPEM()
					}
					logs = append(logs, log)
					cfg.Logs = append(cfg.Logs, ctlog.LogConfig{Log: log, PublicKey: key})
				}
				if name == "first of two good" {
					cfg.Logs[0].PublicKey, cfg.Logs[1].PublicKey = cfg.Logs[1].PublicKey, cfg.Logs[0].PublicKey
				}
				sub := f.submission(t)
				start := time.Now()
				sct, err := newLogs(t, cfg).Add(t.Context(), sub)
				took := time.Since(start)
				time.Sleep(10 * time.Second) // the losing attempts have started, and ended
				if test.ok {
					if err != nil {
						t.Fatal(err)
					}
					if err := f.key.Verify(sct, sub, now()); err != nil {
						t.Error(err)
					}
				} else if e := wantUnavailable(t, err); e.RetryAfter != test.retryAfter {
					t.Errorf("RetryAfter %s, want %s", e.RetryAfter, test.retryAfter)
				}
				if slack := time.Millisecond; took < test.least || took > test.most+slack {
					t.Errorf("took %s, want %s to %s", took, test.least, test.most)
				}
				var attempts []int
				for _, log := range logs {
					attempts = append(attempts, int(log.attempts.Load()))
				}
				if diff := cmp.Diff(test.attempts, attempts); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestAddEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	sub := f.submission(t)
	key := f.log.PublicKeyPEM()
	inFakeTime(t, func(t *testing.T) {
		log := &scripted{name: "log", steps: []step{failing(errDown)}}
		logs := newLogs(t, ctlog.Config{Logs: []ctlog.LogConfig{{Log: log, PublicKey: key}}})
		ctx, cancel := context.WithTimeout(t.Context(), 270*time.Millisecond) // time for one pause, not for two
		defer cancel()
		_, err := logs.Add(ctx, sub)
		wantUnavailable(t, err)
		if log.attempts.Load() > 2 || ctx.Err() != nil {
			t.Errorf("%d attempts, context %v; want no waiting for what cannot be", log.attempts.Load(), ctx.Err())
		}

		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		log.attempts.Store(0)
		if _, err := logs.Add(ctx, sub); err == nil || log.attempts.Load() != 0 {
			t.Errorf("after the caller went: error %v, %d attempts", err, log.attempts.Load())
		}
	})
}

// A log is asked within its window only. Where no log's window is open, the failure is an
// outage and there is no certificate.
func TestWindowOfALog(t *testing.T) {
	t.Parallel()
	f, first := newFixture(t, nil), now()
	old, next := &scripted{name: "old", steps: []step{failing(errRefused)}}, &scripted{name: "next", steps: []step{failing(errRefused)}}
	at := first
	logs := newLogs(t, ctlog.Config{Now: func() time.Time { return at }, Logs: []ctlog.LogConfig{
		{Log: old, PublicKey: f.log.PublicKeyPEM(), Window: ctlog.Window{End: first.Add(2 * time.Hour)}},
		{Log: next, PublicKey: newFixture(t, nil).log.PublicKeyPEM(), Window: ctlog.Window{Begin: first.Add(time.Hour), End: first.Add(3 * time.Hour)}},
	}})
	for _, test := range []struct {
		after     time.Duration
		old, next int64
	}{{0, 1, 0}, {time.Hour, 1, 1}, {2 * time.Hour, 0, 1}, {3 * time.Hour, 0, 0}} {
		old.attempts.Store(0)
		next.attempts.Store(0)
		at = first.Add(test.after)
		_, err := logs.Add(t.Context(), f.submission(t))
		wantUnavailable(t, err)
		if o, n := old.attempts.Load(), next.attempts.Load(); o != test.old || n != test.next {
			t.Errorf("after %s: the old log was asked %d times and the next one %d, want %d and %d", test.after, o, n, test.old, test.next)
		}
	}
}

// The timestamp of each verified signature is reported, also of an SCT that is refused for its time; that
// of a signature which does not verify is not. The status of a log keeps its last failure.
func TestTimestampsAreEvidence(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	late := newFixture(t, func(c *testlog.Config) { c.Now = func() time.Time { return now().Add(-time.Hour) } })
	late.log.AddRoot(f.authority.Root)
	forged := func(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
		sct, err := f.log.Submit(ctx, sub)
		sct.Timestamp++
		return sct, err
	}
	for name, test := range map[string]struct {
		behaviour step
		key       []byte
		want      []time.Time
		reason    refusal.Reason
	}{
		"good":   {f.log.Submit, f.log.PublicKeyPEM(), []time.Time{now()}, ""},
		"late":   {late.log.Submit, late.log.PublicKeyPEM(), []time.Time{now().Add(-time.Hour)}, refusal.CTUnavailable},
		"forged": {forged, f.log.PublicKeyPEM(), nil, refusal.CTUnavailable},
	} {
		var got []time.Time
		logs := newLogs(t, ctlog.Config{Logs: []ctlog.LogConfig{{
			Log: &scripted{name: name, steps: []step{test.behaviour}}, PublicKey: test.key, Timestamp: func(at time.Time) { got = append(got, at) },
		}}})
		_, err := logs.Add(t.Context(), f.submission(t))
		if (err == nil) != (test.reason == "") || err != nil && refusal.From(err).Reason != test.reason {
			t.Errorf("%s: %v, want %q", name, err, test.reason)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
		if s := logs.Status()[0]; s.SucceededAt.IsZero() != (err != nil) || s.FailedAt.IsZero() != (err == nil) || (s.LastFailure == nil) != (err == nil) {
			t.Errorf("%s: status %+v", name, s)
		}
	}
}

func TestNewTellsEveryMistake(t *testing.T) {
	t.Parallel()
	a, b := newFixture(t, func(c *testlog.Config) { c.Name = "a" }), newFixture(t, func(c *testlog.Config) { c.Name = "b" })
	good := ctlog.LogConfig{Log: a.log, PublicKey: a.log.PublicKeyPEM()}
	for name, test := range map[string]struct {
		cfg  ctlog.Config
		want []string
	}{
		"no log": {ctlog.Config{}, []string{"logs"}},
		"several mistakes": {
			ctlog.Config{Budget: time.Millisecond, Logs: []ctlog.LogConfig{good, {Log: b.log}, {}, {Log: b.log, PublicKey: good.PublicKey}, {Log: a.log, PublicKey: b.log.PublicKeyPEM()}}},
			[]string{"budget", "logs.1.public_key", "logs.2", "logs.3.public_key", "logs.4.url"},
		},
		"a window that ends first": {
			ctlog.Config{Logs: []ctlog.LogConfig{{Log: a.log, PublicKey: good.PublicKey, Window: ctlog.Window{Begin: now(), End: now()}}}}, []string{"logs.0.retire_at"},
		},
		"negative hedge":  {ctlog.Config{Hedge: -1, Logs: []ctlog.LogConfig{good}}, []string{"hedge"}},
		"negative budget": {ctlog.Config{Budget: -1, Logs: []ctlog.LogConfig{good}}, []string{"budget"}},
	} {
		_, err := ctlog.New(test.cfg)
		var got []string
		for _, e := range keypath.All(err) {
			got = append(got, strings.Join(e.Path, "."))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: mistakes (-want +got):\n%s", name, diff)
		}
	}
}

// BenchmarkAdd measures a race including the log that wins it. The difference to
// BenchmarkVerify is the bookkeeping for three logs.
func BenchmarkAdd(b *testing.B) {
	f := newFixture(b, nil)
	sub := f.submission(b)
	sct, err := f.log.Submit(b.Context(), sub)
	if err != nil {
		b.Fatal(err)
	}
	cfg := ctlog.Config{Registerer: prometheus.NewRegistry()}
	for i, key := range [][]byte{f.log.PublicKeyPEM(), newFixture(b, nil).log.PublicKeyPEM(), newFixture(b, nil).log.PublicKeyPEM()} {
		log := &scripted{name: "log " + string(rune('a'+i)), steps: []step{
			func(context.Context, ctlog.Submission) (ctlog.SCT, error) { return sct, nil },
		}}
		cfg.Logs = append(cfg.Logs, ctlog.LogConfig{Log: log, PublicKey: key})
	}
	logs := newLogs(b, cfg)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := logs.Add(b.Context(), sub); err != nil {
			b.Fatal(err)
		}
	}
}
