// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// strangeCalls are requests that no client library sends. If own is not OK, grpc-go answers the request
// itself on gRPC's own port, with this code.
var strangeCalls = []struct {
	name, path, body string
	want             refusal.Reason
	header           [2]string
	own              codes.Code
}{
	{"no message", createPath, "", refusal.RequestMalformed, [2]string{}, codes.OK},
	{"half a prefix", createPath, "\x00\x00", refusal.RequestMalformed, [2]string{}, codes.OK},
	{"a message that is cut off", createPath, framed(0, 10, "abc"), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"two messages", createPath, framed(0, 0, "") + framed(0, 0, ""), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"a byte after the message", createPath, framed(0, 0, "") + "\x00", refusal.RequestMalformed, [2]string{}, codes.OK},
	{"a compressed message", createPath, framed(1, 0, ""), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"an enormous length", createPath, framed(0, 0xffffffff, ""), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"a large message", createPath, framed(0, maxBody+1, strings.Repeat("x", maxBody+1)), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"the largest message", createPath, framed(0, maxBody, strings.Repeat("x", maxBody)), refusal.TokenMissing, [2]string{}, codes.OK},
	{"a very large message", createPath, framed(0, 2<<20, strings.Repeat("x", 2<<20)), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"what is not protobuf", createPath, framed(0, 3, "\xff\xff\xff"), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"invalid UTF-8 in a token", createPath, framed(0, 5, "\x0a\x03\x0a\x01\xff"), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"not protobuf for health", "/grpc.health.v1.Health/Check", framed(0, 3, "\xff\xff\xff"), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"not protobuf for a watch", "/grpc.health.v1.Health/Watch", framed(0, 3, "\xff\xff\xff"), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"no message for a watch", "/grpc.health.v1.Health/Watch", "", refusal.RequestMalformed, [2]string{}, codes.OK},
	{"not protobuf for a trust bundle", "/dev.sigstore.fulcio.v2.CA/GetTrustBundle", framed(0, 3, "\xff\xff\xff"), refusal.RequestMalformed, [2]string{}, codes.OK},
	{"an unknown service", "/a.b/C", framed(0, 0, ""), refusal.MethodNotPermitted, [2]string{}, codes.OK},
	{"two slashes", "/" + createPath, framed(0, 0, ""), refusal.MethodNotPermitted, [2]string{}, codes.OK},
	{"GET", createPath, "GET", refusal.MethodNotPermitted, [2]string{}, codes.Internal},
	{"a compressor", createPath, framed(0, 0, ""), refusal.RequestMalformed, [2]string{"Grpc-Encoding", "gzip"}, codes.Unimplemented},
	{"a timeout without digits", createPath, framed(0, 0, ""), refusal.RequestMalformed, [2]string{"Grpc-Timeout", "S"}, codes.Internal},
	{"a timeout without a unit", createPath, framed(0, 0, ""), refusal.RequestMalformed, [2]string{"Grpc-Timeout", "10"}, codes.Internal},
	{"a timeout with a sign", createPath, framed(0, 0, ""), refusal.RequestMalformed, [2]string{"Grpc-Timeout", "-1S"}, codes.Internal},
	{"a long timeout", createPath, framed(0, 0, ""), refusal.RequestMalformed, [2]string{"Grpc-Timeout", "123456789S"}, codes.Internal},
	{"a timeout", createPath, framed(0, 0, ""), refusal.TokenMissing, [2]string{"Grpc-Timeout", "99999999H"}, codes.OK},
	{"a binary header that is not base64", createPath, framed(0, 0, ""), refusal.TokenMissing, [2]string{"X-Bin", "!"}, codes.Internal},
	{"a request ID that is none", createPath, framed(0, 0, ""), refusal.TokenMissing, [2]string{"X-Request-Id", "<>"}, codes.OK},
}

const createPath = "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate"

// framed is a message with any prefix.
func framed(flag byte, length int, data string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flag}, uint32(length))) + data
}

// TestGRPCWithoutTheFramework sends requests that no client library sends.
func TestGRPCWithoutTheFramework(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			t.Parallel()
			run := serve(t, shared, false, nil)
			run.http = run.grpc
			client, base := run.client(t, true)
			for _, tt := range strangeCalls {
				method := http.MethodPost
				if tt.body == "GET" {
					method = http.MethodGet
				}
				req, err := http.NewRequestWithContext(t.Context(), method, base+tt.path, strings.NewReader(tt.body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/grpc+proto")
				if tt.header[0] != "" {
					req.Header.Set(tt.header[0], tt.header[1])
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				t.Log(tt.name)
				if !shared && tt.own != codes.OK {
					readAll(t, resp)
					if got := resp.Header.Get("Grpc-Status"); got != fmt.Sprint(uint32(tt.own)) {
						t.Errorf("header %v, want status %v", resp.Header, tt.own)
					}
					continue
				}
				checkStrange(t, resp, tt.want)
			}
		})
	}
}

// checkStrange checks the refusal of one of strangeCalls.
func checkStrange(t *testing.T, resp *http.Response, want refusal.Reason) {
	t.Helper()
	body := readAll(t, resp) // the trailers follow the body
	var st spb.Status
	details, err := base64.RawStdEncoding.DecodeString(resp.Trailer.Get("Grpc-Status-Details-Bin"))
	if err := errors.Join(err, proto.Unmarshal(details, &st)); err != nil {
		t.Fatal(err)
	}
	message := checkStatus(t, status.FromProto(&st), resp.Header.Get("X-Request-Id"), want)
	if resp.StatusCode != http.StatusOK || body != "" || resp.Trailer.Get("Grpc-Status") != fmt.Sprint(st.GetCode()) ||
		resp.Trailer.Get("Grpc-Message") != message || resp.Header.Get("Content-Type") != "application/grpc+proto" {
		t.Errorf("HTTP status %d, header %v, trailer %v", resp.StatusCode, resp.Header, resp.Trailer)
	}
	if strings.Contains(message, "proto:") || strings.Contains(message, "grpc:") {
		t.Errorf("message %q", message)
	}
}

// TestGRPCTimeout: the time that a client gives is that of its request, and a client that stops
// waiting is not a failure.
func TestGRPCTimeout(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			t.Parallel()
			run := serve(t, shared, false, nil)
			run.issue = func(ctx context.Context, _ ca.Request) (*ca.Issued, error) {
				<-ctx.Done()
				return nil, refusal.New(refusal.CTUnavailable, "no log answered").Because(ctx.Err())
			}
			run.http = run.grpc
			client, base := run.client(t, true)
			message, err := proto.Marshal(csrRequest("a.b.c"))
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), "POST", base+createPath, bytes.NewReader(frame(message)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Content-Type": {"application/grpc"}, "Grpc-Timeout": {"20m"}, "X-Request-Id": {"id-1"}}
			if resp, err := client.Do(req); err == nil { // otherwise the stream was reset
				if readAll(t, resp); resp.Trailer.Get("Grpc-Status") == "0" {
					t.Errorf("trailer %v", resp.Trailer)
				}
			}
			if err := run.stop(); err != nil { // when the request has been logged
				t.Error(err)
			}
			if record := run.log.request(t, "id-1"); record["reason"] != "CANCELED" || record["level"] != "INFO" {
				t.Errorf("record %v", record)
			}
		})
	}
}

// frame returns a message with its prefix.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func FuzzUnframe(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x03abc"))
	f.Add([]byte("\x01\x00\x00\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		message, err := unframe(body)
		if err != nil && refusal.From(err).Reason != refusal.RequestMalformed {
			t.Fatal(err)
		}
		if again := frame(message); err == nil && !bytes.Equal(again, body) {
			t.Fatalf("%x became %x", body, again)
		}
	})
}

// watchFrom watches a server's health from an address, and returns the first state.
func (r *running) watchFrom(t *testing.T, address string) (context.CancelFunc, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	watch, err := healthpb.NewHealthClient(r.dial(t, address)).Watch(ctx, &healthpb.HealthCheckRequest{})
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
	run := serve(t, false, false, func(c *Config) { c.Limits.Connections = 16 }) // four watchers
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

// TestWatchersShareTheChecks: the checks run once an interval for all watchers, and each watcher
// gets each change, and stops after its lifetime, which is longer than the timeouts of a request.
func TestWatchersShareTheChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const watchers = 50
		var probes atomic.Int64
		var down atomic.Bool
		f := newFixture(t, func(c *Config) {
			c.Checks = []Check{{Name: "ct-log", Critical: true, Probe: func(context.Context) (string, error) {
				probes.Add(1)
				if down.Load() {
					return "", errors.New("down")
				}
				return "", nil
			}}}
		})
		pipes, stop := f.servePipes(t)
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return pipes.open(t, ""), nil
		}}
		sent := make(chan healthpb.HealthCheckResponse_ServingStatus)
		ended := make(chan http.Header)
		start := time.Now()
		for range watchers {
			go func() {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://ca.example/grpc.health.v1.Health/Watch", bytes.NewReader(frame(nil)))
				req.Header.Set("Content-Type", "application/grpc")
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				var message [framePrefix + 2]byte // one field of one byte
				for err == nil {
					if _, err = io.ReadFull(resp.Body, message[:]); err == nil {
						sent <- healthpb.HealthCheckResponse_ServingStatus(message[framePrefix+1])
					}
				}
				ended <- resp.Trailer
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
		time.Sleep(watchLifetime - time.Minute)
		down.Store(false)
		expect(healthpb.HealthCheckResponse_SERVING)
		for range watchers {
			if trailer := <-ended; trailer.Get("Grpc-Status") != fmt.Sprint(uint32(codes.Unavailable)) {
				t.Errorf("a watch ended with %v", trailer)
			}
		}
		if took := time.Since(start); took < watchLifetime || took > watchLifetime+time.Second {
			t.Errorf("watches ended after %v, want %v", took, watchLifetime)
		}
		if most := int64(watchLifetime/time.Second) + 2; probes.Load() > most {
			t.Errorf("the checks ran %d times, want at most %d", probes.Load(), most)
		}
		transport.CloseIdleConnections()
		stop()
	})
}
