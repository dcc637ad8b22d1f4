// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// maxIssuerURL is the longest wildcard, and the longest issuer URL that one matches, in bytes.
const maxIssuerURL = 2048

// Pattern is a wildcard issuer: a canonical issuer URL in which each `*` matches one non-empty run of
// [-_A-Za-z0-9]. A run has no dot and no slash, so a `*` stays within its label of the host or its
// segment of the path. Everything else must match byte for byte.
//
// Match never applies a regular expression to the URL, and never matches one that is not canonical
// (CVE-2026-22772).
type Pattern struct{ text string }

// ParsePattern parses a wildcard issuer.
func ParsePattern(text string) (Pattern, error) {
	if !isCanonical(strings.ReplaceAll(text, "*", "x")) {
		return Pattern{}, fmt.Errorf("the pattern %s is not like https://*.issuer.example/id/*: a host in lower case and a path, "+
			"without user-info, query, fragment, percent-encoding and empty labels or segments", quote(text))
	}
	return Pattern{text}, nil
}

// isCanonical reports whether text is an http or https URL as net/url writes it, with a lower-case
// host name, and without user-info, query, fragment, percent-encoding, and segments that are empty
// or consist of dots. A slash may be at the end.
func isCanonical(text string) bool {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxIssuerURL || u.String() != text || strings.ContainsAny(text, "?#%@") ||
		u.Scheme != "https" && u.Scheme != "http" {
		return false
	}
	host, port, hasPort := strings.Cut(u.Host, ":")
	if n, err := strconv.ParseUint(port, 10, 16); hasPort && (err != nil || n == 0) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !isRun(label) || strings.ToLower(label) != label {
			return false
		}
	}
	return u.Path == "" || strings.TrimSuffix(u.Path, "/") == strings.TrimSuffix(path.Clean(u.Path), "/")
}

// isRun reports whether a `*` may match s, or a part of it.
func isRun(s string) bool {
	for i := range len(s) {
		if !inRun(s[i]) {
			return false
		}
	}
	return true
}

func inRun(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// nextPart cuts a pattern or a URL after its first part, which is a longest run with its stars, or one
// other character. A pattern and a URL that it matches have the same parts, except those with a star.
func nextPart(text string) (part, rest string) {
	n := 0
	for n < len(text) && (inRun(text[n]) || text[n] == '*') {
		n++
	}
	n = max(n, 1)
	return text[:n], text[n:]
}

// specificity returns the number of labels and segments without a `*`. Of the patterns that match a
// URL, the one with the highest number applies.
func (p Pattern) specificity() (n int) {
	_, rest, _ := strings.Cut(p.text, "://")
	host, segments, _ := strings.Cut(rest, "/")
	for _, part := range append(strings.Split(host, "."), strings.Split(segments, "/")...) {
		if !strings.Contains(part, "*") {
			n++
		}
	}
	return n
}

// Match reports whether issuerURL is canonical and the pattern matches it.
func (p Pattern) Match(issuerURL string) bool { return isCanonical(issuerURL) && p.matches(issuerURL) }

// matches puts each literal piece of the pattern at the first place where it fits. No later place can
// be better: the star before the piece would then cover the first place. The piece itself then
// consists of run characters, and the star after it can cover the difference as well.
func (p Pattern) matches(s string) bool {
	piece, glob, star := strings.Cut(p.text, "*")
	s, ok := strings.CutPrefix(s, piece)
	for ok && star {
		piece, glob, star = strings.Cut(glob, "*")
		n := 0 // the length of the run before piece
		if !star {
			n = max(len(s)-len(piece), 0) // the last piece is at the end
		} else if i := strings.Index(s[min(1, len(s)):], piece); i >= 0 {
			n = 1 + i
		}
		if n == 0 || n > len(s) || !isRun(s[:n]) {
			return false
		}
		s, ok = strings.CutPrefix(s[n:], piece)
	}
	return ok && s == ""
}

// differs reports whether a part of p without a star differs from that of the other. Then no text
// matches both patterns.
func (p Pattern) differs(other Pattern) bool {
	var a, b string
	for s, t := p.text, other.text; s != "" && t != ""; {
		a, s = nextPart(s)
		b, t = nextPart(t)
		if a != b && !strings.Contains(a, "*") && !strings.Contains(b, "*") {
			return true
		}
	}
	return false
}

// overlaps reports whether some text matches both patterns. It reads both from the left: common[j]
// states whether some text matches what it has read of p and the first j bytes of the other.
func (p Pattern) overlaps(other Pattern) bool {
	if p.differs(other) {
		return false
	}
	common := make([]bool, len(other.text)+1)
	common[0] = true
	for i := range len(p.text) {
		next, a := make([]bool, len(common)), p.text[i:i+1]
		for j := range len(other.text) {
			switch b := other.text[j : j+1]; {
			case a == "*" && (b == "*" || isRun(b)), b == "*" && isRun(a):
				next[j+1] = common[j] || a == "*" && next[j] || b == "*" && common[j+1]
			default:
				next[j+1] = a == b && common[j]
			}
		}
		common = next
	}
	return common[len(other.text)]
}

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

// pool holds the issuers that one pattern matched, and the limits on their fetches. It keeps an issuer
// only if it may start its first fetch: the clock, and not the callers, limits the number of invented
// issuers. Client addresses share the fetches, so that one client cannot block another's issuer.
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
	noticed     noticed // with the last fetch that failed
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

// admit takes a place for a fetch of an issuer, for a request of client; the caller releases it. Its
// error is a refusal, or notYet for a check.
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
		p.noticed.failure, p.noticed.failedAt = err, p.cfg.Now()
	}
	if kept := p.kept[i.url]; !status.LastSuccess.IsZero() && (kept == nil || !kept.proven) {
		p.keep(i, true)
	}
}

// status returns the pattern's status: invented issuers count only while there is no real one.
func (p *pool) status(now time.Time) IssuerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := IssuerStatus{State: StatePending, Usable: true, LastSuccess: p.lastSuccess}
	if p.noticed.failure != nil {
		status.State, status.LastError = StateFailing, p.noticed.failure.Error()
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
	p.noticed.complete(&status, now)
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
