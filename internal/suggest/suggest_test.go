// SPDX-License-Identifier: Apache-2.0

package suggest

import (
	"strings"
	"testing"
)

func TestClosest(t *testing.T) {
	t.Parallel()
	known := []string{"issuer-url", "client-id", "type", "ca-cert", "contact"}
	for _, tt := range []struct{ found, want string }{
		{"issuer-ulr", "issuer-url"},
		{"IssuerURL", "issuer-url"},
		{"issuer_url", "issuer-url"},
		{"issuer", ""},
		{"clientid", "client-id"},
		{"clint-id", "client-id"},
		{"typ", "type"},
		{"tpye", "type"},
		{"x", ""},
		{"", ""},
		{"environment", ""},
		{strings.Repeat("x", 1<<20), ""},
	} {
		if got := Closest(tt.found, known); got != tt.want {
			t.Errorf("Closest(%.20q) = %q, want %q", tt.found, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"ca", "abc", 3}, {"kitten", "sitting", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := distance(tt.b, tt.a); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}
