// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"container/list"
	"errors"
	"sync"
)

// Limits on wildcard issuers, whose URLs anybody can make up.
const (
	maxFound   = 1000 // issuers kept whose keys were read, and as many others
	maxFlights = 32   // fetches under way
)

// errBusy tells that maxFlights fetches are under way.
var errBusy = errors.New("too many wildcard issuers are being fetched")

// sourceCache keeps the issuers that wildcards matched, up to maxFound of them, and forgets
// the least recently used. Issuers whose keys have never been read are kept apart, so that
// made-up ones drive out none but each other.
type sourceCache struct {
	common *shared
	slots  chan struct{}

	mu     sync.Mutex // guards what follows
	proven lru
	others lru
}

func newSourceCache(common *shared) *sourceCache {
	return &sourceCache{common: common, slots: make(chan struct{}, maxFlights), proven: newLRU(), others: newLRU()}
}

// get returns the one source of issuerURL, which e's pattern matches.
func (c *sourceCache) get(issuerURL string, e *entry) *source {
	c.mu.Lock()
	defer c.mu.Unlock()
	if src := c.proven.get(issuerURL); src != nil {
		return src
	}
	src := c.others.get(issuerURL)
	switch {
	case src == nil:
		src = newSource(c.common, e, issuerURL)
		src.slots = c.slots
		c.others.add(src)
	case src.current.Load() != nil:
		c.others.remove(issuerURL)
		c.proven.add(src)
	}
	return src
}

// lru is a set of sources by issuer URL, in the order of their use.
type lru struct {
	order *list.List // of *source; the front was used last
	byURL map[string]*list.Element
}

func newLRU() lru { return lru{order: list.New(), byURL: make(map[string]*list.Element)} }

func (l lru) get(issuerURL string) *source {
	element, ok := l.byURL[issuerURL]
	if !ok {
		return nil
	}
	l.order.MoveToFront(element)
	return element.Value.(*source)
}

func (l lru) add(src *source) {
	l.byURL[src.issuerURL] = l.order.PushFront(src)
	if l.order.Len() > maxFound {
		l.remove(l.order.Back().Value.(*source).issuerURL)
	}
}

func (l lru) remove(issuerURL string) {
	l.order.Remove(l.byURL[issuerURL])
	delete(l.byURL, issuerURL)
}
