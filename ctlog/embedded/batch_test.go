// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
)

// TestBatches: while a batch is written, the entries that arrive wait for it, and then are one batch; a failure is that of its
// entry, and the next batch follows.
func TestBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start, failure := time.Now(), errors.New("full")
		var size uint64
		var starts []time.Duration // of the writing of each entry
		b := &batches{age: 9 * time.Millisecond, size: func() uint64 { return size }}
		b.add = func(context.Context, *ctonly.Entry) tessera.IndexFuture {
			index := size
			size++
			starts = append(starts, time.Since(start))
			return func() (tessera.Index, error) {
				time.Sleep(100 * time.Millisecond)
				if index == 4 {
					return tessera.Index{}, failure
				}
				return tessera.Index{Index: index}, nil
			}
		}
		var group sync.WaitGroup
		enter := func(after time.Duration, n int, wantTaken uint64) {
			time.Sleep(time.Until(start.Add(after)))
			for range n {
				group.Go(func() {
					defer b.leave()
					index, taken, err := b.enter(&ctonly.Entry{})
					if taken != wantTaken || err == nil && index.Index < taken || err != nil && err != failure {
						t.Errorf("after %s: entry %d in a tree of %d, %v", after, index.Index, taken, err)
					}
				})
			}
		}
		enter(0, 2, 0)
		enter(20*time.Millisecond, 2, 2) // the first batch is written from 9 ms to 109 ms
		enter(90*time.Millisecond, 3, 2)
		enter(150*time.Millisecond, 1, 7)
		group.Wait()
		want := []time.Duration{9, 9, 109, 109, 109, 109, 109, 209}
		for i, at := range starts {
			if len(starts) != len(want) || at != want[i]*time.Millisecond {
				t.Fatalf("the entries were written at %v, want %d ms", starts, want)
			}
		}
	})
}
