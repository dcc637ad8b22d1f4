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

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// BenchmarkSubmit measures one entry for its submitter, without creating the precertificate
// and its signature.
func BenchmarkSubmit(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			a, cfg := newAuthority(b), newConfig(b)
			cfg.CheckpointInterval, cfg.Logger = 0, discard()
			l := open(b, cfg)
			var guarded, guards atomic.Int64
			l.guard.observe = func(d time.Duration) { guarded.Add(int64(d)); guards.Add(1) }
			latencies := load(b, l, a, clients, b.N)
			b.ReportMetric(inMilliseconds(latencies[b.N/2]), "p50-ms")
			b.ReportMetric(inMilliseconds(latencies[b.N*99/100]), "p99-ms")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(inMilliseconds(time.Duration(guarded.Load()/max(guards.Load(), 1))), "guard-ms")
			b.ReportMetric(float64(b.N)/float64(max(guards.Load(), 1)), "entries/batch")
			b.ReportMetric(inMilliseconds(fsyncTime(b, b.TempDir())), "fsync-ms")
		})
	}
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
	metrics := map[string]float64{"ns/op": 0, "fsync-ms": inMilliseconds(fsyncTime(b, b.TempDir()))}
	measure := func(name string, clients, n int) { metrics[name] = inMilliseconds(load(b, l, a, clients, n)[n/2]) }
	measure("empty64-p50-ms", 64, 6400)
	measure("empty1-p50-ms", 1, 100)
	load(b, l, a, 4*maxBatch, entries)
	shutdown(b, l)

	start := time.Now()
	l = open(b, cfg)
	metrics["open-ms"] = inMilliseconds(time.Since(start))
	measure("large64-p50-ms", 64, 6400)
	measure("large1-p50-ms", 1, 100)
	start = time.Now()
	source, err := Source(cfg)
	if err != nil {
		b.Fatal(err)
	}
	for _, err := range source.Search(b.Context(), reader.Query{Identity: "no-one@example.com"}) {
		b.Fatal(err)
	}
	metrics["search-s"] = time.Since(start).Seconds()
	start = time.Now()
	if _, err := Fsck(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	metrics["fsck-s"] = time.Since(start).Seconds()
	for name, value := range metrics {
		b.ReportMetric(value, name)
	}
}

// load submits n entries with that many clients and returns the time of each, the shortest first. The
// benchmark's time is only that of the submissions.
func load(b *testing.B, l *Log, a *authority, clients, n int) []time.Duration {
	b.Helper()
	submissions := make([]ctlog.Submission, min(n, 2000))
	for i := range submissions {
		submissions[i] = a.submission(b)
	}
	latencies := make([]time.Duration, n)
	var next atomic.Int64
	var group errgroup.Group
	b.ResetTimer()
	for range clients {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				start := time.Now()
				if _, err := l.Submit(context.Background(), submissions[i%len(submissions)]); err != nil {
					return err
				}
				latencies[i] = time.Since(start)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	slices.Sort(latencies)
	return latencies
}
