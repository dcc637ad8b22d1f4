// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// BenchmarkSubmit measures one entry for its submitter, without creating the precertificate
// and its signature.
func BenchmarkSubmit(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			a, cfg := newAuthority(b), newConfig(b)
			cfg.CheckpointInterval = 0
			cfg.Logger = discard()
			l := open(b, cfg)
			benchmarkSubmit(b, l, a, clients)
		})
	}
}

func benchmarkSubmit(b *testing.B, l *Log, a *authority, clients int) {
	b.Helper()
	submissions := make([]ctlog.Submission, min(b.N, 2000))
	for i := range submissions {
		submissions[i] = a.submission(b)
	}
	var guarded, guards atomic.Int64
	l.guard.observe = func(d time.Duration) { guarded.Add(int64(d)); guards.Add(1) }
	b.ResetTimer()
	latencies := load(b, l, submissions, clients, b.N)
	b.StopTimer()
	slices.Sort(latencies)
	b.ReportMetric(inMilliseconds(latencies[b.N/2]), "p50-ms")
	b.ReportMetric(inMilliseconds(latencies[b.N*99/100]), "p99-ms")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(inMilliseconds(time.Duration(guarded.Load()/max(guards.Load(), 1))), "guard-ms")
	b.ReportMetric(float64(b.N)/float64(max(guards.Load(), 1)), "entries/batch")
	b.ReportMetric(inMilliseconds(fsyncTime(b, b.TempDir())), "fsync-ms")
}

func inMilliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// fsyncTime returns the median time to write and fsync a small file in dir, and the
// directory.
func fsyncTime(b *testing.B, dir string) time.Duration {
	b.Helper()
	times := make([]time.Duration, 101)
	path := filepath.Join(dir, "fsync")
	for i := range times {
		start := time.Now()
		if err := files.WriteDurably(path, []byte("the same few bytes"), 0o600); err != nil {
			b.Fatal(err)
		}
		times[i] = time.Since(start)
	}
	if err := os.Remove(path); err != nil {
		b.Fatal(err)
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// entriesVariable is how large BenchmarkLargeLog makes its log; 1,000,000 if it is not set.
const entriesVariable = "MAYFLY_ENTRIES"

// BenchmarkLargeLog measures an entry's cost with a million entries in its log, beside that of an
// empty log. Run it with -benchtime=1x: creating the log takes
// minutes and 3 GB of disk.
func BenchmarkLargeLog(b *testing.B) {
	entries := 1_000_000
	if n, err := strconv.Atoi(os.Getenv(entriesVariable)); err == nil {
		entries = n
	}
	a, cfg := newAuthority(b), newConfig(b)
	cfg.CheckpointInterval, cfg.Logger = 0, discard()
	l := open(b, cfg)
	empty := measureAdds(b, l, a, 64, 6400)
	lone := measureAdds(b, l, a, 1, 100)

	start := time.Now()
	measureAdds(b, l, a, 4*maxBatch, entries)
	b.Logf("%d entries in %s", entries, time.Since(start).Round(time.Second))
	shutdown(b, l)

	start = time.Now()
	l = open(b, cfg)
	opened := time.Since(start)
	b.ResetTimer()
	large := measureAdds(b, l, a, 64, 6400)
	loneLarge := measureAdds(b, l, a, 1, 100)
	b.StopTimer()
	start = time.Now()
	for _, err := range Search(b.Context(), cfg, Query{Identity: "no-one@example.com"}) {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(start).Seconds(), "search-s")
	start = time.Now()
	if _, err := Fsck(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(start).Seconds(), "fsck-s")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(inMilliseconds(opened), "open-ms")
	b.ReportMetric(inMilliseconds(empty), "empty64-p50-ms")
	b.ReportMetric(inMilliseconds(large), "large64-p50-ms")
	b.ReportMetric(inMilliseconds(lone), "empty1-p50-ms")
	b.ReportMetric(inMilliseconds(loneLarge), "large1-p50-ms")
	b.ReportMetric(inMilliseconds(fsyncTime(b, b.TempDir())), "fsync-ms")
}

// measureAdds submits n entries and returns the median of their times.
func measureAdds(b *testing.B, l *Log, a *authority, clients, n int) time.Duration {
	b.Helper()
	submissions := make([]ctlog.Submission, min(n, 2000))
	for i := range submissions {
		submissions[i] = a.submission(b)
	}
	latencies := load(b, l, submissions, clients, n)
	slices.Sort(latencies)
	return latencies[n/2]
}

// load submits n entries with that many clients and returns the time of each.
func load(b *testing.B, l *Log, submissions []ctlog.Submission, clients, n int) []time.Duration {
	b.Helper()
	latencies := make([]time.Duration, n)
	var next atomic.Int64
	done := make(chan error, clients)
	for range clients {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					done <- nil
					return
				}
				start := time.Now()
				if _, err := l.Submit(context.Background(), submissions[i%len(submissions)]); err != nil {
					done <- err
					return
				}
				latencies[i] = time.Since(start)
			}
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	return latencies
}
