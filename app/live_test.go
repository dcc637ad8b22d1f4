// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// Run starts every generation, stops the replaced ones when no request can need them any more, and
// leaves nothing behind: a remaining goroutine would fail the bubble.
func TestLiveRunEndsEveryGeneration(t *testing.T) {
	t.Parallel()
	issuers, _, err := config.ParseIssuers("f", []byte("meta-issuers: {https://*.example.com: {client-id: a, type: email}}"), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		l := &live{swapped: make(chan struct{}, 1)}
		swap := func(number uint64) {
			t.Helper()
			trust, err := newTrust(&config.Server{}, issuers, slog.New(slog.DiscardHandler), trustObserver{})
			if err != nil {
				t.Fatal(err)
			}
			l.current.Store(&generation{number: number, trust: trust})
			select {
			case l.swapped <- struct{}{}:
			default:
			}
		}
		swap(1)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		synctest.Wait()
		for number := uint64(2); number < 20; number++ {
			swap(number)
			if number%5 == 0 { // Run never starts the others in between
				synctest.Wait()
				time.Sleep(linger / 2)
			}
		}
		time.Sleep(3 * linger)
		stop()
		<-done
	})
}
