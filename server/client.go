// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"
)

// forwardedFor is the header in which each proxy appends the address that its request came from.
// gRPC metadata has the same name in lower case.
const forwardedFor = "X-Forwarded-For"

// clientAddr returns the address of the client of r: the peer's, or, where the peer is a trusted
// proxy, the rightmost address of X-Forwarded-For that is not a trusted proxy's. The entries left
// of that one can be forged. An entry that cannot be read stops the search too: then the proxy that
// reported it counts as the client. The zero address is a peer without an IP address.
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

// parseHop reads an address, with or without a port, IPv6 with or without brackets (brackets are
// mandatory before a port). IPv4-mapped IPv6 is IPv4, and a zone is dropped.
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

// clientOf returns the address that clientAddr found, from the metadata that this package made.
func clientOf(md metadata.MD) netip.Addr {
	client, _ := netip.ParseAddr(firstOf(md, strings.ToLower(forwardedFor))) // zero if there is none
	return client
}
