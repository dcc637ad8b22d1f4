// SPDX-License-Identifier: Apache-2.0

package server

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connections are the open connections of the listeners that share a limit. At the limit a new
// connection takes the place of one that no request keeps busy. The first nonempty stage in
// closeOrder loses one: the longest waiting connection of the client address with the most
// connections. Every operation takes O(log n) in the number of client addresses.
type connections struct {
	limit int
	// descriptors, if not zero, is the first file descriptor of the reserve for logs, files and
	// outgoing connections. The kernel assigns the lowest free number. A connection with a number
	// from here on shows that all lower ones are in use.
	descriptors int
	logger      *slog.Logger

	turn chan struct{} // holds one element while a connection enters; the next one waits

	mu      sync.Mutex
	changed sync.Cond // of mu: a connection was closed, or may now be closed
	open    int
	closed  uint64 // connections closed for new ones
	logged  time.Time
	stages  [stages]stage
	holders map[netip.Prefix]*holder
}

// newConnections returns places for limit connections; zero means no limit.
func newConnections(limit, descriptors int, logger *slog.Logger) *connections {
	if limit == 0 {
		limit = math.MaxInt
	}
	p := &connections{
		limit: limit, descriptors: descriptors, logger: logger,
		turn: make(chan struct{}, 1), holders: make(map[netip.Prefix]*holder),
	}
	p.changed.L = &p.mu
	p.stages[arriving].spared, p.stages[arriving].next = arrivingFor, fresh
	p.stages[trying].spared, p.stages[trying].next = tryingFor, fresh
	p.stages[fresh].spared, p.stages[fresh].next = freshFor, stale
	p.stages[idle].spared, p.stages[idle].next = idleFor, ripe
	return p
}

// register registers the metrics of connections.
func (p *connections) register(registry prometheus.Registerer) error {
	locked := func(value func() float64) func() float64 {
		return func() float64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return value()
		}
	}
	return errors.Join(
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_connections",
			Help: "Open connections to the HTTP and gRPC listeners.",
		}, locked(func() float64 { return float64(p.open) }))),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_connections_limit",
			Help: "Connections that may be open; one more takes the place of one without a request.",
		}, func() float64 { return float64(p.limit) })),
		registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "mayfly_connections_closed_total",
			Help: "Connections without a request that were closed to make place for new ones.",
		}, locked(func() float64 { return float64(p.closed) }))),
	)
}

// enter gives c a place as soon as one is free. It returns false if stopped returns true first.
func (p *connections) enter(c *conn, descriptor int, stopped func() bool) bool {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.limit - 1
	if p.descriptors > 0 && descriptor >= p.descriptors {
		// The reserve is in use: release more connections than enter.
		most = min(most, max(p.open-2, 0))
	}
	for p.open > most {
		if stopped() {
			return false
		}
		now := time.Now()
		if c := p.victim(now); c != nil {
			p.evict(c)
			p.report(now)
		} else {
			p.wait(now)
		}
	}
	p.open++
	h := p.holders[c.address]
	if h == nil {
		h = &holder{address: c.address}
		for i := range h.groups {
			h.groups[i].holder = h
		}
		p.holders[c.address] = h
	}
	c.holder = h
	p.count(h, 1)
	p.put(c, arriving, time.Now())
	return true
}

// leave gives the place of c back, once.
func (p *connections) leave(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.holder == nil {
		return
	}
	p.take(c)
	p.open--
	p.count(c.holder, -1)
	if c.holder.open == 0 {
		delete(p.holders, c.holder.address)
	}
	c.holder, c.closing = nil, true
	p.changed.Broadcast()
}

// count changes the number of a holder's connections, and its rank in each stage.
func (p *connections) count(h *holder, by int) {
	h.open += by
	h.rank = max(h.open, p.limit/modest)
	for i := range h.groups {
		if h.groups[i].conns.Len() > 0 {
			heap.Fix(&p.stages[i], h.groups[i].index)
		}
	}
}

// victim returns the connection to close next, or nil if there is none now.
func (p *connections) victim(now time.Time) *conn {
	p.grow(now)
	for _, i := range closeOrder {
		s := &p.stages[i]
		if i == idle && p.stages[arriving].order.Len()+p.stages[trying].order.Len() >= max(p.limit/4, 1) {
			// Enough of the arriving connections can be closed soon, or will have a request.
			return nil
		}
		for len(s.groups) > 0 {
			c := s.groups[0].first()
			unread := c.unread()
			// HTTP/2 has other frames than requests, and GOAWAY for requests in transit.
			heard := c.received.Load() && !(c.http2 && i >= idle)
			if !(unread && i < idle) && (c.spared || !unread && !heard) {
				return c
			}
			// A request is arriving, and this process may be too busy to have read it.
			c.spared = true
			p.take(c)
			if i < idle {
				p.put(c, trying, now)
			} else {
				p.put(c, idle, now)
			}
		}
	}
	return nil
}

// grow moves connections past the age of their stage to the next stage.
func (p *connections) grow(now time.Time) {
	for i := range p.stages {
		s := &p.stages[i]
		if s.spared == 0 {
			continue
		}
		for e := s.order.Front(); e != nil && now.Sub(e.Value.(*conn).since) >= s.spared; e = s.order.Front() {
			c := e.Value.(*conn)
			p.take(c)
			p.put(c, s.next, c.since)
		}
	}
}

// evict closes a connection that is not busy. It releases mu meanwhile.
func (p *connections) evict(c *conn) {
	p.take(c)
	c.closing = true
	p.closed++
	outer, lastStream := c.outer, c.lastStream()
	p.mu.Unlock()
	c.dismiss(outer, lastStream)
	p.mu.Lock()
}

// report logs at most once a minute that connections are closed for new ones. It releases mu
// meanwhile.
func (p *connections) report(now time.Time) {
	if now.Sub(p.logged) < time.Minute {
		return
	}
	p.logged = now
	open, closed := p.open, p.closed
	p.mu.Unlock()
	defer p.mu.Lock()
	p.logger.Warn("the connection limit is reached, so connections without a request are closed for new ones",
		slog.Int("open", open), slog.Int("limit", p.limit), slog.Uint64("closed", closed))
}

// dismissStalled closes the connections that would otherwise use up the drain timeout of a server.
// It closes at once the connections of clients that have sent nothing. Every second until ctx ends
// it closes the connections that no request kept busy for idleFor. Their clients do not read their
// answers, or do not send their requests.
func (p *connections) dismissStalled(ctx context.Context) {
	p.dismissWhere(func(c *conn) bool { return c.served == 0 && !c.received.Load() && !c.unread() })
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			p.dismissWhere(func(c *conn) bool { return now.Sub(c.since) >= idleFor })
		}
	}
}

// dismissWhere closes the connections that are not busy and for which where returns true.
func (p *connections) dismissWhere(where func(*conn) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*conn
	for i := range p.stages {
		for e := p.stages[i].order.Front(); e != nil; e = e.Next() {
			found = append(found, e.Value.(*conn))
		}
	}
	for _, c := range found {
		if c.stage != busy && where(c) { // mu was released meanwhile
			p.evict(c)
		}
	}
}

// wait waits until a connection is closed or may be closed. It releases mu meanwhile.
func (p *connections) wait(now time.Time) {
	for _, s := range p.stages[arriving:fresh] {
		if e := s.order.Front(); e != nil {
			wake := time.AfterFunc(s.spared-now.Sub(e.Value.(*conn).since), func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.changed.Broadcast()
			})
			defer wake.Stop()
		}
	}
	p.changed.Wait()
}

// begin records that a request has been read completely. It returns false if the connection is
// being closed; then the request must have no effect.
func (p *connections) begin(c *conn, http2 bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.closing {
		return false
	}
	p.take(c)
	c.requests++
	c.served++
	c.http2 = http2
	return true
}

// gone reports whether the connection has lost its place, or is about to.
func (p *connections) gone(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.closing
}

// answer records that the answer to a request begins.
func (p *connections) answer(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.requests--
	c.answers++
	p.rest(c)
}

// end records that a handler has returned; answered reports that its answer had begun.
func (p *connections) end(c *conn, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answered {
		c.answers--
	} else {
		c.requests--
	}
	p.rest(c)
}

// rest makes a connection idle from now on, unless it is busy or has not had a request yet.
func (p *connections) rest(c *conn) {
	if c.closing || c.requests > 0 || c.served == 0 {
		return
	}
	p.take(c)
	p.put(c, idle, time.Now())
	c.spared = false
	c.received.Store(false)
	p.changed.Signal()
}
