// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/idna"

	"github.com/mayfly-ca/mayfly/internal/httputil"
)

// proxied connects to issuers through the operator's proxy, and directly to loopback hosts. The
// proxy resolves names, so only the proxy can check the resulting addresses. proxied checks literal
// addresses.
type proxied struct {
	allowed     addresses
	via, direct http.RoundTripper
}

func newProxied(proxy *url.URL, r reach, direct transportFunc) *proxied {
	return &proxied{allowed: r.allowed, via: newTransport(reach{roots: r.roots, resolver: r.resolver, proxy: proxy}), direct: direct(r)}
}

// RoundTrip implements http.RoundTripper.
func (p *proxied) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	// net/http writes other forms of digits and dots as ASCII.
	if ascii, err := idna.Lookup.ToASCII(host); err == nil {
		host = ascii
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if httputil.IsLoopback(host) {
		return p.direct.RoundTrip(req)
	}
	addr, err := netip.ParseAddr(host)
	if err == nil && !p.allowed.contain(addr) || err != nil && (endsInNumber(host) || strings.HasSuffix(host, ".localhost")) {
		return nil, fmt.Errorf("address %s is refused for an issuer", quote(host))
	}
	return p.via.RoundTrip(req)
}

// endsInNumber reports whether resolvers may read a name as an IPv4 address, such as 2852039166,
// 0xa9.0xfe.43518 and 127.1 (WHATWG URL, section 3.5). The DNS has no such name.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	hex, isHex := strings.CutPrefix(last, "0x")
	return isHex && strings.Trim(hex, "0123456789abcdef") == "" || last != "" && strings.Trim(last, "0123456789") == ""
}

// parseProxy returns nil for "". Its errors never repeat the URL, which may hold a password.
func parseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the proxy's URL is not of the form http://host:port")
	}
	return u, nil
}
