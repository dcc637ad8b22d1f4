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
	maxFlights = 32   // fetches under way for an entry's new issuers, and as many for its others
)

// errBusy tells that maxFlights fetches are under way.
var errBusy = errors.New("too many wildcard issuers are being fetched")

// slots bounds the fetches under way for one wildcard entry; each has an element in the
// channel that it belongs to. Those for issuers whose keys have never been read, which may
// be made up, take no place from those that keep a good issuer's keys fresh, nor from
// another entry's.
type slots struct{ newcomers, refreshes chan struct{} }

func newSlots() *slots {
	return &slots{newcomers: make(chan struct{}, maxFlights), refreshes: make(chan struct{}, maxFlights)}
}

// take returns what gives the place of a fetch for s back; errBusy if there is none.
func (l *slots) take(s *source) (release func(), err error) {
	places := l.newcomers
	if s.current.Load() != nil {
		places = l.refreshes
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, errBusy
	}
}

// sourceCache keeps the issuers that wildcards matched, up to maxFound of them, and forgets
// the least recently used. Issuers whose keys have never been read are kept apart, so that
// made-up ones drive out none but each other.
type sourceCache struct {
	common *shared

	mu     sync.Mutex // guards what follows
	proven lru
	others lru
}

func newSourceCache(common *shared) *sourceCache {
	return &sourceCache{common: common, proven: newLRU(), others: newLRU()}
}

// get returns the one source of issuerURL, which e's pattern matches.
func (c *sourceCache) get(issuerURL string, e *entry) *source {
	c.mu.Lock()
	defer c.mu.Unlock()
	if src := c.proven.get(issuerURL); src != nil {
		return src
	}
	src := c.others.get(issuerURL)
	if src == nil {
		src = newSource(c.common, e, issuerURL)
		src.found = c
		c.others.add(src)
	}
	return src
}

// prove keeps src, whose keys have just been read, with the good ones: at once, and not when
// it is asked for again, by when made-up ones may have driven it out.
func (c *sourceCache) prove(src *source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proven.get(src.issuerURL) != nil {
		return
	}
	c.others.remove(src.issuerURL)
	c.proven.add(src)
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

// remove does nothing where there is no such source.
func (l lru) remove(issuerURL string) {
	if element, ok := l.byURL[issuerURL]; ok {
		l.order.Remove(element)
		delete(l.byURL, issuerURL)
	}
}
