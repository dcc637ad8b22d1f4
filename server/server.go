// SPDX-License-Identifier: Apache-2.0

// Package server is the edge of the certificate authority: gRPC v2, the same methods as JSON (REST
// v2, by grpc-gateway), REST v1, health and metrics.
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
	"hash/maphash"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/ratelimit"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
	"github.com/mayfly-ca/mayfly/server/trace"
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
	// Issuers returns the issuer entries for GetConfiguration, for each such request. A list that was
	// returned once does not change. Mandatory.
	Issuers func() []IssuerInfo
	// Checks are the conditions of readiness. Without any, the server is ready until it shuts down.
	Checks []Check
	// State, if set, completes the state of the server with what the edge does not know: all from Clock
	// on, but the limits of this package. It is called concurrently.
	State func(*State)
	// Mounts are served on the HTTP listener beside the APIs.
	Mounts []Mount
	// TrustedProxies are the addresses of the proxies that may set X-Forwarded-For.
	TrustedProxies []netip.Prefix
	// ProxyProtocol are the listeners, out of "http" and "grpc", that accept only connections from
	// TrustedProxies which begin with the PROXY protocol. Both on one port have "http".
	ProxyProtocol []string
	// RateLimits are the operator's; nil for none.
	RateLimits *ratelimit.Limits
	// TLS, if set, is used for the HTTP and gRPC listeners, never for ops. It must supply its own
	// certificate: GetCertificate, or Certificates.
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
	// Ops states what the ops listener serves beside metrics and health.
	Ops Ops
	// Page answers GET and HEAD for / and below /page/ on the ops listener, if Ops has it; nil for none.
	Page http.Handler
	// Tracer starts the traces of sampled requests; nil for none.
	Tracer *trace.Tracer
	// Refused, if set, is called with the reason of each refusal of a caller without a verified ID token.
	// Package ca records the others.
	Refused func(reason string)
	// Registry registers the edge's metrics; /metrics on ops serves it. Mandatory.
	Registry *prometheus.Registry
	// Logger gets one record for each request. Its handler is from Correlate, if the record of a traced
	// request must have the trace ID. Default: nothing is logged.
	Logger *slog.Logger
}

// Limits are limits on simultaneous use by clients (limits.md).
//
// A zero field means its default. The fields with tags are keys of `limits`.
type Limits struct {
	// Connections is the number of connections that the HTTP and gRPC listeners keep open together.
	// 0 derives it from the limit on file descriptors, at most 2048. At the limit, a new connection
	// replaces one without a request.
	Connections int `key:"connections" min:"0"`
	// Idle is the time that a connection may stay open without a request. It must be longer than load
	// balancers in front keep idle connections, or requests are lost; 600s is the longest of the
	// common ones.
	Idle time.Duration `key:"idle" default:"650s" min:"1s" max:"24h"`
	// InFlight is the number of requests answered at a time. One more is refused with OVERLOADED. Half
	// are for certificates of verified callers, and a proof with a key that costs more to verify than P-256
	// counts for several; further callers wait for their turn, at most 1s.
	InFlight int `key:"in_flight" default:"512" min:"1"`
	// Descriptors, if not zero, is the lowest file descriptor that connections leave free for all
	// other uses, see connections.
	Descriptors int
}

// The other limits.
const (
	maxBody        = 64 << 10 // of a request's body, or a message of gRPC; a larger one is malformed
	maxHeader      = 32 << 10 // of all header fields together, about; enough for the largest ID token
	maxStreams     = 100      // requests in progress on one HTTP/2 connection
	opsConnections = 32

	answerTimeout     = 4500 * time.Millisecond // from a request to its answer; npm times out after 5 s
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second // of a whole request
	writeTimeout      = 20 * time.Second // from a request's header to the end of its answer
)

// Server is the edge. New returns one. It is safe for concurrent use.
type Server struct {
	cfg        Config
	slots      chan struct{} // one element for each admitted request
	mountSlots chan struct{} // like slots, for mounts
	mounts     []mount
	turns      *share.Turns  // the part of slots for callers that are verified
	seed       maphash.Seed  // of the callers in turns
	refusals   *rate.Limiter // of OVERLOADED
	backlog    *backlog      // likewise
	reused     *reused
	proxies    *proxyPeers
	quiet      map[refusal.Reason]*sampler
	handlers   *share.Places // for HTTP/2 requests in progress
	large      *share.Places // for arriving bodies of more than ordinaryBody
	watchers   *share.Places // for Health.Watch
	conns      *connections  // of HTTP and gRPC
	metrics    *metrics
	health     *health
	issued     tally                  // by issuer entry
	refused    tally                  // by reason
	bundle     atomic.Pointer[bundle] // the newest
	issuers    atomic.Pointer[configuration]
	grpc       *grpc.Server
	gateway    http.Handler
}

// New returns a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Issue == nil || cfg.TrustBundle == nil || cfg.Issuers == nil || cfg.Registry == nil {
		return nil, errors.New("server: Issue, TrustBundle, Issuers and Registry are mandatory")
	}
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 20*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Limits.InFlight = cmp.Or(cfg.Limits.InFlight, 512)
	cfg.Limits.Idle = cmp.Or(cfg.Limits.Idle, 650*time.Second)
	inFlight, watchers := cfg.Limits.InFlight, maxWatchers
	if cfg.Limits.Connections > 0 {
		watchers = min(watchers, max(cfg.Limits.Connections/4, 2))
	}
	s := &Server{
		cfg:   cfg,
		slots: make(chan struct{}, inFlight),
		// As many again for mounts, which have separate places for reads.
		mountSlots: make(chan struct{}, inFlight),
		handlers:   share.New(handlersPerSlot*inFlight, 0),
		large:      share.New(max(inFlight/slotsPerLarge, 2), 0),
		turns:      share.NewTurns(inFlight-inFlight/2, max(inFlight/2, 1), turnPatience),
		seed:       maphash.MakeSeed(),
		refusals:   rate.NewLimiter(rate.Limit(refusalRate*runtime.GOMAXPROCS(0)), refusalRate/10),
		backlog:    &backlog{start: time.Now(), most: inFlight},
		reused:     newReused(cfg.Registry),
		proxies:    newProxies(cfg.TrustedProxies, cfg.Registry),
		quiet:      map[refusal.Reason]*sampler{refusal.Overloaded: {}, refusal.RateLimited: {}},
		watchers:   share.New(watchers, 0),
		conns:      newConnections(cfg.Limits.Connections, cfg.Limits.Descriptors, cfg.Logger),
		health:     newHealth(cfg.Checks, cfg.Logger),
	}
	for _, m := range cfg.Mounts {
		s.mounts = append(s.mounts, mount{Mount: m, reads: share.New(max(inFlight/16, 2), 0)})
	}
	s.metrics = newMetrics(cfg.Registry, s.slots, s.conns, s.health)
	s.grpc = newGRPC(s)
	var err error
	s.gateway, err = newGateway(s)
	return s, err
}

// Handler returns the handler of a listener for both REST and gRPC. gRPC needs HTTP/2.
func (s *Server) Handler() http.Handler { return s.handler(s.serveBoth) }

func (s *Server) serveBoth(w http.ResponseWriter, r *http.Request, q *request) {
	if isGRPC(r) {
		s.serveGRPC(w, r, q)
		return
	}
	s.serveREST(w, r, q)
}
