// SPDX-License-Identifier: Apache-2.0

// Package oidc turns a raw ID token into a verified Token. It finds the configured issuer entry,
// discovers the issuer's keys, and checks signature, times, audience and shape.
//
// Package identity interprets the claims for a certificate. Packages identity, ca and app
// may import this one; of this module it imports only internal/refusal and internal/keypath.
package oidc

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Token is an ID token with checked signature, times, audience and subject. It is not changed after
// Verify has returned it.
type Token struct {
	// Entry is Issuer.Key of the entry that the token's issuer matched.
	Entry string
	// Profile is the profile that has the token's audience; "" for Issuer.Audiences.
	Profile string
	// IssuerURL is the claim `iss`.
	IssuerURL string
	// Subject is the claim `sub`; never empty.
	Subject string
	// Audience is the claim `aud`, which holds at least one accepted audience.
	Audience []string
	// Expiry is the claim `exp`, in whole seconds.
	Expiry time.Time
	// Claims are all claims, including those above.
	Claims Claims
}

// Verifier verifies ID tokens. It is safe for concurrent use.
type Verifier struct {
	*shared
	static    map[string]*entry // by issuer URL
	wildcards []*entry          // more literal labels and segments first
	patterns  patternIndex      // of wildcards
	entries   []*entry          // in the order of Config.Issuers
}

// Verify checks rawIDToken, a compact JWS (RFC 7515, section 7.1) that only white space may
// surround, and returns its content. Its refusals are *refusal.Error. client is the address of the
// requester, between which the lookups of a wildcard entry's issuers are shared; the zero address is an
// unknown client. For a discovered static issuer, Verify fetches only if the present keys do not verify
// the token, at most twice a minute.
func (v *Verifier) Verify(ctx context.Context, rawIDToken string, client netip.Addr) (*Token, error) {
	x, err := v.verify(ctx, rawIDToken, client)
	if err != nil {
		return nil, err
	}
	return &x.result, nil
}

func (v *Verifier) verify(ctx context.Context, rawIDToken string, client netip.Addr) (x *examination, err error) {
	x = &examination{step: "form", now: v.cfg.Now()} // one reading of the clock applies to the whole token
	if x.token, err = parseToken(rawIDToken); err != nil {
		return x, err
	}
	// These checks are cheap and need no network, so they come before the signature.
	if err := v.check(x); err != nil {
		return x, err
	}
	x.step = "keys"
	if narrow := x.entry.SigningAlgorithms; len(narrow) > 0 && !slices.Contains(narrow, x.token.alg) {
		return x, algorithmRefused(x.token.alg, narrow, x.result.IssuerURL)
	}
	i := x.entry.issuer
	if x.entry.pool != nil {
		if i, err = x.entry.pool.issuer(x.result.IssuerURL, client, x.now); err != nil {
			return x, err
		}
	}
	return x, i.verify(ctx, x, client)
}

// EntryOf returns the settings of the entry for tokens of this issuer.
func (v *Verifier) EntryOf(issuerURL string) (Issuer, error) {
	e, err := v.entryOf(issuerURL)
	if err != nil {
		return Issuer{}, err
	}
	return e.Issuer, nil
}

// entryOf returns the static entry with exactly this URL, or otherwise the most specific wildcard
// that matches it.
func (v *Verifier) entryOf(issuerURL string) (*entry, error) {
	if e, ok := v.static[issuerURL]; ok {
		return e, nil
	}
	if len(v.wildcards) > 0 && isCanonical(issuerURL) {
		if e := v.patterns.find(issuerURL); e != nil {
			return e, nil
		}
	}
	return nil, refusal.New(refusal.IssuerNotConfigured,
		"the token's issuer is %s, which is not configured here; a slash at the end makes a difference", quote(issuerURL))
}

// maxBackground is the number of issuers from which Run reads at a time. Each uses a file descriptor of
// those that package app reserves.
const maxBackground = 64

// Run discovers all static issuers at once, as far as maxBackground permits, and keeps their keys fresh
// until ctx ends; then it returns nil. It must run while Verify is in use. It retries a failed issuer after 1 to 30
// seconds, and fetches from a good one before its keys have the age of Config.KeyRefresh.
func (v *Verifier) Run(ctx context.Context) error {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	places := make(chan struct{}, maxBackground)
	for summary := v.cfg.Now().Add(linesInterval); ; {
		now := v.cfg.Now()
		for _, e := range v.enabled() {
			if e.issuer.isFetching() {
				continue
			}
			// The clock is read again, as the loop may have waited. An error states that the fetch is not due.
			done, err := e.issuer.fetch(nil, netip.Addr{}, v.cfg.Now())
			if err != nil {
				continue
			}
			select {
			case places <- struct{}{}:
				go func() { <-done; <-places }()
			case <-ctx.Done():
				return nil
			}
		}
		if !now.Before(summary) {
			v.summarize()
			summary = now.Add(linesInterval)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// enabled returns the static entries from which documents are requested.
func (v *Verifier) enabled() []*entry {
	return slices.DeleteFunc(slices.Clone(v.entries), func(e *entry) bool { return e.Wildcard || e.Disabled })
}

// Probe fetches document and keys of every static issuer that is not disabled once, all at the same time, or until ctx
// ends; Status then shows the results. Probe is for checks of settings, and does not replace Run.
func (v *Verifier) Probe(ctx context.Context) {
	var all []<-chan struct{}
	for _, e := range v.enabled() {
		if done, err := e.issuer.fetch(nil, netip.Addr{}, v.cfg.Now()); err == nil {
			all = append(all, done)
		}
	}
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// Inherit lets v share with old the issuers for which both have the same connection settings, with
// their keys, failures and limits: after a reload, v fetches only what changed. The caller calls
// Inherit once, before v is used; old may be in use. Both have the same Config except for the Issuers.
func (v *Verifier) Inherit(old *Verifier) {
	v.waiting = old.waiting
	byKey := make(map[entryID]*entry, len(old.entries))
	for _, o := range old.entries {
		byKey[o.id()] = o
	}
	for _, e := range v.entries {
		if o := byKey[e.id()]; o != nil && e.fetchesAs(o) {
			e.issuer, e.pool, e.waiting = o.issuer, o.pool, o.waiting
		}
	}
}

// fetchesAs reports whether e's settings lead to the same fetches and limits as o's settings.
func (e *entry) fetchesAs(o *entry) bool {
	a, b := e.Issuer, o.Issuer
	a.Audiences, a.Profiles, b.Audiences, b.Profiles = nil, nil, nil, nil
	return e.inCluster == o.inCluster && reflect.DeepEqual(a, b)
}
