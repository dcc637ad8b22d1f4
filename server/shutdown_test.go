// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
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

// backend is a replica in the view of a balancer.
type backend struct {
	base    string
	ready   bool
	pending int           // requests in progress
	retired chan struct{} // closed when it is not ready and has no request in progress
}

// balancer sends each request to a replica that was ready at its last check.
type balancer struct {
	mu       sync.Mutex
	backends []*backend
	turn     int
}

// watch checks a replica's readiness until it stops answering.
func (b *balancer) watch(ctx context.Context, to *backend) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		resp, err := client.Get(to.base + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
		}
		b.mu.Lock()
		to.ready = err == nil && resp.StatusCode == http.StatusOK
		b.settle(to)
		b.mu.Unlock()
	}
}

// settle closes retired if the replica is not ready and has no request. The caller must hold mu.
func (b *balancer) settle(to *backend) {
	if to.ready || to.pending > 0 {
		return
	}
	select {
	case <-to.retired:
	default:
		close(to.retired)
	}
}

func (b *balancer) pick() *backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.backends {
		b.turn++
		if to := b.backends[b.turn%len(b.backends)]; to.ready {
			to.pending++
			return to
		}
	}
	return nil
}

func (b *balancer) handler(t *testing.T) http.Handler {
	target := make(map[*backend]*httputil.ReverseProxy)
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := b.pick()
		if to == nil {
			http.Error(w, "no replica is ready", http.StatusBadGateway)
			return
		}
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			to.pending--
			b.settle(to)
		}()
		mu.Lock()
		proxy := target[to]
		if proxy == nil {
			base, err := url.Parse(to.base)
			if err != nil {
				t.Error(err)
			}
			proxy = httputil.NewSingleHostReverseProxy(base)
			proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 16}
			target[to] = proxy
		}
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	})
}

// replica is a server behind a balancer.
type replica struct {
	run   *running
	to    *backend
	hurry chan struct{}
}

// rollout is three replicas behind a balancer, with clients that request certificates.
type rollout struct {
	balancer
	replicas [3]replica
	progress chan struct{} // gets an element for each answer
	end      chan struct{} // closed to stop the clients
	running  sync.WaitGroup
}

// start starts a replica at index i of the balancer.
func (o *rollout) start(ctx context.Context, t *testing.T, i int) {
	run, hurry := graceful(t, true, false)
	to := &backend{base: "http://" + run.http, ready: true, retired: make(chan struct{})}
	o.replicas[i] = replica{run, to, hurry}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.backends[i] = to
	o.running.Go(func() { o.watch(ctx, to) })
}

// client requests certificates until end is closed.
func (o *rollout) client(t *testing.T, url string) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		resp, err := client.Post(url+"/api/v2/signingCert", "", strings.NewReader(goodV2))
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			err = errors.Join(err, resp.Body.Close())
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("a request was lost: %v %v", resp, err)
		}
		select {
		case <-o.end:
			return
		case o.progress <- struct{}{}:
		}
	}
}

// during keeps the clients running until done has an element or is closed.
func during[T any](o *rollout, done <-chan T) T {
	for {
		select {
		case <-o.progress:
		case it := <-done:
			return it
		}
	}
}

// TestRollingRestartLosesNothing restarts three replicas behind a balancer, one after another,
// while 16 clients request certificates. The grace of each lets the balancer see that it is not
// ready, and get the answers to earlier requests.
func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	o := &rollout{progress: make(chan struct{}), end: make(chan struct{})}
	o.backends = make([]*backend, len(o.replicas))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range o.replicas {
		o.start(ctx, t, i)
	}
	proxy := httptest.NewServer(o.handler(t))
	defer proxy.Close()
	for range 16 {
		o.running.Go(func() { o.client(t, proxy.URL) })
	}
	for i := range 2 * len(o.replicas) {
		for range 100 {
			<-o.progress
		}
		old := o.replicas[i%3]
		stopped := make(chan error, 1)
		go func() { stopped <- old.run.stop() }()
		during(o, old.to.retired)
		close(old.hurry)
		if err := during(o, stopped); err != nil {
			t.Errorf("replica %d: %v", i%3, err)
		}
		o.start(ctx, t, i%3)
	}
	close(o.end)
	cancel()
	o.running.Wait()
	for _, r := range o.replicas {
		close(r.hurry)
	}
}
