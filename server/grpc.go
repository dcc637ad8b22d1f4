// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// framePrefix is the length of the prefix of a message (gRPC over HTTP/2,
// "Length-Prefixed-Message"). One byte states whether the message is compressed, and four give its
// length.
const framePrefix = 5

// newGRPC returns the gRPC server. It runs only through its ServeHTTP, behind serveGRPC, on a
// separate or a shared port. So the limits of net/http apply to gRPC too. serveGRPC also refuses
// first what grpc-go would refuse, such as a large message with RESOURCE_EXHAUSTED, which clients
// retry.
func newGRPC(s *Server) *grpc.Server {
	g := grpc.NewServer(
		grpc.UnaryInterceptor(s.interceptUnary),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.MaxRecvMsgSize(s.limits.Body),
	)
	fulciov2.RegisterCAServer(g, service{Server: s})
	healthpb.RegisterHealthServer(g, newGRPCHealth(s.health, s.limits.Connections))
	return g
}

// isGRPC reports whether a request is gRPC: HTTP/2 with content type application/grpc, or
// application/grpc+proto, but not application/grpc-web or any other.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// serveGRPC makes the checks that the gRPC server would answer itself, and passes accepted requests
// to it. It reads the whole message first, within the limits.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request) {
	id := requestID(r.Header.Get(requestIDHeader))
	w.Header().Set(requestIDHeader, id)
	client := s.clientAddr(r)
	method, framed, err := s.acceptGRPC(w, r)
	if err != nil {
		c := call{api: apiGRPC, method: method, requestID: id, peer: r.RemoteAddr, client: client}
		refused := s.run(r.Context(), c, func(context.Context) error { return err })
		writeGRPCRefusal(w, refused, id)
		return
	}
	if r.URL.Path == healthpb.Health_Watch_FullMethodName {
		stayBusy(w)
		// A watcher stays longer than the timeouts of other requests. The last deadline is for a
		// watcher that does not read.
		rc := http.NewResponseController(w)
		end := time.Now().Add(watchLifetime + s.limits.Write)
		if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(end)); err != nil {
			s.logger.DebugContext(r.Context(), "lifting deadlines of a health watcher", "request_id", id, "error", err)
		}
	}
	inner := r.WithContext(r.Context()) // a copy
	inner.Header = http.Header{requestIDHeader: {id}, forwardedFor: {client.String()}}
	for _, name := range []string{"Content-Type", "Grpc-Timeout", "Authorization", "Oidcidentitytoken"} {
		if values, ok := r.Header[name]; ok {
			inner.Header[name] = values // no other header of the caller has a meaning here
		}
	}
	inner.Body = io.NopCloser(bytes.NewReader(framed))
	s.grpc.ServeHTTP(w, inner)
}

// acceptGRPC returns a request's method as in call, and its framed message. It has checked that the
// message is of the type that the method takes.
func (s *Server) acceptGRPC(w http.ResponseWriter, r *http.Request) (method string, framed []byte, err error) {
	method, message := grpcMethod(r.URL.Path)
	if message == nil || r.Method != http.MethodPost {
		return methodUnknown, nil, refusal.New(refusal.MethodNotPermitted, "there is no such gRPC method here; the service is %s", fulciov2.CA_ServiceDesc.ServiceName)
	}
	if e := r.Header.Get("Grpc-Encoding"); e != "" && e != "identity" {
		return method, nil, errCompressed()
	}
	if t := r.Header.Get("Grpc-Timeout"); t != "" && !wellFormedTimeout(t) {
		return method, nil, refusal.New(refusal.RequestMalformed, "the header grpc-timeout is not one to eight digits and a unit, as in 5S")
	}
	framed, err = s.readBody(w, r, framePrefix)
	if err != nil {
		return method, nil, err
	}
	data, err := unframe(framed)
	if err != nil {
		return method, nil, err
	}
	if err := proto.Unmarshal(data, message); err != nil {
		return method, nil, refusal.New(refusal.RequestMalformed, "the message could not be decoded; it must be a %s", message.ProtoReflect().Descriptor().FullName()).Because(err)
	}
	return method, framed, nil
}

// grpcMethod returns a path's method as in call, and an empty message of the type that it takes.
// The message is nil for a path that is not a method.
func grpcMethod(path string) (string, proto.Message) {
	switch path {
	case fulciov2.CA_CreateSigningCertificate_FullMethodName:
		return methodCreate, new(fulciov2.CreateSigningCertificateRequest)
	case fulciov2.CA_GetTrustBundle_FullMethodName:
		return methodTrust, new(fulciov2.GetTrustBundleRequest)
	case fulciov2.CA_GetConfiguration_FullMethodName:
		return methodConfig, new(fulciov2.GetConfigurationRequest)
	case healthpb.Health_Check_FullMethodName, healthpb.Health_Watch_FullMethodName:
		return methodUnknown, new(healthpb.HealthCheckRequest)
	default:
		return methodUnknown, nil
	}
}

// unframe returns the one message in a request body.
func unframe(body []byte) ([]byte, error) {
	if len(body) < framePrefix {
		return nil, refusal.New(refusal.RequestMalformed, "the request ended after %d bytes, before its message began", len(body))
	}
	if body[0] != 0 {
		return nil, errCompressed()
	}
	if length := binary.BigEndian.Uint32(body[1:]); uint64(length) != uint64(len(body)-framePrefix) {
		return nil, refusal.New(refusal.RequestMalformed, "the message's prefix gives its length as %d bytes, but %d bytes follow; a request holds exactly one message", length, len(body)-framePrefix)
	}
	return body[framePrefix:], nil
}

// errCompressed refuses a compressed message. Compression saves nothing on a few kilobytes, and the
// message could expand beyond the limit.
func errCompressed() error {
	return refusal.New(refusal.RequestMalformed, "the message is compressed (grpc-encoding); send it as it is")
}

// wellFormedTimeout reports whether t is a timeout (gRPC over HTTP/2, "Timeout").
func wellFormedTimeout(t string) bool {
	digits, unit := t[:len(t)-1], t[len(t)-1]
	return len(digits) >= 1 && len(digits) <= 8 && strings.Trim(digits, "0123456789") == "" && strings.IndexByte("HMSmun", unit) >= 0
}

// interceptUnary passes a method of the service to run, as every API does. Health requests are not
// counted, and not refused when all slots are in use.
func (s *Server) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c := call{api: apiGRPC, requestID: firstOf(md, "x-request-id"), client: clientOf(md)}
	if p, ok := peer.FromContext(ctx); ok {
		c.peer = p.Addr.String()
	}
	handle := func(ctx context.Context) (err error) {
		resp, err = handler(ctx, req)
		return err
	}
	var refused *refusal.Error
	if _, ok := info.Server.(grpcHealth); ok {
		if err := recovered(func() error { return handle(ctx) }); err != nil {
			refused = disclose(err)
		}
	} else {
		c.method, _ = grpcMethod(info.FullMethod)
		refused = s.run(ctx, c, handle)
	}
	if refused != nil {
		return nil, status.FromProto(statusOf(refused, c.requestID)).Err()
	}
	return resp, nil
}

// interceptStream recovers the panics of Health.Watch, the one streaming method, and converts its
// refusals to a status.
func (s *Server) interceptStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := recovered(func() error { return handler(srv, stream) })
	var p *panicError
	var refused *refusal.Error
	if !errors.As(err, &p) && !errors.As(err, &refused) {
		return err
	}
	ctx := stream.Context()
	md, _ := metadata.FromIncomingContext(ctx)
	id := firstOf(md, "x-request-id")
	if p != nil {
		s.logger.ErrorContext(ctx, "health watcher", "request_id", id, "cause", p.Error(), "stack", string(p.stack))
	}
	return status.FromProto(statusOf(disclose(err), id)).Err()
}

// recovered calls f and returns its panic as an error.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	return f()
}
