// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Limits on the issuers of one pattern, whose URLs anybody can make up. They are each
// pattern's own, so that none of them is another's to use up.
const (
	maxIssuerURL = 2048 // bytes; discovery of a longer one would fail anyway
	maxProven    = 1000 // issuers kept whose keys have been read
	maxUnproven  = 512  // others kept, so that they are not asked again at once
	maxLookups   = 32   // fetches under way for issuers whose keys have not been read
	maxRefreshes = 16   // fetches under way for the others
	lookupRate   = 20   // lookups a second
	lookupBurst  = 100
)

// pool is the issuers that one pattern matched: which are kept, and how many may be fetched.
//
// An issuer costs a lookup from the bucket before anything is kept of it, so that the number
// of made-up ones in memory, and of fetches for them, follows our clock and not the callers'.
// It is proven once its keys have been read; made-up ones drive out none but each other, and
// never one that is being looked up: there are fewer lookups in the time of a fetch than
// maxUnproven.
type pool struct {
	common *shared
	entry  *entry

	lookups   chan struct{} // one element for each first fetch under way
	refreshes chan struct{} // one for each other fetch
	bucket    bucket

	mu          sync.Mutex // guards what follows
	proven      lru
	unproven    lru
	lastSuccess time.Time
	lastFailure time.Time
	lastErr     error // of lastFailure
}

func newPool(common *shared, e *entry) *pool {
	return &pool{
		common: common, entry: e,
		lookups: make(chan struct{}, maxLookups), refreshes: make(chan struct{}, maxRefreshes),
		proven: newLRU(maxProven), unproven: newLRU(maxUnproven),
	}
}

// source returns the one source of issuerURL, which the pattern matches.
func (p *pool) source(issuerURL string, now time.Time) (*source, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if src := p.proven.get(issuerURL); src != nil {
		return src, nil
	}
	if src := p.unproven.get(issuerURL); src != nil {
		return src, nil
	}
	if len(p.lookups) == cap(p.lookups) || !p.bucket.take(now) {
		return nil, tooManyLookups()
	}
	src := newSource(p.common, p.entry, issuerURL)
	src.pool, src.paid = p, true
	p.unproven.add(src)
	return src, nil
}

// admit takes a place for a fetch of src, whose mu is held; the caller releases it. It waits
// for none.
func (p *pool) admit(src *source, now time.Time) (release func(), err error) {
	places := p.refreshes
	if src.current.Load() == nil {
		if places = p.lookups; !src.paid && !p.bucket.take(now) {
			return nil, errBusy
		}
	}
	select {
	case places <- struct{}{}:
		src.paid = false
		return func() { <-places }, nil
	default:
		return nil, errBusy
	}
}

// landed records the outcome of a fetch of src.
func (p *pool) landed(src *source, now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.lastSuccess = now
	} else {
		p.lastFailure, p.lastErr = now, err
	}
	if src.current.Load() != nil && p.proven.get(src.issuerURL) == nil {
		p.unproven.remove(src.issuerURL)
		p.proven.add(src)
	}
}

// status is that of the pattern: made-up issuers count only as long as there is no real one.
func (p *pool) status(now time.Time) IssuerStatus {
	p.mu.Lock()
	status := IssuerStatus{State: StatePending, Usable: true, LastSuccess: p.lastSuccess, LastFailure: p.lastFailure}
	if p.lastErr != nil {
		status.State, status.LastError = StateFailing, p.lastErr.Error()
	}
	var sources []*source
	for element := p.proven.order.Front(); element != nil; element = element.Next() {
		sources = append(sources, element.Value.(*source))
	}
	p.mu.Unlock()

	sources = slices.DeleteFunc(sources, func(s *source) bool { return s.usable(s.current.Load(), now) == nil })
	if status.Issuers = len(sources); status.Issuers == 0 {
		return status
	}
	status.State, status.LastError = StateOK, ""
	for _, s := range sources {
		if one := s.status(now); one.State != StateOK {
			status.State, status.LastError = StateDegraded, one.LastError
			break
		}
	}
	return status
}

func tooManyLookups() error {
	e := refusal.New(refusal.Overloaded, "too many issuers are being looked up at this moment; try again")
	e.RetryAfter = time.Second
	return e
}

// bucket is a token bucket: lookupBurst at once, and lookupRate a second.
type bucket struct {
	mu     sync.Mutex // guards what follows
	tokens float64
	filled time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.filled); passed > 0 {
		b.tokens = min(lookupBurst, b.tokens+passed.Seconds()*lookupRate)
		b.filled = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// lru is a set of sources by issuer URL, in the order of their use, of a bounded size.
type lru struct {
	most  int
	order *list.List // of *source; the front was used last
	byURL map[string]*list.Element
}

func newLRU(most int) lru {
	return lru{most: most, order: list.New(), byURL: make(map[string]*list.Element)}
}

func (l lru) get(issuerURL string) *source {
	element, ok := l.byURL[issuerURL]
	if !ok {
		return nil
	}
	l.order.MoveToFront(element)
	return element.Value.(*source)
}

// add adds src, which is not in the set, and drops the least recently used one for it if
// there is no room.
func (l lru) add(src *source) {
	l.byURL[src.issuerURL] = l.order.PushFront(src)
	if l.order.Len() > l.most {
		l.remove(l.order.Back().Value.(*source).issuerURL)
	}
}

// remove does nothing where there is no such source.
func (l lru) remove(issuerURL string) {
	if element, ok := l.byURL[issuerURL]; ok {
		l.order.Remove(element)
		delete(l.byURL, issuerURL)
	}
}
