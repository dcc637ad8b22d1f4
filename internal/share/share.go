// SPDX-License-Identifier: Apache-2.0

// Package share divides places between the clients of a server, so that no client takes them all.
//
// Every package may import it.
package share

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// forFirst is the part of the places, one in so many, that is kept for addresses that hold few.
	forFirst = 4
	// forOthers is the part that the addresses of one IPv4 /24 or IPv6 /48 leave to others. A /48
	// has 65,536 networks that count as clients.
	forOthers = 16
)

// Places divides places between client addresses: an address gets one only while it holds fewer
// than are free, and keeps up to a quarter free for those that hold fewer. So one address gets at
// most half, two at most three quarters, and then each gets one or two until all are taken. An IPv6
// client is its /64. There are counters only of the addresses that hold a place, two for each place.
type Places struct {
	places int
	keep   time.Duration // how long a place is taken; zero means until Give

	mu    sync.Mutex // guards what follows
	taken int
	held  map[netip.Prefix]int // never zero; by both of Networks
	queue []holding            // with keep, the places in the order of their end
}

// holding is a place that is free again at a time.
type holding struct {
	until  time.Time
	client netip.Addr
}

// New returns so many places. With keep, a taken place is free again after that time; with zero,
// when Give gives it back.
func New(places int, keep time.Duration) *Places {
	return &Places{places: places, keep: keep, held: make(map[netip.Prefix]int)}
}

// Take takes a place for client. It returns false where client holds its share already.
func (p *Places) Take(client netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	own, wide := Networks(client)
	free, least := p.places-p.taken, 1
	switch {
	case p.held[own] > 0:
		least = min(p.places/forFirst, p.places/forOthers+1+2*p.held[own])
	case p.held[wide] > 0:
		least = p.places/forOthers + 1
	}
	if p.held[own] >= free || free < least {
		return false
	}
	p.count(client, 1)
	if p.keep > 0 {
		p.queue = append(p.queue, holding{now.Add(p.keep), client})
	}
	return true
}

// Give gives a place back that client took, where no time does.
func (p *Places) Give(client netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(client, -1)
}

// State returns whether client holds a place, whether others do, and when the next one is free by itself.
func (p *Places) State(client netip.Addr, now time.Time) (holds, others bool, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expire(now); len(p.queue) > 0 {
		next = p.queue[0].until.Sub(now)
	}
	own, _ := Networks(client)
	return p.held[own] > 0, p.held[own] < p.taken, next
}

// expire frees the places that are free by themselves at now.
func (p *Places) expire(now time.Time) {
	for len(p.queue) > 0 && !now.Before(p.queue[0].until) {
		p.count(p.queue[0].client, -1)
		p.queue = p.queue[1:]
	}
}

func (p *Places) count(client netip.Addr, change int) {
	p.taken += change
	own, wide := Networks(client)
	for _, block := range []netip.Prefix{own, wide} {
		if p.held[block] += change; p.held[block] == 0 {
			delete(p.held, block)
		}
	}
}

// Networks returns the network that counts as one client, and the wider one that it is in. The
// zero address, of a client that is not known, counts as one client too.
func Networks(client netip.Addr) (own, wide netip.Prefix) {
	client = client.Unmap()
	if !client.IsValid() {
		client = netip.IPv4Unspecified()
	}
	bits, wideBits := 64, 48
	if client.Is4() {
		bits, wideBits = 32, 24
	}
	own, _ = client.Prefix(bits) // fails only for bits out of range
	wide, _ = client.Prefix(wideBits)
	return own, wide
}
