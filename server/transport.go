// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// newTransport returns the gRPC server of a port that serves nothing else. It uses grpc-go's own
// transport, which takes a third of the time of net/http's HTTP/2. (*Server).receive, conn and
// connections keep the limits that net/http keeps on a shared port.
func newTransport(s *Server) *grpc.Server {
	plain := insecure.NewCredentials()
	if s.cfg.TLS != nil {
		plain = credentials.NewTLS(s.cfg.TLS)
	}
	return newGRPC(s,
		grpc.Creds(handshake{plain}),
		grpc.StreamInterceptor(s.receive),
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(grpcproto.Name)}),
		grpc.ConnectionTimeout(readHeaderTimeout),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(ownStreams),
		grpc.StaticStreamWindowSize(maxBody), // otherwise it grows with the speed of a client
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: s.cfg.Limits.Idle}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
}

const (
	ioBuffer      = 8 << 10 // more than an ordinary request or answer
	streamWorkers = 64      // goroutines that keep the stack that a request needs
	// ownStreams is the number of requests in progress on a connection of gRPC's own port. grpc-go's
	// transport reads the bodies of all streams, up to a window of 64 KiB each, before the handlers do.
	ownStreams     = 16
	smallestPooled = 2 << 10 // mem.NewBuffer ignores the pool of a buffer of up to 1 KiB
)

// handshake makes a *conn available to its streams, as the peer's AuthInfo.
type handshake struct {
	credentials.TransportCredentials
}

// ServerHandshake completes the handshake of an accepted connection.
func (h handshake) ServerHandshake(accepted net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c := accepted.(*conn) // of newListener
	if err := c.proxyHeader(); err != nil {
		return nil, nil, err
	}
	served, _, err := h.TransportCredentials.ServerHandshake(accepted)
	if err != nil {
		return nil, nil, err
	}
	c.transport(served)
	return served, c, nil
}

// AuthType implements credentials.AuthInfo.
func (c *conn) AuthType() string { return "mayfly" }

// receive is the interceptor of every stream of grpc-go's transport. It reads the message, passes the
// request on, and keeps its place until the answer has been sent: what begin, handler and serveGRPC
// do for net/http.
func (s *Server) receive(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx := stream.Context()
	from, _ := peer.FromContext(ctx) // every stream has it
	c := from.AuthInfo.(*conn)
	header := func(name string) []string { return metadata.ValueFromIncomingContext(ctx, name) }
	q := &request{peer: c.remote, client: s.clientAddr(c.remote, header("x-forwarded-for")), conn: c, http2: true}
	q.id = requestID(append(header("x-request-id"), "")[0])
	q.api, q.method = apiGRPC, grpcMethods[info.FullMethod]
	q.authorization, q.token = header("authorization"), header("oidcidentitytoken")
	q.traceparent = header("traceparent")

	taken := c.streams.Add(1) > 1
	q.sent = func() {
		q.end()
		c.streams.Add(-1)
		if taken {
			s.handlers.Give(q.client)
		}
	}
	if taken && !s.handlers.Take(q.client, time.Now()) {
		taken, q.method = false, cmp.Or(q.method, methodUnknown)
		q.err = refusal.New(refusal.Overloaded, "the server is reading as many requests as it can; try again in a moment")
	}
	err := recovered(func() error {
		_ = stream.SetHeader(metadata.Pairs("x-request-id", q.id)) // it fails if the client has reset the stream; so does reading
		if q.err == nil {
			q.err = s.readMessage(ctx, q)
		}
		if q.err != nil {
			return grpcError(s.run(ctx, q, s.slots, nil), q)
		}
		if q.begun = c.begin(true); !q.begun {
			<-c.ended // see (*request).begin
			return status.Error(codes.Unavailable, "the connection is closed")
		}
		return handle(srv, decodedStream{stream, q})
	})
	if !q.answered {
		q.sent()
	}
	if _, ok := status.FromError(err); !ok {
		err = grpcError(disclose(err), q)
	}
	return err
}

// readMessage reads the one message of a request. It reads below grpc.ServerStream, which would refuse
// a large message with RESOURCE_EXHAUSTED, which clients retry, and wait for as long as a client likes.
func (s *Server) readMessage(ctx context.Context, q *request) error {
	in := grpc.ServerTransportStreamFromContext(ctx).(interface {
		RecvCompress() string
		ReadMessageHeader([]byte) error // reads all that fits, or returns an error
		WriteStatus(*status.Status) error
	})
	if err := cmp.Or(q.checkGRPC(true, in.RecvCompress()), s.admitUnread(q)); err != nil {
		return err
	}
	timer := time.AfterFunc(readTimeout, func() { _ = in.WriteStatus(status.FromProto(statusOf(refusal.From(incomplete(nil)), q.id))) })
	body, err := s.readFrame(q, in.ReadMessageHeader)
	if !timer.Stop() {
		return incomplete(err)
	}
	q.body = body
	return err
}

// readFrame reads one message with its prefix. It holds no more than the prefix has announced.
func (s *Server) readFrame(q *request, read func([]byte) error) ([]byte, error) {
	prefix := make([]byte, framePrefix)
	if err := read(prefix); errors.Is(err, io.EOF) {
		return unframe(nil)
	} else if err != nil {
		return nil, incomplete(err)
	}
	length := binary.BigEndian.Uint32(prefix[1:])
	switch {
	case prefix[0] != 0:
		return nil, errCompressed()
	case length > maxBody:
		return nil, errTooLarge()
	case length >= ordinaryBody && !s.large.Take(q.client, time.Now()):
		return nil, errManyLarge()
	case length >= ordinaryBody:
		defer s.large.Give(q.client)
	}
	body := make([]byte, length)
	if err := read(body); err != nil {
		return nil, incomplete(err)
	}
	if err := read(prefix[:1]); err == nil {
		return nil, refusal.New(refusal.RequestMalformed, "more bytes follow the message; a request holds exactly one message")
	} else if !errors.Is(err, io.EOF) {
		return nil, incomplete(err)
	}
	return body, nil
}

// answer is the message of an answer over grpc-go's transport, which sends it after the handler has
// returned. It is the message's mem.BufferPool, to which the transport returns the encoded message
// when it has been written, or will not be.
type answer struct {
	message proto.Message
	q       *request
	timer   *time.Timer // for a client that does not take the answer
}

// message returns what a stream sends as m, the answer to a request.
func (q *request) message(m any) any {
	if q.sent == nil {
		return m
	}
	return &answer{message: m.(proto.Message), q: q} // as generated code returns it
}

// codec encodes messages.
type codec struct{ encoding.CodecV2 }

// Marshal encodes a message once. An answer keeps its request's place until it has been sent.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(*answer)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size := proto.Size(a.message)
	data, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(make([]byte, 0, max(size, smallestPooled)), a.message)
	if err != nil {
		return nil, err
	}
	a.q.answer()
	a.timer = time.AfterFunc(min(stall*time.Duration(1+size/piece), writeTimeout), func() {
		_ = a.q.conn.Close()
		a.q.sent()
	})
	return mem.BufferSlice{mem.NewBuffer(&data, a)}, nil
}

// Put implements mem.BufferPool.
func (a *answer) Put(*[]byte) {
	if a.timer.Stop() {
		a.q.sent()
	}
}

// Get implements mem.BufferPool. It is not called.
func (a *answer) Get(int) *[]byte { return nil }
