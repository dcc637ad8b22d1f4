// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// replica is a server behind a proxy.
type replica struct {
	*running
	hurry chan struct{}
	proxy *httputil.ReverseProxy
	sent  sync.WaitGroup // requests that the proxy has sent and not answered
}

// balancer is a proxy in front of replicas, which get requests in turn.
type balancer struct {
	transport *http.Transport
	mu        sync.Mutex
	turn      int        // guarded by mu
	ready     []*replica // guarded by mu
}

// begin starts a replica.
func (b *balancer) begin(t *testing.T) {
	r := &replica{hurry: make(chan struct{})}
	r.running = serve(t, true, false, func(c *Config) { c.Grace, c.Hurry = time.Hour, r.hurry })
	r.proxy = &httputil.ReverseProxy{Transport: b.transport, Rewrite: func(to *httputil.ProxyRequest) {
		to.SetURL(&url.URL{Scheme: "http", Host: r.http})
	}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = append(b.ready, r)
}

// notice takes the oldest replica out of use, and waits until each request to it has an answer.
func (b *balancer) notice() {
	b.mu.Lock()
	oldest := b.ready[0]
	b.ready = b.ready[1:]
	b.mu.Unlock()
	oldest.sent.Wait()
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.turn++
	to := b.ready[b.turn%len(b.ready)]
	to.sent.Add(1)
	b.mu.Unlock()
	defer to.sent.Done()
	to.proxy.ServeHTTP(w, r)
}

// TestRollingRestartLosesNothing restarts three replicas behind a proxy, one after another, while 16
// clients request certificates. The proxy sends requests to a replica until it is not ready.
func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 to the replicas: %t", http2), func(t *testing.T) {
			t.Parallel()
			protocols := new(http.Protocols)
			protocols.SetHTTP1(!http2)
			protocols.SetUnencryptedHTTP2(http2)
			b := &balancer{transport: &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: 16}}
			for range 3 {
				b.begin(t)
			}
			proxy := httptest.NewServer(b)
			defer proxy.Close()
			ctx, stop := context.WithCancel(t.Context())
			progress := make(chan error)
			var clients sync.WaitGroup
			for range 16 {
				clients.Go(func() {
					for ctx.Err() == nil {
						err := post(http.DefaultClient, proxy.URL)
						select {
						case <-ctx.Done():
						case progress <- err:
						}
					}
				})
			}
			b.restartAll(t, progress)
			stop()
			clients.Wait()
			for _, r := range b.ready {
				close(r.hurry)
			}
		})
	}
}

// restartAll restarts each replica, while clients report the results of their requests.
func (b *balancer) restartAll(t *testing.T, progress <-chan error) {
	answers := func(n int) {
		for range n {
			if err := <-progress; err != nil {
				t.Errorf("a request was lost: %v", err)
			}
		}
	}
	for range 3 {
		answers(100)
		oldest := b.ready[0]
		stopped := make(chan error, 1)
		go func() { stopped <- oldest.stop() }()
		<-oldest.health.stopping
		answers(40) // before the proxy notices
		b.notice()
		close(oldest.hurry)
		for done := false; !done; {
			select {
			case err := <-stopped:
				if done = true; err != nil {
					t.Error(err)
				}
			default:
				answers(1)
			}
		}
		b.begin(t)
	}
}
