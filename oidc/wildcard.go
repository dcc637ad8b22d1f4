// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// Limits on the issuers of one pattern; any client can invent their URLs. Each pattern has its own
// limits, so that no pattern can use up those of another.
const (
	maxIssuerURL = 2048 // bytes; discovery of a longer one would fail anyway
	maxProven    = 1000 // kept issuers with keys that have been read
	maxLarge     = 32   // of these, those with more than maxKeys keys
	maxUnproven  = 512  // other kept issuers, to prevent an immediate repeated fetch
	maxLookups   = 32   // current fetches for issuers without keys
	maxRefreshes = 16   // current fetches for the others
	maxChecks    = 200  // fetches in checkInterval for tokens that the present keys do not verify
	lookupRate   = 20   // lookups a second
	lookupBurst  = 100  // lookups in lookupBurst/lookupRate seconds
)

// pool holds the issuers that one pattern matched: those that are kept, and the limits on their
// fetches.
//
// An issuer costs a lookup before the pool keeps anything of it. The clock, and not the callers,
// thus limits the number of invented issuers in memory and of fetches for them. Client addresses
// share lookups and fetches, so that one client cannot block another client's issuer. An issuer is
// proven after its keys have been read. Invented issuers replace only each other, and never one
// with a current lookup: there are fewer lookups in the time of a fetch than maxUnproven.
type pool struct {
	common *shared
	entry  *entry

	begun     *share.Places // lookups of the last lookupBurst/lookupRate seconds
	lookups   *share.Places // current first fetches
	refreshes *share.Places // other current fetches
	lines     *share.Places // log lines of the last summaryInterval, for one client
	checks    *share.Places // fetches of the last checkInterval for tokens that keys do not verify

	mu          sync.Mutex // guards the fields below
	proven      lru        // with at most maxKeys keys
	large       lru        // with more than maxKeys keys
	unproven    lru
	lastSuccess time.Time
	lastFailure time.Time
	lastErr     error // error of lastFailure
}

func newPool(common *shared, e *entry) *pool {
	return &pool{
		common: common, entry: e,
		begun:   share.New(lookupBurst, lookupBurst*time.Second/lookupRate),
		lookups: share.New(maxLookups, 0), refreshes: share.New(maxRefreshes, 0),
		checks: share.New(maxChecks, checkInterval), lines: share.New(2*maxPatternLines, summaryInterval),
		proven: newLRU(maxProven), large: newLRU(maxLarge), unproven: newLRU(maxUnproven),
	}
}

// source returns the only source of issuerURL, which the pattern matches, for a request of client.
func (p *pool) source(issuerURL string, client netip.Addr, now time.Time) (*source, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kept := range []lru{p.proven, p.large, p.unproven} {
		if src := kept.get(issuerURL); src != nil {
			return src, nil
		}
	}
	if !p.lookups.Room(client, now) {
		return nil, p.common.tooMany(p.lookups, client, now)
	}
	if !p.begun.Take(client, now) {
		return nil, p.common.tooMany(p.begun, client, now)
	}
	src := newSource(p.common, p.entry, issuerURL)
	src.pool, src.paid = p, true
	p.unproven.add(src)
	return src, nil
}

// admit takes a place for a fetch of src, for a request of client; the caller holds src.mu and
// releases the place. admit never waits. Its error is a refusal.
func (p *pool) admit(src *source, client netip.Addr, now time.Time) (release func(), err error) {
	places, paid := p.refreshes, true
	if src.current.Load() == nil {
		places, paid = p.lookups, src.paid
	}
	if !paid && places.Room(client, now) && !p.begun.Take(client, now) {
		return nil, p.common.tooMany(p.begun, client, now)
	}
	if !places.Take(client, now) {
		return nil, p.common.tooMany(places, client, now)
	}
	src.paid = false
	return func() { places.Give(client) }, nil
}

// landed records the result of a fetch of src.
func (p *pool) landed(src *source, now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.lastSuccess = now
	} else {
		p.lastFailure, p.lastErr = now, err
	}
	known := src.current.Load()
	if known == nil {
		return
	}
	kept, other := p.proven, p.large
	if len(known.list) > maxKeys {
		kept, other = p.large, p.proven
	}
	if kept.get(src.issuerURL) == nil {
		p.unproven.remove(src.issuerURL)
		other.remove(src.issuerURL)
		kept.add(src)
	}
}

// status returns the pattern's status: invented issuers count only while there is no real one.
func (p *pool) status(now time.Time) IssuerStatus {
	p.mu.Lock()
	status := IssuerStatus{State: StatePending, Usable: true, LastSuccess: p.lastSuccess, LastFailure: p.lastFailure}
	if p.lastErr != nil {
		status.State, status.LastError = StateFailing, p.lastErr.Error()
	}
	p.mu.Unlock()

	sources := slices.DeleteFunc(p.readable(), func(s *source) bool { return s.usable(s.current.Load(), now) == nil })
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

// readable returns the issuers with keys that have been read.
func (p *pool) readable() (sources []*source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kept := range []lru{p.proven, p.large} {
		for element := kept.order.Front(); element != nil; element = element.Next() {
			sources = append(sources, element.Value.(*source))
		}
	}
	return sources
}

// tooMany returns the refusal of a request of client if places is full. It is RATE_LIMITED if
// client has used its share, unless the address may belong to a proxy.
func (s *shared) tooMany(places *share.Places, client netip.Addr, now time.Time) error {
	used, next := places.State(client, now)
	e := refusal.New(refusal.Overloaded, "too many issuers are being looked up at this moment; try again")
	if used && (s.proxiesKnown || s.callers.several(now)) {
		e = refusal.New(refusal.RateLimited, "too many issuers are being looked up for requests from the address of this client; try again later")
	}
	e.RetryAfter = max(next, time.Second)
	return e
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

// add adds src, which is not in the set. If the set is full, add drops the least recently used
// source.
func (l lru) add(src *source) {
	l.byURL[src.issuerURL] = l.order.PushFront(src)
	if l.order.Len() > l.most {
		l.remove(l.order.Back().Value.(*source).issuerURL)
	}
}

// remove does nothing if there is no such source.
func (l lru) remove(issuerURL string) {
	if element, ok := l.byURL[issuerURL]; ok {
		l.order.Remove(element)
		delete(l.byURL, issuerURL)
	}
}
