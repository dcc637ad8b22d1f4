// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// requestKey is the context key of a *request. The gRPC server and the gateway pass it on to the
// methods of the service.
type requestKey struct{}

// with returns a context that carries q.
func (q *request) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, requestKey{}, q)
}

// requestOf returns the request that ctx carries.
func requestOf(ctx context.Context) *request { return ctx.Value(requestKey{}).(*request) }

// newGateway returns the in-process gateway from JSON to the service. It decodes, calls and
// encodes; serveREST handles paths, methods, headers and errors.
func newGateway(s *Server) (*runtime.ServeMux, error) {
	noHeader := func(string) (string, bool) { return "", false }
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{&runtime.JSONPb{MarshalOptions: marshalJSON}, s}),
		runtime.WithIncomingHeaderMatcher(noHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithErrorHandler(keepError),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	return mux, fulciov2.RegisterCAHandlerServer(context.Background(), mux, service{Server: s})
}

// callGateway passes a request to the gateway and returns its answer. The inner request contains only
// the body: the caller's Accept, Content-Type, TE, Grpc-Timeout, Grpc-Metadata-… and other headers
// have no meaning here.
func (s *Server) callGateway(ctx context.Context, q *request) ([]byte, error) {
	var answer gatewayAnswer
	inner := &http.Request{Method: q.verb, URL: &url.URL{Path: q.path}, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(q.body))}
	s.gateway.ServeHTTP(&answer, inner.WithContext(q.with(ctx)))
	return answer.Bytes(), q.err
}

// gatewayAnswer is the body of the gateway's answer. Its header and status are serveREST's.
type gatewayAnswer struct{ bytes.Buffer }

// Header and WriteHeader implement http.ResponseWriter.
func (*gatewayAnswer) Header() http.Header { return http.Header{} }
func (*gatewayAnswer) WriteHeader(int)     {}

// keepError passes an error to callGateway. The gateway's own error always means that a body could
// not be decoded. Its text quotes the body, which may hold a token, so it is dropped.
func keepError(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, _ http.ResponseWriter, _ *http.Request, err error) {
	if !errors.As(err, new(*refusal.Error)) && status.Code(err) == codes.InvalidArgument {
		err = refusal.New(refusal.RequestMalformed, "the request body is not what API v2 takes: one JSON object with credentials and either publicKeyRequest or certificateSigningRequest, each field given once and with a value of its type")
	}
	requestOf(ctx).err = err
}

// jsonMarshaler is protojson as clients know it. It emits unpopulated fields, and ignores unknown
// fields and unknown names of an enum. A body is exactly one JSON value.
type jsonMarshaler struct {
	runtime.Marshaler
	*Server
}

var marshalJSON = protojson.MarshalOptions{EmitUnpopulated: true}

// Marshal returns the JSON of a message. Those of the trust bundle and of the issuers are rendered only
// once.
func (m jsonMarshaler) Marshal(v any) ([]byte, error) {
	if b := m.bundle.Load(); b != nil && v == any(b.message) {
		return b.json, nil
	}
	if c := m.issuers.Load(); c != nil && v == any(c.message) {
		return c.json, nil
	}
	return m.Marshaler.Marshal(v)
}

// NewDecoder decodes one message, the whole content of r. It never returns io.EOF, which the
// gateway would take for an empty message.
func (jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, v.(proto.Message)) // as generated code passes it
	})
}
