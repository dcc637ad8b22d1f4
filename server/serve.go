// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/netutil"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Listeners are where a Server serves. Serve closes them.
type Listeners struct {
	// HTTP serves REST and health, over HTTP/1.1 and HTTP/2 (with TLS, or with prior
	// knowledge). Mandatory.
	HTTP net.Listener
	// GRPC serves gRPC. If it is nil or the same as HTTP, then HTTP serves both.
	GRPC net.Listener
	// Ops serves metrics and health, always without TLS. It may be nil.
	Ops net.Listener
}

// endpoint is one listener with what serves it.
type endpoint struct {
	name     string
	listener net.Listener
	server   *http.Server
}

// Serve serves until ctx ends or a listener fails; then the server says that it is not
// ready, accepts nothing more, and gives requests in flight DrainTimeout to end. It returns
// nil after an orderly end. It can be called once.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	if l.HTTP == nil {
		return errors.New("server: Listeners.HTTP is mandatory")
	}
	api := s.apiEndpoints(l)
	all := api
	var ops *endpoint
	if l.Ops != nil {
		ops = &endpoint{"ops", l.Ops, s.httpServer(s.OpsHandler(), true, nil)}
		all = append(all[:len(all):len(all)], ops)
	}
	failed := make(chan error, len(all))
	var running sync.WaitGroup
	for _, e := range all {
		running.Go(func() {
			if err := e.serve(s.limits.Connections); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving %s: %w", e.name, err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// Readiness first, so that a load balancer looks elsewhere; ops last, so that it can be
	// seen. The gRPC server has no connections of its own to stop.
	s.health.beginShutdown()
	errs := []error{err, s.shutdown(ctx, api...)}
	if ops != nil {
		errs = append(errs, s.shutdown(ctx, ops))
	}
	running.Wait()
	return errors.Join(errs...)
}

// apiEndpoints returns what serves the APIs: one endpoint, or one for REST and one for gRPC.
func (s *Server) apiEndpoints(l Listeners) []*endpoint {
	if l.GRPC == nil || l.GRPC == l.HTTP {
		return []*endpoint{{"http and grpc", l.HTTP, s.httpServer(s.bounded(s.Handler()), true, s.tls)}}
	}
	return []*endpoint{
		{"http", l.HTTP, s.httpServer(s.bounded(http.HandlerFunc(s.serveREST)), true, s.tls)},
		{"grpc", l.GRPC, s.httpServer(s.bounded(http.HandlerFunc(s.serveGRPCOnly)), false, s.tls)},
	}
}

// serveGRPCOnly answers a port that has gRPC alone.
func (s *Server) serveGRPCOnly(w http.ResponseWriter, r *http.Request) {
	if isGRPC(r) {
		s.serveGRPC(w, r)
		return
	}
	id := requestID(r.Header.Get(requestIDHeader))
	w.Header().Set(requestIDHeader, id)
	writeRefusal(w, refusal.New(refusal.PathNotFound, "this port serves gRPC only; the request's content type is not application/grpc"), id)
}

// httpServer returns the server of one listener. Limits are the same for all.
func (s *Server) httpServer(h http.Handler, http1 bool, tlsConfig *tls.Config) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(http1)
	protocols.SetHTTP2(tlsConfig != nil)
	protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	return &http.Server{
		Handler:           h,
		TLSConfig:         tlsConfig.Clone(), // nil stays nil
		Protocols:         protocols,
		ReadHeaderTimeout: s.limits.ReadHeader,
		ReadTimeout:       s.limits.Read,
		WriteTimeout:      s.limits.Write,
		IdleTimeout:       s.limits.Idle,
		MaxHeaderBytes:    s.limits.Header,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:      s.limits.Streams,
			MaxReceiveBufferPerStream: s.limits.Body + framePrefix,
			WriteByteTimeout:          s.limits.Write,
		},
		// Handshakes that fail, and clients that break the protocol: noise to most.
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}

// serve accepts connections until the server is shut down.
func (e *endpoint) serve(connections int) error {
	l := e.listener
	if connections > 0 {
		l = netutil.LimitListener(l, connections)
	}
	if e.server.TLSConfig != nil {
		return e.server.ServeTLS(l, "", "")
	}
	return e.server.Serve(l)
}

// shutdown ends endpoints together: at once where nothing is in flight, else when that has
// ended or DrainTimeout has passed.
func (s *Server) shutdown(ctx context.Context, endpoints ...*endpoint) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	errs := make([]error, len(endpoints))
	var wg sync.WaitGroup
	for i, e := range endpoints {
		wg.Go(func() {
			if err := e.server.Shutdown(ctx); err != nil {
				errs[i] = errors.Join(
					fmt.Errorf("draining %s: requests were cut off after %v: %w", e.name, s.drain, err),
					e.server.Close())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
