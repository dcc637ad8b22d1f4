// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
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
	watchers *share.Places // one client gets at most half
}

func newGRPCHealth(h *health, connections int) grpcHealth {
	most := maxWatchers
	if connections > 0 {
		most = min(most, max(connections/4, 2))
	}
	return grpcHealth{health: h, watchers: share.New(most, 0)}
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
	return &healthpb.HealthCheckResponse{Status: g.status(ctx, "")}, nil
}

// Watch sends the readiness of the server, now and at each change, for watchLifetime or until the
// server drains. The checks run once an interval, however many watchers there are.
func (g grpcHealth) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	client := requestOf(ctx).client
	if !g.watchers.Take(client, time.Now()) {
		return refusal.New(refusal.Overloaded, "the server has as many health watchers as it can; use Check instead, or watch again later")
	}
	defer g.watchers.Give(client)
	lifetime := time.NewTimer(watchLifetime)
	defer lifetime.Stop()
	ticker := time.NewTicker(g.health.interval)
	defer ticker.Stop()
	stopping, sent := g.health.stopping, healthpb.HealthCheckResponse_UNKNOWN
	for {
		if now := g.status(ctx, req.GetService()); now != sent {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			sent = now
		}
		select {
		case <-ticker.C:
		case <-stopping:
			stopping = nil // once is enough
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-g.health.draining:
			if now := g.status(ctx, req.GetService()); now != sent {
				_ = stream.Send(&healthpb.HealthCheckResponse{Status: now})
			}
			return status.Error(codes.Unavailable, "the server is shutting down")
		case <-lifetime.C:
			return status.Errorf(codes.Unavailable, "a watcher stays for %v at most; watch again", watchLifetime)
		}
	}
}

// status returns the readiness of a service.
func (g grpcHealth) status(ctx context.Context, service string) healthpb.HealthCheckResponse_ServingStatus {
	if !known(service) {
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	}
	if g.health.report(ctx).Status == serving {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}
