// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// minRefresh is the shortest interval of fetches that an issuer can cause. Many issuers forbid all
// caching, by the defaults of their web server.
const minRefresh = time.Minute

// refreshInterval returns the time from a request for a key set to the next one. It is most, or
// less if Cache-Control gives a shorter freshness (RFC 9111, section 4.2), but at least minRefresh.
// It never exceeds most, the time for which a withdrawn key may still be accepted, whatever the
// issuer states.
func refreshInterval(answer http.Header, most time.Duration) time.Duration {
	maxAge, ok := maxAge(answer)
	if !ok {
		return most
	}
	if age, ok := deltaSeconds(answer.Get("Age")); ok { // section 5.1: in a cache on the way
		maxAge -= age
	}
	return min(most, max(maxAge, minRefresh))
}

// maxAge returns the smallest max-age of Cache-Control (RFC 9111, section 5.2):
//
//	Cache-Control   = #cache-directive
//	cache-directive = token [ "=" ( token / quoted-string ) ]
//
// A comma in a quoted string of another directive also separates here. maxAge may then read the
// rest of the string as a directive, which only the issuer can cause.
func maxAge(answer http.Header) (smallest time.Duration, found bool) {
	for _, line := range answer.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if !strings.EqualFold(name, "max-age") {
				continue
			}
			age, ok := deltaSeconds(strings.Trim(value, `"`))
			if ok && (!found || age < smallest) {
				smallest, found = age, true
			}
		}
	}
	return smallest, found
}

// deltaSeconds parses 1*DIGIT (RFC 9111, section 1.2.2). Numbers beyond 2^31 count as 2^31.
func deltaSeconds(text string) (time.Duration, bool) {
	const most = 1 << 31
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil || seconds > most { // ParseInt fails for digits only if there are too many
		seconds = most
	}
	return time.Duration(seconds) * time.Second, true
}
