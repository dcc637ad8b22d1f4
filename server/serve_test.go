// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// TestPortsServeOneProtocolUnlessShared: gRPC's port serves nothing else, and HTTP's no gRPC.
func TestPortsServeOneProtocolUnlessShared(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, nil)
	run.http, run.grpc = run.grpc, run.http
	client, base := run.client(t, true)
	resp, err := client.Get(base + "/api/v2/trustBundle")
	if err != nil || resp.StatusCode == http.StatusOK {
		t.Errorf("gRPC's port answered a request of REST with %v, %v", resp, err)
	}
	if run.create(t) == nil {
		t.Error("HTTP's port issued over gRPC")
	}
}

// inFlight begins a request over REST and one over gRPC, which are answered when release is closed.
func (r *running) inFlight(t *testing.T) (done chan error, release chan struct{}) {
	entered, release := r.hold()
	client, base := r.client(t, false)
	done = make(chan error, 2)
	go func() { done <- post(client, base) }()
	go func() { done <- r.create(t) }()
	<-entered
	<-entered
	return done, release
}

// TestShutdownDrains stops a server while requests are in flight. They are answered, readiness
// changes at once, and no new connection is accepted. Requests that take too long are cut off.
func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{true, false} {
		run := serve(t, shared, false, nil)
		done, release := run.inFlight(t)
		stopped := make(chan error, 1)
		go func() { stopped <- run.stop() }()
		<-run.health.stopping
		resp, err := http.Get("http://" + run.opsAddress + "/readyz")
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("readiness during shutdown: %v %v", resp, err)
		}
		close(release)
		if err := errors.Join(<-done, <-done, <-stopped); err != nil {
			t.Error(err)
		}
		for _, address := range []string{run.http, run.grpc} {
			if conn, err := net.Dial("tcp", address); err == nil {
				_ = conn.Close()
				t.Errorf("shared=%t: a port is still open", shared)
			}
		}
	}
}

func TestShutdownDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{true, false} {
		run := serve(t, shared, false, func(c *Config) { c.DrainTimeout = 20 * time.Millisecond })
		done, release := run.inFlight(t)
		defer close(release)
		if err := run.stop(); err == nil || strings.Count(err.Error(), "cut off") == 0 {
			t.Errorf("shared=%t: Serve returned %v", shared, err)
		}
		for range 2 {
			if <-done == nil {
				t.Errorf("shared=%t: a request got an answer", shared)
			}
		}
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	l, _ := listen(t)
	_ = l.Close()
	if err := f.Serve(t.Context(), Listeners{HTTP: l}); err == nil || !strings.Contains(err.Error(), "serving http and grpc") {
		t.Errorf("error is %v", err)
	}
}

// TestGraceLeavesHTTP2Later: a proxy cannot repeat a request that crosses GOAWAY, so its connections
// keep half of the grace, in which it notices that readiness fails.
func TestGraceLeavesHTTP2Later(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Grace = 8 * time.Second })
		_, stop := f.servePipes(t)
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		for _, want := range []string{"", "close"} {
			time.Sleep(3 * time.Second)
			for protocol, want := range map[int]string{1: "close", 2: want} {
				w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/livez", nil)
				r.ProtoMajor = protocol
				if f.Handler().ServeHTTP(w, r); w.Header().Get("Connection") != want {
					t.Errorf("HTTP/%d: Connection is %q, want %q", protocol, w.Header().Get("Connection"), want)
				}
			}
		}
		<-stopped
	})
}

// TestGraceServesOn: after the signal, readiness fails everywhere. Each request is answered, over
// existing and new connections, and each answer of HTTP/1.1 closes its connection.
func TestGraceServesOn(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		for _, useTLS := range []bool{false, true} {
			t.Run(fmt.Sprintf("shared=%t TLS=%t", shared, useTLS), func(t *testing.T) {
				t.Parallel()
				hurry := make(chan struct{})
				run := serve(t, shared, useTLS, func(c *Config) { c.Grace, c.Hurry = 24*time.Hour, hurry })
				run.health.interval = time.Millisecond
				watch, err := healthpb.NewHealthClient(run.dial(t, "127.0.0.1")).Watch(t.Context(), &healthpb.HealthCheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				expect := func(want healthpb.HealthCheckResponse_ServingStatus) {
					t.Helper()
					if got, err := watch.Recv(); err != nil || got.GetStatus() != want {
						t.Fatalf("the watcher got %v, %v, want %v", got, err, want)
					}
				}
				expect(healthpb.HealthCheckResponse_SERVING)
				stopped := make(chan error, 1)
				go func() { stopped <- run.stop() }()
				expect(healthpb.HealthCheckResponse_NOT_SERVING)
				for _, http2 := range []bool{false, true} {
					client, base := run.client(t, http2)
					for i := range 3 {
						trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
							if got.Reused != (http2 && i > 0) {
								t.Errorf("HTTP/2 %t: request %d on a connection that was used before: %t", http2, i, got.Reused)
							}
						}}
						req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", base+"/api/v2/signingCert", strings.NewReader(goodV2))
						if err != nil {
							t.Fatal(err)
						}
						resp, err := client.Do(req)
						if err != nil || resp.StatusCode != http.StatusOK {
							t.Fatalf("during the grace: %v %v", resp, err)
						}
						readAll(t, resp)
					}
					resp, err := client.Get(base + "/readyz")
					if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("readiness: %v %v", resp, err)
					}
				}
				if err := run.create(t); err != nil {
					t.Error(err)
				}
				close(hurry)
				if got, err := watch.Recv(); status.Code(err) != codes.Unavailable {
					t.Errorf("the watch ended with %v, %v", got, err)
				}
				if err := <-stopped; err != nil {
					t.Errorf("Serve returned %v", err)
				}
			})
		}
	}
}

// TestGraceEnds: the grace stops after its time, by a second signal, or at once if it is zero.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ grace, hurry, want time.Duration }{
		"by time":            {8 * time.Second, 0, 8 * time.Second},
		"by a second signal": {8 * time.Second, 3 * time.Second, 3 * time.Second},
		"without one":        {0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				hurry := make(chan struct{})
				f := newFixture(t, func(c *Config) { c.Grace, c.Hurry = tt.grace, hurry })
				l := make(pipeListener)
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error, 1)
				go func() { served <- f.Serve(ctx, Listeners{HTTP: l}) }()
				start := time.Now()
				cancel()
				if tt.hurry > 0 {
					time.AfterFunc(tt.hurry, func() { close(hurry) })
				}
				<-l // closed
				if took := time.Since(start); took != tt.want {
					t.Errorf("the listener closed after %v, want %v", took, tt.want)
				}
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
