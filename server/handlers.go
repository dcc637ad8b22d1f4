// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// handlersPerSlot is how many requests of HTTP/2 may be under way for each that is answered at a
// time. The others send their bodies, read their answers, watch the server's health, or read a
// mount. The share of one client address, which may be a proxy's, is larger than all slots, so that
// a crowd of requests without slow ones gets OVERLOADED and is not reset.
const handlersPerSlot = 3

// bounded bounds the requests of HTTP/2 that are under way: one for each connection, and a number
// for all connections together, of which one client address gets half at most. It is a bound of
// memory: without it, a client that sends bodies slowly, or gives answers no window, has as many
// as connections times streams.
//
// A request beyond the bound is reset, since any answer may wait for its client.
func (s *Server) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 { // one request for each connection anyway
			h.ServeHTTP(w, r)
			return
		}
		c, _ := r.Context().Value(connKey{}).(*conn)
		if c != nil {
			defer c.streams.Add(-1)
		}
		if c == nil || c.streams.Add(1) > 1 {
			client := s.clientAddr(r)
			if !s.handlers.Take(client, s.now()) {
				s.metrics.requests.WithLabelValues(apiOf(r.URL.Path), methodUnknown, string(refusal.Overloaded)).Inc()
				panic(http.ErrAbortHandler)
			}
			defer s.handlers.Give(client)
		}
		h.ServeHTTP(w, r)
		// What is left of the answer waits here for its client, and not where it counts as done.
		_ = http.NewResponseController(w).Flush()
	})
}
