// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// newGateway returns the in-process gateway from JSON to the service. It decodes, calls and
// encodes; serveREST handles paths, methods, headers and errors.
func newGateway(s *Server) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{s}),
		runtime.WithMetadata(gatewayMetadata),
		runtime.WithIncomingHeaderMatcher(noHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithErrorHandler(keepError),
		runtime.WithRoutingErrorHandler(keepRoutingError),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
	)
	return mux, fulciov2.RegisterCAHandlerServer(context.Background(), mux, service{Server: s})
}

// serveGateway passes a request to the gateway. The inner request contains only the body, the
// token, the request ID and the client address. The caller's Accept, Content-Type, TE,
// Grpc-Timeout, Grpc-Metadata-… and other headers have no meaning here.
func (s *Server) serveGateway(ctx context.Context, a *answer, r *http.Request) error {
	inner := &http.Request{
		Method: s.routes[a.path].verb,
		URL:    &url.URL{Path: a.path},
		Header: http.Header{
			"Authorization": r.Header["Authorization"],
			requestIDHeader: {a.requestID},
			forwardedFor:    {a.client.String()},
		},
		Body: io.NopCloser(bytes.NewReader(a.body)),
	}
	s.gateway.ServeHTTP(a, inner.WithContext(ctx))
	return a.err
}

// gatewayMetadata returns the metadata that the service reads as a gRPC request's.
func gatewayMetadata(_ context.Context, inner *http.Request) metadata.MD {
	return metadata.MD{
		metadataAuthorization: inner.Header["Authorization"],
		"x-request-id":        inner.Header[requestIDHeader],
		"x-forwarded-for":     inner.Header[forwardedFor],
	}
}

// noHeader stops all headers at the gateway, in both directions.
func noHeader(string) (string, bool) { return "", false }

// keepError passes an error to serveREST. The gateway's own error always means that a body could
// not be decoded. Its text quotes the body, which may hold a token, so it is dropped.
func keepError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	a, ok := w.(*answer)
	if !ok {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var refused *refusal.Error
	if !errors.As(err, &refused) && status.Code(err) == codes.InvalidArgument {
		err = malformedJSON(a.body)
	}
	a.err = err
}

// keepRoutingError handles requests for which the gateway has no handler; serveREST routes none to
// it.
func keepRoutingError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int) {
	keepError(ctx, mux, m, w, r, fmt.Errorf("gateway: no handler: HTTP status %d", httpStatus))
}

// malformedJSON returns what is wrong with a body that is not the JSON of a request.
func malformedJSON(body []byte) *refusal.Error {
	const wanted = "a JSON object with credentials and either publicKeyRequest or certificateSigningRequest"
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return refusal.New(refusal.RequestMalformed, "the request body is empty; it must be %s", wanted)
	case !json.Valid(body):
		return refusal.New(refusal.RequestMalformed, "the request body is not one JSON value; it must be %s", wanted)
	default:
		return refusal.New(refusal.RequestMalformed, "the request body is JSON, but a field is given twice, has a value of the wrong type, or excludes another that is present; it must be %s", wanted)
	}
}

// jsonMarshaler is protojson as clients know it. It emits unpopulated fields, and ignores unknown
// fields and unknown names of an enum. A body is exactly one JSON value.
type jsonMarshaler struct{ s *Server }

// ContentType does not depend on what the client accepts.
func (jsonMarshaler) ContentType(any) string { return "application/json" }

// Marshal returns the JSON of a message.
func (m jsonMarshaler) Marshal(v any) ([]byte, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("marshaling %T, which is not a message", v)
	}
	if b := m.s.bundle.newest.Load(); b != nil && len(b.json) > 0 && message == proto.Message(b.message) {
		return b.json, nil
	}
	return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(message)
}

// Unmarshal reads a message.
func (jsonMarshaler) Unmarshal(data []byte, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("unmarshaling into %T, which is not a message", v)
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, message)
}

// NewDecoder decodes one message, the whole content of r. It never returns io.EOF, which the
// gateway would take for an empty message.
func (m jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return m.Unmarshal(data, v)
	})
}

// NewEncoder encodes messages without separators.
func (m jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		data, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
}
