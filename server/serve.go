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
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"

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

// endpoint is one listener and its server: exactly one of server and grpc is set.
type endpoint struct {
	name     string
	listener net.Listener
	server   *http.Server
	grpc     *grpc.Server
	conns    *connections
	proxies  *proxyPeers   // nil without the PROXY protocol
	closed   chan struct{} // closed when it accepts no more
}

// Serve serves until ctx ends or a listener fails. It can be called once. It returns nil after an
// orderly shutdown, which has three steps:
//  1. Readiness fails. New connections are still served for Config.Grace, so that load balancers
//     have time to notice. Each answer closes its connection.
//  2. The listeners close, and requests in flight get DrainTimeout. A connection that has just been
//     accepted gets the time to send its first request.
//  3. Connections that are still open are closed.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	if l.HTTP == nil {
		return errors.New("server: Listeners.HTTP is mandatory")
	}
	if l.GRPC == nil || l.GRPC == l.HTTP {
		both := &endpoint{name: "http and grpc", listener: l.HTTP, server: s.httpServer(s.Handler(), s.cfg.TLS), conns: s.conns, proxies: s.proxiesOf("http")}
		return s.serve(ctx, []*endpoint{both}, l.Ops)
	}
	return s.serve(ctx, []*endpoint{
		{name: "http", listener: l.HTTP, server: s.httpServer(s.handler(s.serveREST), s.cfg.TLS), conns: s.conns, proxies: s.proxiesOf("http")},
		{name: "grpc", listener: l.GRPC, grpc: newTransport(s), conns: s.conns, proxies: s.proxiesOf("grpc")},
	}, l.Ops)
}

// ServeOps serves on l what the ops listener of a Server serves, for a process without an API,
// until ctx ends or l fails. Of cfg it uses Checks, State, Registry and Logger. It closes l, and returns
// nil after an orderly shutdown.
func ServeOps(ctx context.Context, cfg Config, l net.Listener) error {
	cfg.DrainTimeout = time.Second
	return (&Server{cfg: cfg, conns: newConnections(0, 0, cfg.Logger), health: newHealth(cfg.Checks, cfg.Logger)}).serve(ctx, nil, l)
}

func (s *Server) serve(ctx context.Context, api []*endpoint, opsListener net.Listener) error {
	all := api
	var ops []*endpoint
	if opsListener != nil { // with places of its own, so that clients of the APIs cannot make it unreachable
		ops = []*endpoint{{
			name: "ops", listener: opsListener, server: s.httpServer(s.begin(s.serveOps), nil), conns: newConnections(opsConnections, 0, s.cfg.Logger),
		}}
		all = append(all[:len(all):len(all)], ops...)
	}
	failed := make(chan error, len(all))
	var running sync.WaitGroup
	for _, e := range all {
		e.listener, e.closed = newListener(e.listener, e.conns, e.proxies), make(chan struct{})
		running.Go(func() {
			defer close(e.closed)
			if err := e.serve(); err != nil && !isClosed(s.health.draining) {
				failed <- fmt.Errorf("serving %s: %w", e.name, err)
			}
		})
	}
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	running.Go(func() { s.health.watch(watched) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	close(s.health.stopping)
	leave := time.AfterFunc(s.cfg.Grace/2, func() { close(s.health.leaving) })
	defer leave.Stop()
	if err == nil && s.cfg.Grace > 0 {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "not ready any more, and still serving", slog.Duration("grace", s.cfg.Grace))
		select {
		case <-time.After(s.cfg.Grace):
		case <-s.cfg.Hurry:
		case err = <-failed:
		}
	}
	err = errors.Join(err, s.drain(context.WithoutCancel(ctx), api, ops))
	unwatch()
	running.Wait()
	return err
}

// drain closes the listeners of the APIs, and stops when the requests in flight have been answered.
func (s *Server) drain(ctx context.Context, api, ops []*endpoint) error {
	s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "draining", slog.Duration("limit", s.cfg.DrainTimeout))
	close(s.health.draining)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go s.conns.dismissStalled(ctx)
	for _, e := range api {
		_ = e.listener.Close() // fails only where it has failed before
	}
	for _, e := range api {
		<-e.closed
	}
	s.conns.awaitFirst()
	// Ops stops last, so that the drain stays visible.
	return errors.Join(s.shutdown(ctx, api), s.shutdown(ctx, ops))
}

// httpServer returns the server of one listener. All listeners for HTTP have the same limits.
func (s *Server) httpServer(h http.Handler, tlsConfig *tls.Config) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(tlsConfig != nil)
	protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	return &http.Server{
		Handler:           h,
		ConnContext:       withConn,
		ConnState:         connState,
		TLSConfig:         tlsConfig.Clone(), // nil stays nil
		Protocols:         protocols,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       s.cfg.Limits.Idle,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:      maxStreams,
			MaxReceiveBufferPerStream: maxBody + framePrefix,
			WriteByteTimeout:          stall,
		},
		// Failed handshakes and protocol errors of clients, noise for most operators.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// serve accepts connections until the server is shut down.
func (e *endpoint) serve() error {
	if e.grpc != nil {
		return e.grpc.Serve(e.listener)
	}
	if e.server.TLSConfig != nil {
		return e.server.ServeTLS(e.listener, "", "")
	}
	return e.server.Serve(e.listener)
}

// shutdown stops endpoints together: at once if nothing is in flight, otherwise when all requests
// have finished or DrainTimeout has passed.
func (s *Server) shutdown(ctx context.Context, endpoints []*endpoint) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	errs := make([]error, len(endpoints))
	var wg sync.WaitGroup
	for i, e := range endpoints {
		wg.Go(func() {
			if err := e.shutdown(ctx); err != nil {
				errs[i] = fmt.Errorf("draining %s: requests were cut off after %v: %w", e.name, s.cfg.DrainTimeout, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// shutdown stops an endpoint when all requests have finished; otherwise with an error when ctx ends.
func (e *endpoint) shutdown(ctx context.Context) error {
	if e.grpc == nil {
		err := e.server.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, e.server.Close())
		}
		return err
	}
	drained := make(chan struct{})
	go func() { defer close(drained); e.grpc.GracefulStop() }()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		e.grpc.Stop()
		return ctx.Err()
	}
}

// serveOps answers the ops listener, which is for the operator only: /metrics, profiles, /status, and
// health with the errors of its checks.
func (s *Server) serveOps(w http.ResponseWriter, r *http.Request, q *request) {
	switch {
	case s.serveHealth(w, r, q, r.URL.Path, true):
	case r.URL.Path == "/metrics":
		q.answer()
		// OpenMetrics, which a scraper selects by its header Accept, has exemplars.
		promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{Registry: s.cfg.Registry, EnableOpenMetrics: true}).ServeHTTP(w, r)
	case s.cfg.Ops.PProf && strings.HasPrefix(r.URL.Path, profiles):
		s.servePProf(w, r, q)
	case s.cfg.Ops.Page && s.cfg.Page != nil && (r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/page/")):
		if done, err := s.checkBrowser(w, r); err != nil {
			q.refuse(w, refusal.From(err))
		} else if !done {
			s.cfg.Page.ServeHTTP(w, r)
		}
	default:
		q.refuse(w, refusal.New(refusal.PathNotFound, "there is nothing at this path; this port has / for browsers, /status, /metrics, /livez, /healthz and /readyz?verbose"))
	}
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
