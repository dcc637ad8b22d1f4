// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// watchFrom watches a server's health from an address, and returns the first state.
func (r *running) watchFrom(t *testing.T, address string) (context.CancelFunc, error) {
	t.Helper()
	dial := func(ctx context.Context, to string) (net.Conn, error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		return dialer.DialContext(ctx, "tcp", to)
	}
	conn, err := grpc.NewClient("passthrough:"+r.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := watch.Recv()
	if err == nil && got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v", got)
	}
	return cancel, err
}

// TestWatchersAreBounded: one address gets half of the places, another address still gets one. A
// place is free again after its watcher has disconnected.
func TestWatchersAreBounded(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, func(_ *fixture, c *Config) { c.Limits.Connections = 16 }) // four watchers
	first, err := run.watchFrom(t, "127.0.0.1")
	if _, second := run.watchFrom(t, "127.0.0.1"); err != nil || second != nil {
		t.Fatal(err, second)
	}
	if _, err := run.watchFrom(t, "127.0.0.1"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the third watcher of one address got %v", err)
	}
	if _, err := run.watchFrom(t, "127.0.0.2"); err != nil {
		t.Errorf("the first watcher of another address got %v", err)
	}
	first()
	for ctx := t.Context(); ctx.Err() == nil; {
		if _, err := run.watchFrom(t, "127.0.0.1"); err == nil {
			return
		}
	}
}

// watchStream is a stream of Health.Watch; a test receives its messages.
type watchStream struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan healthpb.HealthCheckResponse_ServingStatus
}

func (s *watchStream) Context() context.Context { return s.ctx }
func (s *watchStream) Send(m *healthpb.HealthCheckResponse) error {
	s.sent <- m.GetStatus()
	return nil
}

// TestWatchersShareTheChecks: the checks run once an interval for all watchers, and each watcher
// gets each change, and stops after its lifetime.
func TestWatchersShareTheChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int64
		var down atomic.Bool
		check := Check{Name: "ct-log", Critical: true, Probe: func(context.Context) (string, error) {
			probes.Add(1)
			if down.Load() {
				return "", errors.New("down")
			}
			return "", nil
		}}
		const watchers = 100
		g := newGRPCHealth(newHealth([]Check{check}, time.Second, time.Now), 0)
		sent := make(chan healthpb.HealthCheckResponse_ServingStatus, watchers)
		ended := make(chan error, watchers)
		start := time.Now()
		for range watchers {
			go func() {
				ended <- g.Watch(&healthpb.HealthCheckRequest{}, &watchStream{ctx: (&request{}).with(t.Context()), sent: sent})
			}()
		}
		expect := func(want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			for range watchers {
				if got := <-sent; got != want {
					t.Fatalf("a watcher got %v, want %v", got, want)
				}
			}
		}
		expect(healthpb.HealthCheckResponse_SERVING)
		down.Store(true)
		expect(healthpb.HealthCheckResponse_NOT_SERVING)
		down.Store(false)
		expect(healthpb.HealthCheckResponse_SERVING)
		for range watchers {
			if err := <-ended; status.Code(err) != codes.Unavailable {
				t.Errorf("a watch ended with %v", err)
			}
		}
		if took := time.Since(start); took != watchLifetime {
			t.Errorf("watches ended after %v, want %v", took, watchLifetime)
		}
		if most := int64(watchLifetime/time.Second) + 2; probes.Load() > most {
			t.Errorf("the checks ran %d times, want at most %d", probes.Load(), most)
		}
	})
}
