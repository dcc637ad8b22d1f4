// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// graceful serves with a grace that only hurry stops.
func graceful(t *testing.T, shared, useTLS bool) (run *running, hurry chan struct{}) {
	t.Helper()
	hurry = make(chan struct{})
	return serve(t, shared, useTLS, func(_ *fixture, c *Config) {
		c.Grace, c.Hurry, c.HealthInterval = 24*time.Hour, hurry, time.Millisecond
	}), hurry
}

// TestGraceServesOn: after the signal, readiness fails everywhere. Each request is answered, over
// existing and new connections, and each answer closes its connection.
func TestGraceServesOn(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		for _, useTLS := range []bool{false, true} {
			t.Run(fmt.Sprintf("shared=%t TLS=%t", shared, useTLS), func(t *testing.T) {
				t.Parallel()
				run, hurry := graceful(t, shared, useTLS)
				kept := run.dial(t)
				watch, err := healthpb.NewHealthClient(kept).Watch(t.Context(), &healthpb.HealthCheckRequest{})
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
					for range 3 {
						run.certificateOnNewConnection(t, client, base)
					}
					resp, err := client.Get(base + "/readyz")
					if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("readiness: %v %v", resp, err)
					}
				}
				for _, conn := range []*grpc.ClientConn{kept, run.dial(t)} {
					for range 3 {
						if _, err := fulciov2.NewCAClient(conn).CreateSigningCertificate(t.Context(), csrRequest("a.b.c")); err != nil {
							t.Error(err)
						}
					}
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

// certificateOnNewConnection gets a certificate, and requires that no connection is used twice.
func (r *running) certificateOnNewConnection(t *testing.T, client *http.Client, base string) {
	t.Helper()
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if got.Reused {
			t.Error("a connection was used after an answer that should have closed it")
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

// quiet is a listener that no client knows.
type quiet struct {
	closed chan struct{}
	once   sync.Once
}

func (q *quiet) Accept() (net.Conn, error) { <-q.closed; return nil, net.ErrClosed }
func (q *quiet) Close() error              { q.once.Do(func() { close(q.closed) }); return nil }
func (q *quiet) Addr() net.Addr            { return &net.TCPAddr{} }

// TestGraceLeavesHTTP2Later: a proxy cannot repeat a request that crosses GOAWAY, so its
// connections keep half of the grace, in which it notices that readiness fails. HTTP/1.1 has no such
// requests.
func TestGraceLeavesHTTP2Later(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Grace = 8 * time.Second })
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- f.Serve(ctx, Listeners{HTTP: &quiet{closed: make(chan struct{})}}) }()
		handler := f.track(http.NotFoundHandler())
		expect := func(http1, http2, late string) {
			t.Helper()
			for i, want := range []string{http1, http2, late} {
				w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
				r.ProtoMajor = min(i+1, 2)
				r = r.WithContext(context.WithValue(r.Context(), connKey{}, &conn{late: i == 2, conns: f.conns}))
				if handler.ServeHTTP(w, r); w.Header().Get("Connection") != want {
					t.Errorf("request %d: Connection is %q, want %q", i, w.Header().Get("Connection"), want)
				}
			}
		}
		synctest.Wait()
		expect("", "", "")
		cancel()
		time.Sleep(3 * time.Second)
		expect("close", "", "close")
		time.Sleep(2 * time.Second)
		expect("close", "close", "close")
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
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
				l := &quiet{closed: make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error, 1)
				go func() { served <- f.Serve(ctx, Listeners{HTTP: l}) }()
				synctest.Wait()
				start := time.Now()
				cancel()
				if tt.hurry > 0 {
					time.Sleep(tt.hurry)
					close(hurry)
				}
				<-l.closed
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

// TestRollingRestartLosesNothing restarts three replicas behind a proxy, one after another, while 16
// clients request certificates. The proxy sends requests to a replica until it is not ready.
func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ready []string // base URLs
	turn := 0
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 16},
		Rewrite: func(r *httputil.ProxyRequest) {
			mu.Lock()
			defer mu.Unlock()
			turn++
			to, _ := url.Parse(ready[turn%len(ready)])
			r.SetURL(to)
		},
	})
	defer proxy.Close()
	var replicas []*running
	var hurries []chan struct{}
	begin := func() {
		run, hurry := graceful(t, true, false)
		replicas, hurries = append(replicas, run), append(hurries, hurry)
		mu.Lock()
		defer mu.Unlock()
		ready = append(ready, "http://"+run.http)
	}
	for range 3 {
		begin()
	}
	ctx, stop := context.WithCancel(t.Context())
	progress := make(chan struct{})
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				resp, err := http.Post(proxy.URL+"/api/v2/signingCert", "", strings.NewReader(goodV2))
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("a request was lost: %v %v", resp, err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				select {
				case <-ctx.Done():
				case progress <- struct{}{}:
				}
			}
		})
	}
	answers := func(n int) {
		for range n {
			<-progress
		}
	}
	for i := range 6 {
		answers(100)
		stopped := make(chan error, 1)
		go func() { stopped <- replicas[i].stop() }()
		<-replicas[i].health.stopping
		answers(20) // before the proxy notices
		mu.Lock()
		ready = ready[1:]
		mu.Unlock()
		answers(20) // those that the proxy had sent are answered
		close(hurries[i])
		for done := false; !done; {
			select {
			case <-progress:
			case err := <-stopped:
				if done = true; err != nil {
					t.Errorf("replica %d: %v", i, err)
				}
			}
		}
		begin()
	}
	stop()
	clients.Wait()
	for _, hurry := range hurries[6:] {
		close(hurry)
	}
}
