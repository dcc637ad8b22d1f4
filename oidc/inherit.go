// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// Inherit copies to v the state that old has of issuers for which both have the same connection
// settings: keys, failures and the pauses after them. After a reload of the settings, v therefore
// fetches only what changed, and no request waits. The caller calls Inherit once, before v is used;
// old may be in use and is not changed.
func (v *Verifier) Inherit(old *Verifier) {
	v.callers.inherit(old.callers)
	for _, e := range v.entries {
		i := slices.IndexFunc(old.entries, func(o *entry) bool { return e.reachesAs(o) })
		if i < 0 {
			continue
		}
		e.client = old.entries[i].client
		if e.pool != nil {
			e.pool.inherit(old.entries[i].pool, func(issuerURL string) bool {
				match, err := v.entryOf(issuerURL)
				return err == nil && match == e
			})
		}
	}
	for issuerURL, src := range v.static {
		if prev, ok := old.static[issuerURL]; ok && src.entry.reachesAs(prev.entry) {
			src.inherit(prev)
		}
	}
}

// inherit copies the issuers of prev that still match p. It starts with the least recently used
// one, to keep the order.
func (p *pool) inherit(prev *pool, still func(issuerURL string) bool) {
	prev.mu.Lock()
	defer prev.mu.Unlock()
	p.lastSuccess, p.lastFailure, p.lastErr = prev.lastSuccess, prev.lastFailure, prev.lastErr
	for _, from := range []struct{ old, new lru }{{prev.proven, p.proven}, {prev.large, p.large}, {prev.unproven, p.unproven}} {
		for element := from.old.order.Back(); element != nil; element = element.Prev() {
			known := element.Value.(*source)
			if !still(known.issuerURL) {
				continue
			}
			src := newSource(p.common, p.entry, known.issuerURL)
			src.pool = p
			src.inherit(known)
			from.new.add(src)
		}
	}
}

// reachesAs reports whether e's settings would fetch the same keys as o's settings.
func (e *entry) reachesAs(o *entry) bool {
	return e.URL == o.URL && e.Pattern == o.Pattern && e.inCluster == o.inCluster && e.SPIFFE == o.SPIFFE &&
		e.AllowPrivateNetwork == o.AllowPrivateNetwork && bytes.Equal(e.CACert, o.CACert) &&
		slices.Equal(e.SigningAlgorithms, o.SigningAlgorithms) && slices.Equal(e.JWKSHosts, o.JWKSHosts)
}

func (s *source) inherit(prev *source) {
	prev.mu.Lock()
	defer prev.mu.Unlock()
	s.current.Store(prev.current.Load())
	s.failures, s.lastErr = prev.failures, prev.lastErr
	s.retryAt, s.checkAt, s.checks = prev.retryAt, prev.checkAt, prev.checks
	s.lastSuccess, s.lastFailure = prev.lastSuccess, prev.lastFailure
}

// Probe fetches document and keys of every static issuer once, all at the same time. It returns
// when the last fetch is done or ctx ends; Status then shows the results. Probe is for checks of
// settings, and does not replace Run.
func (v *Verifier) Probe(ctx context.Context) {
	var all sync.WaitGroup
	for _, src := range v.static {
		all.Go(func() {
			f, err := src.force(ctx)
			if err != nil {
				return // only wildcard issuers exceed a limit
			}
			select {
			case <-f.done:
			case <-ctx.Done():
			}
		})
	}
	all.Wait()
}
