// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// serveOps answers the ops listener, which is for the operator's eyes only.
func (s *Server) serveOps(w http.ResponseWriter, r *http.Request) {
	id := requestID(r.Header.Get(requestIDHeader))
	w.Header().Set(requestIDHeader, id)
	switch {
	case s.serveHealth(w, r, r.URL.Path, id, true):
	case r.URL.Path == "/metrics":
		promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry}).ServeHTTP(w, r)
	default:
		writeRefusal(w, refusal.New(refusal.PathNotFound, "there is nothing at this path; this port has /metrics, /livez, /healthz and /readyz?verbose"), id)
	}
}
