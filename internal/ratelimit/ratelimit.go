// SPDX-License-Identifier: Apache-2.0

package ratelimit

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// maxBuckets is the number of buckets that each rule keeps, about 7 MiB.
//
// In a full table, a new bucket takes the place of the one that was used least recently. That one is
// normally full again, so nothing is lost. If it is not, more than maxBuckets addresses or callers
// are active within the time in which a bucket fills. Then the new bucket starts with one request
// instead of a burst. So a client with many addresses gets by every change of address what one
// request of that address gets anyway, and never another burst. The alternatives are worse: a table that refuses
// newcomers, or has one bucket for all of them, lets such a client keep all others out.
const maxBuckets = 1 << 15

// Limits applies rules. It is safe for concurrent use. A nil *Limits has no rule.
type Limits struct {
	logger  *slog.Logger
	address []*limit
	caller  []*limit

	mu sync.Mutex // guards the tables of all rules
}

// limit is a rule with its buckets.
type limit struct {
	Rule
	perSecond rate.Limit
	seed      maphash.Seed // an outsider cannot choose values that share a bucket
	buckets   *simplelru.LRU[uint64, *rate.Limiter]
	logged    rate.Sometimes

	allowed, limited, shadowed prometheus.Counter
}

// New returns limits by rules, of which an error has the key path. registry registers their metric. logger gets a line at level debug for what
// shadow rules would refuse, at most one in a second for each.
func New(rules []Rule, registry prometheus.Registerer, logger *slog.Logger) (*Limits, error) {
	if err := Check(rules); err != nil {
		return nil, err
	}
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_rate_limit_decisions_total",
		Help: "Requests to which a rule of rate_limits applied, by rule and result: allowed, limited (refused with RATE_LIMITED), or shadow (a rule in shadow mode would have refused it).",
	}, []string{"rule", "result"})
	registry.MustRegister(decisions)
	l := &Limits{logger: logger}
	for _, r := range rules {
		perSecond, _ := parseRate(r.Rate)
		buckets, _ := simplelru.NewLRU[uint64, *rate.Limiter](maxBuckets, nil) // fails only for a size below 1
		one := &limit{
			Rule: r, perSecond: perSecond, seed: maphash.MakeSeed(), buckets: buckets, logged: rate.Sometimes{Interval: time.Second},
			allowed: decisions.WithLabelValues(r.Name, "allowed"), limited: decisions.WithLabelValues(r.Name, "limited"),
			shadowed: decisions.WithLabelValues(r.Name, "shadow"),
		}
		if r.By == byAddress {
			l.address = append(l.address, one)
		} else {
			l.caller = append(l.caller, one)
		}
	}
	return l, nil
}

// Address applies the rules by address. Its refusals are RATE_LIMITED.
func (l *Limits) Address(client netip.Addr, now time.Time) error {
	if l == nil || len(l.address) == 0 {
		return nil
	}
	own, _ := share.Networks(client)
	return l.take(l.address, now, func(r *limit) (uint64, bool) { return maphash.Comparable(r.seed, own), true })
}

// Caller is a caller with a verified token. The rules trust no other.
type Caller struct {
	IssuerURL string
	Identity  string // the name in a certificate
	// Claim returns the text of a claim; false if the token has none that is a text, a number or a
	// truth value.
	Claim func(name string) (string, bool)
}

// Caller applies the other rules. Its refusals are RATE_LIMITED.
func (l *Limits) Caller(c Caller, now time.Time) error {
	if l == nil || len(l.caller) == 0 {
		return nil
	}
	return l.take(l.caller, now, func(r *limit) (uint64, bool) {
		value, ok := "", true
		switch r.By {
		case byIdentity:
			value = c.Identity
		case byClaim:
			value, ok = c.Claim(r.Claim)
		}
		return maphash.Comparable(r.seed, [2]string{c.IssuerURL, value}), ok
	})
}

// Shares returns the value of the claim of the first rule by claim that applies to the caller; false
// if there is none.
func (l *Limits) Shares(c Caller) (value string, ok bool) {
	if l == nil {
		return "", false
	}
	for _, r := range l.caller {
		if r.By != byClaim {
			continue
		}
		if value, ok = c.Claim(r.Claim); ok {
			return value, true
		}
	}
	return "", false
}

// take takes a token from the bucket of each rule, or from none. A caller that one rule refuses must
// not use up the budget of another rule, which it may share with other callers.
func (l *Limits) take(rules []*limit, now time.Time, key func(*limit) (uint64, bool)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var taken [maxRules]*rate.Limiter
	for i, r := range rules {
		k, ok := key(r)
		if !ok {
			continue
		}
		bucket := r.bucket(k, now)
		tokens := bucket.TokensAt(now)
		switch {
		case tokens >= 1:
			taken[i] = bucket
		case r.Shadow:
			r.shadowed.Inc()
			r.logged.Do(func() {
				l.logger.LogAttrs(context.Background(), slog.LevelDebug, "a rate limit in shadow mode would have refused a request", slog.String("rule", r.Name))
			})
		default:
			r.limited.Inc()
			return r.refuse(tokens)
		}
	}
	for i, r := range rules {
		if taken[i] != nil {
			taken[i].AllowN(now, 1)
			r.allowed.Inc()
		}
	}
	return nil
}

// bucket returns the bucket of a key. The caller holds mu.
func (r *limit) bucket(key uint64, now time.Time) *rate.Limiter {
	if b, ok := r.buckets.Get(key); ok {
		return b
	}
	b := rate.NewLimiter(r.perSecond, r.Burst)
	if _, oldest, ok := r.buckets.GetOldest(); ok && r.buckets.Len() == maxBuckets && oldest.TokensAt(now) < float64(r.Burst) {
		b.AllowN(now, r.Burst-1)
	}
	r.buckets.Add(key, b)
	return b
}

// refuse returns the refusal of a caller with a part of a token in its bucket.
func (r *limit) refuse(tokens float64) *refusal.Error {
	whose := map[string]string{
		byAddress: "of this client address", byIssuer: "with tokens of this issuer", byIdentity: "for this identity",
		byClaim: "with this value of the claim " + r.Claim,
	}[r.By]
	e := refusal.New(refusal.RateLimited, "the rule %q permits %s requests %s, and %d at once; try again later", r.Name, r.Rate, whose, r.Burst)
	e.RetryAfter = time.Duration((1 - tokens) / float64(r.perSecond) * float64(time.Second))
	return e
}
