// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
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

// repeat calls do n times, for a number of clients at a time, and returns how long each call took,
// the shortest first.
func repeat(tb testing.TB, n, clients int, do func() error) []time.Duration {
	tb.Helper()
	took := make([]time.Duration, n)
	var next atomic.Int64
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				start := time.Now()
				if err := do(); err != nil {
					tb.Error(err)
				}
				took[i] = time.Since(start)
			}
		})
	}
	group.Wait()
	slices.Sort(took)
	return took
}

func reportPercentiles(b *testing.B, sorted []time.Duration) {
	last := len(sorted) - 1
	b.ReportMetric(sorted[last/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(sorted[last*99/100].Seconds()*1000, "p99-ms")
	b.ReportMetric(sorted[last].Seconds()*1000, "max-ms")
}

// If one log of three works, the CA issues every certificate, with one SCT of that log (the
// world proves that in the end).
func TestIssueThroughAnOutage(t *testing.T) {
	for name, logs := range outages() {
		t.Run(name, func(t *testing.T) {
			w, req := newOutage(t, logs)
			took := repeat(t, 100, 4, func() error { _, err := w.Issue(t.Context(), req); return err })
			t.Logf("median %s, longest %s", took[50], took[99])
			for i, log := range w.Logs {
				if logs[i] != nil && log.Size() > 0 {
					t.Errorf("log %d is out and has %d entries", i, log.Size())
				}
			}
		})
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
			reportPercentiles(b, repeat(b, b.N, 8, func() error { _, err := w.Issue(b.Context(), req); return err }))
			b.ReportMetric(0, "ns/op")
		})
	}
}
