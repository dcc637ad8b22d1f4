// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// handlersPerSlot is how many requests may be under way for each that is answered at a time. The
// others send their bodies, read their answers, watch the server's health, or read a mount.
const handlersPerSlot = 4

// bounded bounds the requests that are under way, on all connections together. It is a bound of
// memory: without it, a client of HTTP/2 that sends bodies slowly, or gives answers no window, has
// as many as connections times streams. One client address gets half of them at most.
//
// An HTTP/2 request beyond the bound is reset, since any answer may wait for its client.
func (s *Server) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := s.clientAddr(r)
		if !s.handlers.Take(client, s.now()) {
			s.metrics.requests.WithLabelValues(apiOf(r.URL.Path), methodUnknown, string(refusal.Overloaded)).Inc()
			if r.ProtoMajor >= 2 {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Connection", "close") // or the server reads the rest of the body
			writeRefusal(w, refusal.New(refusal.Overloaded, "the server has as many requests under way as it can; try again in a moment"), requestID(r.Header.Get(requestIDHeader)))
			return
		}
		defer s.handlers.Give(client)
		h.ServeHTTP(w, r)
		if r.ProtoMajor >= 2 {
			// What is left of the answer waits here for its client, and not where it counts as done.
			_ = http.NewResponseController(w).Flush()
		}
	})
}
