// SPDX-License-Identifier: Apache-2.0

package server

import (
	"container/heap"
	"container/list"
	"net/netip"
	"time"
)

// The stages of a connection that no request keeps busy. A connection moves to the next stage when
// it reaches the age limit of its own.
const (
	arriving = iota // no byte yet; accepted less than arrivingFor ago
	trying          // spared for tryingFor because the client has sent something
	fresh           // no complete request yet; accepted less than freshFor ago
	stale           // no complete request yet; accepted longer ago
	idle            // between requests for less than idleFor
	ripe            // between requests for longer
	stages
	busy // in no stage
)

// The times for which connections are spared. A client sends its first bytes once it is connected.
// They arrive before the connection is accepted if that takes longer than the way to the client.
// freshFor covers a TLS handshake from another continent.
const (
	arrivingFor = 100 * time.Millisecond
	tryingFor   = 250 * time.Millisecond
	freshFor    = time.Second
	idleFor     = 5 * time.Second
)

// closeOrder is the order in which stages lose connections at the limit. The first two stages are
// missing: a flood must not close the connections of clients that arrived with it.
var closeOrder = [...]int{stale, ripe, fresh, idle}

// modest is the fraction of the limit below which client addresses count as equal. Clients behind
// one address must not lose to an attacker that has a thousand addresses.
const modest = 16

// holder is a client address and its connections.
type holder struct {
	address netip.Prefix
	open    int
	rank    int // open, but at least limit/modest
	groups  [stages]group
}

// group is the connections of one holder in one stage, the longest waiting first.
type group struct {
	holder *holder
	conns  list.List
	index  int // in the stage's heap; valid only while conns is not empty
}

// stage is all connections of one stage.
type stage struct {
	spared time.Duration // age at which the next stage begins; zero if there is none
	next   int
	order  list.List // the longest waiting first
	groups []*group  // a heap: the holder with the most connections first
}

// Len, Less, Swap, Push and Pop implement heap.Interface. Among holders with the same rank, the one
// with the longest waiting connection is first.
func (s *stage) Len() int { return len(s.groups) }
func (s *stage) Less(i, j int) bool {
	a, b := s.groups[i], s.groups[j]
	if a.holder.rank != b.holder.rank {
		return a.holder.rank > b.holder.rank
	}
	return a.first().since.Before(b.first().since)
}
func (s *stage) Swap(i, j int) {
	s.groups[i], s.groups[j] = s.groups[j], s.groups[i]
	s.groups[i].index, s.groups[j].index = i, j
}
func (s *stage) Push(x any) {
	x.(*group).index = len(s.groups)
	s.groups = append(s.groups, x.(*group))
}
func (s *stage) Pop() any {
	last := len(s.groups) - 1
	x := s.groups[last]
	s.groups = s.groups[:last]
	return x
}

func (s *group) first() *conn { return s.conns.Front().Value.(*conn) }

// put adds c to stage i; c has been waiting since the time since.
func (p *connections) put(c *conn, i int, since time.Time) {
	s, mine := &p.stages[i], &c.holder.groups[i]
	c.stage, c.since = i, since
	c.inStage, c.inGroup = s.order.PushBack(c), mine.conns.PushBack(c)
	if mine.conns.Len() == 1 {
		heap.Push(s, mine)
	}
}

// take removes c from its stage, if it is in one.
func (p *connections) take(c *conn) {
	if c.stage == busy {
		return
	}
	s, mine := &p.stages[c.stage], &c.holder.groups[c.stage]
	s.order.Remove(c.inStage)
	if mine.conns.Len() == 1 {
		heap.Remove(s, mine.index) // before the group is empty: the heap compares its first conn
	}
	first := mine.conns.Front() == c.inGroup
	mine.conns.Remove(c.inGroup)
	if first && mine.conns.Len() > 0 {
		heap.Fix(s, mine.index)
	}
	c.stage = busy
}
