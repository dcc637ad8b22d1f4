// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The issuers are rendered when they change, and not for each request; every answer has the present ones.
func TestConfigurationIsRenderedOnce(t *testing.T) {
	t.Parallel()
	var issuers []IssuerInfo
	f := newFixture(t, func(c *Config) { c.Issuers = func() []IssuerInfo { return issuers } })
	ask := func() string { return readAll(t, f.do(t, http.MethodGet, "/api/v2/configuration", "")) }
	if empty := strings.ReplaceAll(ask(), " ", ""); empty != `{"issuers":[]}` {
		t.Errorf("without issuers the answer is %s", empty)
	}
	for generation := range 3 {
		issuers = []IssuerInfo{{URL: fmt.Sprintf("https://%d.example", generation)}, {URL: "https://*.example", Wildcard: true}}
		first := ask()
		rendered := f.configuration()
		if again := ask(); again != first || f.configuration() != rendered {
			t.Errorf("the second answer is %s after %s", again, first)
		}
		for _, want := range []string{issuers[0].URL, "https://*.example"} {
			if !strings.Contains(first, want) {
				t.Errorf("the answer is %s; expected is one with %s", first, want)
			}
		}
	}
	issuers = nil
	if empty := strings.ReplaceAll(ask(), " ", ""); empty != `{"issuers":[]}` {
		t.Errorf("without issuers again the answer is %s", empty)
	}
}

func BenchmarkConfiguration(b *testing.B) {
	issuers := make([]IssuerInfo, 10_000)
	for i := range issuers {
		issuers[i] = IssuerInfo{URL: fmt.Sprintf("https://issuer-%d.example", i), Audience: "sigstore", ChallengeClaim: "email", Type: "email"}
	}
	f := newFixture(b, func(c *Config) { c.Issuers = func() []IssuerInfo { return issuers } })
	for b.Loop() {
		f.do(b, http.MethodGet, "/api/v2/configuration", "")
	}
}
