// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// requestKey is the context key of a *request. The gRPC server and the gateway pass it on to the
// methods of the service, and Correlate finds it in the context of a log record.
type requestKey struct{}

// with returns a context that carries q.
func (q *request) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, requestKey{}, q)
}

// requestOf returns the request that ctx carries.
func requestOf(ctx context.Context) *request { return ctx.Value(requestKey{}).(*request) }

// newGateway returns the in-process gateway from JSON to the service. It decodes, calls and
// encodes; serveREST handles paths, methods, headers and errors. It gets no header (callGateway).
func newGateway(s *Server) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{&runtime.JSONPb{MarshalOptions: marshalJSON}}),
		runtime.WithErrorHandler(keepError),
	)
	return mux, fulciov2.RegisterCAHandlerServer(context.Background(), mux, service{Server: s})
}

// callGateway passes a request to the gateway and returns its answer. The inner request contains only
// the body: the caller's Accept, Content-Type, TE, Grpc-Timeout, Grpc-Metadata-… and other headers
// have no meaning here.
func (s *Server) callGateway(ctx context.Context, q *request) ([]byte, error) {
	var answer gatewayAnswer
	inner := &http.Request{Method: q.verb, URL: &url.URL{Path: q.path}, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(q.body))}
	s.gateway.ServeHTTP(&answer, inner.WithContext(ctx))
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
type jsonMarshaler struct{ runtime.Marshaler }

var marshalJSON = protojson.MarshalOptions{EmitUnpopulated: true}

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

// createV2 issues a certificate. The gateway answers a request that decodeV2 does not decode.
func (s *Server) createV2(ctx context.Context, q *request) ([]byte, error) {
	token, p, ok := decodeV2(q.body)
	if !ok {
		return s.callGateway(ctx, q)
	}
	issued, err := s.issue(ctx, q, token, p)
	if err != nil {
		return nil, err
	}
	return answerV2(issued), nil
}

// requestV2 is the body of POST /api/v2/signingCert in the form that signing clients send: camelCase
// names, strings, and bytes as padded standard base64.
type requestV2 struct {
	Credentials struct {
		IDToken string `json:"oidcIdentityToken"`
	} `json:"credentials"`
	PublicKeyRequest *struct {
		PublicKey struct {
			Algorithm string `json:"algorithm"` // ignored; the key determines it
			Content   string `json:"content"`
		} `json:"publicKey"`
		ProofOfPossession []byte `json:"proofOfPossession"`
	} `json:"publicKeyRequest"`
	CertificateSigningRequest []byte `json:"certificateSigningRequest"`
}

// decodeV2 returns the ID token and the proof of possession in a body, if it is a requestV2 with no
// other name and no name twice. For any other body ok is false; protojson, through the gateway,
// decodes or refuses it.
func decodeV2(body []byte) (token string, p ca.Proof, ok bool) {
	var req *requestV2
	if err := json.Unmarshal(body, &req, json.RejectUnknownMembers(true)); err != nil || req == nil {
		return "", nil, false
	}
	key, csr := req.PublicKeyRequest, req.CertificateSigningRequest
	p = noProof{}
	switch {
	case key != nil && csr != nil: // both members of a oneof
		return "", nil, false
	case key != nil:
		p = proof.SignedChallenge{PublicKey: []byte(key.PublicKey.Content), Signature: key.ProofOfPossession}
	case csr != nil:
		p = proof.CSR{PEM: csr}
	}
	return req.Credentials.IDToken, p, true
}

// answerV2 returns the answer with a certificate, as protojson renders SigningCertificate. Without an
// SCT it has the detached form.
func answerV2(issued *ca.Issued) []byte {
	begin, end := `{"signedCertificateEmbeddedSct":{"chain":{"certificates":["`, `"]}}}`
	if !issued.SCTEmbedded {
		begin, end = `{"signedCertificateDetachedSct":{"chain":{"certificates":["`, `"]},"signedCertificateTimestamp":""}}`
	}
	body := append(make([]byte, 0, 256+3*len(issued.Certificate)/2+len(issued.Chain.JSON)), begin...)
	body = append(appendPEM(body, issued.Certificate, `\n`), `","`...)
	return append(append(body, issued.Chain.JSON...), end...)
}
