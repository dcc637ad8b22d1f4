// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestInsecureHostsAlone: the exception is only for the listed hosts. Other hosts are reached as
// without it. Keys of an https issuer are not read by http, even from a listed host.
func TestInsecureHostsAlone(t *testing.T) {
	t.Parallel()
	private := netip.MustParseAddr("10.0.0.5")
	policies := map[http.RoundTripper]addresses{}
	const listed = "http://dex-idp:8888/auth"
	w := newWorld(t, Config{Issuers: []Issuer{staticIssuer(testIssuer), staticIssuer(listed)}, InsecureHosts: []string{"dex-idp"}}, provider.Config{})
	e := w.verifier.static[testIssuer]
	if _, err := e.newClient(&Config{InsecureHosts: []string{"dex-idp"}}, nil, func(r reach) http.RoundTripper {
		own := roundTripper(func(*http.Request) (*http.Response, error) { return nil, http.ErrUseLastResponse })
		policies[&own] = r.allowed
		return &own
	}); err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for _, policy := range policies {
		if policy.contain(private) {
			allowed++
		}
	}
	if len(policies) != 2 || allowed != 1 {
		t.Errorf("%d of %d transports reach private addresses, want one of two", allowed, len(policies))
	}

	key := w.provider.SigningKey()
	keySet := `{"keys":[` + jwkOf(t, key.Public().Key, map[string]any{"kid": key.KeyID}) + `]}`
	w.serve("http://dex-idp:8888", site(testIssuer, "http://dex-idp:8888/keys", "", keySet))
	w.serve(testIssuer, site(testIssuer, "http://dex-idp:8888/keys", "", keySet))
	wantReason(t, w.verify(t, mint(t, w.provider, nil)), refusal.IssuerUnreachable)
	w.serve("http://dex-idp:8888", http.RedirectHandler("http://other:8888/", http.StatusFound))
	w.serve("http://other:8888", w.provider)
	wantReason(t, w.verify(t, mint(t, w.provider, map[string]any{"iss": listed})), refusal.IssuerUnreachable)
	for _, r := range w.sent() {
		if r.URL.Host == "other:8888" || r.URL.Path == "/keys" {
			t.Errorf("%s was requested", r.URL)
		}
	}
}
