// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
)

// proxied reaches issuers through the proxy that the operator has named, and loopback hosts
// directly. The proxy looks up names, so that only it can check what they stand for; addresses
// that are written as such are checked here.
type proxied struct {
	policy      *addressPolicy
	via, direct http.RoundTripper
}

func newProxied(proxy *url.URL, r reach, direct transportFunc) *proxied {
	// The proxy's own address is the operator's word, and mostly a private one.
	via := newHTTPTransport(&net.Dialer{Timeout: fetchTimeout, Resolver: r.resolver}, r.roots)
	via.Proxy = http.ProxyURL(proxy)
	return &proxied{policy: r.policy, via: via, direct: direct(r)}
}

// RoundTrip implements http.RoundTripper.
func (p *proxied) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	if isLoopbackHost(host) {
		return p.direct.RoundTrip(req)
	}
	if addr, err := netip.ParseAddr(host); err == nil && !p.policy.allows(addr) {
		return nil, fmt.Errorf("address %s is refused for an issuer", addr)
	}
	return p.via.RoundTrip(req)
}

// parseProxy returns nil for "". It never repeats the URL, which may hold a password.
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
