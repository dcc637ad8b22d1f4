// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// serveOps answers the ops listener, which is for the operator only.
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

// OpsConfig configures ServeOps.
type OpsConfig struct {
	// Checks are the conditions of readiness.
	Checks []Check
	// Registry is what /metrics serves. Mandatory.
	Registry *prometheus.Registry
	// Logger logs errors. Mandatory.
	Logger *slog.Logger
}

// ServeOps serves on l what the ops listener of a Server serves, for a process without an API,
// until ctx ends or l fails. It closes l, and returns nil after an orderly shutdown.
func ServeOps(ctx context.Context, cfg OpsConfig, l net.Listener) error {
	s := &Server{
		limits: Limits{}.withDefaults(), drain: time.Second, logger: cfg.Logger, registry: cfg.Registry,
		health: newHealth(cfg.Checks, time.Second, time.Now),
	}
	ops := s.opsEndpoint(l)
	failed := make(chan error, 1)
	go func() { failed <- ops.serve(nil) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving ops: %w", err)
	case <-ctx.Done():
	}
	s.health.beginShutdown()
	err := s.shutdown(ctx, ops)
	<-failed
	return err
}
