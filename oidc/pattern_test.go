// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"regexp"
	"strings"
	"testing"
)

func mustPattern(t testing.TB, text string) Pattern {
	t.Helper()
	p, err := ParsePattern(text)
	if err != nil {
		t.Fatalf("ParsePattern(%q): %v", text, err)
	}
	return p
}

func TestPatternMatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, issuer string
		want            bool
	}{
		// Patterns in use.
		{"https://oidc.eks.*.amazonaws.com/id/*", "https://oidc.eks.us-east-1.amazonaws.com/id/B02C93B6A2D30341AD01E1B6D48164CB", true},
		{"https://oidc.eks.*.amazonaws.com/id/*", "https://oidc.eks..amazonaws.com/id/B0", false},
		{"https://oidc.eks.*.amazonaws.com/id/*", "https://oidc.eks.us-east-1.amazonaws.com/id/", false},
		{"https://oidc.eks.*.amazonaws.com/id/*", "https://oidc.eks.us-east-1.amazonaws.com/id/B0/", false},
		{"https://container.googleapis.com/v1/projects/*/locations/*/clusters/*",
			"https://container.googleapis.com/v1/projects/my_project-1/locations/us-west1-b/clusters/c", true},
		{"https://oidc.prod-aks.azure.com/*/", "https://oidc.prod-aks.azure.com/x/", true},
		{"https://oidc.prod-aks.azure.com/*/", "https://oidc.prod-aks.azure.com/x", false},
		{"https://oidc.prod-aks.azure.com/*", "https://oidc.prod-aks.azure.com/x/", false},
		{"https://*.oic.prod-aks.azure.com/*/*", "https://eastus.oic.prod-aks.azure.com/t-1/c_2", true},
		{"https://token.actions.githubusercontent.com/*", "https://token.actions.githubusercontent.com/octo-org", true},
		{"https://token.actions.githubusercontent.com/*", "https://token.actions.githubusercontent.com", false},
		{"https://token.actions.githubusercontent.com/*", "https://token.actions.githubusercontent.com/", false},

		// Inside a label and a segment.
		{"https://oidc-*.example", "https://oidc-a.example", true},
		{"https://oidc-*.example", "https://oidc-.example", false},
		{"https://oidc-*.example", "https://oidc-a.b.example", false},
		{"https://a.example/x-*-y", "https://a.example/x-1-z", false},
		{"https://a.example/*-*", "https://a.example/--", false},
		{"https://a.example/*-*", "https://a.example/---", true},
		{"https://a.example/*ab*", "https://a.example/xababx", true},
		{"https://a.example/*ab*", "https://a.example/xab", false},
		{"https://a.example/*ab*", "https://a.example/abx", false},
		{"https://a.example/**", "https://a.example/x", false},
		{"https://a.example/*~*~", "https://a.example/x~y~", true},
		{"https://a.example/*~*~", "https://a.example/x~y~z~", false},
		{"https://a.example", "https://a.example", true},
		{"https://a.example/", "https://a.example", false},
		{"https://a.example/", "https://a.example/", true},
		{"https://a.example:8443/*", "https://a.example:8443/x", true},

		// CVE-2026-22772 and similar: URLs of an attacker that a laxer matcher accepts.
		{"https://good.example/*", "https://evil.example/?https://good.example/x", false},
		{"https://good.example/*", "https://evil.example/https://good.example/x", false},
		{"https://good.example/*", "https://evil.example#https://good.example/x", false},
		{"https://good.example/*", "https://good.example@evil.example/x", false},
		{"https://good.example/*", "https://user@good.example/x", false},
		{"https://good.example/*", "https://good.example:443/x", false},
		{"https://good.example/*", "https://good.example:8443/x", false},
		{"https://a.example:8443/*", "https://a.example/x", false},
		{"https://good.example/*", "https://good.example/x?y=z", false},
		{"https://good.example/*", "https://good.example/x%2fy", false},
		{"https://good.example/*", "https://good.example/%78", false},
		{"https://good.example/*", "https://good%2eexample/x", false},
		{"https://good.example/*", "https://GOOD.example/x", false},
		{"https://*.example/*", "https://GOOD.example/x", false},
		{"https://good.example/*", "HTTPS://good.example/x", false},
		{"https://good.example/*", "http://good.example/x", false},
		{"https://good.example/*", "https://good.example//x", false},
		{"https://good.example/*", "https://good.example/..", false},
		{"https://good.example/*", "https://good.example/x\\y", false},
		{"https://good.example/*", "https://good.example\\@evil.example/x", false},
		{"https://good.example/*", "https://good.example/x\n", false},
		{"https://good.example/*", "https://good.example/\u00e9", false},
		{"https://good.example/*", "https://good.example/x\u2215y", false},
		{"https://good.example/*", "https://goodxexample/x", false},
		{"https://good.example/*", "https://good.example.evil.example/x", false},
		{"https://good.example/*", "https://evilgood.example/x", false},
		{"https://*.example/x", "https://evil.com/.example/x", false},
		{"https://*.example/x", "https://[::1].example/x", false},
		{"https://*.example/x", "https://.example/x", false},
		{"https://*.example/x", "https://a.example./x", false},
		{"https://good.example/*", "", false},
	} {
		if got := mustPattern(t, test.pattern).Match(test.issuer); got != test.want {
			t.Errorf("%q matches %q: %v, want %v", test.pattern, test.issuer, got, test.want)
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "*", "good.example/*", "ftp://good.example/*", "HTTPS://good.example/*", "*://good.example/x", "https:/good.example/*",
		"https:///x", "https://", "https://good..example/*", "https://.example/*", "https://good.example./*",
		"https://Good.example/*", "https://good.example:*/x", "https://good.example:/x", "https://good.example:0/x",
		"https://good.example:65536/x", "https://good.example:1:2/x", "https://user@good.example/*", "https://good.example/*?x=*",
		"https://good.example/*#x", "https://good.example/%2a", "https://good.example//x", "https://good.example/x//",
		"https://good.example/./x", "https://good.example/../*", "https://good.example/..", "https://[::1]/*", "https://good.example/a b",
		"https://good.example/\u00e9", "https://g\u00f6od.example/*", "https://good.example/\\*", "https://good.example/*\n",
		"https://good.example/" + strings.Repeat("a", maxPattern),
	} {
		if p, err := ParsePattern(text); err == nil {
			t.Errorf("%q was accepted as %+v", text, p)
		}
	}
}

func TestPatternOverlaps(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"https://a.example/*", "https://a.example/*", true},
		{"https://a.example/*", "https://a.example/x", true},
		{"https://a.example/*/x", "https://a.example/y/*", true},
		{"https://*.example/x", "https://a.*/x", true},
		{"https://a.example/x-*", "https://a.example/*-y", true},
		{"https://a.example/**", "https://a.example/*", true},
		{"https://a.example/a*b*c", "https://a.example/*b*", true},
		{"https://a.example/x-*", "https://a.example/y-*", false},
		{"https://a.example/x*", "https://a.example/x", false},
		{"https://a.example/a~*", "https://a.example/*b", false},
		{"https://a.example/*", "https://a.example/*/", false},
		{"https://a.example/*", "https://a.example", false},
		{"https://a.example/*", "https://b.example/*", false},
		{"https://a.example/*", "https://a.example:8443/*", false},
		{"https://*.example", "https://*.*.example", false},
	} {
		a, b := mustPattern(t, test.a), mustPattern(t, test.b)
		if got := a.Overlaps(b); got != test.want {
			t.Errorf("%q overlaps %q: %v, want %v", test.a, test.b, got, test.want)
		}
		if got := b.Overlaps(a); got != test.want {
			t.Errorf("%q overlaps %q: %v, want %v", test.b, test.a, got, test.want)
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
	f.Add("http://127.0.0.1:5555/*", "http://127.0.0.1:5555/x", "http://127.0.0.1:5555/**")
	f.Fuzz(func(t *testing.T, text, issuer, otherText string) {
		pattern, err := ParsePattern(text)
		if err != nil {
			return
		}
		if pattern.String() != text {
			t.Errorf("%q became %q", text, pattern)
		}
		matches := pattern.Match(issuer)
		// The reference derives every match; a text that the reference derives may still be no
		// canonical URL.
		_, canonical := parseIssuerURL(issuer)
		if want := canonical && reference(text).MatchString(issuer); matches != want {
			t.Errorf("%q matches %q: %v, the reference says %v", text, issuer, matches, want)
		}
		other, err := ParsePattern(otherText)
		if err != nil {
			return
		}
		if matches && other.Match(issuer) && !pattern.Overlaps(other) {
			t.Errorf("%q and %q both match %q, but are said not to overlap", text, otherText, issuer)
		}
		if pattern.Overlaps(other) != other.Overlaps(pattern) || !pattern.Overlaps(pattern) {
			t.Errorf("Overlaps of %q and %q is not symmetric or not reflexive", text, otherText)
		}
	})
}
