// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

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

// grpcMethods are the methods and their values of the label "method". Requests for health are not
// counted.
var grpcMethods = map[string]string{
	fulciov2.CA_CreateSigningCertificate_FullMethodName: methodCreate,
	fulciov2.CA_GetTrustBundle_FullMethodName:           methodTrust,
	fulciov2.CA_GetConfiguration_FullMethodName:         methodConfig,
	healthpb.Health_Check_FullMethodName:                methodUnknown,
	healthpb.Health_Watch_FullMethodName:                methodUnknown,
}

// newGRPC returns a gRPC server. Without options it runs only through its ServeHTTP, behind serveGRPC,
// on a port that it shares with HTTP. So the limits of net/http apply to gRPC too. serveGRPC also finds
// first what grpc-go would refuse, such as a large message with RESOURCE_EXHAUSTED, which clients retry.
func newGRPC(s *Server, options ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(options, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		q := requestOf(stream.Context())
		return grpcError(s.run(stream.Context(), q, s.slots, nil), q) // the refusal is q.err
	}))...)
	for _, desc := range []grpc.ServiceDesc{fulciov2.CA_ServiceDesc, healthpb.Health_ServiceDesc} {
		s.wrap(&desc)
		g.RegisterService(&desc, service{Server: s})
	}
	return g
}

// wrap makes the unary methods of a service pass through run, except those for health, and converts
// all refusals to a status. To grpc-go every method is a stream, of which the handlers send the answer.
func (s *Server) wrap(desc *grpc.ServiceDesc) {
	unary := desc.Methods
	desc.Methods, desc.Streams = nil, slices.Clone(desc.Streams)
	for i, m := range desc.Streams {
		desc.Streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
			q := requestOf(stream.Context())
			err := recovered(func() error { return m.Handler(srv, decodedStream{stream, q}) })
			if _, ok := status.FromError(err); ok {
				return err
			}
			return grpcError(disclose(err), q)
		}
	}
	for _, m := range unary {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: m.MethodName, ClientStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			q := requestOf(stream.Context())
			var resp any
			handle := func(ctx context.Context) (err error) {
				resp, err = m.Handler(srv, ctx, q.decode, nil)
				return err
			}
			var refused *refusal.Error
			if q.method != methodUnknown {
				refused = s.run(stream.Context(), q, s.slots, handle)
			} else if err := recovered(func() error { return handle(stream.Context()) }); err != nil {
				refused = disclose(err)
			}
			if refused != nil {
				return grpcError(refused, q)
			}
			return stream.SendMsg(q.message(resp))
		}})
	}
}

// decode reads the message of a request. The gRPC server would report a mistake with the text of its
// parser, so it does not get the body.
func (q *request) decode(message any) error {
	m := message.(proto.Message) // as generated code passes it
	if err := proto.Unmarshal(q.body, m); err != nil {
		return refusal.New(refusal.RequestMalformed, "the message could not be decoded; it must be a %s", m.ProtoReflect().Descriptor().FullName()).Because(err)
	}
	return nil
}

// decodedStream is a stream whose one message decode reads.
type decodedStream struct {
	grpc.ServerStream
	q *request
}

// Context returns the context of the stream with its request.
func (d decodedStream) Context() context.Context { return d.q.with(d.ServerStream.Context()) }

// RecvMsg implements grpc.ServerStream.
func (d decodedStream) RecvMsg(message any) error { return d.q.decode(message) }

// grpcError returns the status of a refusal; nil for nil.
func grpcError(refused *refusal.Error, q *request) error {
	if refused == nil {
		return nil
	}
	return status.FromProto(statusOf(refused, q.id)).Err()
}

// isGRPC reports whether a request is gRPC: HTTP/2 with content type application/grpc, or
// application/grpc+proto, but not application/grpc-web or any other.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// serveGRPC passes a request to the gRPC server, after the checks that the gRPC server would answer
// itself. A request that does not pass is one for an unknown method, which the gRPC server answers
// with the refusal.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request, q *request) {
	q.api, q.method = apiGRPC, grpcMethods[r.URL.Path]
	q.authorization, q.token = r.Header["Authorization"], r.Header["Oidcidentitytoken"]
	inner := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: r.URL.Path}, ProtoMajor: 2, RemoteAddr: r.RemoteAddr, Body: http.NoBody,
		Header: http.Header{"Content-Type": r.Header["Content-Type"]},
	}
	if q.err = s.acceptGRPC(w, r, q); q.err != nil {
		inner.URL.Path = "/refused/refused"
	} else if timeout := r.Header["Grpc-Timeout"]; timeout != nil {
		inner.Header["Grpc-Timeout"] = timeout // no other header of the caller has a meaning here
	}
	if inner.URL.Path == healthpb.Health_Watch_FullMethodName {
		// A watcher stays longer than the timeouts of other requests. The last deadline is for a
		// watcher that does not read. They fail only without a connection.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{})
		_ = control.SetWriteDeadline(time.Now().Add(watchLifetime + writeTimeout))
	} else {
		a := s.steady(w)
		a.begins = q
		w = a
	}
	s.grpc.ServeHTTP(w, inner.WithContext(q.with(r.Context())))
}

// acceptGRPC checks a request as far as possible without decoding its message, and reads it.
func (s *Server) acceptGRPC(w http.ResponseWriter, r *http.Request, q *request) error {
	if err := q.checkGRPC(r.Method == http.MethodPost, r.Header.Get("Grpc-Encoding")); err != nil {
		return err
	}
	if t := r.Header.Get("Grpc-Timeout"); t != "" && !wellFormedTimeout(t) {
		return refusal.New(refusal.RequestMalformed, "the header grpc-timeout is not one to eight digits and a unit, as in 5S")
	}
	if err := s.admitUnread(q); err != nil {
		return err
	}
	body, err := s.readBody(w, r, q, framePrefix)
	if err == nil {
		q.body, err = unframe(body)
	}
	return err
}

// checkGRPC checks the method and the encoding of a message.
func (q *request) checkGRPC(post bool, encoding string) error {
	if q.method == "" || !post {
		q.method = methodUnknown
		return refusal.New(refusal.MethodNotPermitted, "there is no such gRPC method here; the service is %s", fulciov2.CA_ServiceDesc.ServiceName)
	}
	if encoding != "" && encoding != "identity" {
		return errCompressed()
	}
	return nil
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

// errCompressed refuses a compressed message, which could expand beyond the limit.
func errCompressed() error {
	return refusal.New(refusal.RequestMalformed, "the message is compressed (grpc-encoding); send it as it is")
}

// wellFormedTimeout reports whether t is a timeout (gRPC over HTTP/2, "Timeout").
func wellFormedTimeout(t string) bool {
	digits, unit := t[:len(t)-1], t[len(t)-1]
	return len(digits) >= 1 && len(digits) <= 8 && strings.Trim(digits, "0123456789") == "" && strings.IndexByte("HMSmun", unit) >= 0
}

// readiness returns the readiness of a service: of the server as a whole, or its CA.
func (s service) readiness(ctx context.Context, service string) healthpb.HealthCheckResponse_ServingStatus {
	switch {
	case service != "" && service != fulciov2.CA_ServiceDesc.ServiceName:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	case s.health.report(ctx).Status == serving:
		return healthpb.HealthCheckResponse_SERVING
	default:
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
}

// Check returns whether the server is ready.
func (s service) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	now := s.readiness(ctx, req.GetService())
	if now == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, refusal.New(refusal.PathNotFound, "there is no such service here; ask for \"\" or %q", fulciov2.CA_ServiceDesc.ServiceName)
	}
	return &healthpb.HealthCheckResponse{Status: now}, nil
}

// Watch sends the readiness of a service, now and at each change, for watchLifetime or until the
// server drains. The checks run once an interval, however many watchers there are. The connection
// stays busy.
func (s service) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	q := requestOf(ctx)
	if !s.watchers.Take(q.client, time.Now()) {
		return refusal.New(refusal.Overloaded, "the server has as many health watchers as it can; use Check instead, or watch again later")
	}
	defer s.watchers.Give(q.client)
	lifetime, ticker := time.After(watchLifetime), time.NewTicker(s.health.interval)
	defer ticker.Stop()
	stopping, sent := s.health.stopping, healthpb.HealthCheckResponse_UNKNOWN
	var end error
	for {
		if now := s.readiness(ctx, req.GetService()); now != sent {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err // the client has disconnected
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
			return status.FromContextError(ctx.Err()).Err()
		case <-s.health.draining:
			end = status.Error(codes.Unavailable, "the server is shutting down")
		case <-lifetime:
			return status.Errorf(codes.Unavailable, "a watcher stays for %v at most; watch again", watchLifetime)
		}
	}
}
