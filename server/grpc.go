// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
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
// separate or a shared port. So the limits of net/http apply to gRPC too. serveGRPC also finds first
// what grpc-go would refuse, such as a large message with RESOURCE_EXHAUSTED, which clients retry.
func newGRPC(s *Server) *grpc.Server {
	g := grpc.NewServer(
		grpc.StreamInterceptor(s.interceptStream),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			return s.grpcError(s.run(stream.Context(), requestOf(stream.Context()), s.slots, nil, nil), stream.Context())
		}),
	)
	g.RegisterService(s.wrap(fulciov2.CA_ServiceDesc), service{Server: s})
	g.RegisterService(s.wrap(healthpb.Health_ServiceDesc), newGRPCHealth(s.health, s.limits.Connections))
	return g
}

// wrap returns a service whose methods pass through run, and whose errors become a status. Health
// requests are not counted, and not refused when all slots are in use.
func (s *Server) wrap(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	desc.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		desc.Methods[i].Handler = func(srv any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (resp any, err error) {
			q := requestOf(ctx)
			handle := func(ctx context.Context) (err error) {
				resp, err = m.Handler(srv, ctx, q.decode, nil)
				return err
			}
			var refused *refusal.Error
			if desc.ServiceName == fulciov2.CA_ServiceDesc.ServiceName {
				refused = s.run(ctx, q, s.slots, nil, handle)
			} else if err := recovered(func() error { return handle(ctx) }); err != nil {
				refused = disclose(err)
			}
			return resp, s.grpcError(refused, ctx)
		}
	}
	return &desc
}

// decode reads the message of a gRPC request. The gRPC server would report a mistake with the text
// of its parser, so it does not get the body.
func (q *request) decode(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("decoding into %T, which is not a message", message)
	}
	if err := proto.Unmarshal(q.body[framePrefix:], m); err != nil {
		return refusal.New(refusal.RequestMalformed, "the message could not be decoded; it must be a %s", m.ProtoReflect().Descriptor().FullName()).Because(err)
	}
	return nil
}

// decodedStream is the stream of Health.Watch, whose one message decode reads.
type decodedStream struct{ grpc.ServerStream }

// RecvMsg implements grpc.ServerStream.
func (d decodedStream) RecvMsg(message any) error { return requestOf(d.Context()).decode(message) }

// grpcError returns the status of a refusal; nil for nil.
func (s *Server) grpcError(refused *refusal.Error, ctx context.Context) error {
	if refused == nil {
		return nil
	}
	return status.FromProto(statusOf(refused, requestOf(ctx).id)).Err()
}

// isGRPC reports whether a request is gRPC: HTTP/2 with content type application/grpc, or
// application/grpc+proto, but not application/grpc-web or any other.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// serveGRPC passes a request to the gRPC server. It makes the checks that the gRPC server would
// answer itself, and reads the whole message first, within the limits. A request that does not pass
// is one for an unknown method, which the gRPC server answers with the refusal.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request) {
	q := s.newRequest(w, r)
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
		stayBusy(w)
		// A watcher stays longer than the timeouts of other requests. The last deadline is for a
		// watcher that does not read.
		rc := http.NewResponseController(w)
		end := time.Now().Add(watchLifetime + s.limits.Write)
		if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(end)); err != nil {
			s.logger.DebugContext(r.Context(), "lifting deadlines of a health watcher", "request_id", q.id, "error", err)
		}
	}
	s.grpc.ServeHTTP(w, inner.WithContext(q.with(r.Context())))
}

// grpcMethods are the methods and their values of the label "method".
var grpcMethods = map[string]string{
	fulciov2.CA_CreateSigningCertificate_FullMethodName: methodCreate,
	fulciov2.CA_GetTrustBundle_FullMethodName:           methodTrust,
	fulciov2.CA_GetConfiguration_FullMethodName:         methodConfig,
	healthpb.Health_Check_FullMethodName:                methodUnknown,
	healthpb.Health_Watch_FullMethodName:                methodUnknown,
}

// acceptGRPC checks a request as far as possible without decoding its message, and reads it.
func (s *Server) acceptGRPC(w http.ResponseWriter, r *http.Request, q *request) (err error) {
	if q.method == "" || r.Method != http.MethodPost {
		q.method = methodUnknown
		return refusal.New(refusal.MethodNotPermitted, "there is no such gRPC method here; the service is %s", fulciov2.CA_ServiceDesc.ServiceName)
	}
	if e := r.Header.Get("Grpc-Encoding"); e != "" && e != "identity" {
		return errCompressed()
	}
	if t := r.Header.Get("Grpc-Timeout"); t != "" && !wellFormedTimeout(t) {
		return refusal.New(refusal.RequestMalformed, "the header grpc-timeout is not one to eight digits and a unit, as in 5S")
	}
	if q.body, err = s.readBody(w, r, framePrefix); err != nil {
		return err
	}
	return checkFrame(q.body)
}

// checkFrame checks that a request body is one message that is not compressed.
func checkFrame(body []byte) error {
	if len(body) < framePrefix {
		return refusal.New(refusal.RequestMalformed, "the request ended after %d bytes, before its message began", len(body))
	}
	if body[0] != 0 {
		return errCompressed()
	}
	if length := binary.BigEndian.Uint32(body[1:]); uint64(length) != uint64(len(body)-framePrefix) {
		return refusal.New(refusal.RequestMalformed, "the message's prefix gives its length as %d bytes, but %d bytes follow; a request holds exactly one message", length, len(body)-framePrefix)
	}
	return nil
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

// interceptStream recovers the panics of Health.Watch, the one streaming method, and converts its
// refusals to a status.
func (s *Server) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := recovered(func() error { return handler(srv, decodedStream{stream}) })
	var p *panicError
	var refused *refusal.Error
	if !errors.As(err, &p) && !errors.As(err, &refused) {
		return err
	}
	ctx := stream.Context()
	if p != nil {
		s.logger.ErrorContext(ctx, "health watcher", "request_id", requestOf(ctx).id, "cause", p.Error(), "stack", string(p.stack))
	}
	return s.grpcError(disclose(err), ctx)
}
