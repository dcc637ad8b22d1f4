// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// stage is what a connection waits for. At the limit, the first stage that is not empty loses a
// connection.
type stage int

const (
	stale    stage = iota // no complete request yet, for longer than freshFor
	ripe                  // between requests for longer than idleFor
	fresh                 // no complete request yet
	idle                  // between requests
	arriving              // just accepted or spared: never closed, or a flood would close its neighbors
	busy                  // a request keeps the connection busy: never closed
)

// The times for which connections are spared. freshFor covers a TLS handshake from another continent.
const (
	arrivingFor = 100 * time.Millisecond
	sparedFor   = 250 * time.Millisecond
	freshFor    = time.Second
	idleFor     = 5 * time.Second
	flushFor    = 10 * time.Millisecond // grpc-go's transport writes an answer after its request has ended
	lastWords   = 10 * time.Millisecond // for the GOAWAY of a connection that is closed
)

// fewWriters is the number of connections with a write under way at which patience is halved.
const fewWriters = 16

// patience returns the time limit of a write over grpc-go's transport. A client that does not read can
// have its transport hold more than its share of requests for that time. So there is less of it, the
// more clients do not read.
func (p *connections) patience(writers int32) time.Duration {
	return stall * fewWriters / (fewWriters + time.Duration(writers))
}

// modest is the fraction of the limit below which client addresses count as equal. Clients behind
// one address must not lose to an attacker that has a thousand addresses.
const modest = 16

// stage returns the stage of c. In stage arriving it also returns the time until stage fresh.
func (c *conn) stage(now time.Time) (s stage, left time.Duration) {
	spared := arrivingFor
	if c.spared {
		spared = sparedFor
	}
	age := now.Sub(c.since)
	switch {
	case c.closing || c.requests > 0:
		return busy, 0
	case c.served > 0 && c.own.Load() && age < flushFor:
		return arriving, flushFor - age
	case c.served > 0 && age < idleFor:
		return idle, 0
	case c.served > 0:
		return ripe, 0
	case age < spared:
		return arriving, spared - age
	case age < freshFor:
		return fresh, 0
	default:
		return stale, 0
	}
}

// spare gives more time to a connection on which a request is arriving, since this process may be
// too busy to have read it. It returns false if the connection may be closed.
func (c *conn) spare(now time.Time) bool {
	unread, first := c.unread(), c.served == 0
	// HTTP/2 has other frames than requests, and GOAWAY for requests in transit.
	heard := c.received.Load() && (first || !c.http2)
	if unread && first || !c.spared && (unread || heard) {
		c.spared, c.since = true, now
		return true
	}
	return false
}

// holder is a client address, and the number of its connections.
type holder struct {
	address netip.Prefix
	open    int
}

// connections are the open connections of the listeners that share a limit. At the limit a new
// connection takes the place of the longest waiting one of the client address with the most, in the
// first stage that is not empty.
type connections struct {
	limit int
	// descriptors, if not zero, is the first file descriptor of the reserve for logs, files and
	// outgoing connections. The kernel assigns the lowest free number, so all lower ones are in use
	// when a connection gets one from here on.
	descriptors int
	log         *breaker.Sparing

	turn    chan struct{} // holds one element while a connection enters; the next one waits
	changed chan struct{} // has an element after a connection was closed, or may now be closed
	writers atomic.Int32  // writes of grpc-go's transport under way

	mu      sync.Mutex
	all     map[*conn]bool
	holders map[netip.Prefix]*holder
	closed  uint64 // connections closed for new ones
}

// newConnections returns places for limit connections; zero means no limit.
func newConnections(limit, descriptors int, logger *slog.Logger) *connections {
	if limit == 0 {
		limit = math.MaxInt
	}
	return &connections{
		limit: limit, descriptors: descriptors, log: &breaker.Sparing{Logger: logger, Interval: time.Minute},
		turn: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		all: make(map[*conn]bool), holders: make(map[netip.Prefix]*holder),
	}
}

// count returns the number of open connections, and of those that were closed for new ones.
func (p *connections) count() (open int, closed uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all), p.closed
}

// enter gives c a place as soon as one is free. It returns false if ctx ends first.
func (p *connections) enter(ctx context.Context, c *conn, descriptor int) bool {
	select { // a free turn comes first: the listener was closed after the kernel had accepted c
	case p.turn <- struct{}{}:
	default:
		select {
		case p.turn <- struct{}{}:
		case <-ctx.Done():
			return false
		}
	}
	defer func() { <-p.turn }()
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.limit - 1
	if p.descriptors > 0 && descriptor >= p.descriptors {
		// The reserve is in use: release more connections than enter.
		most = min(most, max(len(p.all)-2, 0))
	}
	for len(p.all) > most {
		victim, wait := p.victim(time.Now())
		if victim != nil {
			p.evict(victim)
			p.closed++
			p.log.Log(ctx, slog.LevelWarn, "the connection limit is reached, so connections without a request are closed for new ones",
				slog.Int("open", len(p.all)), slog.Int("limit", p.limit), slog.Uint64("closed", p.closed))
		} else if !p.await(ctx, wait) {
			return false
		}
	}
	p.hold(c)
	c.since, p.all[c] = time.Now(), true
	return true
}

// hold counts c for its client address.
func (p *connections) hold(c *conn) {
	if h := p.holders[c.client.address]; h != nil {
		c.client = h
	} else {
		p.holders[c.client.address] = c.client
	}
	c.client.open++
}

// release is the opposite of hold.
func (p *connections) release(c *conn) {
	if c.client.open--; c.client.open == 0 {
		delete(p.holders, c.client.address)
	}
}

// move counts c for another client address from now on.
func (p *connections) move(c *conn, client netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[c] {
		p.release(c)
		c.client = &holder{address: client}
		p.hold(c)
	}
}

// leave gives the place of c back, once.
func (p *connections) leave(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.all[c] {
		return
	}
	delete(p.all, c)
	p.release(c)
	c.closing = true
	close(c.ended)
	p.signal()
}

// signal wakes the connection that waits for a place.
func (p *connections) signal() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// await waits until a connection was closed or became idle, at most for wait if it is not zero. It
// releases mu meanwhile, and returns false if ctx ends.
func (p *connections) await(ctx context.Context, wait time.Duration) bool {
	p.mu.Unlock()
	defer p.mu.Lock()
	var timeout <-chan time.Time
	if wait > 0 {
		timeout = time.After(wait)
	}
	select {
	case <-p.changed:
	case <-timeout:
	case <-ctx.Done():
		return false
	}
	return true
}

// victim returns the connection to close next. It returns nil if there is none now, and then the
// time after which there may be one; zero means not before a connection changes.
func (p *connections) victim(now time.Time) (*conn, time.Duration) {
	for {
		best, in, arrivals, wait := (*conn)(nil), arriving, 0, time.Duration(0)
		for c := range p.all {
			s, left := c.stage(now)
			if s == arriving {
				arrivals++
				if wait == 0 || left < wait {
					wait = left
				}
			}
			if s < in || s == in && best != nil && p.before(c, best) {
				best, in = c, s
			}
		}
		if in == idle && arrivals >= max(p.limit/4, 1) {
			// Enough of the arriving connections can be closed soon, or will have a request.
			return nil, wait
		}
		if best == nil || !best.spare(now) {
			return best, wait
		}
	}
}

// before reports whether a is to be closed before b, which is in the same stage.
func (p *connections) before(a, b *conn) bool {
	most := p.limit / modest
	if x, y := max(a.client.open, most), max(b.client.open, most); x != y {
		return x > y
	}
	return a.since.Before(b.since)
}

// evict closes a connection that is not busy. It releases mu meanwhile.
func (p *connections) evict(c *conn) {
	c.closing = true
	outer, lastStream := c.outer, c.lastStream()
	p.mu.Unlock()
	c.dismiss(outer, lastStream)
	p.mu.Lock()
}

// awaitFirst waits until each connection has had a request, or freshFor to send one: net/http and grpc-go
// close the others when they shut down, also while a request arrives.
func (p *connections) awaitFirst() {
	waits := func(now time.Time) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.all {
			if c.served == 0 && !c.closing && now.Sub(c.since) < freshFor {
				return true
			}
		}
		return false
	}
	ticker := time.NewTicker(flushFor)
	defer ticker.Stop()
	for waits(time.Now()) {
		<-ticker.C
	}
}

// dismissStalled closes the connections that would otherwise use up the drain timeout of a server,
// every second until ctx ends: those of clients that have sent nothing for freshFor, and those that no
// request kept busy for idleFor. Their clients do not read their answers, or do not send their requests.
func (p *connections) dismissStalled(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for now := time.Now(); ; {
		p.mu.Lock()
		for _, c := range slices.Collect(maps.Keys(p.all)) { // evict releases mu
			silent := c.served == 0 && !c.received.Load() && !c.unread() && now.Sub(c.since) >= freshFor
			if c.requests == 0 && !c.closing && (silent || now.Sub(c.since) >= idleFor) {
				p.evict(c)
			}
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case now = <-ticker.C:
		}
	}
}
