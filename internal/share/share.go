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

// wideShare bounds what the 256 IPv4 addresses of a /24, or the 65,536 networks of an IPv6
// /48, hold together: this many times the places that are free.
const wideShare = 16

// Places divides places between client addresses: an address gets one only while it holds fewer
// than are free. One address so gets at most half of them, and each greedy one after it half of what
// is left: of 32 places, six addresses of two networks can hold all, and of 100 places seven. An IPv6
// client is its /64, which is the smallest network that a client is given.
//
// It keeps counters only of the addresses that hold a place, two for each place.
type Places struct {
	places int
	// keep is how long a place is taken; zero means until Give.
	keep time.Duration

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
	if !p.hasRoom(client, now) {
		return false
	}
	p.count(client, 1)
	if p.keep > 0 {
		p.queue = append(p.queue, holding{now.Add(p.keep), client})
	}
	return true
}

// Room reports whether Take would succeed.
func (p *Places) Room(client netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hasRoom(client, now)
}

// Give gives a place back that client took, where no time does.
func (p *Places) Give(client netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(client, -1)
}

// State returns whether client holds a place, and when the next one is free by itself.
func (p *Places) State(client netip.Addr, now time.Time) (holds bool, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		next = p.queue[0].until.Sub(now)
	}
	own, _ := Networks(client)
	return p.held[own] > 0, next
}

func (p *Places) hasRoom(client netip.Addr, now time.Time) bool {
	for len(p.queue) > 0 && !now.Before(p.queue[0].until) {
		p.count(p.queue[0].client, -1)
		p.queue = p.queue[1:]
	}
	own, wide := Networks(client)
	free := p.places - p.taken
	return p.held[own] < free && p.held[wide] < wideShare*free
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
