// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// This file is gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md) as far as the service needs it: one
// message per request, read within the limits of REST. So a large message is malformed, where a gRPC
// server reports RESOURCE_EXHAUSTED, which clients retry.

// framePrefix is the length of the prefix of a message ("Length-Prefixed-Message"). One byte states
// whether the message is compressed, and four give its length.
const framePrefix = 5

const (
	// maxWatchers limits the streams of Health.Watch, since none of them stops by itself and each
	// keeps a connection busy. A quarter of Limits.Connections replaces it if smaller.
	maxWatchers = 256
	// watchLifetime limits a watcher's stream. Clients of gRPC's health service start again at once
	// when a stream that had reported a state ends.
	watchLifetime = 30 * time.Minute
)

// grpcMethods are the methods. Requests for health are not counted, and not refused when all slots
// are in use.
var grpcMethods = map[string]route{
	fulciov2.CA_CreateSigningCertificate_FullMethodName: {api: apiGRPC, method: methodCreate, handle: (*Server).createV2},
	fulciov2.CA_GetTrustBundle_FullMethodName:           {api: apiGRPC, method: methodTrust, handle: (*Server).getTrustBundle},
	fulciov2.CA_GetConfiguration_FullMethodName:         {api: apiGRPC, method: methodConfig, handle: (*Server).getConfiguration},
	healthpb.Health_Check_FullMethodName:                {api: apiGRPC, method: methodUnknown, handle: (*Server).checkHealth},
	healthpb.Health_Watch_FullMethodName:                {api: apiGRPC, method: methodUnknown, handle: (*Server).checkHealth},
}

// isGRPC reports whether a request is gRPC: HTTP/2 with content type application/grpc, or
// application/grpc+proto, but not application/grpc-web or any other.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// serveGRPC answers a request of gRPC.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request, q *request) {
	if !isGRPC(r) {
		q.refuse(w, refusal.New(refusal.PathNotFound, "this port serves gRPC only; the request's content type is not application/grpc"))
		return
	}
	found := false
	if q.route, found = grpcMethods[r.URL.Path]; !found || r.Method != http.MethodPost {
		q.route = route{api: apiGRPC, method: methodUnknown}
	}
	q.authorization, q.token = r.Header["Authorization"], r.Header["Oidcidentitytoken"]
	timeout, err := s.acceptGRPC(w, r, q)
	q.err = err
	w.Header()["Content-Type"] = r.Header["Content-Type"]
	if err == nil && r.URL.Path == healthpb.Health_Watch_FullMethodName {
		endGRPC(w, s.serveWatch(w, r, q))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	var body []byte
	var refused *refusal.Error
	if q.err != nil || q.method != methodUnknown {
		body, refused = s.call(ctx, q)
	} else if body, err = q.handle(s, ctx, q); err != nil {
		refused = disclose(err)
	}
	q.answer()
	if refused != nil {
		endGRPC(w, statusOf(refused, q.id))
		return
	}
	_, _ = s.steady(w).Write(frame(body)) // an error means that the client has disconnected
	endGRPC(w, &spb.Status{})
}

// endGRPC ends an answer with its status, in trailers.
func endGRPC(w http.ResponseWriter, st *spb.Status) {
	_ = http.NewResponseController(w).Flush() // what follows is no header; fails only without a connection
	trailer := func(name, value string) { w.Header().Set(http.TrailerPrefix+name, value) }
	trailer("Grpc-Status", strconv.Itoa(int(st.GetCode())))
	if st.GetMessage() != "" {
		trailer("Grpc-Message", percentEncoded(st.GetMessage()))
	}
	if encoded, err := proto.Marshal(st); err == nil && len(st.GetDetails()) > 0 {
		trailer("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(encoded))
	}
}

// percentEncoded returns a message as a header can hold it ("Percent-Encoded").
func percentEncoded(message string) string {
	var b strings.Builder
	for _, c := range []byte(message) {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// frame returns a message with its prefix.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 1, framePrefix+len(message)), uint32(len(message))), message...)
}

// acceptGRPC checks a request as far as possible without decoding its message, and reads it. It
// returns the time that the client gives it.
func (s *Server) acceptGRPC(w http.ResponseWriter, r *http.Request, q *request) (timeout time.Duration, err error) {
	if q.handle == nil {
		return 0, refusal.New(refusal.MethodNotPermitted, "there is no such gRPC method here; the service is %s", fulciov2.CA_ServiceDesc.ServiceName)
	}
	if e := r.Header.Get("Grpc-Encoding"); e != "" && e != "identity" {
		return 0, errCompressed()
	}
	timeout, ok := parseTimeout(r.Header.Get("Grpc-Timeout"))
	if !ok {
		return 0, refusal.New(refusal.RequestMalformed, "the header grpc-timeout is not one to eight digits and a unit, as in 5S")
	}
	body, err := s.readBody(w, r, q, framePrefix)
	if err == nil {
		q.body, err = unframe(body)
	}
	return timeout, err
}

// unframe returns the message of a request body, which must be one that is not compressed.
func unframe(body []byte) ([]byte, error) {
	if len(body) < framePrefix {
		return nil, refusal.New(refusal.RequestMalformed, "the request ended after %d bytes, before its message began", len(body))
	}
	if body[0] != 0 {
		return nil, errCompressed()
	}
	message := body[framePrefix:]
	if length := binary.BigEndian.Uint32(body[1:]); uint64(length) != uint64(len(message)) {
		return nil, refusal.New(refusal.RequestMalformed, "the message's prefix gives its length as %d bytes, but %d bytes follow; a request holds exactly one message", length, len(message))
	}
	return message, nil
}

// errCompressed refuses a compressed message. Compression saves nothing on a few kilobytes, and the
// message could expand beyond the limit.
func errCompressed() error {
	return refusal.New(refusal.RequestMalformed, "the message is compressed (grpc-encoding); send it as it is")
}

// parseTimeout returns the time that a header gives ("Timeout"), a day at most, and for an empty one.
func parseTimeout(header string) (time.Duration, bool) {
	const most = 24 * time.Hour
	if header == "" {
		return most, true
	}
	digits, unit := header[:len(header)-1], header[len(header)-1]
	of := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}[unit]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || len(digits) > 8 || of == 0 {
		return 0, false
	}
	return of * min(time.Duration(n), most/of), true
}

// healthOf returns the readiness of a service: of the server as a whole, or its CA.
func (s *Server) healthOf(ctx context.Context, service string) healthpb.HealthCheckResponse_ServingStatus {
	switch {
	case service != "" && service != fulciov2.CA_ServiceDesc.ServiceName:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	case s.health.report(ctx).Status == serving:
		return healthpb.HealthCheckResponse_SERVING
	default:
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
}

// checkHealth is Check of grpc.health.v1.
func (s *Server) checkHealth(ctx context.Context, q *request) ([]byte, error) {
	var req healthpb.HealthCheckRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	now := s.healthOf(ctx, req.GetService())
	if now == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, refusal.New(refusal.PathNotFound, "there is no such service here; ask for \"\" or %q", fulciov2.CA_ServiceDesc.ServiceName)
	}
	return q.encode(&healthpb.HealthCheckResponse{Status: now})
}

// serveWatch answers Watch of grpc.health.v1, and returns its last status. Its connection stays busy.
func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request, q *request) *spb.Status {
	var req healthpb.HealthCheckRequest
	if err := q.decode(&req); err != nil {
		return statusOf(disclose(err), q.id)
	}
	if !s.watchers.Take(q.client, time.Now()) {
		return statusOf(refusal.New(refusal.Overloaded, "the server has as many health watchers as it can; use Check instead, or watch again later"), q.id)
	}
	defer s.watchers.Give(q.client)
	// A watcher stays longer than the timeouts of other requests. The last deadline is for a
	// watcher that does not read. They fail only without a connection.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(watchLifetime + writeTimeout))
	return s.watch(r.Context(), req.GetService(), func(now healthpb.HealthCheckResponse_ServingStatus) error {
		body, err := q.encode(&healthpb.HealthCheckResponse{Status: now})
		if err == nil {
			_, err = w.Write(frame(body))
		}
		if err == nil {
			err = control.Flush()
		}
		return err
	})
}

// watch sends the readiness of a service, now and at each change, for watchLifetime or until the
// server drains. The checks run once an interval, however many watchers there are.
func (s *Server) watch(ctx context.Context, service string, send func(healthpb.HealthCheckResponse_ServingStatus) error) *spb.Status {
	lifetime, ticker := time.After(watchLifetime), time.NewTicker(s.health.interval)
	defer ticker.Stop()
	stopping, sent := s.health.stopping, healthpb.HealthCheckResponse_UNKNOWN
	var end *spb.Status
	for {
		if now := s.healthOf(ctx, service); now != sent {
			if err := send(now); err != nil {
				return &spb.Status{Code: int32(codes.Canceled)} // the client has disconnected
			}
			sent = now
		}
		if end != nil {
			return end
		}
		select {
		case <-ticker.C:
		case <-stopping:
			stopping = nil // once is enough
		case <-ctx.Done():
			return &spb.Status{Code: int32(codes.Canceled)}
		case <-s.health.draining:
			end = &spb.Status{Code: int32(codes.Unavailable), Message: "the server is shutting down"}
		case <-lifetime:
			return &spb.Status{Code: int32(codes.Unavailable), Message: fmt.Sprintf("a watcher stays for %v at most; watch again", watchLifetime)}
		}
	}
}
