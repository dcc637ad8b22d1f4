// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// spiffeEntry, uriEntry and usernameEntry are entries for issuerURL.
func spiffeEntry() IssuerConfig {
	entry := entryOf(TypeSPIFFE)
	entry.SPIFFETrustDomain = "example.com"
	return entry
}

func uriEntry() IssuerConfig {
	entry := entryOf(TypeURI)
	entry.SubjectDomain = "https://users.example.com"
	return entry
}

func usernameEntry() IssuerConfig {
	entry := entryOf(TypeUsername)
	entry.SubjectDomain = "example.com"
	return entry
}

// FuzzSPIFFEID checks that an ID that parses is a URL with only one reading.
func FuzzSPIFFEID(f *testing.F) {
	for _, s := range []string{"spiffe://example.com/a/b", "spiffe://a", "spiffe://u@a/b", "spiffe://a/../b", "spiffe://a/%2e%2e", "SPIFFE://a", "spiffe://a//b", "spiffe://a..b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		domain, err := parseSPIFFEID(s)
		if err != nil {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.String() != s || u.Host != domain || u.User != nil || u.RawQuery != "" || u.Fragment != "" || hasDotSegment(u.Path) {
			t.Fatalf("%q of the trust domain %q is the URL %v, %v", s, domain, u, err)
		}
		entry := spiffeEntry()
		entry.SPIFFETrustDomain = domain
		id, err := rulesOf(t, entry).Identify(tokenOf(oidc.Claims{"sub": s}))
		if err != nil {
			if refusal.From(err).Reason == refusal.ClaimInvalid {
				return // an empty label in the domain, which crypto/x509 does not read
			}
			t.Fatal(err)
		}
		if id.SAN.Value != s {
			t.Fatalf("the SAN of %q is %q", s, id.SAN.Value)
		}
	})
}

func TestSameOwner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"example.com", "example.com", true},
		{"a.example.com", "b.c.EXAMPLE.com", true},
		{"example.com", "example.org", false},
		{"a.co.uk", "b.co.uk", false}, // the last two labels are equal, and a public suffix
		{"a.b.co.uk", "b.co.uk", true},
		{"a.github.io", "b.github.io", false},
		{"com", "com", true},
		{"localhost", "localhost", true},
		{"localhost", "otherhost", false},
		{"localhost", "a.localhost", false},
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "20.0.0.1", false},
		{"1.10.0.1", "2.10.0.1", false},
		{"9.10.1", "8.10.1", false},
		{"::1", "::1", true},
		{"::1", "::2", false},
		{"a.internal", "b.a.internal", true},
		{"example.com.", "a.example.com.", false},
		{"", "", false},
		{"", "example.com", false},
	} {
		if got := sameOwner(c.a, c.b); got != c.want {
			t.Errorf("sameOwner(%q, %q) = %t, want %t", c.a, c.b, got, c.want)
		}
	}
}
