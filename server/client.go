// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedFor is the header to which each proxy appends the address of its peer.
const forwardedFor = "X-Forwarded-For"

// clientAddr returns the address of the client of r. It is the peer's address, unless the peer is a
// trusted proxy. Then it is the rightmost address of X-Forwarded-For that is not a trusted proxy's.
// The entries to its left can be forged. An unreadable entry also stops the search; then the proxy
// that reported it counts as the client. The zero address means a peer without an IP address.
func (s *Server) clientAddr(r *http.Request) netip.Addr {
	client, ok := parseHop(r.RemoteAddr)
	if !ok || !s.trusts(client) {
		return client
	}
	for _, line := range slices.Backward(r.Header[forwardedFor]) {
		for comma := len(line); comma >= 0; {
			line = line[:comma]
			comma = strings.LastIndexByte(line, ',')
			hop, ok := parseHop(strings.Trim(line[comma+1:], " \t"))
			if !ok {
				return client
			}
			if client = hop; !s.trusts(client) {
				return client
			}
		}
	}
	return client
}

// trusts reports whether addr is a trusted proxy's.
func (s *Server) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(s.trustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseHop parses an address, with or without a port, IPv6 with or without brackets. Brackets are
// required before a port. IPv4-mapped IPv6 becomes IPv4, and a zone is dropped.
func parseHop(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	bare, bracketed := strings.CutPrefix(text, "[")
	if bracketed {
		if bare, bracketed = strings.CutSuffix(bare, "]"); !bracketed {
			return netip.Addr{}, false
		}
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil || bracketed && addr.Is4() {
		return netip.Addr{}, false
	}
	return addr.Unmap().WithZone(""), true
}
