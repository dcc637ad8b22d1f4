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
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// newGateway returns the in-process gateway from JSON to the service. It decodes, calls and
// encodes; serveREST handles paths, methods, headers and errors.
func newGateway(s *Server) (*runtime.ServeMux, error) {
	noHeader := func(string) (string, bool) { return "", false }
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{s}),
		runtime.WithIncomingHeaderMatcher(noHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithErrorHandler(keepError),
		runtime.WithRoutingErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, _ http.ResponseWriter, _ *http.Request, httpStatus int) {
			requestOf(ctx).err = fmt.Errorf("gateway: no handler: HTTP status %d", httpStatus) // serveREST routes none to it
		}),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	return mux, fulciov2.RegisterCAHandlerServer(context.Background(), mux, service{Server: s})
}

// serveGateway passes a request to the gateway. The inner request contains only the body. The
// caller's Accept, Content-Type, TE, Grpc-Timeout, Grpc-Metadata-… and other headers have no
// meaning here.
func (s *Server) serveGateway(ctx context.Context, a *answer, q *request) error {
	inner := &http.Request{
		Method: q.route.verb,
		URL:    &url.URL{Path: q.route.path},
		Header: http.Header{},
		Body:   io.NopCloser(bytes.NewReader(q.body)),
	}
	s.gateway.ServeHTTP(a, inner.WithContext(q.with(ctx)))
	return q.err
}

// keepError passes an error to serveREST. The gateway's own error always means that a body could
// not be decoded. Its text quotes the body, which may hold a token, so it is dropped.
func keepError(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, _ http.ResponseWriter, _ *http.Request, err error) {
	q := requestOf(ctx)
	var refused *refusal.Error
	if !errors.As(err, &refused) && status.Code(err) == codes.InvalidArgument {
		err = malformedJSON(q.body)
	}
	q.err = err
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
	if b := m.s.bundle.Load(); b != nil && len(b.json) > 0 && message == proto.Message(b.message) {
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

// NewEncoder is required by the interface. The gateway does not call it for unary methods.
func (m jsonMarshaler) NewEncoder(io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(any) error { return errors.ErrUnsupported })
}
