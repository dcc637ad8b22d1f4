// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
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
	s := &Server{trustedProxies: proxies()}
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
		{"half a bracket", "10.0.0.1:1", []string{"[2001:db8::9"}, "10.0.0.1"},
		{"IPv4 in brackets", "10.0.0.1:1", []string{"[203.0.113.9]"}, "10.0.0.1"},
		{"leading zeros", "10.0.0.1:1", []string{"203.0.113.009"}, "10.0.0.1"},
		{"a port that is none", "10.0.0.1:1", []string{"203.0.113.9:99999"}, "10.0.0.1"},
		{"quotes", "10.0.0.1:1", []string{`"203.0.113.9"`}, "10.0.0.1"},
		{"a socket", "@", []string{"203.0.113.9"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{forwardedFor: tt.lines}}
		if got := s.clientAddr(r); got.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestClientAddressReachesAuthorityAndLog checks each API.
func TestClientAddressReachesAuthorityAndLog(t *testing.T) {
	t.Parallel()
	const forwarded = "198.51.100.1, 2001:db8::9"
	for path, body := range map[string]string{"/api/v1/signingCert": `{}`, "/api/v2/signingCert": goodV2} {
		for _, trusted := range []bool{true, false} {
			f := newFixture(t, func(c *Config) {
				if trusted {
					c.TrustedProxies = proxies()
				}
			})
			want := map[bool]string{true: "2001:db8::9", false: "192.0.2.1"}[trusted]
			f.do(t, "POST", path, body, "Authorization", "Bearer a.b.c", "X-Request-Id", "id-1", "X-Forwarded-For", forwarded)
			if got := f.asked(t).Client.String(); got != want {
				t.Errorf("%s: the authority gets %s, want %s", path, got, want)
			}
			if record := f.log.request(t, "id-1"); record["client"] != want || !strings.HasPrefix(record["peer"].(string), "192.0.2.1:") {
				t.Errorf("%s: record %v, want client %s", path, record, want)
			}
		}
	}
	for _, trusted := range []bool{true, false} {
		run := serve(t, false, false, func(_ *fixture, c *Config) {
			if trusted {
				c.TrustedProxies = proxies()
			}
		})
		want := map[bool]string{true: "2001:db8::9", false: "127.0.0.1"}[trusted]
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "198.51.100.1", "x-forwarded-for", "2001:db8::9", "x-request-id", "id-1")
		if _, err := fulciov2.NewCAClient(run.dial(t)).CreateSigningCertificate(ctx, csrRequest("a.b.c")); err != nil {
			t.Fatal(err)
		}
		if got := run.asked(t).Client.String(); got != want {
			t.Errorf("gRPC: the authority gets %s, want %s", got, want)
		}
		if record := run.log.request(t, "id-1"); record["client"] != want {
			t.Errorf("gRPC: record %v, want client %s", record, want)
		}
	}
}

// FuzzClientAddress: what a client sends to a trusted proxy never changes the address that the
// proxy appends.
func FuzzClientAddress(f *testing.F) {
	for _, seed := range []string{"", "203.0.113.9", "10.0.0.1,", "[::1]:1", "a, b", "fe80::1%a,b", "\x00", "[[", "]", ":", "1.2.3.4:5,"} {
		f.Add(seed)
	}
	s := &Server{trustedProxies: proxies()}
	f.Fuzz(func(t *testing.T, sent string) {
		client := netip.MustParseAddr("203.0.113.9")
		for _, lines := range [][]string{{sent + ", 203.0.113.9"}, {sent, "203.0.113.9, 10.0.0.2"}} {
			if got := s.clientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{forwardedFor: lines}}); got != client {
				t.Errorf("%q: %s", lines, got)
			}
		}
		got := s.clientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{forwardedFor: {sent}}})
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%q: %s", sent, got)
		}
	})
}
