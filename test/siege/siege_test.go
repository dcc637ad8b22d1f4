// SPDX-License-Identifier: Apache-2.0

package siege

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"
)

const (
	attack      = 15 * time.Second // the duration of one
	connections = 1500
	readers     = 1000
	watchers    = 10000
	answer      = 4500 * time.Millisecond // limit for a complete answer
)

// TestConnections opens 1,500 connections in bursts and holds them, at a server that may open 1,024
// files.
func TestConnections(t *testing.T) {
	s := newServer(t, 1024, "")
	a := newAttacker(s, "127.0.0.1") // the address of the clients, as behind a load balancer
	before := len(s.lines())
	l := s.ask()
	end := time.After(attack)
	opened, closed := 0, 0
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		closed += a.prune()
		opened += a.burst(min(connections-len(a.open), 500), []string{s.http, s.grpc},
			nil, []byte("GET /healthz HTTP/1.1\r\nHost: ca.example\r\n\r\n"), []byte("POST /api/v2/signingCert HTTP/1.1\r\nHost: ca"),
			streams(1, 65535, 0, ":method", "GET", ":scheme", "http", ":authority", "ca.example", ":path", "/healthz"))
		select {
		case <-tick.C:
			continue
		case <-end:
		}
		break
	}
	s.figures("connections", l, time.Second)
	lines := float64(len(s.lines())-before) / attack.Seconds()
	t.Logf("connections: %d opened, %d closed by the server; %.1f log lines a second", opened, closed, lines)
	if lines > 10 {
		t.Errorf("connections: %.1f log lines a second; at most 10 are expected", lines)
	}
	s.memory("connections")
}

// TestReaders has 1,000 clients that request entries of the log and read nothing, over HTTP/1.1 and
// over HTTP/2, or call gRPC's own port, while a monitor reads.
func TestReaders(t *testing.T) {
	const path = "/ctlog/2026/ct/v1/get-entries?start=0&end=1000"
	http1 := []byte("GET " + path + " HTTP/1.1\r\nHost: log.example\r\n\r\n")
	call := func(path string) []string {
		return []string{":method", "POST", ":scheme", "http", ":authority", "ca.example", ":path", path, "content-type", "application/grpc", "te", "trailers"}
	}
	for _, test := range []struct {
		name        string
		connections int
		first       []byte
		grpc        bool
	}{
		{"readers over HTTP/1.1", readers, http1, false},
		{"readers without a window", readers / 10, streams(100, 0, 0, ":method", "GET", ":scheme", "http", ":authority", "log.example", ":path", "/healthz"), false},
		{"readers over HTTP/2", readers, append(streams(8, 1<<24, 0, ":method", "GET", ":scheme", "http", ":authority", "log.example", ":path", path), wide()...), false},
		{"writers of bodies", readers / 10, streams(100, 0, 60<<10, ":method", "POST", ":scheme", "http", ":authority", "ca.example", ":path", "/api/v2/signingCert"), false},
		{"readers of gRPC without a window", readers / 10, streams(100, 0, 5, call("/dev.sigstore.fulcio.v2.CA/GetTrustBundle")...), true},
		{"writers of messages of gRPC", readers / 10, streams(100, 0, 60<<10, call("/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate")...), true},
		{"readers of gRPC's refusals", readers / 10, append(streams(2000, 1<<24, 5, call("/dev.sigstore.fulcio.v2.CA/Nothing")...), wide()...), true},
		{"readers of grpc-go's refusals", readers / 10, append(streams(5000, 1<<24, 0, ":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/"), wide()...), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, 4096, "")
			s.fill(600)
			a := newAttacker(s, "127.0.0.2")
			l := s.ask()
			address := s.http
			if test.grpc {
				address = s.grpc
			}
			reads, refused := 0, 0
			end := time.After(attack)
			for tick := time.NewTicker(500 * time.Millisecond); ; {
				a.prune()
				a.burst(test.connections-len(a.open), []string{address}, test.first)
				if _, err := get(t.Context(), http.DefaultClient, "http://"+s.http+path); err == nil {
					reads++
				} else {
					refused++
					t.Logf("%s: a monitor's read: %v", test.name, err)
				}
				select {
				case <-tick.C:
					continue
				case <-end:
				}
				break
			}
			s.figures(test.name, l, answer)
			t.Logf("%s: a monitor's reads: %d answered, %d not; goroutines %d", test.name, reads, refused, s.metric("go_goroutines"))
			if reads == 0 {
				t.Errorf("%s: a monitor could not read", test.name)
			}
			s.memory(test.name)
		})
	}
}

// fill issues n certificates before an attack, and retries where the machine is too busy.
func (s *server) fill(n int) {
	s.t.Helper()
	failed := make(chan error, clients)
	for range clients {
		go func() {
			var last error
			for issued, tries := 0, 0; issued < n/clients && tries < 2*n; tries++ {
				if err := s.certificate(http.DefaultClient); err != nil {
					last = err
				} else {
					issued++
				}
			}
			failed <- last
		}()
	}
	for range clients {
		if err := <-failed; err != nil {
			s.t.Logf("before the attack: %v", err)
		}
	}
	s.mustLive()
	// Reads show the published checkpoint, which includes them within a second.
	ctx, cancel := context.WithTimeout(s.t.Context(), startLimit)
	defer cancel()
	for {
		_, err := get(ctx, http.DefaultClient, fmt.Sprintf("http://%s/ctlog/2026/ct/v1/get-entries?start=%d&end=%d", s.http, n/2, n))
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestWatchers opens 10,000 streams of Health.Watch from one client.
func TestWatchers(t *testing.T) {
	s := newServer(t, 4096, "")
	a := newAttacker(s, "127.0.0.2")
	l := s.ask()
	first := streams(100, 65535, 5, ":method", "POST", ":scheme", "http", ":authority", "ca.example",
		":path", "/grpc.health.v1.Health/Watch", "content-type", "application/grpc", "te", "trailers")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	goroutines := 0
	end := time.After(attack)
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		a.prune()
		for i := len(a.open); i < watchers/100; i++ {
			if conn := a.connect(s.grpc, first); conn != nil {
				go read(ctx, conn)
			}
		}
		goroutines = max(goroutines, s.metric("go_goroutines"))
		select {
		case <-tick.C:
			continue
		case <-end:
		}
		break
	}
	s.figures("watchers", l, answer)
	t.Logf("watchers: %d streams asked for; goroutines %d", watchers, goroutines)
	if goroutines > 5000 {
		t.Errorf("watchers: %d goroutines; at most 5000 are expected", goroutines)
	}
	s.memory("watchers")
}
