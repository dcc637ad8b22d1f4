// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// growthRounds is how often BenchmarkGrowth measures each size, in turn with an empty log.
const growthRounds = 7

// BenchmarkGrowth measures an entry, a proof and a checkpoint while a log grows to a million entries
// (entriesVariable), each beside the same of a new log at the same time: `make growth` draws it. Run it
// with -benchtime 1x.
func BenchmarkGrowth(b *testing.B) {
	most := 1_000_000
	if n, err := strconv.Atoi(os.Getenv(entriesVariable)); err == nil {
		most = n
	}
	a, size := newAuthority(b), 0
	large := grownLog(b, a)
	for next := 1000; next <= most; next *= 10 {
		load(b, large, a, 4*maxBatch, next-size)
		size = next
		empty := grownLog(b, a)
		for round := range growthRounds {
			b.Run(fmt.Sprintf("entries=%d/round=%d", size, round), func(b *testing.B) {
				ofLarge, ofEmpty := large.figures(b, a), empty.figures(b, a)
				for name, value := range ofLarge {
					b.ReportMetric(value, name)
					b.ReportMetric(ofEmpty[name], "empty-"+name)
				}
				b.ReportMetric(0, "ns/op")
			})
		}
		shutdown(b, empty)
	}
	shutdown(b, large)
}

// grownLog is a new log that has some entries, so that there are proofs.
func grownLog(b *testing.B, a *authority) *Log {
	b.Helper()
	cfg := newConfig(b)
	cfg.CheckpointInterval, cfg.Logger = 0, discard()
	l := open(b, cfg)
	load(b, l, a, 64, 256)
	return l
}

// figures are the medians of one round, in milliseconds.
func (l *Log) figures(b *testing.B, a *authority) map[string]float64 {
	b.Helper()
	const reads = 200
	handler := l.Handler()
	get := func(url func() string) float64 {
		times := make([]time.Duration, reads)
		for i := range times {
			request, answer := httptest.NewRequest(http.MethodGet, url(), nil), httptest.NewRecorder()
			start := time.Now()
			handler.ServeHTTP(answer, request)
			if times[i] = time.Since(start); answer.Code != http.StatusOK {
				b.Fatal(answer.Code, answer.Body)
			}
		}
		slices.Sort(times)
		return inMilliseconds(times[reads/2])
	}
	many, one := load(b, l, a, 64, 1280), load(b, l, a, 1, 40)
	size := uint64(0)
	for tick := time.NewTicker(10 * time.Millisecond); size == 0; <-tick.C {
		published, err := l.checkpoint()
		if err != nil {
			b.Fatal(err)
		}
		size = published.Head.Size
	}
	return map[string]float64{
		"add64": inMilliseconds(many[len(many)/2]), "add1": inMilliseconds(one[len(one)/2]),
		"checkpoint": get(func() string { return "/checkpoint" }),
		"proof": get(func() string {
			return fmt.Sprintf("/ct/v1/get-entry-and-proof?leaf_index=%d&tree_size=%d", rand.Uint64N(size), size)
		}),
	}
}
