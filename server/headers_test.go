// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// proxies are the trusted proxies of these tests.
func proxies() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("127.0.0.1/32"),
		netip.MustParsePrefix("2001:db8:ffff::/48"),
	}
}

// TestClientAddress: the rightmost untrusted address of X-Forwarded-For counts, and only from a
// trusted proxy.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	s := &Server{cfg: Config{TrustedProxies: proxies()}}
	for _, tt := range []struct {
		name, peer string
		lines      []string
		want       string
	}{
		{"no proxy", "203.0.113.9:1", nil, "203.0.113.9"},
		{"a header of an untrusted peer", "203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		{"a proxy without a header", "10.0.0.1:1", nil, "10.0.0.1"},
		{"one proxy", "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"forged to the left", "10.0.0.1:1", []string{"198.51.100.1, 203.0.113.9"}, "203.0.113.9"},
		{"forged addresses of a trusted network to the left", "10.0.0.1:1", []string{"10.9.9.9, 203.0.113.9, 10.0.0.2"}, "203.0.113.9"},
		{"two proxies", "10.0.0.1:1", []string{"203.0.113.9, 10.0.0.2"}, "203.0.113.9"},
		{"several lines", "10.0.0.1:1", []string{"198.51.100.1", "203.0.113.9,10.0.0.3", "10.0.0.2"}, "203.0.113.9"},
		{"all are trusted", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"with a port", "10.0.0.1:1", []string{"203.0.113.9:443"}, "203.0.113.9"},
		{"IPv6", "[2001:db8:ffff::1]:1", []string{"2001:db8::9"}, "2001:db8::9"},
		{"IPv6 in brackets", "10.0.0.1:1", []string{"[2001:db8::9]"}, "2001:db8::9"},
		{"IPv6 with a port", "10.0.0.1:1", []string{"[2001:db8::9]:443"}, "2001:db8::9"},
		{"IPv6 with a zone", "10.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"mapped IPv4", "[::ffff:10.0.0.1]:1", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		{"a mapped proxy in the header", "10.0.0.1:1", []string{"203.0.113.9, ::ffff:10.0.0.2"}, "203.0.113.9"},
		{"white space", "10.0.0.1:1", []string{"\t 203.0.113.9 \t"}, "203.0.113.9"},
		{"an empty header", "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"an empty entry", "10.0.0.1:1", []string{"203.0.113.9,"}, "10.0.0.1"},
		{"a name", "10.0.0.1:1", []string{"203.0.113.9, unknown"}, "10.0.0.1"},
		{"malformed behind a proxy", "10.0.0.1:1", []string{"203.0.113.9, _hidden, 10.0.0.2"}, "10.0.0.2"},
		{"leading zeros", "10.0.0.1:1", []string{"203.0.113.009"}, "10.0.0.1"},
		{"a port that is none", "10.0.0.1:1", []string{"203.0.113.9:99999"}, "10.0.0.1"},
		{"quotes", "10.0.0.1:1", []string{`"203.0.113.9"`}, "10.0.0.1"},
		{"a socket", "@", []string{"203.0.113.9"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{forwardedFor: tt.lines}}
		if got := s.clientAddr(r.RemoteAddr, r.Header[forwardedFor]); got.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestClientAddressReachesAuthorityAndLog(t *testing.T) {
	t.Parallel()
	for want, trusted := range map[string][]netip.Prefix{"192.0.2.1": nil, "2001:db8::9": proxies()} {
		f := newFixture(t, func(c *Config) { c.TrustedProxies = trusted })
		issue := f.issue
		f.issue = func(ctx context.Context, req ca.Request) (*ca.Issued, error) {
			if req.Client.String() != want || req.RequestID != "id-1" {
				t.Errorf("the authority gets %s of %s, want %s", req.RequestID, req.Client, want)
			}
			return issue(ctx, req)
		}
		f.do(t, "POST", "/api/v1/signingCert", goodV1, "Authorization", "Bearer a.b.c", "X-Request-Id", "id-1", "X-Forwarded-For", "198.51.100.1, 2001:db8::9")
		if record := f.log.request(t, "id-1"); record["client"] != want || record["peer"] != "192.0.2.1:1234" || record["reason"] != "OK" {
			t.Errorf("record %v, want client %s", record, want)
		}
	}
}

// FuzzClientAddress: what a client sends to a trusted proxy never changes the address that the
// proxy appends.
func FuzzClientAddress(f *testing.F) {
	for _, seed := range []string{"", "203.0.113.9", "10.0.0.1,", "[::1]:1", "a, b", "fe80::1%a,b", "\x00", "[[", "]", ":", "1.2.3.4:5,"} {
		f.Add(seed)
	}
	s := &Server{cfg: Config{TrustedProxies: proxies()}}
	f.Fuzz(func(t *testing.T, sent string) {
		client := netip.MustParseAddr("203.0.113.9")
		for _, lines := range [][]string{{sent + ", 203.0.113.9"}, {sent, "203.0.113.9, 10.0.0.2"}} {
			if got := s.clientAddr("10.0.0.1:1", lines); got != client {
				t.Errorf("%q: %s", lines, got)
			}
		}
		got := s.clientAddr("10.0.0.1:1", []string{sent})
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%q: %s", sent, got)
		}
	})
}

func FuzzBearer(f *testing.F) {
	f.Add("Bearer a.b.c")
	f.Add("bearer\ta.b.c ")
	f.Add("Basic eDp5")
	f.Add("Bearer")
	f.Add("bearera")
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := bearer(header)
		if !ok {
			if token != "" {
				t.Fatalf("a token without the scheme: %q", token)
			}
			return
		}
		if token != strings.TrimSpace(token) || !strings.Contains(header, token) {
			t.Fatalf("%q became %q", header, token)
		}
		if again, ok := bearer("BEARER " + token); !ok || again != token {
			t.Fatalf("%q does not survive: %q", token, again)
		}
	})
}
