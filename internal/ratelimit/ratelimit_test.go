// SPDX-License-Identifier: Apache-2.0

package ratelimit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

var begin = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func newLimits(t testing.TB, rules ...Rule) (*Limits, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	l, err := New(rules, registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l, registry
}

// from is a caller with one claim, org.
func from(issuer, name, org string) Caller {
	return Caller{IssuerURL: issuer, Identity: name, Claim: func(claim string) (string, bool) { return org, claim == "org" && org != "" }}
}

// passes counts how many of n requests at a time are admitted.
func passes(n int, take func() error) (passed int) {
	for range n {
		if take() == nil {
			passed++
		}
	}
	return passed
}

func checkLimited(t *testing.T, err error, words ...string) time.Duration {
	t.Helper()
	var refused *refusal.Error
	if !errors.As(err, &refused) || refused.Reason != refusal.RateLimited {
		t.Fatalf("%v; RATE_LIMITED is expected", err)
	}
	for _, word := range words {
		if !strings.Contains(refused.Message, word) {
			t.Errorf("message %q lacks %q", refused.Message, word)
		}
	}
	return refused.RetryAfter
}

func TestMistakesOfRules(t *testing.T) {
	t.Parallel()
	good := Rule{Name: "good", By: "issuer", Rate: "10/s", Burst: 1}
	for name, test := range map[string]struct {
		change func(*Rule)
		path   string
	}{
		"claim missing":     {func(r *Rule) { r.By = "claim" }, "1 claim"},
		"claim superfluous": {func(r *Rule) { r.Claim = "sub" }, "1 claim"},
		"rate of zero":      {func(r *Rule) { r.Rate = "0/s" }, "1 rate"},
		"negative rate":     {func(r *Rule) { r.Rate = "-1/s" }, "1 rate"},
		"rate without unit": {func(r *Rule) { r.Rate = "10" }, "1 rate"},
		"unknown unit":      {func(r *Rule) { r.Rate = "10/d" }, "1 rate"},
		"fraction":          {func(r *Rule) { r.Rate = "0.5/s" }, "1 rate"},
		"no rate":           {func(r *Rule) { r.Rate = "" }, "1 rate"},
		"same name":         {func(r *Rule) { r.Name = "good" }, "1 name"},
		"good":              {func(*Rule) {}, ""},
	} {
		second := good
		second.Name = "other"
		test.change(&second)
		got := ""
		for _, e := range keypath.All(Check([]Rule{good, second})) {
			got += strings.Join(e.Path, " ")
		}
		if got != test.path {
			t.Errorf("%s: a mistake at %q; %q is expected", name, got, test.path)
		}
	}
	many := make([]Rule, maxRules+1)
	for i := range many {
		many[i] = good
		many[i].Name = fmt.Sprint(i)
	}
	if Check(many) == nil || Check(many[1:]) != nil {
		t.Error("the bound on the number of rules is missing")
	}
}

func TestBudgetsByAddress(t *testing.T) {
	t.Parallel()
	l, registry := newLimits(t, Rule{Name: "address", By: "address", Rate: "60/m", Burst: 3})
	at := func(address string, now time.Time) func() error {
		return func() error { return l.Address(netip.MustParseAddr(address), now) }
	}
	if got := passes(5, at("192.0.2.1", begin)); got != 3 {
		t.Errorf("%d of 5 requests at once were admitted; 3 are expected", got)
	}
	if got := passes(5, at("192.0.2.2", begin)); got != 3 {
		t.Errorf("another address: %d were admitted; 3 are expected", got)
	}
	wait := checkLimited(t, at("192.0.2.1", begin.Add(400*time.Millisecond))(), `"address"`, "60/m")
	if wait != 600*time.Millisecond {
		t.Errorf("the client may return after %v; 600ms are expected", wait)
	}
	if got := passes(5, at("192.0.2.1", begin.Add(2*time.Second))); got != 2 {
		t.Errorf("after two seconds, %d were admitted; 2 are expected", got)
	}
	// An IPv6 client has all addresses of a /64.
	if passes(2, at("2001:db8::1", begin))+passes(2, at("2001:db8::2", begin)) != 3 || passes(1, at("2001:db8:0:1::1", begin)) != 1 {
		t.Error("the addresses of one /64 must share a budget, and no others")
	}
	const counted = `
# HELP mayfly_rate_limit_decisions_total Requests to which a rule of rate_limits applied, by rule and result: allowed, limited (refused with RATE_LIMITED), or shadow (a rule in shadow mode would have refused it).
# TYPE mayfly_rate_limit_decisions_total counter
mayfly_rate_limit_decisions_total{result="allowed",rule="address"} 12
mayfly_rate_limit_decisions_total{result="limited",rule="address"} 9
mayfly_rate_limit_decisions_total{result="shadow",rule="address"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(counted), "mayfly_rate_limit_decisions_total"); err != nil {
		t.Error(err)
	}
}

// Two issuers never share a budget, or one could use up the other's by the names in its tokens.
func TestBudgetsOfCallers(t *testing.T) {
	t.Parallel()
	for by, test := range map[string]struct{ same, other Caller }{
		"issuer":   {from("a", "y", "o2"), from("b", "x", "o")},
		"identity": {from("a", "x", "o2"), from("a", "y", "o")},
		"claim":    {from("a", "y", "o"), from("a", "x", "o2")},
	} {
		rule := Rule{Name: "r", By: by, Rate: "1/s", Burst: 2}
		if by == "claim" {
			rule.Claim = "org"
		}
		l, _ := newLimits(t, rule)
		if passes(3, func() error { return l.Caller(from("a", "x", "o"), begin) }) != 2 {
			t.Errorf("%s: two of three are expected", by)
		}
		checkLimited(t, l.Caller(test.same, begin))
		for _, other := range []Caller{test.other, from("b", "x", "o")} {
			if err := l.Caller(other, begin); err != nil {
				t.Errorf("%s: another budget: %v", by, err)
			}
		}
		if err := l.Address(netip.MustParseAddr("192.0.2.1"), begin); err != nil {
			t.Error(err)
		}
	}
	l, _ := newLimits(t, Rule{Name: "r", By: "claim", Claim: "org", Rate: "1/h", Burst: 1})
	if passes(3, func() error { return l.Caller(from("a", "x", ""), begin) }) != 3 {
		t.Error("a rule by a claim applies to a token without it")
	}
}

// A caller that one rule refuses uses up no budget of another rule.
func TestRefusedRequestCountsForNoRule(t *testing.T) {
	t.Parallel()
	l, _ := newLimits(t, Rule{Name: "all", By: "issuer", Rate: "1/h", Burst: 10}, Rule{Name: "org", By: "claim", Claim: "org", Rate: "1/h", Burst: 2})
	if got := passes(100, func() error { return l.Caller(from("a", "x", "noisy"), begin) }); got != 2 {
		t.Errorf("%d requests of one organisation were admitted; 2 are expected", got)
	}
	quiet := 0
	for i := range 20 {
		quiet += passes(1, func() error { return l.Caller(from("a", "x", fmt.Sprint("quiet", i)), begin) })
	}
	if quiet != 8 {
		t.Errorf("%d requests of the others were admitted; 8 are expected, the rest of the issuer's", quiet)
	}
}

func TestShadowRefusesNothing(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	rules := []Rule{{Name: "shadow", By: "issuer", Rate: "1/h", Burst: 1, Shadow: true}, {Name: "real", By: "identity", Rate: "1/h", Burst: 50}}
	l, err := New(rules, registry, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	if got := passes(60, func() error { return l.Caller(from("a", "x", ""), begin) }); got != 50 {
		t.Errorf("%d were admitted; 50 are expected", got)
	}
	if lines := strings.Count(log.String(), "\n"); lines < 1 || lines > 3 || !strings.Contains(log.String(), "rule=shadow") {
		t.Errorf("%d lines; one a second is expected: %s", lines, log.String())
	}
}

// In a full table, many addresses give no client another burst.
func TestFullTableGivesNoBurst(t *testing.T) {
	t.Parallel()
	l, _ := newLimits(t, Rule{Name: "address", By: "address", Rate: "1/h", Burst: 5})
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	if passes(9, func() error { return l.Address(address(0), begin) }) != 5 {
		t.Fatal("a burst of 5 is expected")
	}
	for i := range maxBuckets {
		if err := l.Address(address(i+1), begin); err != nil {
			t.Fatalf("a newcomer: %v", err)
		}
	}
	if n := l.address[0].buckets.Len(); n != maxBuckets {
		t.Errorf("%d buckets; %d are expected", n, maxBuckets)
	}
	if got := passes(9, func() error { return l.Address(address(0), begin) }); got != 1 {
		t.Errorf("an address whose bucket was given up got %d requests; 1 is expected", got)
	}
	// When buckets have had the time to fill, newcomers have a burst again.
	later := begin.Add(6 * time.Hour)
	if got := passes(9, func() error { return l.Address(address(1<<20), later) }); got != 5 {
		t.Errorf("a newcomer got %d requests; 5 are expected", got)
	}
}

func TestSharesOfRules(t *testing.T) {
	t.Parallel()
	l, _ := newLimits(t, Rule{Name: "one", By: "issuer", Rate: "1/s", Burst: 1}, Rule{Name: "two", By: "claim", Claim: "team", Rate: "1/s", Burst: 1},
		Rule{Name: "three", By: "claim", Claim: "org", Rate: "1/s", Burst: 1})
	value, ok := l.Shares(from("a", "x", "o"))
	none, found := l.Shares(from("a", "x", ""))
	if value != "o" || !ok || none != "" || found {
		t.Errorf("%q, %t and %q, %t", value, ok, none, found)
	}
	var nothing *Limits
	if _, ok := nothing.Shares(from("a", "x", "o")); ok || nothing.Caller(from("a", "x", "o"), begin) != nil || nothing.Address(netip.Addr{}, begin) != nil {
		t.Error("no limits must limit nothing")
	}
}

func FuzzRate(f *testing.F) {
	for _, text := range []string{"10/s", "600/m", "1000/h", "0/s", "1/1/s", "/", "4294967295/s", "-1/h", "1e3/s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		limit, err := parseRate(text)
		if (err == nil) != (limit > 0) {
			t.Fatalf("%q is %v with %v", text, limit, err)
		}
		if err == nil && (!slices.Contains([]string{"/s", "/m", "/h"}, text[len(text)-2:]) || limit > 1<<32) {
			t.Fatalf("%q is %v", text, limit)
		}
	})
}

func BenchmarkCaller(b *testing.B) {
	l, _ := newLimits(b, Rule{Name: "all", By: "issuer", Rate: "1000000/s", Burst: 1 << 30}, Rule{Name: "org", By: "claim", Claim: "org", Rate: "1000000/s", Burst: 1 << 30})
	c := from("https://issuer.example", "name", "o")
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Caller(c, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
