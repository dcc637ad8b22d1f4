// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

const (
	// maxWatchers limits the streams of Health.Watch, since none of them stops by itself and each
	// keeps a connection busy. A quarter of Limits.Connections replaces it if smaller.
	maxWatchers = 256
	// watchLifetime limits a watcher's stream. Clients of gRPC's health service start again at once
	// when a stream that had reported a state ends.
	watchLifetime = 30 * time.Minute
)

// grpcHealth is grpc.health.v1 with the same readiness as /healthz.
type grpcHealth struct {
	healthpb.UnimplementedHealthServer
	health   *health
	watchers *watchers
}

// watchers are the streams of Health.Watch. One ticker serves all of them.
type watchers struct {
	// Client addresses share the places, so that one client gets at most half.
	places *share.Places

	mu      sync.Mutex
	count   int
	changed chan struct{} // closed and replaced at each change of readiness
	ticking bool          // tick is running
}

func newGRPCHealth(h *health, connections int) grpcHealth {
	most := maxWatchers
	if connections > 0 {
		most = min(most, max(connections/4, 2))
	}
	return grpcHealth{health: h, watchers: &watchers{places: share.New(most, 0), changed: make(chan struct{})}}
}

// known reports whether a service is the server as a whole, or its CA.
func known(service string) bool {
	return service == "" || service == fulciov2.CA_ServiceDesc.ServiceName
}

// Check returns whether the server is ready.
func (g grpcHealth) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !known(req.GetService()) {
		return nil, refusal.New(refusal.PathNotFound, "there is no such service here; ask for \"\" or %q", fulciov2.CA_ServiceDesc.ServiceName)
	}
	return &healthpb.HealthCheckResponse{Status: g.status(ctx)}, nil
}

// Watch sends the readiness of the server, now and at each change, for watchLifetime or until the
// server drains.
func (g grpcHealth) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	md, _ := metadata.FromIncomingContext(ctx)
	client := clientOf(md)
	if !g.watchers.places.Take(client, time.Now()) {
		return refusal.New(refusal.Overloaded, "the server has as many health watchers as it can; use Check instead, or watch again later")
	}
	defer g.watchers.places.Give(client)
	g.join()
	defer g.watchers.leave()
	lifetime := time.NewTimer(watchLifetime)
	defer lifetime.Stop()
	sent := healthpb.HealthCheckResponse_UNKNOWN
	for {
		changed := g.watchers.next() // before the status is read, so that no change is missed
		now := healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		if known(req.GetService()) {
			now = g.status(ctx)
		}
		if now != sent {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			sent = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-g.health.draining:
			if known(req.GetService()) && sent != healthpb.HealthCheckResponse_NOT_SERVING {
				_ = stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING})
			}
			return status.Error(codes.Unavailable, "the server is shutting down")
		case <-lifetime.C:
			return status.Errorf(codes.Unavailable, "a watcher stays for %v at most; watch again", watchLifetime)
		}
	}
}

// status returns the server's readiness.
func (g grpcHealth) status(ctx context.Context) healthpb.HealthCheckResponse_ServingStatus {
	if g.health.report(ctx).Status == serving {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}

// join adds a watcher, and starts the ticker with the first one.
func (g grpcHealth) join() {
	ws := g.watchers
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.count++
	if !ws.ticking {
		ws.ticking = true
		go g.tick()
	}
}

// leave removes a watcher.
func (ws *watchers) leave() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.count--
}

// tick checks for changes of readiness until there is no watcher.
func (g grpcHealth) tick() {
	ticker := time.NewTicker(g.health.interval)
	defer ticker.Stop()
	stopping := g.health.stopping
	last := ""
	for {
		select {
		case <-ticker.C:
		case <-stopping:
			stopping = nil // once is enough
		}
		now := g.health.report(context.Background()).Status
		if g.watchers.update(now != last) {
			return
		}
		last = now
	}
}

// update wakes the watchers after a change. It returns true if there is no watcher; then tick
// returns.
func (ws *watchers) update(change bool) (done bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if change {
		close(ws.changed)
		ws.changed = make(chan struct{})
	}
	ws.ticking = ws.count > 0
	return !ws.ticking
}

// next returns a channel that is closed at the next change.
func (ws *watchers) next() <-chan struct{} {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.changed
}
