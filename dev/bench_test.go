// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"testing"
	"time"
)

// BenchmarkReady is the time from the start to a world that answers, including fresh keys, and the
// longest of all.
func BenchmarkReady(b *testing.B) {
	var slowest time.Duration
	for b.Loop() {
		begin := time.Now()
		w, err := New(b.Context(), Config{Listen: "127.0.0.1:0"})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- w.Run(ctx, func() { close(ready) }) }()
		<-ready
		b.StopTimer()
		slowest = max(slowest, time.Since(begin))
		stop()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(slowest.Milliseconds()), "slowest-ms")
}
