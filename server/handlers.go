// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// handlersPerSlot is the number of HTTP/2 requests that may be in progress for each slot. The
// others send their bodies, read their answers, watch the server's health, or read a mount. The
// share of one client address, which may be a proxy's, is larger than all slots. So many fast
// requests get OVERLOADED instead of a reset.
const handlersPerSlot = 3

// bounded limits the HTTP/2 requests in progress: one for each connection, and a number for all
// connections together. One client address gets at most half of that number. The limit is for
// memory. Without it, a client that sends bodies slowly, or gives answers no window, could hold
// connections times streams.
//
// A request beyond the limit is reset, since any answer may wait for its client.
func (s *Server) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 { // one request for each connection in any case
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
		// The rest of the answer waits for its client here, where the request still counts.
		_ = http.NewResponseController(w).Flush()
	})
}
