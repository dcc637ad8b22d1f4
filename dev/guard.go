// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/httputil"
)

// guard keeps web pages of other origins away from next, which gives tokens to any caller. A
// browser reports where a request comes from (Fetch Metadata, W3C; RFC 6454 for Origin), and
// programs such as curl and cosign report nothing.
//
// navigable is the one path to which a page of another site may send the browser itself: the
// sign-in page, which shows a form and gives nothing before a person submits it.
func guard(navigable string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		// For browsers that report nothing: a token is no script, and no page embeds an answer.
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		switch {
		case !httputil.IsLoopback(hostname(r.Host)):
			// The owner of a name can make it lead to this machine (DNS rebinding).
			http.Error(w, "a development world answers under loopback names only", http.StatusForbidden)
		case foreign(r) && !(r.URL.Path == navigable && navigation(r)):
			http.Error(w, "a development world answers programs and its own pages, and no page of another origin", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// foreign reports whether a page of another origin causes the request. Other ports of this
// machine are other origins. An Origin of null is one too: a sandboxed page sends it.
func foreign(r *http.Request) bool {
	return slices.ContainsFunc(r.Header.Values("Sec-Fetch-Site"), func(site string) bool {
		return site != "same-origin" && site != "none" // none: a person typed the address
	}) || slices.ContainsFunc(r.Header.Values("Origin"), func(origin string) bool {
		return origin != "http://"+r.Host
	})
}

// navigation reports whether the request opens its page in a window of its own, and not in a
// frame of another page, and submits nothing.
func navigation(r *http.Request) bool {
	return r.Method == http.MethodGet && len(r.Header.Values("Origin")) == 0 &&
		slices.Equal(r.Header.Values("Sec-Fetch-Mode"), []string{"navigate"}) &&
		slices.Equal(r.Header.Values("Sec-Fetch-Dest"), []string{"document"})
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
