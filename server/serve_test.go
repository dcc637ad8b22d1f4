// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// running is a fixture that serves on real sockets.
type running struct {
	*fixture
	http, grpc, ops string // addresses
	roots           *x509.CertPool
	stop            func() error // begins shutdown, and returns what Serve returned
}

// serve runs a fixture, with or without TLS; gRPC has a separate port or HTTP's.
func serve(t testing.TB, shared, useTLS bool, change func(*fixture, *Config)) *running {
	t.Helper()
	run := &running{}
	run.fixture = newFixture(t, func(c *Config) {
		if useTLS {
			c.TLS, run.roots = testTLS(t)
		}
		if change != nil {
			change(run.fixture, c)
		}
	})
	var l Listeners
	l.HTTP, run.http = listen(t)
	l.Ops, run.ops = listen(t)
	l.GRPC, run.grpc = l.HTTP, run.http
	if !shared {
		l.GRPC, run.grpc = listen(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- run.Serve(ctx, l) }()
	stopped := false
	run.stop = func() error {
		stopped = true
		cancel()
		return <-served
	}
	t.Cleanup(func() {
		if !stopped {
			if err := run.stop(); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		}
	})
	return run
}

func listen(t testing.TB) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().String()
}

// testTLS returns a server's configuration and the roots of a client. The certificate comes from
// GetCertificate, as for a certificate that is reloaded.
func testTLS(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	certificate := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil }}, roots
}

// client returns an HTTP client that uses only HTTP/1.1 or only HTTP/2, and the base URL of the
// server.
func (r *running) client(t testing.TB, http2 bool) (*http.Client, string) {
	t.Helper()
	protocols := new(http.Protocols)
	scheme := "http://"
	if r.roots != nil {
		scheme = "https://"
	}
	switch {
	case !http2:
		protocols.SetHTTP1(true)
	case r.roots != nil:
		protocols.SetHTTP2(true)
	default:
		protocols.SetUnencryptedHTTP2(true)
	}
	transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: r.roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, scheme + r.http
}

// dial returns a gRPC connection.
func (r *running) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if r.roots != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: r.roots})
	}
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestModes gets a certificate in every mode: separate and shared ports, with and without TLS,
// HTTP/1.1, HTTP/2 and gRPC.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		for _, useTLS := range []bool{false, true} {
			t.Run(fmt.Sprintf("shared=%t TLS=%t", shared, useTLS), func(t *testing.T) {
				t.Parallel()
				run := serve(t, shared, useTLS, nil)
				for _, http2 := range []bool{false, true} {
					client, base := run.client(t, http2)
					resp, err := client.Post(base+"/api/v2/signingCert", "", strings.NewReader(goodV2))
					if err != nil || resp.StatusCode != http.StatusOK || (resp.ProtoMajor == 2) != http2 {
						t.Fatalf("HTTP/2 %t: %v %v", http2, resp, err)
					}
					readAll(t, resp)
				}
				if got, err := fulciov2.NewCAClient(run.dial(t)).CreateSigningCertificate(t.Context(), csrRequest("a.b.c")); err != nil || len(got.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()) != 3 {
					t.Errorf("gRPC: %v %v", got, err)
				}
				resp, err := http.Get("http://" + run.ops + "/healthz")
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("ops: %v %v", resp, err)
				}
			})
		}
	}
}

func TestGRPCPortServesNothingElse(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, nil)
	run.http = run.grpc
	client, base := run.client(t, true)
	resp, err := client.Get(base + "/api/v2/trustBundle")
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, resp, refusal.PathNotFound)
}

func TestHTTPPortServesNoGRPCUnlessShared(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, nil)
	run.grpc = run.http
	if got, err := fulciov2.NewCAClient(run.dial(t)).GetTrustBundle(t.Context(), nil); err == nil {
		t.Errorf("got %v", got)
	}
}

func TestTLSVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		min, max uint16 // of the server, of the client
		works    bool
	}{
		{"1.3 by default", 0, tls.VersionTLS13, true},
		{"1.2 is refused by default", 0, tls.VersionTLS12, false},
		{"1.2 if configured", tls.VersionTLS12, tls.VersionTLS12, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run := serve(t, true, true, func(_ *fixture, c *Config) { c.TLS.MinVersion = tt.min })
			conn, err := tls.Dial("tcp", run.http, &tls.Config{RootCAs: run.roots, MaxVersion: tt.max})
			if (err == nil) != tt.works {
				t.Errorf("error is %v", err)
			}
			if err == nil {
				_ = conn.Close()
			}
		})
	}
	for _, cfg := range []*tls.Config{{MinVersion: tls.VersionTLS11}, {}} {
		if _, err := serverTLS(cfg); err == nil {
			t.Errorf("accepted %v", cfg)
		}
	}
}

// TestShutdownDrains stops a server while a request is in flight. That request is answered,
// readiness changes at once, and no new connection is accepted.
func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			t.Parallel()
			entered, release := make(chan struct{}), make(chan struct{})
			run := serve(t, shared, false, nil)
			run.authority.issue = func(context.Context, ca.Request) (*ca.Issued, error) {
				entered <- struct{}{}
				<-release
				return &ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root")}, nil
			}
			client, base := run.client(t, false)
			restDone, grpcDone, stopped := make(chan error, 1), make(chan error, 1), make(chan error, 1)
			go func() {
				resp, err := client.Post(base+"/api/v2/signingCert", "", strings.NewReader(goodV2))
				if err == nil && resp.StatusCode != http.StatusOK {
					err = errors.New(resp.Status)
				}
				restDone <- err
			}()
			go func() {
				_, err := fulciov2.NewCAClient(run.dial(t)).CreateSigningCertificate(t.Context(), csrRequest("a.b.c"))
				grpcDone <- err
			}()
			<-entered
			<-entered
			go func() { stopped <- run.stop() }()
			<-run.health.stopping
			resp, err := http.Get("http://" + run.ops + "/readyz")
			if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("readiness during shutdown: %v %v", resp, err)
			}
			close(release)
			if err := <-restDone; err != nil {
				t.Errorf("REST: %v", err)
			}
			if err := <-grpcDone; err != nil {
				t.Errorf("gRPC: %v", err)
			}
			if err := <-stopped; err != nil {
				t.Errorf("Serve returned %v", err)
			}
			if conn, err := net.Dial("tcp", run.http); err == nil {
				_ = conn.Close()
				t.Error("the port is still open")
			}
		})
	}
}

func TestShutdownDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 2), make(chan struct{})
	t.Cleanup(func() { close(release) })
	run := serve(t, true, false, func(_ *fixture, c *Config) { c.DrainTimeout = 20 * time.Millisecond })
	run.authority.issue = func(context.Context, ca.Request) (*ca.Issued, error) {
		entered <- struct{}{}
		<-release // ignores its context
		return nil, errors.New("too late")
	}
	client, base := run.client(t, false)
	done := make(chan error, 2)
	go func() {
		_, err := client.Post(base+"/api/v2/signingCert", "", strings.NewReader(goodV2))
		done <- err
	}()
	go func() {
		_, err := fulciov2.NewCAClient(run.dial(t)).CreateSigningCertificate(t.Context(), csrRequest("a.b.c"))
		done <- err
	}()
	<-entered
	<-entered
	if err := run.stop(); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Serve returned %v", err)
	}
	for range 2 {
		if err := <-done; err == nil {
			t.Error("a request got an answer")
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
	if err := f.Serve(t.Context(), Listeners{}); err == nil {
		t.Error("served without a listener")
	}
}

// TestSlowlorisIsCutOff sends half a header, and half a body, and waits.
func TestSlowlorisIsCutOff(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"half a header": "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"half a body":   "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := serve(t, true, false, func(_ *fixture, c *Config) {
				c.Limits.ReadHeader, c.Limits.Read = time.Minute, 500*time.Millisecond // of the body too
				if name == "half a header" {
					c.Limits.ReadHeader = 500 * time.Millisecond
				}
			})
			conn, err := net.Dial("tcp", run.http)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(sent)); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := got.ReadFrom(conn); err != nil { // until the server closes
				t.Fatal(err)
			}
			if name == "half a header" {
				return // net/http just closes
			}
			resp, err := http.ReadResponse(bufio.NewReader(&got), nil)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, resp, refusal.RequestMalformed)
		})
	}
}

func TestHeadersOverTheLimit(t *testing.T) {
	t.Parallel()
	run := serve(t, true, false, nil)
	for _, http2 := range []bool{false, true} {
		client, base := run.client(t, http2)
		for size, want := range map[int]bool{17 << 10: true, 64 << 10: false} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/api/v2/trustBundle", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+strings.Repeat("a", size))
			resp, err := client.Do(req)
			if ok := err == nil && resp.StatusCode == http.StatusOK; ok != want {
				t.Errorf("HTTP/2 %t, %d bytes: %v %v", http2, size, resp, err)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		}
	}
}
