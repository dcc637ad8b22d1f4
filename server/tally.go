// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxBusy is how many names a report of a tally has; the others are together.
const maxBusy = 50

// CountState counts requests of one name: certificates of an issuer entry, or refusals for a reason.
type CountState struct {
	Name  string `json:"name"`  // "" for all names together that the report lacks
	Total uint64 `json:"total"` // since the start
	Hour  uint64 `json:"hour"`  // in Minutes
	// Minutes are the last 60 minutes of the clock. The last of them has only begun.
	Minutes [60]uint64 `json:"minutes"`

	minute int64 // the last of Minutes, since the Unix epoch
}

// tally counts requests by name. Its names are issuer entries or reasons, so that no client can make
// it grow.
type tally struct {
	mu     sync.Mutex // guards counts
	counts map[string]*CountState
}

// add counts a request.
func (t *tally) add(name string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]*CountState{}
	}
	c := t.counts[name]
	if c == nil {
		c = &CountState{Name: name}
		t.counts[name] = c
	}
	c.until(now)
	c.Total++
	c.Minutes[59]++
}

// until moves Minutes to the minute of now. A clock that was set back moves nothing.
func (c *CountState) until(now time.Time) {
	if passed := now.Unix()/60 - c.minute; passed > 0 {
		n := min(int(passed), len(c.Minutes))
		copy(c.Minutes[:], c.Minutes[n:])
		clear(c.Minutes[len(c.Minutes)-n:])
		c.minute += passed
	}
}

// state returns the counts at now, the busiest name of the last hour first.
func (t *tally) state(now time.Time) []CountState {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []CountState{}
	for _, name := range slices.Sorted(maps.Keys(t.counts)) {
		c := *t.counts[name]
		c.until(now)
		for _, n := range c.Minutes {
			c.Hour += n
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b CountState) int { return cmp.Or(cmp.Compare(b.Hour, a.Hour), cmp.Compare(b.Total, a.Total)) })
	if len(list) <= maxBusy {
		return list
	}
	var others CountState
	for _, c := range list[maxBusy:] {
		others.Total, others.Hour = others.Total+c.Total, others.Hour+c.Hour
		for i, n := range c.Minutes {
			others.Minutes[i] += n
		}
	}
	return append(list[:maxBusy:maxBusy], others)
}
