// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"context"
	"crypto/fips140"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// trio is three logs, each with its own key, on the fake clock of a synctest bubble.
type trio struct {
	t        *testing.T
	logs     []*scripted // the test changes their steps while no submission runs
	good     []step
	all      *ctlog.Logs
	registry *prometheus.Registry
	sub      ctlog.Submission

	mu      sync.Mutex // guards the fields below
	asked   string
	running int // submissions
}

func newTrio(t *testing.T) *trio {
	tr := &trio{t: t, registry: prometheus.NewRegistry()}
	cfg := ctlog.Config{Registerer: tr.registry}
	f := newFixture(t, nil)
	tr.sub = f.submission(t)
	for _, name := range []string{"a", "b", "c"} {
		other := newFixture(t, nil)
		other.log.AddRoot(f.authority.Root)
		log := &scripted{name: name, steps: []step{other.log.Submit}}
		tr.logs, tr.good = append(tr.logs, log), append(tr.good, other.log.Submit)
		cfg.Logs = append(cfg.Logs, ctlog.LogConfig{Log: log, PublicKey: other.log.PublicKeyPEM()})
	}
	tr.all = newLogs(t, cfg)
	return tr
}

// set sets the behaviour of log i; nil for a working log.
func (tr *trio) set(i int, behaviour step) {
	if behaviour == nil {
		behaviour = tr.good[i]
	}
	name := tr.logs[i].name
	tr.logs[i].steps = []step{func(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
		tr.mu.Lock()
		tr.asked += name
		tr.running++
		tr.mu.Unlock()
		defer func() {
			tr.mu.Lock()
			tr.running--
			tr.mu.Unlock()
		}()
		return behaviour(ctx, sub)
	}}
}

// add returns which logs a submission asked, how long it took, and its error. No losing
// attempt may run on after the submission has ended.
func (tr *trio) add(ctx context.Context) (asked string, took time.Duration, err error) {
	tr.mu.Lock()
	tr.asked = ""
	tr.mu.Unlock()
	start := time.Now()
	_, err = tr.all.Add(ctx, tr.sub)
	took = time.Since(start)
	synctest.Wait()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.running > 0 {
		tr.t.Errorf("%d submissions go on after the race", tr.running)
	}
	return tr.asked, took, err
}

// want checks that a submission succeeds, asks these logs, and takes this long.
func (tr *trio) want(asked string, took time.Duration) {
	tr.t.Helper()
	gotAsked, gotTook, err := tr.add(tr.t.Context())
	if err != nil || gotAsked != asked || gotTook != took {
		tr.t.Errorf("asked %q in %s, %v; want %q in %s", gotAsked, gotTook, err, asked, took)
	}
}

// states checks that Status and the metrics agree with want.
func (tr *trio) states(want string) {
	tr.t.Helper()
	var list, status []string
	for _, s := range tr.all.Status() {
		list, status = append(list, s.Name+" "+string(s.State)), append(status, string(s.State))
		if (s.Failures > 0) != (s.LastError != nil) || (s.Probe > 0) != (s.State == breaker.Open) {
			tr.t.Errorf("status %+v does not fit together", s)
		}
	}
	if got := strings.Join(status, " "); got != want {
		tr.t.Errorf("Status says %s, want %s", got, want)
	}
	for metric := range samples(tr.t, tr.registry) {
		if state, ok := strings.CutPrefix(metric, "mayfly_ct_breaker_state "); ok && !slices.Contains(list, state) {
			tr.t.Errorf("the metrics have %q, want %q", state, list)
		}
	}
}

// One log hangs, one answers 500, one works: the first five submissions pay the hedge delay,
// then one in each interval does. Both logs come back without intervention.
func TestBreaker(t *testing.T) {
	t.Parallel()
	inFakeTime(t, func(t *testing.T) {
		tr := newTrio(t)
		const hedge, interval = 300 * time.Millisecond, 5 * time.Second
		tr.set(0, hanging)
		tr.set(1, failing(&ctlog.StatusError{StatusCode: 500}))
		tr.set(2, nil)
		for range 5 {
			tr.states("closed closed closed")
			tr.want("abc", hedge)
		}
		tr.states("open open closed")
		for range 10 {
			tr.want("c", 0)
		}
		time.Sleep(interval - time.Nanosecond)
		tr.want("c", 0)
		time.Sleep(time.Nanosecond)
		tr.states("half-open half-open closed")
		tr.want("ac", hedge) // one probe at a time
		tr.want("bc", 0)
		tr.want("c", 0)
		tr.states("open open closed")

		// A race still asks a hidden log where no other log remains.
		tr.set(2, failing(errRefused))
		tr.set(1, nil)
		tr.want("cab", hedge)
		tr.states("open closed closed")
		tr.want("b", 0)

		// The hanging log recovers.
		tr.set(0, nil)
		tr.set(2, nil)
		tr.want("b", 0)
		time.Sleep(interval)
		tr.states("half-open closed closed")
		tr.want("a", 0)
		tr.states("closed closed closed")
		tr.want("a", 0)
	})
}

func TestAllLogsOut(t *testing.T) {
	t.Parallel()
	for name, behaviour := range map[string]struct {
		step
		took time.Duration
	}{
		"hanging":  {hanging, 4 * time.Second},
		"refusing": {failing(errRefused), 0},
	} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				tr := newTrio(t)
				for i := range tr.logs {
					tr.set(i, behaviour.step)
				}
				for range 7 {
					asked, took, err := tr.add(t.Context())
					if wantUnavailable(t, err); asked != "abc" || took != behaviour.took {
						t.Errorf("asked %q in %s, want all in %s", asked, took, behaviour.took)
					}
				}
				if took := behaviour.took; took == 0 {
					tr.states("open open open")
				}
				for i := range tr.logs {
					tr.set(i, nil)
				}
				// No log is hidden where all would be.
				tr.want("a", 0)
			})
		})
	}
}

// A log that loses before the hedge delay has passed has not failed. Neither has a log if the
// caller cancelled.
func TestLosersThatHadNoTime(t *testing.T) {
	t.Parallel()
	inFakeTime(t, func(t *testing.T) {
		tr := newTrio(t)
		tr.set(0, after(310*time.Millisecond, tr.good[0]))
		tr.set(1, hanging)
		for range 10 {
			tr.want("ab", 310*time.Millisecond)
		}
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 290*time.Millisecond)
			_, _, err := tr.add(ctx)
			cancel()
			wantUnavailable(t, err)
		}
		tr.states("closed closed closed")
		for _, s := range tr.all.Status() {
			if s.Failures > 0 {
				t.Errorf("log %s has %d failures: %v", s.Name, s.Failures, s.LastError)
			}
		}
	})
}

// No submission asks a log during its Retry-After, whichever submission received it.
func TestRetryAfterHoldsForEverybody(t *testing.T) {
	t.Parallel()
	inFakeTime(t, func(t *testing.T) {
		tr := newTrio(t)
		tr.set(0, busy(8*time.Second))
		tr.set(1, nil)
		tr.set(2, nil)
		tr.want("ab", 0)
		tr.want("b", 0)
		time.Sleep(7 * time.Second)
		tr.want("b", 0)
		if s := tr.all.Status()[0]; s.Rest != time.Second || s.State != breaker.Closed || s.Failures != 1 {
			t.Errorf("status %+v, want a rest of 1 s and one failure", s)
		}
		tr.set(0, nil)
		time.Sleep(time.Second)
		tr.want("a", 0)

		// This holds even where there is no other log, and the client's Retry-After is
		// correct.
		for i := range tr.logs {
			tr.set(i, busy(10*time.Second))
		}
		_, _, err := tr.add(t.Context())
		wantUnavailable(t, err)
		time.Sleep(2 * time.Second)
		asked, took, err := tr.add(t.Context())
		if e := wantUnavailable(t, err); asked != "" || took != 0 || e.RetryAfter != 8*time.Second {
			t.Errorf("asked %q in %s, RetryAfter %s; want nobody, at once, 8s", asked, took, e.RetryAfter)
		}
		if !strings.Contains(err.Error(), "log c: not asked") || !strings.Contains(err.Error(), " 8s") {
			t.Errorf("the cause does not state why no log was asked: %v", err)
		}
		// A race waits for a Retry-After that fits the budget.
		for i := range tr.logs {
			tr.set(i, nil)
		}
		time.Sleep(5 * time.Second)
		tr.want("a", 3*time.Second)

		tr.set(0, busy(24*time.Hour))
		tr.want("ab", 0)
		if s := tr.all.Status()[0]; s.Rest != time.Minute {
			t.Errorf("a log may put itself out of use for %s", s.Rest)
		}
	})
}

// The hedge delay never takes more than half of the budget.
func TestHedgeFitsTheBudget(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	sub := f.submission(t)
	inFakeTime(t, func(t *testing.T) {
		logs := newLogs(t, ctlog.Config{Budget: 400 * time.Millisecond, Logs: []ctlog.LogConfig{
			{Log: &scripted{name: "a", steps: []step{hanging}}, PublicKey: newFixture(t, nil).log.PublicKeyPEM()},
			{Log: f.log, PublicKey: f.log.PublicKeyPEM()},
		}})
		start := time.Now()
		if _, err := logs.Add(t.Context(), sub); err != nil || time.Since(start) != 200*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// inFakeTime runs a test in a synctest bubble. Not in FIPS 140-3 mode: the entropy source there measures jitter of the time,
// which stands still in a bubble.
func inFakeTime(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		t.Skip("FIPS 140-3 has no entropy without real time")
	}
	synctest.Test(t, f)
}
