// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// scan is the slow definition of patternIndex.find.
func scan(wildcards []*entry, issuerURL string) *entry {
	for _, e := range wildcards {
		if e.pattern.matches(issuerURL) {
			return e
		}
	}
	return nil
}

func wildcardsOf(patterns ...string) (list []*entry) {
	for _, text := range patterns {
		p, err := ParsePattern(text)
		if err == nil && !slices.ContainsFunc(list, func(o *entry) bool { return o.specific == p.specificity() && o.pattern.overlaps(p) }) {
			list = append(list, &entry{Issuer: Issuer{Key: text, Wildcard: true}, pattern: p, specific: p.specificity()})
		}
	}
	slices.SortStableFunc(list, func(a, b *entry) int { return b.specific - a.specific })
	return list
}

// slowOverlaps is overlaps without its short cut.
func slowOverlaps(a, b string) bool {
	common := make([]bool, len(b)+1)
	common[0] = true
	for _, c := range []byte(a) {
		next := make([]bool, len(common))
		for j, d := range []byte(b) {
			switch {
			case c == '*' && (d == '*' || inRun(d)), d == '*' && inRun(c):
				next[j+1] = common[j] || c == '*' && next[j] || d == '*' && common[j+1]
			default:
				next[j+1] = c == d && common[j]
			}
		}
		common = next
	}
	return common[len(b)]
}

// TestPatternIndex compares the index with a scan, and overlaps with its definition, over random
// patterns and URLs of few parts, so that many of them match.
func TestPatternIndex(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	text := func(pieces ...string) (s string) {
		s = "https://"
		for range 1 + random.IntN(5) {
			s += pieces[random.IntN(len(pieces))]
		}
		return s + ".example" + []string{"", "/", "/*", "/a", "/a/*", "/*/a", "/a.*", "/~*"}[random.IntN(8)]
	}
	found := 0
	for range 1000 {
		var patterns []string
		for range 12 {
			patterns = append(patterns, text("a", "b", "*", ".", "-", "*."))
		}
		list := wildcardsOf(patterns...)
		index := newPatternIndex(list)
		for range 12 {
			issuer := text("a", "b", ".", "-", "ab")
			want := scan(list, issuer)
			if got := index.find(issuer); got != want {
				t.Fatalf("%s under %v: the index finds %+v, a scan %+v", issuer, patterns, got, want)
			}
			if want != nil {
				found++
			}
		}
		compareOverlaps(t, patterns)
		for _, a := range list {
			for _, b := range list {
				if got, want := a.pattern.overlaps(b.pattern), slowOverlaps(a.Key, b.Key); got != want {
					t.Fatalf("%s and %s: overlaps is %t, want %t", a.Key, b.Key, got, want)
				}
			}
		}
	}
	if found < 200 {
		t.Errorf("only %d URLs match a pattern", found)
	}
}

// compareOverlaps compares the index of overlapping patterns with a comparison of each two.
func compareOverlaps(t *testing.T, patterns []string) {
	t.Helper()
	var index overlapIndex
	var before []*entry
	for _, text := range patterns {
		p, err := ParsePattern(text)
		if err != nil {
			continue
		}
		e := &entry{Issuer: Issuer{Key: text, Wildcard: true}, pattern: p, specific: p.specificity()}
		want := slices.DeleteFunc(slices.Clone(before), func(o *entry) bool {
			return o.Key == text || o.specific != e.specific || !slowOverlaps(o.Key, text)
		})
		got := index.add(e)
		byKey := func(a, b *entry) int { return strings.Compare(a.Key, b.Key) }
		slices.SortFunc(got, byKey)
		if slices.SortFunc(want, byKey); !slices.EqualFunc(got, want, func(a, b *entry) bool { return a.Key == b.Key }) {
			t.Fatalf("%s overlaps %d patterns of %v; the index finds %d", text, len(want), patterns, len(got))
		}
		before = append(before, e)
	}
}

// BenchmarkOverlaps is the check of the patterns of a large issuer file.
func BenchmarkOverlaps(b *testing.B) {
	var list []*entry
	for i := range 10_000 {
		text := fmt.Sprintf("https://*.issuer-%d.example/id/*", i)
		p := must(ParsePattern(text))(b)
		list = append(list, &entry{Issuer: Issuer{Key: text, Wildcard: true}, pattern: p, specific: p.specificity()})
	}
	for b.Loop() {
		var index overlapIndex
		for _, e := range list {
			if len(index.add(e)) > 0 {
				b.Fatal("patterns overlap")
			}
		}
	}
}

// BenchmarkEntryOf measures how the entry of a wildcard issuer is found among many patterns.
func BenchmarkEntryOf(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint("patterns=", n), func(b *testing.B) {
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf("https://*.issuer-%d.example/id/*", i))
			}
			v := &Verifier{wildcards: wildcardsOf(list...)}
			v.patterns = newPatternIndex(v.wildcards)
			b.ReportAllocs()
			for b.Loop() {
				must(v.entryOf(fmt.Sprintf("https://eu.issuer-%d.example/id/42", n-1)))(b)
			}
		})
	}
}
