// SPDX-License-Identifier: Apache-2.0

package share

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// line is a queue in which requests enter one after the other.
type line struct {
	*Turns
	mu     sync.Mutex
	served []uint64 // the callers, in the order in which they got their places
	failed int
	own    int // of failed
	all    sync.WaitGroup
}

func (l *line) enter(ctx context.Context, caller uint64, cost int) {
	l.all.Go(func() {
		ok, own := l.Take(ctx, caller, cost)
		l.mu.Lock()
		defer l.mu.Unlock()
		if ok {
			l.served = append(l.served, caller)
		} else {
			l.failed++
			if own {
				l.own++
			}
		}
	})
	synctest.Wait()
}

// results returns the callers that were served, and the number of requests that were not.
func (l *line) results() (served []uint64, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.served), l.failed
}

// A caller with many requests gets its turn as often as one with few.
func TestTurnsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{Turns: NewTurns(1, 40, time.Hour)}
		if ok, _ := l.Take(t.Context(), 9, 1); !ok {
			t.Fatal("no place in an empty queue")
		}
		for range 30 {
			l.enter(t.Context(), 1, 1)
		}
		_, failed := l.results()
		if _, waiting := l.State(); waiting != 20 || failed != 10 {
			t.Errorf("of 30 requests of one caller, %d wait and %d were refused; half of 40 places are expected", waiting, failed)
		}
		for range 3 {
			l.enter(t.Context(), 2, 1)
			l.enter(t.Context(), 3, 1)
		}
		for range 26 {
			l.Give(1)
			synctest.Wait()
		}
		l.all.Wait()
		served, _ := l.results()
		if first := served[:9]; count(first, 1) != 3 || count(first, 2) != 3 || count(first, 3) != 3 {
			t.Errorf("the first nine turns were those of %v", first)
		}
		l.Give(1)
		if taken, waiting := l.State(); taken != 0 || waiting != 0 || len(l.callers) != 0 {
			t.Errorf("%d places, %d requests, %d callers are left", taken, waiting, len(l.callers))
		}
	})
}

func count(all []uint64, caller uint64) (n int) {
	for _, c := range all {
		if c == caller {
			n++
		}
	}
	return n
}

// A caller with more costly requests gets its turn less often.
func TestTurnsCountCost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{Turns: NewTurns(4, 40, time.Hour)}
		l.Take(t.Context(), 9, 4)
		for range 8 {
			l.enter(t.Context(), 1, 4)
		}
		for range 8 {
			l.enter(t.Context(), 2, 1)
		}
		for taken := 4; taken > 0; taken, _ = l.State() {
			l.Give(taken)
			synctest.Wait()
		}
		served, _ := l.results()
		if first := served[:10]; len(served) != 16 || count(first, 1) > 3 {
			t.Errorf("the first ten turns were those of %v; a caller of four times the cost must have two or three", first)
		}
		l.all.Wait()
	})
}

func TestTurnsEndInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{Turns: NewTurns(2, 8, time.Second)}
		l.Take(t.Context(), 9, 100) // more than there are: all of them
		ctx, cancel := context.WithCancel(t.Context())
		l.enter(ctx, 1, 2)
		l.enter(t.Context(), 2, 1)
		cancel()
		synctest.Wait()
		if _, failed := l.results(); failed != 1 {
			t.Errorf("%d requests have left after the end of a context; 1 is expected", failed)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, failed := l.results(); failed != 2 {
			t.Errorf("%d requests have left after the time limit; 2 are expected", failed)
		}
		// A request that leaves lets those pass that need fewer places.
		l.Give(100)
		l.Take(t.Context(), 9, 1)
		l.enter(t.Context(), 1, 2)
		time.Sleep(time.Second / 2)
		l.enter(t.Context(), 2, 1)
		if served, _ := l.results(); len(served) != 0 {
			t.Error("a request overtook another")
		}
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if served, _ := l.results(); !slices.Equal(served, []uint64{2}) {
			t.Errorf("served: %v; caller 2 is expected", served)
		}
		l.all.Wait()
	})
}

// A refusal states whether the caller's own requests are why.
func TestTurnsKnowOwnRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{Turns: NewTurns(1, 2, time.Second)}
		l.Take(t.Context(), 9, 1)
		l.enter(t.Context(), 1, 1) // waits
		l.enter(t.Context(), 1, 1) // has half of the queue already
		l.enter(t.Context(), 2, 1) // waits
		if _, failed := l.results(); failed != 1 || l.own != 1 {
			t.Errorf("%d requests were refused, %d for their caller's; 1 and 1 are expected", failed, l.own)
		}
		l.enter(t.Context(), 3, 1) // the queue is full
		if _, failed := l.results(); failed != 2 || l.own != 1 {
			t.Errorf("%d requests were refused, %d for their caller's; 2 and 1 are expected", failed, l.own)
		}
		time.Sleep(time.Second)
		l.all.Wait()
		if _, failed := l.results(); failed != 4 || l.own != 1 {
			t.Errorf("%d requests were refused, %d for their caller's; 4 and 1 are expected", failed, l.own)
		}
		l = &line{Turns: NewTurns(1, 8, time.Second)}
		l.Take(t.Context(), 9, 1)
		l.enter(t.Context(), 1, 1)
		l.enter(t.Context(), 1, 1)
		time.Sleep(time.Second)
		l.all.Wait()
		if _, failed := l.results(); failed != 2 || l.own != 1 {
			t.Errorf("%d requests waited for too long, %d behind others of their caller; 2 and 1 are expected", failed, l.own)
		}
	})
}

func BenchmarkTurns(b *testing.B) {
	turns := NewTurns(2, 8, time.Second)
	b.ReportAllocs()
	for b.Loop() {
		turns.Take(b.Context(), 1, 1)
		turns.Give(1)
	}
}
