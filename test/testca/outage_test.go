// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"errors"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/test/testca"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// outages returns the behaviour of each world's logs, in order of preference; nil is a
// working log.
func outages() map[string][]func(http.ResponseWriter, *http.Request) bool {
	down := testlog.Down(http.StatusInternalServerError)
	return map[string][]func(http.ResponseWriter, *http.Request) bool{
		"one-log-well":   {nil},
		"hangs-500-well": {testlog.Hang, down, nil},
		"500-hangs-well": {down, testlog.Hang, nil},
		"well-hangs-500": {nil, testlog.Hang, down},
		"hangs-well-429": {testlog.Hang, nil, testlog.Down(http.StatusTooManyRequests)},
	}
}

func newOutage(tb testing.TB, logs []func(http.ResponseWriter, *http.Request) bool) (*testca.World, ca.Request) {
	tb.Helper()
	w := testca.New(tb, testca.Builder{Logs: len(logs)})
	for i, fail := range logs {
		w.Logs[i].Fail(fail)
	}
	// Before the servers of the logs wait for hanging requests.
	tb.Cleanup(func() {
		for _, log := range w.Logs {
			log.Fail(nil)
		}
	})
	return w, w.Request(tb, w.Token(tb, nil), "person@example.com")
}

// issue issues n certificates, for a number of clients at a time, and returns how long each
// took, the shortest first.
func issue(tb testing.TB, w *testca.World, req ca.Request, n, clients int) []time.Duration {
	tb.Helper()
	took := make([]time.Duration, n)
	turns := make(chan int)
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := range turns {
				start := time.Now()
				if _, err := w.Issue(tb.Context(), req); err != nil {
					tb.Errorf("certificate %d: %v", i, err)
				}
				took[i] = time.Since(start)
			}
		})
	}
	for i := range n {
		turns <- i
	}
	close(turns)
	group.Wait()
	slices.Sort(took)
	return took
}

func percentile(sorted []time.Duration, p int) time.Duration { return sorted[(len(sorted)*p-1)/100] }

// If one log of three works, the CA issues every certificate, with one SCT of that log (the
// world proves that in the end). No goroutine is left.
func TestIssueThroughAnOutage(t *testing.T) {
	for name, logs := range outages() {
		t.Run(name, func(t *testing.T) {
			w, req := newOutage(t, logs)
			before := runtime.NumGoroutine()
			const n = 100
			took := issue(t, w, req, n, 4)
			t.Logf("p50 %s, p99 %s, longest %s", percentile(took, 50), percentile(took, 99), took[n-1])
			for i, log := range w.Logs {
				if logs[i] != nil && log.Size() > 0 {
					t.Errorf("log %d is out and has %d entries", i, log.Size())
				}
			}
			// What remains are the idle connections: two goroutines here and one at the log
			// for each. None belongs to this project. There may be twice as many connections
			// as clients, since net/http dials while it waits for a free one.
			deadline := time.Now().Add(10 * time.Second)
			for most := before + 3*2*4*len(logs) + 4; runtime.NumGoroutine() > most; runtime.Gosched() {
				if time.Now().After(deadline) {
					stacks := make([]byte, 1<<20)
					t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				}
			}
		})
	}
}

// While every log fails, the CA issues no certificate, and the reason states that. When the
// logs have recovered, it issues certificates again, at once.
func TestIssueWithEveryLogOut(t *testing.T) {
	t.Parallel()
	w := testca.New(t, testca.Builder{Logs: 3, Budget: time.Second})
	req := w.Request(t, w.Token(t, nil), "person@example.com")
	for _, fail := range []func(http.ResponseWriter, *http.Request) bool{testlog.Hang, testlog.Down(http.StatusInternalServerError)} {
		for _, log := range w.Logs {
			log.Fail(fail)
		}
		for range 5 { // a log that answers at once fails each time
			_, err := w.Issue(t.Context(), req)
			var e *refusal.Error
			if !errors.As(err, &e) || e.Reason != refusal.CTUnavailable {
				t.Errorf("error %v, want CT_UNAVAILABLE", err)
			}
		}
	}
	for _, status := range w.CT.Status() {
		if status.State != breaker.Open {
			t.Errorf("%+v, want its breaker open", status)
		}
	}
	for _, log := range w.Logs {
		log.Fail(nil)
	}
	if _, err := w.Issue(t.Context(), req); err != nil {
		t.Errorf("after recovery: %v", err)
	}
}

// BenchmarkOutage measures the time of a certificate while logs fail, in milliseconds at each
// percentile, with 8 clients at a time; run it with at least 1000 rounds (make bench-ct). p99
// must stay under the hedge delay of 300 ms plus the p99 of one-log-well.
func BenchmarkOutage(b *testing.B) {
	for name, logs := range outages() {
		b.Run(name, func(b *testing.B) {
			w, req := newOutage(b, logs)
			b.ResetTimer()
			took := issue(b, w, req, b.N, 8)
			b.ReportMetric(float64(percentile(took, 50).Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(percentile(took, 99).Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
