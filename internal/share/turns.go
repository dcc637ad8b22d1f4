// SPDX-License-Identifier: Apache-2.0

package share

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Turns gives places to callers in turn. A request takes as many places as it costs, at once if they
// are free. Otherwise it waits in a short queue: of two callers that wait, the one that has got less
// lately is next, whatever the number of its requests (start-time fair queuing, Goyal, Vin and Cheng
// 1996). A caller waits with another request only while it has fewer in the queue than are free, so
// that one caller fills at most half of the queue. A request that has waited for too long is refused,
// as its answer would come too late.
type Turns struct {
	places   int
	room     int           // of the queue
	patience time.Duration // how long a request waits

	mu      sync.Mutex // guards what follows
	taken   int
	now     int // the virtual time: the start of the last request that left the queue
	queue   []*waiter
	callers map[uint64]*turn // those with a request in the queue
}

// turn is a caller with requests in the queue.
type turn struct {
	waiting int
	next    int // the virtual start of its next request
}

// waiter is a request in the queue.
type waiter struct {
	caller uint64
	cost   int
	start  int  // virtual
	behind bool // it came while others of its caller were waiting
	ready  chan struct{}
}

// NewTurns returns so many places, and a queue with room for so many requests.
func NewTurns(places, room int, patience time.Duration) *Turns {
	return &Turns{places: places, room: room, patience: patience, callers: make(map[uint64]*turn)}
}

// Take takes cost places for a request of caller, and may wait for them. It returns false if the queue
// has no room for the caller, the request has waited for too long, or ctx ends. own is whether other
// requests of the same caller were waiting before such a request.
func (t *Turns) Take(ctx context.Context, caller uint64, cost int) (ok, own bool) {
	cost = min(cost, t.places)
	w, ok, own := t.enter(caller, cost)
	if w == nil {
		return ok, own
	}
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	select {
	case <-w.ready:
		return true, false
	case <-timer.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.queue, w)
	if i < 0 { // it has just got its places
		return true, false
	}
	t.leave(i)
	t.serve() // the next one may need fewer places
	return false, w.behind
}

// Give gives the places of a request back.
func (t *Turns) Give(cost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken -= min(cost, t.places)
	t.serve()
}

// State returns the number of places that are taken, and of requests in the queue.
func (t *Turns) State() (taken, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken, len(t.queue)
}

// enter takes the places, or returns the request in the queue. It returns false if neither has room, and
// whether the caller had others in the queue.
func (t *Turns) enter(caller uint64, cost int) (w *waiter, ok, own bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 && t.taken+cost <= t.places {
		t.taken += cost
		return nil, true, false
	}
	c := t.callers[caller]
	if c == nil {
		c = &turn{next: t.now}
	}
	// Where many callers wait, the queue may be a little longer: it is full because of all of them.
	if c.waiting >= t.room-len(t.queue)+len(t.callers)/8 {
		return nil, false, c.waiting > 0
	}
	w = &waiter{caller: caller, cost: cost, start: max(c.next, t.now), behind: c.waiting > 0, ready: make(chan struct{})}
	c.next, c.waiting, t.callers[caller] = w.start+cost, c.waiting+1, c
	t.queue = append(t.queue, w)
	return w, true, false
}

// serve gives free places to those in the queue whose turn it is.
func (t *Turns) serve() {
	for len(t.queue) > 0 {
		next := slices.MinFunc(t.queue, func(a, b *waiter) int { return cmp.Compare(a.start, b.start) })
		if t.taken+next.cost > t.places {
			return
		}
		t.now, t.taken = next.start, t.taken+next.cost
		t.leave(slices.Index(t.queue, next))
		close(next.ready)
	}
}

// leave takes a request out of the queue.
func (t *Turns) leave(i int) {
	if c := t.callers[t.queue[i].caller]; c.waiting > 1 {
		c.waiting--
	} else {
		delete(t.callers, t.queue[i].caller)
	}
	t.queue = slices.Delete(t.queue, i, i+1)
}
