// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestPatternMatch: which URLs each wildcard in testdata/patterns.txt matches, among them URLs of an
// attacker that a laxer matcher accepts (CVE-2026-22772).
func TestPatternMatch(t *testing.T) {
	t.Parallel()
	for _, row := range append(rows(t, "patterns.txt"), []string{"invalid", strconv.Quote("https://good.example/" + strings.Repeat("a", maxIssuerURL))}) {
		last := must(strconv.Unquote(row[len(row)-1]))(t)
		if row[0] == "invalid" {
			if p, err := ParsePattern(last); err == nil {
				t.Errorf("%q was accepted as %+v", last, p)
			}
			continue
		}
		p := must(ParsePattern(row[1]))(t)
		switch row[0] {
		case "matches", "differs":
			if p.Match(last) != (row[0] == "matches") {
				t.Errorf("want %v", row)
			}
		default:
			other := must(ParsePattern(last))(t)
			if want := row[0] == "overlap"; p.overlaps(other) != want || other.overlaps(p) != want {
				t.Errorf("want %v", row)
			}
		}
	}
}

// reference is the slow definition of a pattern.
func reference(pattern string) *regexp.Regexp {
	return regexp.MustCompile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[-_A-Za-z0-9]+`) + `\z`)
}

func FuzzPattern(f *testing.F) {
	f.Add("https://oidc.eks.*.amazonaws.com/id/*", "https://oidc.eks.us-east-1.amazonaws.com/id/B02C", "https://oidc.eks.*.amazonaws.com/*/x")
	f.Add("https://good.example/*", "https://evil.example/?https://good.example/x", "https://*.example/*")
	f.Add("https://a.example/*ab*ab*/", "https://a.example/xababababx/", "https://a.example/*b*/")
	f.Add("https://a.example:8443/*~*-*", "https://a.example:8443/a~b-c", "https://a.example:8443/*-c")
	f.Fuzz(func(t *testing.T, text, issuer, otherText string) {
		pattern, err := ParsePattern(text)
		if err != nil {
			return
		}
		// A `*` matches no dot and no slash; a text that the reference derives may still be no
		// canonical URL.
		matches := pattern.Match(issuer)
		if want := isCanonical(issuer) && reference(text).MatchString(issuer); matches != want {
			t.Errorf("%q matches %q: %v, the reference says %v", text, issuer, matches, want)
		}
		other, err := ParsePattern(otherText)
		if err != nil {
			return
		}
		if list := wildcardsOf(text, otherText); isCanonical(issuer) {
			if got, want := newPatternIndex(list).find(issuer), scan(list, issuer); got != want {
				t.Errorf("%q under %q and %q: the index finds %+v, a scan %+v", issuer, text, otherText, got, want)
			}
		}
		if got, want := pattern.overlaps(other), slowOverlaps(text, otherText); got != want {
			t.Errorf("overlaps of %q and %q is %t, want %t", text, otherText, got, want)
		}
		if matches && other.Match(issuer) && !pattern.overlaps(other) {
			t.Errorf("%q and %q both match %q, but are said not to overlap", text, otherText, issuer)
		}
		if pattern.overlaps(other) != other.overlaps(pattern) || !pattern.overlaps(pattern) {
			t.Errorf("overlaps of %q and %q is not symmetric or not reflexive", text, otherText)
		}
	})
}
