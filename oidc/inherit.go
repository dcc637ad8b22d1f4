// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// Inherit makes v know what old knows of the issuers whose entries say the same of how they
// are reached: keys, failures and the pauses after them. A reload of the settings so fetches
// nothing that did not change, and nobody waits for it. It is called once, before v is used;
// old may be in use, and stays what it is.
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

// inherit takes over what prev keeps of the issuers that are still p's, the least recently used
// first, so that the order stays.
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

// reachesAs tells whether keys that o's settings fetched are those that e's would.
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

// Probe fetches document and keys of every static issuer once, all at the same time, and
// returns when the last is there or ctx ends; Status then tells what came of it. It is for
// whoever checks settings, and no substitute for Run.
func (v *Verifier) Probe(ctx context.Context) {
	var all sync.WaitGroup
	for _, src := range v.static {
		all.Go(func() {
			f, err := src.force(ctx)
			if err != nil {
				return // only wildcard issuers can be too many at a time
			}
			select {
			case <-f.done:
			case <-ctx.Done():
			}
		})
	}
	all.Wait()
}
