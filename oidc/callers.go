// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/netip"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/share"
)

// severalFor is the time for which a change of the client address shows that this process can
// distinguish clients.
const severalFor = 10 * time.Minute

// callers remembers whether requests come from more than one client. If they do not, the one
// address may belong to a proxy that trusted_proxies does not name. No client can then be blamed.
type callers struct {
	mu      sync.Mutex // guards the fields below
	last    netip.Prefix
	changed time.Time // time of the last change; zero before the second client
}

// note records that a request came from client.
func (c *callers) note(client netip.Addr, now time.Time) {
	own, _ := share.Networks(client)
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

// inherit copies the state of old to c, which is not in use yet.
func (c *callers) inherit(old *callers) {
	old.mu.Lock()
	defer old.mu.Unlock()
	c.last, c.changed = old.last, old.changed
}
