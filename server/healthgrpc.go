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
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// grpcHealth is grpc.health.v1 over the same readiness as /healthz.
type grpcHealth struct {
	healthpb.UnimplementedHealthServer
	health *health
}

// known tells whether a service is the server as a whole, or its CA.
func known(service string) bool {
	return service == "" || service == fulciov2.CA_ServiceDesc.ServiceName
}

// Check tells whether the server is ready.
func (g grpcHealth) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !known(req.GetService()) {
		return nil, refusal.New(refusal.PathNotFound, "there is no such service here; ask for \"\" or %q", fulciov2.CA_ServiceDesc.ServiceName)
	}
	return &healthpb.HealthCheckResponse{Status: g.status(ctx)}, nil
}

// Watch tells whether the server is ready, now and at each change, until shutdown.
func (g grpcHealth) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	ticker := time.NewTicker(g.health.interval)
	defer ticker.Stop()
	sent := healthpb.HealthCheckResponse_UNKNOWN
	for {
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
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-g.health.stopping:
			// The last word; a watcher asks another replica, or again when we are back.
			if known(req.GetService()) && sent != healthpb.HealthCheckResponse_NOT_SERVING {
				_ = stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING})
			}
			return status.Error(codes.Unavailable, "the server is shutting down")
		case <-ticker.C:
		}
	}
}

// status is the server's readiness.
func (g grpcHealth) status(ctx context.Context) healthpb.HealthCheckResponse_ServingStatus {
	if g.health.report(ctx).Status == serving {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}
