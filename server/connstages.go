// SPDX-License-Identifier: Apache-2.0

package server

import (
	"container/heap"
	"container/list"
	"net/netip"
	"time"
)

// The stages of a connection that no request keeps busy. A connection moves to the next
// stage of its kind when it gets older.
const (
	arriving = iota // no byte until now; accepted less than arrivingFor ago
	trying          // spared for tryingFor, since the client has sent something
	fresh           // no complete request yet; accepted less than freshFor ago
	stale           // the same, and older
	idle            // between requests for less than idleFor
	ripe            // the same, for longer
	stages
	busy // in no stage
)

// How long connections are spared. A client sends its first bytes when it is connected, and so
// before the connection is accepted if that takes longer than the way to the client. freshFor
// covers a TLS handshake from another continent.
const (
	arrivingFor = 100 * time.Millisecond
	tryingFor   = 250 * time.Millisecond
	freshFor    = time.Second
	idleFor     = 5 * time.Second
)

// closeOrder is the order in which the stages give up connections at the bound. The first two
// stages are missing: a flood must not close the connections of clients that came with it.
var closeOrder = [...]int{stale, ripe, fresh, idle}

// modest is the part of all connections below which client addresses count as equal: clients
// behind one address must not lose to an attacker that has a thousand addresses.
const modest = 16

// holder is a client address with its connections.
type holder struct {
	address netip.Prefix
	open    int
	rank    int // open, but at least what is modest
	groups  [stages]group
}

// group is the connections of one holder in one stage, the longest waiting one first.
type group struct {
	holder *holder
	conns  list.List
	index  int // in the stage's heap; only while there are conns
}

// stage is all connections of one stage.
type stage struct {
	spared time.Duration // age at which the next stage begins; zero for none
	next   int
	order  list.List // the longest waiting one first
	groups []*group  // a heap: the holder of most first
}

// Len, Less, Swap, Push and Pop are those of heap.Interface. Of holders with the same
// rank, the one with the longest waiting connection comes first.
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

// put puts c into a stage, since when it has been waiting.
func (p *connections) put(c *conn, i int, since time.Time) {
	s, mine := &p.stages[i], &c.holder.groups[i]
	c.stage, c.since = i, since
	c.inStage, c.inGroup = s.order.PushBack(c), mine.conns.PushBack(c)
	if mine.conns.Len() == 1 {
		heap.Push(s, mine)
	}
}

// take takes c out of its stage, if it is in one.
func (p *connections) take(c *conn) {
	if c.stage == busy {
		return
	}
	s, mine := &p.stages[c.stage], &c.holder.groups[c.stage]
	s.order.Remove(c.inStage)
	if mine.conns.Len() == 1 {
		heap.Remove(s, mine.index) // before the group is empty: the heap compares its first
	}
	first := mine.conns.Front() == c.inGroup
	mine.conns.Remove(c.inGroup)
	if first && mine.conns.Len() > 0 {
		heap.Fix(s, mine.index)
	}
	c.stage = busy
}
