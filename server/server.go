// SPDX-License-Identifier: Apache-2.0

// Package server is the edge of the certificate authority: gRPC v2, the same methods as
// JSON through an in-process grpc-gateway, REST v1, health and metrics.
//
// It is the only package that knows gRPC, HTTP and JSON. Every request of any API passes through
// (*Server).run, which does admission, the deadline, panic recovery, metrics and the access log.
// Every refusal becomes a status in status.go. Only package app and package main may
// import it.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// IssuerInfo is what GetConfiguration reports about one issuer entry.
type IssuerInfo struct {
	// URL is the issuer URL, or the pattern if Wildcard is set.
	URL      string
	Wildcard bool
	// Audience is the required aud of a token.
	Audience string
	// ChallengeClaim names the claim that a client must sign.
	ChallengeClaim        string
	SPIFFETrustDomain     string
	Type                  string
	SubjectDomain         string
	SkipEmailVerification bool
}

// Config is the configuration of a Server.
type Config struct {
	// Issue returns a certificate, or an error. The *refusal.Error in the error's chain is meant for
	// the client; any other error reaches the client as INTERNAL. Issue returns soon after ctx ends.
	// It is called concurrently. Mandatory.
	Issue func(ctx context.Context, req ca.Request) (*ca.Issued, error)
	// TrustBundle returns the chains that verifiers must trust, in the order in which they are
	// served. It is called for each request, so it must be fast. Returned chains are immutable.
	// Mandatory.
	TrustBundle func() []*ca.Chain
	// Issuers returns the issuer entries for GetConfiguration. It is called for each such request,
	// so that a reloaded configuration is served at once. Mandatory.
	Issuers func() []IssuerInfo
	// Checks are the conditions of readiness. Without any, the server is ready until it shuts down.
	Checks []Check
	// Mounts are served on the HTTP listener beside the APIs.
	Mounts []Mount
	// HealthInterval is how long a readiness report is reused before the checks run again. A gRPC
	// health watcher also checks this often. Default 1 s.
	HealthInterval time.Duration
	// TrustedProxies are the addresses of the proxies that may set X-Forwarded-For.
	TrustedProxies []netip.Prefix
	// TLS, if set, is used for the HTTP and gRPC listeners, never for ops. It must supply its own
	// certificate: GetCertificate, or Certificates. Its MinVersion must be 1.2 or higher; zero
	// means 1.3.
	TLS *tls.Config
	// Limits limit what a caller can make the server do; zero fields get the defaults.
	Limits Limits
	// Grace is how long the server, not ready any more, still serves after ctx of Serve has ended.
	// Default 0.
	Grace time.Duration
	// Hurry, when it is closed, stops the grace at once. It may be nil.
	Hurry <-chan struct{}
	// DrainTimeout is how long requests in flight may take after the grace. Default 20 s.
	DrainTimeout time.Duration
	// Registry registers the edge's metrics; /metrics on ops serves it. Mandatory.
	Registry *prometheus.Registry
	// Logger gets one record for each request. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock for durations. Default time.Now.
	Now func() time.Time
}

// Server is the edge. New returns one. It is safe for concurrent use.
type Server struct {
	issuer  func(context.Context, ca.Request) (*ca.Issued, error)
	chains  func() []*ca.Chain
	issuers func() []IssuerInfo
	tls     *tls.Config
	limits  Limits
	grace   time.Duration
	hurry   <-chan struct{}
	leaving chan struct{} // closed when half of the grace has passed
	drain   time.Duration
	logger  *slog.Logger
	now     func() time.Time

	conns   *connections  // of HTTP and gRPC
	slots   chan struct{} // one element for each admitted request
	metrics *metrics
	health  *health
	mounts  []mount

	mountSlots chan struct{}          // like slots, for mounts
	handlers   *share.Places          // for HTTP/2 requests in progress
	large      *share.Places          // for arriving bodies of more than ordinaryBody
	bundle     atomic.Pointer[bundle] // the newest
	registry   *prometheus.Registry
	gateway    *runtime.ServeMux
	grpc       *grpc.Server

	trustedProxies []netip.Prefix
}

// New returns a Server, or all errors in cfg at once.
func New(cfg Config) (*Server, error) {
	if cfg.Issue == nil || cfg.TrustBundle == nil || cfg.Issuers == nil || cfg.Registry == nil {
		return nil, errors.New("server: Issue, TrustBundle, Issuers and Registry are mandatory")
	}
	limits := cfg.Limits.withDefaults()
	tlsConfig, err := serverTLS(cfg.TLS)
	if err := errors.Join(err, checkMounts(cfg.Mounts)); err != nil {
		return nil, err
	}
	s := &Server{
		issuer:   cfg.Issue,
		chains:   cfg.TrustBundle,
		issuers:  cfg.Issuers,
		tls:      tlsConfig,
		limits:   limits,
		grace:    cfg.Grace,
		hurry:    cfg.Hurry,
		leaving:  make(chan struct{}),
		drain:    cmp.Or(cfg.DrainTimeout, 20*time.Second),
		logger:   cfg.Logger,
		now:      cfg.Now,
		slots:    make(chan struct{}, limits.InFlight),
		registry: cfg.Registry,

		trustedProxies: slices.Clone(cfg.TrustedProxies),
		// As many again for mounts, which have separate places for reads.
		mountSlots: make(chan struct{}, limits.InFlight),
		handlers:   share.New(handlersPerSlot*limits.InFlight, 0),
		large:      share.New(max(limits.InFlight/slotsPerLarge, 2), 0),
	}
	for _, m := range cfg.Mounts {
		s.mounts = append(s.mounts, mount{Mount: m, reads: share.New(max(limits.InFlight/16, 2), 0)})
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.health = newHealth(cfg.Checks, cmp.Or(cfg.HealthInterval, time.Second), s.now)
	s.conns = newConnections(limits.Connections, limits.Descriptors, s.logger)
	s.metrics = newMetrics(cfg.Registry, s.slots, s.conns)
	if s.gateway, err = newGateway(s); err != nil {
		return nil, fmt.Errorf("registering the gateway: %w", err)
	}
	s.grpc = newGRPC(s)
	return s, nil
}

// Handler returns the handler of a listener for both REST and gRPC. gRPC needs HTTP/2.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveBoth) }

func (s *Server) serveBoth(w http.ResponseWriter, r *http.Request) {
	if isGRPC(r) {
		s.serveGRPC(w, r)
		return
	}
	s.serveREST(w, r)
}

// OpsHandler returns the handler of the ops listener: /metrics, and health with the errors of its
// checks.
func (s *Server) OpsHandler() http.Handler { return http.HandlerFunc(s.serveOps) }

// serverTLS returns a copy of cfg that is fit for HTTP/1.1 and HTTP/2; nil for nil.
func serverTLS(cfg *tls.Config) (*tls.Config, error) {
	if cfg == nil {
		return nil, nil
	}
	cfg = cfg.Clone()
	switch {
	case cfg.MinVersion == 0:
		cfg.MinVersion = tls.VersionTLS13
	case cfg.MinVersion < tls.VersionTLS12:
		// RFC 8996 forbids 1.0 and 1.1; RFC 9113, section 9.2 requires 1.2 for HTTP/2.
		return nil, keypath.Errorf([]string{"tls", "min"}, "the lowest TLS version is %s; it must be 1.2 or 1.3", tls.VersionName(cfg.MinVersion))
	}
	if cfg.GetCertificate == nil && cfg.GetConfigForClient == nil && len(cfg.Certificates) == 0 {
		return nil, keypath.Errorf([]string{"tls", "certificate"}, "TLS is on but there is no certificate")
	}
	return cfg, nil
}
