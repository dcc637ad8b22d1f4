// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/netip"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// Limits on the issuers of one pattern; any client can invent their URLs. Each pattern has its own
// limits, so that no pattern can use up those of another.
const (
	maxProven    = 1000 // kept issuers with keys that have been read
	maxUnproven  = 512  // other kept issuers, to prevent an immediate repeated fetch
	maxLookups   = 32   // current fetches for issuers without keys
	maxRefreshes = 16   // current fetches for the others
	maxChecks    = 200  // checks in checkInterval
	lookupRate   = 20   // lookups a second
	lookupBurst  = 100  // lookups in lookupBurst/lookupRate seconds
)

// pool holds the issuers that one pattern matched, and the limits on their fetches.
//
// The pool keeps an issuer only if it may start its first fetch. The clock, and not the callers,
// thus limits the number of invented issuers in memory and of fetches for them. Client addresses
// share the fetches, so that one client cannot block another client's issuer.
type pool struct {
	*shared
	entry *entry

	begun     *share.Places // lookups of the last lookupBurst/lookupRate seconds
	lookups   *share.Places // current fetches for issuers without keys
	refreshes *share.Places // other current fetches
	checks    *share.Places // checks of the last checkInterval
	lines     *share.Places // log lines of the last linesInterval, for one client

	mu          sync.Mutex // guards the fields below
	kept        map[string]*issuer
	uses        uint64
	lastSuccess time.Time
	lastFailure time.Time
	lastErr     error // error of lastFailure
}

func newPool(common *shared, e *entry) *pool {
	return &pool{
		shared: common, entry: e, kept: make(map[string]*issuer),
		begun:   share.New(lookupBurst, lookupBurst*time.Second/lookupRate),
		lookups: share.New(maxLookups, 0), refreshes: share.New(maxRefreshes, 0),
		checks: share.New(maxChecks, checkInterval), lines: share.New(2*maxPatternLines, linesInterval),
	}
}

// issuer returns the only issuer of issuerURL, which the pattern matches, for a request of client.
// It starts the first fetch of a new one.
func (p *pool) issuer(issuerURL string, client netip.Addr, now time.Time) (*issuer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.kept[issuerURL]
	if i == nil {
		i = &issuer{shared: p.shared, url: issuerURL, entry: p.entry, pool: p}
		if _, err := i.fetch(nil, client, now); err != nil {
			return nil, err
		}
		p.keep(i, false)
	}
	p.uses++
	i.lastUse = p.uses
	return i, nil
}

// keep adds i. If there are too many that are proven, or not, as i is, keep drops the least recently
// used one of them: invented issuers replace no real ones. The caller holds p.mu.
func (p *pool) keep(i *issuer, proven bool) {
	p.uses++
	i.proven, i.lastUse = proven, p.uses
	p.kept[i.url] = i
	oldest, room := i, maxUnproven
	if proven {
		room = maxProven
	}
	for _, other := range p.kept {
		if other.proven == proven {
			room--
			if other.lastUse < oldest.lastUse {
				oldest = other
			}
		}
	}
	if room < 0 {
		delete(p.kept, oldest.url)
	}
}

// admit takes a place for a fetch of an issuer, for a request of client; the caller releases it.
// admit never waits. Its error is a refusal, or notYet for a check.
func (p *pool) admit(check, hasKeys bool, client netip.Addr, now time.Time) (release func(), err error) {
	if check && !p.checks.Take(client, now) {
		_, _, wait := p.checks.State(client, now)
		return nil, notYet(wait)
	}
	places := p.refreshes
	if !hasKeys {
		places = p.lookups
	}
	if !places.Take(client, now) {
		return nil, p.tooMany(places, client, now)
	}
	if !hasKeys && !p.begun.Take(client, now) {
		places.Give(client)
		return nil, p.tooMany(p.begun, client, now)
	}
	return func() { places.Give(client) }, nil
}

// record records the result of a fetch of i, which now has the given status.
func (p *pool) record(i *issuer, status IssuerStatus, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.lastSuccess = status.LastSuccess
	} else {
		p.lastFailure, p.lastErr = status.LastFailure, err
	}
	if kept := p.kept[i.url]; !status.LastSuccess.IsZero() && (kept == nil || !kept.proven) {
		p.keep(i, true)
	}
}

// status returns the pattern's status: invented issuers count only while there is no real one.
func (p *pool) status(now time.Time) IssuerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := IssuerStatus{State: StatePending, Usable: true, LastSuccess: p.lastSuccess, LastFailure: p.lastFailure}
	if p.lastErr != nil {
		status.State, status.LastError = StateFailing, p.lastErr.Error()
	}
	for _, i := range p.kept {
		one := i.statusAt(now)
		if one.LastSuccess.IsZero() || one.KeyAge >= p.cfg.KeyLifetime {
			continue
		}
		if status.Issuers++; status.Issuers == 1 {
			status.State, status.LastError = StateOK, ""
		}
		if one.State != StateOK {
			status.State, status.LastError = StateDegraded, one.LastError
		}
	}
	return status
}

// tooMany returns the refusal of a request of client if places is full. It is RATE_LIMITED if
// client has used its share. Where no other client has a place, nor has begun a lookup, the one address
// may belong to a proxy that Config.ProxiesKnown does not cover, and no client is blamed.
func (p *pool) tooMany(places *share.Places, client netip.Addr, now time.Time) error {
	own, others, next := places.State(client, now)
	_, recent, _ := p.begun.State(client, now)
	e := refusal.New(refusal.Overloaded, "too many issuers are being looked up at this moment; try again")
	if own && (others || recent || p.cfg.ProxiesKnown) {
		e = refusal.New(refusal.RateLimited, "too many issuers are being looked up for requests from the address of this client; try again later")
	}
	e.RetryAfter = max(next, time.Second)
	return e
}
