// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// requestIDHeader carries the request ID in both directions.
const requestIDHeader = "X-Request-Id"

// requestID returns the caller's request ID if it is 1 to 128 characters of [A-Za-z0-9._-], which is
// safe in a header, in a log and on a terminal; otherwise 128 random bits.
func requestID(callers string) string {
	unsafe := func(c rune) bool {
		return !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if len(callers) >= 1 && len(callers) <= 128 && !strings.ContainsFunc(callers, unsafe) {
		return callers
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand stops the process instead
	return hex.EncodeToString(b[:])
}

// forwardedFor is the header to which each proxy appends the address of its peer.
const forwardedFor = "X-Forwarded-For"

// clientAddr returns the address of the client of a request. It is the peer's address, unless the peer is a
// trusted proxy. Then it is the rightmost address of X-Forwarded-For that is not a trusted proxy's.
// The entries to its left can be forged. An unreadable entry also stops the search; then the proxy
// that reported it counts as the client. The zero address means a peer without an IP address.
func (s *Server) clientAddr(peer string, forwarded []string) netip.Addr {
	client, ok := parseHop(peer)
	trusted := func(addr netip.Addr) bool { return contains(s.cfg.TrustedProxies, addr) }
	if !ok || !trusted(client) {
		return client
	}
	for _, line := range slices.Backward(forwarded) {
		for comma := len(line); comma >= 0; {
			line = line[:comma]
			comma = strings.LastIndexByte(line, ',')
			hop, ok := parseHop(strings.Trim(line[comma+1:], " \t"))
			if !ok {
				return client
			}
			if client = hop; !trusted(client) {
				return client
			}
		}
	}
	return client
}

// contains reports whether an address is in one of the networks.
func contains(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseHop parses an address, with or without a port, IPv6 with or without brackets. IPv4-mapped IPv6
// becomes IPv4, and a zone is dropped.
func parseHop(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return addr.Unmap().WithZone(""), err == nil
}

// idToken returns the one ID token of a request, from its message or from a header. The same token
// may be in several places. Two different tokens are refused, because the caller could mean either.
func idToken(message string, authorization, headers []string) (string, error) {
	found := append([]string{message}, headers...)
	foreign := false // an Authorization header of another scheme, which may be a proxy's
	for _, value := range authorization {
		token, ok := bearer(value)
		found, foreign = append(found, token), foreign || !ok
	}
	only := ""
	for _, token := range found {
		token = strings.TrimSpace(token)
		if token != "" && only != "" && token != only {
			return "", refusal.New(refusal.RequestMalformed, "the request carries two different ID tokens (in its message and its headers, or in two headers); send one")
		}
		only = cmp.Or(only, token)
	}
	switch {
	case only != "":
		return only, nil
	case foreign:
		return "", refusal.New(refusal.TokenMissing, "the Authorization header does not have the form \"Bearer TOKEN\", and there is no ID token elsewhere in the request")
	default:
		return "", refusal.New(refusal.TokenMissing, "the request carries no ID token; send one in the header \"Authorization: Bearer TOKEN\", or with API v2 in credentials.oidcIdentityToken")
	}
}

// bearer returns the credentials of an Authorization header with the scheme Bearer, in any case
// (RFC 9110, section 11.1), without surrounding white space. They may be empty.
func bearer(header string) (string, bool) {
	const scheme = "bearer"
	header = strings.TrimSpace(header)
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return "", false
	}
	rest := header[len(scheme):]
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return "", false
	}
	return strings.TrimSpace(rest), true
}
