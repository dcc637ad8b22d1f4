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
		{"issuer-lur", "issuer-url"},
		{"isuer-ural", "issuer-url"},
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

func TestNoKnownNames(t *testing.T) {
	t.Parallel()
	if got := DidYouMeanOr("x", nil, "it has"); got != "; it has none" {
		t.Errorf("DidYouMeanOr without known names = %q", got)
	}
}
