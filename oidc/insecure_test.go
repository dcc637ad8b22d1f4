// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// TestInsecureHosts: an issuer at http://dex-idp, at a private address, is refused unless the host
// is listed. A listed host is read, but no address of a metadata service.
func TestInsecureHosts(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, provider.Config{IssuerURL: "http://dex-idp:" + port + "/auth"})
	server.Config.Handler = p
	server.Start()
	defer server.Close()

	issuer := staticIssuer(p.IssuerURL())
	if _, err := New(Config{Issuers: []Issuer{issuer}, AllowLoopback: true, InsecureHosts: []string{"dex-idp.example", "dex"}}); err == nil {
		t.Error("an http issuer that is not listed is accepted")
	}
	verify := func(address string) error {
		v, err := newVerifier(Config{Issuers: []Issuer{issuer}, InsecureHosts: []string{"DEX-idp"}}, func(r reach) http.RoundTripper {
			r.resolver = resolverTo(address)
			return newTransport(r)
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(t.Context(), mint(t, p, nil), unknownClient)
		return err
	}
	if err := verify("127.0.0.1"); err != nil {
		t.Errorf("the listed host: %v", err)
	}
	for _, address := range []string{"169.254.169.254", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254", "64:ff9b::a9fe:a9fe", "0.0.0.0"} {
		e := wantReason(t, verify(address), refusal.IssuerUnreachable)
		if !strings.Contains(e.Cause.Error(), "is refused for an issuer") {
			t.Errorf("%s: cause %v", address, e.Cause)
		}
	}
}

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
