// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// wideShare bounds what the 256 IPv4 addresses of a /24, or the 65,536 networks of an IPv6
	// /48, hold together: this many times the places that are free.
	wideShare = 16
	// severalFor is for how long a change of the client address shows that this process can
	// distinguish clients.
	severalFor = 10 * time.Minute
)

// share divides places between client addresses: an address gets one only while it holds fewer
// than are free. One address so gets at most half of them, n addresses together at most n/(n+1),
// and the first place of a further address is free for as long as fewer than places-1 addresses
// compete. An IPv6 client is its /64, which is the smallest network that a client is given.
//
// It keeps counters only of the addresses that hold a place, two for each place.
type share struct {
	places int
	// keep is how long a place is taken; zero means until give.
	keep time.Duration

	mu    sync.Mutex // guards what follows
	taken int
	held  map[netip.Prefix]int // never zero; by both prefixes of blocks
	queue []holding            // with keep, the places in the order of their end
}

// holding is a place that is free again at a time.
type holding struct {
	until  time.Time
	client netip.Addr
}

func newShare(places int, keep time.Duration) *share {
	return &share{places: places, keep: keep, held: make(map[netip.Prefix]int)}
}

// take takes a place for client. It returns false where client holds its share already.
func (s *share) take(client netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasRoom(client, now) {
		return false
	}
	s.count(client, 1)
	if s.keep > 0 {
		s.queue = append(s.queue, holding{now.Add(s.keep), client})
	}
	return true
}

// room reports whether take would succeed.
func (s *share) room(client netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasRoom(client, now)
}

// give gives a place back that client took.
func (s *share) give(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(client, -1)
}

// state returns whether client holds a place, and when the next one is free by itself.
func (s *share) state(client netip.Addr, now time.Time) (holds bool, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 {
		next = s.queue[0].until.Sub(now)
	}
	own, _ := blocks(client)
	return s.held[own] > 0, next
}

func (s *share) hasRoom(client netip.Addr, now time.Time) bool {
	for len(s.queue) > 0 && !now.Before(s.queue[0].until) {
		s.count(s.queue[0].client, -1)
		s.queue = s.queue[1:]
	}
	own, wide := blocks(client)
	free := s.places - s.taken
	return s.held[own] < free && s.held[wide] < wideShare*free
}

func (s *share) count(client netip.Addr, change int) {
	s.taken += change
	own, wide := blocks(client)
	for _, block := range []netip.Prefix{own, wide} {
		if s.held[block] += change; s.held[block] == 0 {
			delete(s.held, block)
		}
	}
}

// blocks returns the network that counts as one client, and the wider one that it is in. The
// zero address, of a client that is not known, counts as one client too.
func blocks(client netip.Addr) (own, wide netip.Prefix) {
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

// callers remembers whether requests come from more than one client. If they do not, the one
// address may be a proxy's that trusted_proxies does not name, and no client can be blamed.
type callers struct {
	mu      sync.Mutex // guards what follows
	last    netip.Prefix
	changed time.Time // when last changed; zero before the second client
}

// note records that a request came from client.
func (c *callers) note(client netip.Addr, now time.Time) {
	own, _ := blocks(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.IsValid() && c.last != own {
		c.changed = now
	}
	c.last = own
}

// several reports whether requests of the last severalFor came from more than one client.
func (c *callers) several(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.changed.IsZero() && now.Sub(c.changed) < severalFor
}

// inherit makes c know what old knows; c is not in use yet.
func (c *callers) inherit(old *callers) {
	old.mu.Lock()
	defer old.mu.Unlock()
	c.last, c.changed = old.last, old.changed
}
