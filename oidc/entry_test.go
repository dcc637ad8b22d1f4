// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

func TestNewAccepts(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{Issuers: issuers("https://issuer.example", "https://issuer.example/", "https://issuer.example:8443/a/b/", "https://10.0.0.1", "https://[2001:db8::1]/x")},
		{Issuers: issuers("http://127.0.0.1:5555/dev/oidc", "http://localhost:5555", "http://[::1]:5555", "http://127.0.0.1:5555/*"), AllowLoopback: true},
		{Issuers: issuers("http://DEX-IDP/auth", "http://10.0.0.5", "http://[fd00::5]:80", "http://dex-idp:8888/*"), InsecureHosts: []string{"Dex-Idp", "10.0.0.5", "fd00::5"}},
		// The wildcards in use, all at once.
		{Issuers: issuers("https://oidc.eks.*.amazonaws.com/id/*", "https://container.googleapis.com/v1/projects/*/locations/*/clusters/*",
			"https://oidc.prod-aks.azure.com/*", "https://oidc.prod-aks.azure.com/*/*", "https://*.oic.prod-aks.azure.com/*/*",
			"https://oidc.prod-aks.azure.com/*/", "https://oidc.prod-aks.azure.com/*/*/", "https://token.actions.githubusercontent.com/*")},
	} {
		newTestVerifier(t, cfg, newWeb().transport)
	}
}

// TestNewRefuses: each mistake has the path of its key; all are reported at once.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	var all []Issuer
	var want []string
	wrong := func(change Issuer, paths ...string) {
		change.Key, _, _ = strings.Cut(paths[0], " ")
		change.Wildcard = strings.Contains(change.Key, "*")
		all, want = append(all, change), append(want, paths...)
	}
	a := []string{"a"}
	for _, url := range []string{
		"http://issuer.example", "http://127.0.0.1:5555", "ftp://issuer.example", "file:///etc/passwd", "issuer.example", "https:issuer.example",
		"https://issuer.example/%zz", "https://:443", "https://a@issuer.example", "https://issuer.example?a=b", "https://issuer.example?", "https://issuer.example#",
	} {
		wrong(Issuer{Audiences: a}, url+" issuer-url")
	}
	for _, pattern := range []string{"https://*.example/%2f", "http://*.example", "http://localhost/*"} {
		wrong(Issuer{Audiences: a}, pattern)
	}
	wrong(Issuer{}, "https://b.example client-id")
	wrong(Issuer{Audiences: []string{"a", ""}}, "https://c.example client-id")
	wrong(Issuer{Audiences: a, SigningAlgorithms: []string{"RS256", "HS256"}}, "https://d.example signing-algorithms 1")
	wrong(Issuer{Audiences: a, CACert: []byte("junk")}, "https://e.example ca-cert")
	wrong(Issuer{Audiences: a, JWKSHosts: []string{"https://keys.example"}}, "https://f.example jwks-hosts 0")
	wrong(Issuer{Audiences: a, JWKSHosts: []string{"keys.example", "*.example"}}, "https://*.g.example jwks-hosts 1")
	wrong(Issuer{Audiences: a, Profiles: []Profile{{"", []string{"b"}}, {"b", nil}, {"c", a}, {"d", []string{"b"}}}}, "https://h.example profiles 0 name",
		"https://h.example profiles 1 client-id", "https://h.example profiles 2 client-id", "https://h.example profiles 3 client-id")
	wrong(Issuer{Audiences: a}, "https://h.example")
	_, err := New(Config{Issuers: all})
	var got []string
	for _, e := range keypath.All(err) {
		if section := e.Path[0]; (section == "meta-issuers") != strings.Contains(e.Path[1], "*") {
			t.Errorf("%v is in %s", e, section)
		}
		got = append(got, strings.Join(e.Path[1:], " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestOverlappingWildcards: overlapping wildcards were once resolved by the order of a map.
func TestOverlappingWildcards(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Issuers: issuers("https://*.example/x", "https://a.*/x")})
	if all := keypath.All(err); len(all) != 1 || !slices.Equal(all[0].Path, []string{"meta-issuers", "https://a.*/x"}) || !strings.Contains(all[0].Error(), `"https://*.example/x"`) {
		t.Errorf("error %v", err)
	}
	// The more specific one applies, in any order; a static entry takes precedence over all.
	ordered := []string{"https://*.b.c/*/*", "https://a.b.c/*/z", "https://*.x.y/*/*", "https://a.b.c/*/*", "https://a.b.c/s/z"}
	want := map[string]string{
		"https://a.b.c/y/z": "https://a.b.c/*/z", "https://a.b.c/y/q": "https://a.b.c/*/*", "https://d.b.c/y/z": "https://*.b.c/*/*",
		"https://a.x.y/y/z": "https://*.x.y/*/*", "https://a.b.c/s/z": "https://a.b.c/s/z",
	}
	for range ordered {
		ordered = append(ordered[1:], ordered[0])
		v := newTestVerifier(t, Config{Issuers: issuers(ordered...)}, newWeb().transport)
		for issuerURL, key := range want {
			if e := must(v.entryOf(issuerURL))(t); e.Key != key {
				t.Errorf("order %v: %s found %s; want %s", ordered, issuerURL, e.Key, key)
			}
		}
	}
}
