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
	maxIssuerURL = 2048 // bytes; discovery of a longer one would fail anyway
	maxProven    = 1000 // kept issuers with keys that have been read
	maxLarge     = 32   // of these, those with more than maxKeys keys
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
	lines     *share.Places // log lines of the last summaryInterval, for one client

	mu          sync.Mutex // guards the fields below
	kept        map[string]*kept
	uses        uint64
	lastSuccess time.Time
	lastFailure time.Time
	lastErr     error // error of lastFailure
}

// kept is an issuer in a pool.
type kept struct {
	*issuer
	class   class
	lastUse uint64 // pool.uses at its last use
}

// class divides the issuers of a pool. Those of one class replace only each other, so that invented
// issuers replace no real ones.
type class int

const (
	unproven class = iota // no keys have been read
	proven
	large // more than maxKeys keys have been read
)

func newPool(common *shared, e *entry) *pool {
	return &pool{
		shared: common, entry: e, kept: make(map[string]*kept),
		begun:   share.New(lookupBurst, lookupBurst*time.Second/lookupRate),
		lookups: share.New(maxLookups, 0), refreshes: share.New(maxRefreshes, 0),
		checks: share.New(maxChecks, checkInterval), lines: share.New(2*maxPatternLines, summaryInterval),
	}
}

// issuer returns the only issuer of issuerURL, which the pattern matches, for a request of client.
// It starts the first fetch of a new one.
func (p *pool) issuer(issuerURL string, client netip.Addr, now time.Time) (*issuer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kept[issuerURL]
	if k == nil {
		k = &kept{issuer: &issuer{shared: p.shared, url: issuerURL, entry: p.entry, pool: p}}
		if _, err := k.fetch(nil, client, now); err != nil {
			return nil, err
		}
		p.keep(k, unproven)
	}
	p.uses++
	k.lastUse = p.uses
	return k.issuer, nil
}

// keep adds k with the given class. If the class is full, keep drops its least recently used
// issuer. The caller holds p.mu.
func (p *pool) keep(k *kept, c class) {
	p.uses++
	k.class, k.lastUse = c, p.uses
	p.kept[k.url] = k
	oldest, n := k, 0
	for _, other := range p.kept {
		if other.class == c {
			n++
			if other.lastUse < oldest.lastUse {
				oldest = other
			}
		}
	}
	if n > [...]int{unproven: maxUnproven, proven: maxProven, large: maxLarge}[c] {
		delete(p.kept, oldest.url)
	}
}

// admit takes a place for a fetch of an issuer, for a request of client; the caller releases it.
// admit never waits. Its error is a refusal, or notYet for a check.
func (p *pool) admit(check, hasKeys bool, client netip.Addr, now time.Time) (release func(), err error) {
	if check && !p.checks.Take(client, now) {
		_, wait := p.checks.State(client, now)
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

// record records the result of a fetch of i, which now has the keys known.
func (p *pool) record(i *issuer, known *keys, now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.lastSuccess = now
	} else {
		p.lastFailure, p.lastErr = now, err
	}
	if known == nil {
		return
	}
	c := proven
	if len(known.list) > maxKeys {
		c = large
	}
	if k := p.kept[i.url]; k == nil || k.class != c {
		p.keep(&kept{issuer: i}, c)
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
	for _, k := range p.kept {
		one := k.status(now)
		if one.LastSuccess.IsZero() || now.Sub(one.LastSuccess) >= p.cfg.KeyLifetime {
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

// failing returns the URLs of the issuers whose keys have been read, but not by the last fetch.
func (p *pool) failing() (urls []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.kept {
		if k.class != unproven && k.issuer.failing() {
			urls = append(urls, k.url)
		}
	}
	return urls
}

// tooMany returns the refusal of a request of client if places is full. It is RATE_LIMITED if
// client has used its share, unless the address may belong to a proxy.
func (s *shared) tooMany(places *share.Places, client netip.Addr, now time.Time) error {
	used, next := places.State(client, now)
	e := refusal.New(refusal.Overloaded, "too many issuers are being looked up at this moment; try again")
	if used && (s.cfg.ProxiesKnown || s.clients.several(now)) {
		e = refusal.New(refusal.RateLimited, "too many issuers are being looked up for requests from the address of this client; try again later")
	}
	e.RetryAfter = max(next, time.Second)
	return e
}

// severalFor is the time for which a change of the client address shows that this process can
// distinguish clients.
const severalFor = 10 * time.Minute

// clients remembers whether requests come from more than one client. If they do not, the one
// address may belong to a proxy that trusted_proxies does not name. No client can then be blamed.
type clients struct {
	mu      sync.Mutex // guards the fields below
	last    netip.Prefix
	changed time.Time // time of the last change; zero before the second client
}

// note records that a request came from client.
func (c *clients) note(client netip.Addr, now time.Time) {
	own, _ := share.Networks(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.IsValid() && c.last != own {
		c.changed = now
	}
	c.last = own
}

// several reports whether requests of the last severalFor came from more than one client.
func (c *clients) several(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.changed.IsZero() && now.Sub(c.changed) < severalFor
}
