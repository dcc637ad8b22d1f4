// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

func TestNewAccepts(t *testing.T) {
	t.Parallel()
	issuers := func(issuers ...string) (list []Issuer) {
		for _, text := range issuers {
			if strings.Contains(text, "*") {
				list = append(list, wildcardIssuer(text))
			} else {
				list = append(list, staticIssuer(text))
			}
		}
		return list
	}
	for _, cfg := range []Config{
		{Issuers: issuers("https://issuer.example", "https://issuer.example/", "https://issuer.example:8443/a/b/", "https://10.0.0.1", "https://[2001:db8::1]/x")},
		{Issuers: issuers("http://127.0.0.1:5555/dev/oidc", "http://localhost:5555", "http://[::1]:5555", "http://127.0.0.1:5555/*"), AllowLoopback: true},
		{Issuers: issuers("http://DEX-IDP/auth", "http://10.0.0.5", "http://[fd00::5]:80", "http://dex-idp:8888/*"), InsecureHosts: []string{"Dex-Idp", "10.0.0.5", "fd00::5"}},
		// The wildcards in use, all at once.
		{Issuers: issuers("https://oidc.eks.*.amazonaws.com/id/*", "https://container.googleapis.com/v1/projects/*/locations/*/clusters/*",
			"https://oidc.prod-aks.azure.com/*", "https://oidc.prod-aks.azure.com/*/*", "https://*.oic.prod-aks.azure.com/*/*",
			"https://oidc.prod-aks.azure.com/*/", "https://oidc.prod-aks.azure.com/*/*/", "https://token.actions.githubusercontent.com/*")},
	} {
		newTestVerifier(t, cfg, newWeb())
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		issuer Issuer
		want   string // the path
	}{
		{"http", staticIssuer("http://issuer.example"), "oidc-issuers: http://issuer.example: issuer-url"},
		{"http on loopback", staticIssuer("http://127.0.0.1:5555"), "issuer-url"},
		{"another scheme", staticIssuer("ftp://issuer.example"), "issuer-url"},
		{"upper-case scheme", staticIssuer("file:///etc/passwd"), "issuer-url"},
		{"no scheme", staticIssuer("issuer.example"), "issuer-url"},
		{"opaque", staticIssuer("https:issuer.example"), "issuer-url"},
		{"unparsable", staticIssuer("https://issuer.example/%zz"), "issuer-url"},
		{"a port alone", staticIssuer("https://:443"), "issuer-url"},
		{"user-info", staticIssuer("https://a@issuer.example"), "issuer-url"},
		{"a query", staticIssuer("https://issuer.example?a=b"), "issuer-url"},
		{"an empty query", staticIssuer("https://issuer.example?"), "issuer-url"},
		{"an empty fragment", staticIssuer("https://issuer.example#"), "issuer-url"},
		{"no audience", Issuer{Key: "k", URL: testIssuer}, "oidc-issuers: k: client-id"},
		{"an empty audience", Issuer{Key: "k", URL: testIssuer, Audiences: []string{"a", ""}}, "client-id"},
		{"an unknown algorithm", Issuer{Key: "k", URL: testIssuer, Audiences: []string{"a"}, SigningAlgorithms: []string{"RS256", "HS256"}},
			`oidc-issuers: k: signing-algorithms: 1: "HS256" is no signing algorithm`},
		{"junk for a CA", Issuer{Key: "k", URL: testIssuer, Audiences: []string{"a"}, CACert: []byte("junk")}, "oidc-issuers: k: ca-cert"},
		{"a URL for a host", Issuer{Key: "k", URL: testIssuer, Audiences: []string{"a"}, JWKSHosts: []string{"https://keys.example"}}, "oidc-issuers: k: jwks-hosts"},
		{"a wildcard for a host", Issuer{Key: "k", Pattern: "https://*.example", Audiences: []string{"a"}, JWKSHosts: []string{"*.example"}}, "meta-issuers: k: jwks-hosts"},
		{"URL and wildcard", Issuer{Key: "k", URL: testIssuer, Pattern: "https://*.example", Audiences: []string{"a"}}, "oidc-issuers: k"},
		{"neither", Issuer{Key: "k", Audiences: []string{"a"}}, "meta-issuers: k"},
		{"a bad wildcard", wildcardIssuer("https://*.example/%2f"), "meta-issuers: https://*.example/%2f"},
		{"a wildcard over http", wildcardIssuer("http://*.example"), "meta-issuers: http://*.example"},
		{"a loopback wildcard", wildcardIssuer("http://localhost/*"), "oidc.allow_loopback"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v, err := New(Config{Issuers: []Issuer{test.issuer}})
			if v != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			for _, e := range keypath.All(err) {
				if len(e.Path) < 2 {
					t.Errorf("error %v has no path", e)
				}
			}
		})
	}
}

func TestNewReportsEveryMistake(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Issuers: []Issuer{
		{Key: "a", URL: "http://a.example"},
		{Key: "b", URL: testIssuer, Audiences: []string{"x"}},
		{Key: "b", URL: testIssuer, Audiences: []string{"x"}},
		{Key: "c", Pattern: "nonsense", SigningAlgorithms: []string{"x"}},
	}})
	var got [][]string
	for _, e := range keypath.All(err) {
		got = append(got, e.Path)
	}
	want := [][]string{
		{"oidc-issuers", "a", "issuer-url"}, {"oidc-issuers", "a", "client-id"},
		{"oidc-issuers", "b"}, {"oidc-issuers", "b", "issuer-url"},
		{"meta-issuers", "c"}, {"meta-issuers", "c", "client-id"}, {"meta-issuers", "c", "signing-algorithms", "0"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestOverlappingWildcards: overlapping wildcards were once resolved by the order of a map.
func TestOverlappingWildcards(t *testing.T) {
	t.Parallel()
	issuers := func(patterns ...string) (list []Issuer) {
		for _, p := range patterns {
			list = append(list, wildcardIssuer(p))
		}
		return list
	}
	_, err := New(Config{Issuers: issuers("https://*.example/x", "https://a.*/x")})
	all := keypath.All(err)
	if len(all) != 1 || cmp.Diff([]string{"meta-issuers", "https://a.*/x"}, all[0].Path) != "" ||
		!strings.Contains(all[0].Error(), `"https://*.example/x"`) {
		t.Errorf("error %v", err)
	}
	// The more specific one applies, in any order; a static entry takes precedence over all.
	ordered := []string{"https://*.b.c/*/*", "https://a.b.c/*/z", "https://*.x.y/*/*", "https://a.b.c/*/*"}
	want := map[string]string{
		"https://a.b.c/y/z": "https://a.b.c/*/z", "https://a.b.c/y/q": "https://a.b.c/*/*", "https://d.b.c/y/z": "https://*.b.c/*/*",
		"https://a.x.y/y/z": "https://*.x.y/*/*", "https://a.b.c/s/z": "https://a.b.c/s/z",
	}
	for range 4 {
		ordered = append(ordered[1:], ordered[0])
		v := newTestVerifier(t, Config{Issuers: append(issuers(ordered...), staticIssuer("https://a.b.c/s/z"))}, newWeb())
		for issuerURL, key := range want {
			e, err := v.entryOf(issuerURL)
			if err != nil || e.Key != key {
				t.Errorf("order %v: %s found %+v, %v; want %s", ordered, issuerURL, e, err, key)
			}
		}
	}
}
