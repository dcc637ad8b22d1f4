// SPDX-License-Identifier: Apache-2.0

// Package httputil holds what the HTTP clients and servers of this module share. Every package may
// import it.
package httputil

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// IsLoopback reports whether host, an address or a name without a port, is this machine for any
// resolver.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// RetryAfter returns the wait that a response's header requests; zero for an absent, past or
// malformed value.
//
//	Retry-After = HTTP-date / delay-seconds    RFC 9110, section 10.2.3
func RetryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	// For a number out of range, ParseUint returns the largest one beside its error.
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0)
	}
	return 0
}
