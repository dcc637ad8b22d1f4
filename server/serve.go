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
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Listeners are the listeners of a Server. Serve closes them.
type Listeners struct {
	// HTTP serves REST and health, over HTTP/1.1 and HTTP/2 (with TLS, or with prior
	// knowledge). Mandatory.
	HTTP net.Listener
	// GRPC serves gRPC. If it is nil or the same as HTTP, then HTTP serves both.
	GRPC net.Listener
	// Ops serves metrics and health, always without TLS. It may be nil.
	Ops net.Listener
}

// endpoint is one listener and its server.
type endpoint struct {
	name     string
	listener net.Listener
	server   *http.Server
	conns    *connections
}

// Serve serves until ctx ends or a listener fails. It can be called once. It returns nil after an
// orderly shutdown, which has three steps:
//  1. Readiness fails. New connections are still served for Config.Grace, so that load balancers
//     have time to notice. Each answer closes its connection.
//  2. The listeners close, and requests in flight get DrainTimeout.
//  3. Connections that are still open are closed.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	if l.HTTP == nil {
		return errors.New("server: Listeners.HTTP is mandatory")
	}
	api := s.apiEndpoints(l)
	all := api
	var ops *endpoint
	if l.Ops != nil {
		ops = s.opsEndpoint(l.Ops)
		all = append(all[:len(all):len(all)], ops)
	}
	failed := make(chan error, len(all))
	var running sync.WaitGroup
	for _, e := range all {
		running.Go(func() {
			if err := e.serve(s.health.stopping); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving %s: %w", e.name, err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.health.beginShutdown()
	leave := time.AfterFunc(s.grace/2, func() { close(s.leaving) })
	defer leave.Stop()
	if err == nil && s.grace > 0 {
		err = s.lastGrace(ctx, failed)
	}
	s.logger.InfoContext(ctx, "draining", "limit", s.drain)
	s.health.beginDrain()
	drained, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go s.conns.dismissStalled(drained)
	// Ops stops last, so that the drain stays visible. The gRPC server has no connections of its
	// own.
	errs := []error{err, s.shutdown(ctx, api...)}
	if ops != nil {
		errs = append(errs, s.shutdown(ctx, ops))
	}
	running.Wait()
	return errors.Join(errs...)
}

// lastGrace waits until the grace has passed or hurry is closed, or until a listener fails.
func (s *Server) lastGrace(ctx context.Context, failed <-chan error) error {
	s.logger.InfoContext(ctx, "not ready any more, and still serving", "grace", s.grace)
	timer := time.NewTimer(s.grace)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.hurry:
	case err := <-failed:
		return err
	}
	return nil
}

// apiEndpoints returns the endpoints of the APIs: a shared one, or one for REST and one for gRPC.
func (s *Server) apiEndpoints(l Listeners) []*endpoint {
	api := func(name string, l net.Listener, http1 bool, h http.HandlerFunc) *endpoint {
		return &endpoint{name, l, s.httpServer(s.track(h), http1, s.tls), s.conns}
	}
	if l.GRPC == nil || l.GRPC == l.HTTP {
		return []*endpoint{api("http and grpc", l.HTTP, true, s.serveBoth)}
	}
	return []*endpoint{api("http", l.HTTP, true, s.serveREST), api("grpc", l.GRPC, false, s.serveGRPCOnly)}
}

// opsEndpoint returns the endpoint of ops. It has places of its own, so that clients of the APIs
// cannot make it unreachable.
func (s *Server) opsEndpoint(l net.Listener) *endpoint {
	return &endpoint{"ops", l, s.httpServer(keepBusy(s.OpsHandler()), true, nil), newConnections(opsConnections, 0, s.logger)}
}

// serveGRPCOnly answers requests to a port that serves only gRPC.
func (s *Server) serveGRPCOnly(w http.ResponseWriter, r *http.Request) {
	if isGRPC(r) {
		s.serveGRPC(w, r)
		return
	}
	q := s.newRequest(w, r)
	writeRefusal(w, refusal.New(refusal.PathNotFound, "this port serves gRPC only; the request's content type is not application/grpc"), q.id)
}

// httpServer returns the server of one listener. All listeners have the same limits.
func (s *Server) httpServer(h http.Handler, http1 bool, tlsConfig *tls.Config) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(http1)
	protocols.SetHTTP2(tlsConfig != nil)
	protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	return &http.Server{
		Handler:           h,
		ConnContext:       withConn,
		ConnState:         connState,
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
			WriteByteTimeout:          min(stall, s.limits.Write),
		},
		// Failed handshakes and protocol errors of clients, noise for most operators.
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}

// serve accepts connections until the server is shut down.
func (e *endpoint) serve(stopping <-chan struct{}) error {
	l := newListener(e.listener, e.conns, stopping)
	if e.server.TLSConfig != nil {
		return e.server.ServeTLS(l, "", "")
	}
	return e.server.Serve(l)
}

// shutdown stops endpoints together: at once if nothing is in flight, otherwise when all requests
// have finished or DrainTimeout has passed.
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

// isClosed reports whether a channel that never has an element is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
