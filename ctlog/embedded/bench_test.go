// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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

// entriesVariable is how large BenchmarkLargeLog makes its log at most; 1,000,000 if it is not set.
const entriesVariable = "MAYFLY_ENTRIES"

// BenchmarkLargeLog measures one log while it grows: at each size an entry for its submitter, the answers for
// monitors, a search by name, and fsck. Run it with -benchtime=1x: a million entries take minutes and 3 GB of disk.
func BenchmarkLargeLog(b *testing.B) {
	most := 1_000_000
	if n, err := strconv.Atoi(os.Getenv(entriesVariable)); err == nil {
		most = n
	}
	a, cfg := newAuthority(b), newConfig(b)
	cfg.CheckpointInterval, cfg.Logger = 0, discard()
	for _, entries := range []int{0, 10_000, 100_000, 1_000_000, 10_000_000} {
		if entries > most {
			continue
		}
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			metrics := map[string]float64{"ns/op": 0, "fsync-ms": inMilliseconds(fsyncTime(b, b.TempDir()))}
			took := func(name string, unit time.Duration, f func()) {
				start := time.Now()
				f()
				metrics[name] = float64(time.Since(start)) / float64(unit)
			}
			var l *Log
			took("open-ms", time.Millisecond, func() { l = openBenchmark(b, cfg) })
			size := int(l.guard.newest.Load().TreeSize)
			load(b, l, a, 4*maxBatch, max(entries-size, 0))
			shutdown(b, l)
			measureSearch(b, cfg, took)
			took("fsck-s", time.Second, func() {
				if _, err := Fsck(b.Context(), cfg); err != nil {
					b.Fatal(err)
				}
			})
			took("open-ms", time.Millisecond, func() { l = openBenchmark(b, cfg) })
			measureReads(b, l, metrics)
			metrics["add64-p50-ms"] = inMilliseconds(load(b, l, a, 64, 6400)[3200])
			metrics["add1-p50-ms"] = inMilliseconds(load(b, l, a, 1, 100)[50])
			shutdown(b, l)
			for name, value := range metrics {
				b.ReportMetric(value, name)
			}
		})
	}
}

// openBenchmark opens a log that the caller shuts down.
func openBenchmark(b *testing.B, cfg Config) *Log {
	b.Helper()
	l, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// measureSearch searches a name that the log does not have: without the index, while the index is written, with it,
// and as a pattern.
func measureSearch(b *testing.B, cfg Config, took func(string, time.Duration, func())) {
	b.Helper()
	for _, test := range []struct {
		metric, identity string
		index            bool
	}{
		{"search-all-s", "other@example.com", false},
		{"search-build-s", "other@example.com", true},
		{"search-s", "other@example.com", true},
		{"search-pattern-s", "other@*", true},
	} {
		source, err := Source(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if !test.index {
			source.Index = nil
		}
		took(test.metric, time.Second, func() {
			for found, err := range source.Search(b.Context(), reader.Query{Identity: test.identity, Unindexed: func(err error) { b.Fatal(err) }}) {
				b.Fatal(found, err)
			}
		})
	}
}

// measureReads measures the median of answers to monitors, in microseconds.
func measureReads(b *testing.B, l *Log, metrics map[string]float64) {
	b.Helper()
	c, err := l.checkpoint()
	if err != nil {
		b.Fatal(err)
	}
	paths := map[string]func(i uint64) string{"checkpoint-us": func(uint64) string { return "/checkpoint" }}
	if size := c.Head.Size; size > 1 {
		paths["inclusion-us"] = func(i uint64) string {
			return fmt.Sprintf("/ct/v1/get-entry-and-proof?leaf_index=%d&tree_size=%d", i*7919%size, size)
		}
		paths["consistency-us"] = func(i uint64) string {
			return fmt.Sprintf("/ct/v1/get-sth-consistency?first=%d&second=%d", 1+i*7919%(size-1), size)
		}
	}
	handler := l.Handler()
	for name, path := range paths {
		times := make([]time.Duration, 501)
		for i := range times {
			w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(b.Context(), http.MethodGet, path(uint64(i)), nil)
			start := time.Now()
			handler.ServeHTTP(w, r)
			if times[i] = time.Since(start); w.Code != http.StatusOK {
				b.Fatalf("%s: %s", r.URL, w.Body)
			}
		}
		slices.Sort(times)
		metrics[name] = float64(times[len(times)/2].Nanoseconds()) / 1000
	}
}

// load submits n entries with that many clients and returns the time of each, the shortest first. The
// benchmark's time is only that of the submissions.
func load(b *testing.B, l *Log, a *authority, clients, n int) []time.Duration {
	b.Helper()
	submission := a.numbered(b)
	latencies := make([]time.Duration, n)
	var next atomic.Int64
	var group errgroup.Group
	b.ResetTimer()
	for range clients {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				start := time.Now()
				if _, err := l.Submit(context.Background(), submission(i)); err != nil {
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
