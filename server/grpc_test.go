// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// csrRequest is a request with token and a CSR of three bytes.
func csrRequest(token string) *fulciov2.CreateSigningCertificateRequest {
	return &fulciov2.CreateSigningCertificateRequest{
		Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: token}},
		Key:         &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: []byte("CSR")},
	}
}

// checkGRPCRefusal checks all properties that every refusal over gRPC must have, and returns its
// message.
func checkGRPCRefusal(t testing.TB, err error, header metadata.MD, reason refusal.Reason) string {
	t.Helper()
	st := status.Convert(err)
	if want, _ := codeOf(reason.Kind()); err == nil || st.Code() != want {
		t.Fatalf("got %v, want code %v", err, want)
	}
	var id string
	if ids := header.Get("x-request-id"); len(ids) == 1 {
		id = ids[0]
	} else {
		t.Errorf("no x-request-id in the header metadata %v", header)
	}
	var gotReason, gotID string
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			gotReason = d.GetReason()
			if d.GetDomain() != "mayfly-ca.dev" {
				t.Errorf("domain is %q", d.GetDomain())
			}
		case *errdetails.RequestInfo:
			gotID = d.GetRequestId()
		}
	}
	if gotReason != string(reason) || gotID != id {
		t.Errorf("details have reason %q and request ID %q, want %q and %q", gotReason, gotID, reason, id)
	}
	return st.Message()
}

func TestGRPCRefusals(t *testing.T) {
	t.Parallel()
	retryable := map[refusal.Kind]bool{refusal.SlowDown: true, refusal.Unavailable: true}
	run := serve(t, true, true, nil)
	client := fulciov2.NewCAClient(run.dial(t))
	for _, entry := range refusal.Table() {
		run.refuse(refusal.New(entry.Reason, "100 %% of “%s”", "ä").Because(errors.New("inner secret")))
		var header metadata.MD
		_, err := client.CreateSigningCertificate(t.Context(), csrRequest("a.b.c"), grpc.Header(&header))
		if got := checkGRPCRefusal(t, err, header, entry.Reason); got != "100 % of “ä”" {
			t.Errorf("message is %q", got)
		}
		retry := false
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				retry = info.GetRetryDelay().AsDuration() >= time.Second
			}
		}
		if retry != retryable[entry.Kind] {
			t.Errorf("%s: RetryInfo is %t", entry.Reason, retry)
		}
	}
}

func TestGRPCPanic(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, func(_ *fixture, c *Config) { c.Issuers = func() []IssuerInfo { panic("secret panic") } })
	var header metadata.MD
	_, err := fulciov2.NewCAClient(run.dial(t)).GetConfiguration(t.Context(), nil, grpc.Header(&header))
	if message := checkGRPCRefusal(t, err, header, refusal.InternalError); strings.Contains(message, "panic") {
		t.Errorf("message is %q", message)
	}
}

// TestGRPCMessageOverTheLimit: a large message is malformed, never RESOURCE_EXHAUSTED, which
// clients retry. 4 MiB is the limit of grpc-go.
func TestGRPCMessageOverTheLimit(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		run := serve(t, shared, false, nil)
		client := fulciov2.NewCAClient(run.dial(t))
		for _, size := range []int{64<<10 + 1, 1 << 20, 4<<20 + 1, 20 << 20} {
			var header metadata.MD
			_, err := client.CreateSigningCertificate(t.Context(), csrRequest(strings.Repeat("a", size)), grpc.Header(&header))
			if message := checkGRPCRefusal(t, err, header, refusal.RequestMalformed); !strings.Contains(message, "65536") {
				t.Errorf("%d bytes: message is %q", size, message)
			}
		}
		if _, err := client.CreateSigningCertificate(t.Context(), csrRequest(strings.Repeat("a", 64<<10-20))); err != nil {
			t.Errorf("a message of nearly the limit: %v", err)
		}
	}
}

// TestGRPCWithoutTheFramework sends requests that no client library sends.
func TestGRPCWithoutTheFramework(t *testing.T) {
	t.Parallel()
	const create = "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate"
	frame := func(flag byte, length int, data string) string {
		return string(binary.BigEndian.AppendUint32([]byte{flag}, uint32(length))) + data
	}
	run := serve(t, true, false, nil)
	client, base := run.client(t, true)
	for _, tt := range []struct {
		name, method, path, body string
		want                     refusal.Reason
		headers                  map[string]string
	}{
		{"no message", "POST", create, "", refusal.RequestMalformed, nil},
		{"half a prefix", "POST", create, "\x00\x00", refusal.RequestMalformed, nil},
		{"a message that is cut off", "POST", create, frame(0, 10, "abc"), refusal.RequestMalformed, nil},
		{"two messages", "POST", create, frame(0, 0, "") + frame(0, 0, ""), refusal.RequestMalformed, nil},
		{"a compressed message", "POST", create, frame(1, 0, ""), refusal.RequestMalformed, nil},
		{"an enormous length", "POST", create, frame(0, 0xffffffff, ""), refusal.RequestMalformed, nil},
		{"what is not protobuf", "POST", create, frame(0, 3, "\xff\xff\xff"), refusal.RequestMalformed, nil},
		{"invalid UTF-8 in a token", "POST", create, frame(0, 5, "\x0a\x03\x0a\x01\xff"), refusal.RequestMalformed, nil},
		{"not protobuf for health", "POST", "/grpc.health.v1.Health/Check", frame(0, 3, "\xff\xff\xff"), refusal.RequestMalformed, nil},
		{"an unknown method", "POST", "/dev.sigstore.fulcio.v2.CA/Nothing", frame(0, 0, ""), refusal.MethodNotPermitted, nil},
		{"an unknown service", "POST", "/a.b/C", frame(0, 0, ""), refusal.MethodNotPermitted, nil},
		{"no service", "POST", "/", frame(0, 0, ""), refusal.MethodNotPermitted, nil},
		{"two slashes", "POST", "/" + create, frame(0, 0, ""), refusal.MethodNotPermitted, nil},
		{"GET", "GET", create, "", refusal.MethodNotPermitted, nil},
		{"nothing but a message", "POST", create, frame(0, 0, ""), refusal.TokenMissing, nil},
		{"a compressor", "POST", create, frame(0, 0, ""), refusal.RequestMalformed, map[string]string{"Grpc-Encoding": "gzip"}},
		{"a timeout without digits", "POST", create, frame(0, 0, ""), refusal.RequestMalformed, map[string]string{"Grpc-Timeout": "S"}},
		{"a timeout without a unit", "POST", create, frame(0, 0, ""), refusal.RequestMalformed, map[string]string{"Grpc-Timeout": "10"}},
		{"a timeout with a sign", "POST", create, frame(0, 0, ""), refusal.RequestMalformed, map[string]string{"Grpc-Timeout": "-1S"}},
		{"a timeout", "POST", create, frame(0, 0, ""), refusal.TokenMissing, map[string]string{"Grpc-Timeout": "99999999H"}},
		{"binary metadata that is none", "POST", create, frame(0, 0, ""), refusal.TokenMissing, map[string]string{"X-Bin": "!", "Grpc-Encoding": "identity"}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, base+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		for name, value := range tt.headers {
			req.Header.Set(name, value)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		_ = readAll(t, resp) // the trailers follow the body
		wantCode, _ := codeOf(tt.want.Kind())
		got := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
		message := resp.Header.Get("Grpc-Message") + resp.Trailer.Get("Grpc-Message")
		if resp.StatusCode != http.StatusOK || got != fmt.Sprint(uint32(wantCode)) {
			t.Errorf("%s: HTTP status %d, grpc-status %q, want %d; %q", tt.name, resp.StatusCode, got, wantCode, message)
		}
		if strings.Contains(message, "proto:") || strings.Contains(message, "grpc:") || resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: message %q, header %v", tt.name, message, resp.Header)
		}
	}
}

func TestGRPCClientThatWentAway(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run.authority.issue = func(ctx context.Context, _ ca.Request) (*ca.Issued, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, err := fulciov2.NewCAClient(run.dial(t)).CreateSigningCertificate(ctx, csrRequest("a.b.c"))
	if status.Code(err) != codes.Canceled {
		t.Errorf("error is %v", err)
	}
	// The handler may return after its stream has ended.
	for deadline := time.Now().Add(20 * time.Second); run.count(t, "grpc", "CreateSigningCertificate", "CANCELED") == 0 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if err := run.stop(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if got := run.count(t, "grpc", "CreateSigningCertificate", "CANCELED"); got != 1 {
		t.Errorf("counted %v times as CANCELED", got)
	}
}

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			t.Parallel()
			down := make(chan error, 1)
			down <- nil
			run := serve(t, shared, false, func(_ *fixture, c *Config) {
				c.HealthInterval = time.Millisecond
				c.Limits.Read, c.Limits.Write = 500*time.Millisecond, 500*time.Millisecond
				c.Checks = []Check{{Name: "ct-log", Critical: true, Probe: func(context.Context) (string, error) {
					err := <-down
					down <- err
					return "", err
				}}}
			})
			client := healthpb.NewHealthClient(run.dial(t))
			for _, service := range []string{"", "dev.sigstore.fulcio.v2.CA"} {
				got, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
				if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
					t.Errorf("%q: %v %v", service, got, err)
				}
			}
			var header metadata.MD
			_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"}, grpc.Header(&header))
			checkGRPCRefusal(t, err, header, refusal.PathNotFound)

			watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			expect := func(want healthpb.HealthCheckResponse_ServingStatus) {
				t.Helper()
				got, err := watch.Recv()
				if err != nil || got.GetStatus() != want {
					t.Fatalf("got %v, %v, want %v", got, err, want)
				}
			}
			expect(healthpb.HealthCheckResponse_SERVING)
			<-down
			down <- errors.New("down")
			expect(healthpb.HealthCheckResponse_NOT_SERVING)
			// Longer than the timeouts of one request: a watcher outlives them.
			back := time.AfterFunc(800*time.Millisecond, func() { <-down; down <- nil })
			defer back.Stop()
			expect(healthpb.HealthCheckResponse_SERVING)
			stopped := make(chan error, 1)
			go func() { stopped <- run.stop() }()
			expect(healthpb.HealthCheckResponse_NOT_SERVING)
			if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
				t.Errorf("the watch ended with %v", err)
			}
			if err := <-stopped; err != nil {
				t.Errorf("Serve returned %v", err)
			}
		})
	}
}

func TestGRPCHealthWatchOfAnUnknownService(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := healthpb.NewHealthClient(run.dial(t)).Watch(ctx, &healthpb.HealthCheckRequest{Service: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzCheckFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x03abc"))
	f.Add([]byte("\x01\x00\x00\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := checkFrame(body); err != nil {
			if refusal.From(err).Reason != refusal.RequestMalformed {
				t.Fatal(err)
			}
			return
		}
		if again := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)-5)), body[5:]...); !bytes.Equal(again, body) {
			t.Fatalf("%x became %x", body, again)
		}
	})
}

// panicStream is a stream that makes its watcher panic.
type panicStream struct{ grpc.ServerStream }

func (panicStream) Context() context.Context {
	return (&request{id: "id-1"}).with(context.Background())
}

func TestGRPCStreamPanic(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	err := f.interceptStream(nil, panicStream{}, nil, func(any, grpc.ServerStream) error { panic("secret panic") })
	if message := checkGRPCRefusal(t, err, metadata.Pairs("x-request-id", "id-1"), refusal.InternalError); strings.Contains(message, "panic") {
		t.Errorf("message is %q", message)
	}
	if !strings.Contains(f.log.String(), "secret panic") {
		t.Error("the log lacks the panic")
	}
}
