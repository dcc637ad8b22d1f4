// SPDX-License-Identifier: Apache-2.0

package server

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// errorDomain is the domain of every google.rpc.ErrorInfo. Reasons are unique within it.
const errorDomain = "mayfly-ca.dev"

// answers is the only table from the kind of a refusal to its gRPC code and HTTP status, and to when
// the client can retry by default; zero if a retry is useless.
var answers = map[refusal.Kind]struct {
	code  codes.Code
	http  int
	retry time.Duration
}{
	refusal.Internal:         {codes.Internal, http.StatusInternalServerError, 0},
	refusal.Malformed:        {codes.InvalidArgument, http.StatusBadRequest, 0},
	refusal.Unauthenticated:  {codes.Unauthenticated, http.StatusUnauthorized, 0},
	refusal.Denied:           {codes.PermissionDenied, http.StatusForbidden, 0},
	refusal.SlowDown:         {codes.ResourceExhausted, http.StatusTooManyRequests, time.Second},
	refusal.Unavailable:      {codes.Unavailable, http.StatusServiceUnavailable, 2 * time.Second},
	refusal.NotFound:         {codes.NotFound, http.StatusNotFound, 0},
	refusal.MethodNotAllowed: {codes.Unimplemented, http.StatusMethodNotAllowed, 0}, // of gRPC, too
}

// retryAfter returns when the client can retry; zero if a retry is useless.
func retryAfter(e *refusal.Error) time.Duration {
	retry := answers[e.Reason.Kind()].retry
	if retry > 0 && e.RetryAfter > 0 {
		return e.RetryAfter
	}
	return retry
}

// statusOf returns the status of a refusal in every API: the message, and in the details ErrorInfo,
// RequestInfo and, if the client can retry, RetryInfo.
func statusOf(e *refusal.Error, requestID string) *spb.Status {
	details := []proto.Message{
		&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: errorDomain},
		&errdetails.RequestInfo{RequestId: requestID},
	}
	if d := retryAfter(e); d > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	st := &spb.Status{Code: int32(answers[e.Reason.Kind()].code), Message: strings.ToValidUTF8(e.Message, "\uFFFD")}
	for _, d := range details {
		if packed, err := anypb.New(d); err == nil {
			st.Details = append(st.Details, packed)
		}
	}
	return st
}

// appendStatus appends the JSON of statusOf, as protojson renders it. It costs a tenth of that, and a
// server that refuses most requests has no time for them.
func appendStatus(dst []byte, e *refusal.Error, requestID string) []byte {
	quote := func(text string) {
		dst, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(text, "\uFFFD")) // fails only for invalid UTF-8
	}
	dst = strconv.AppendInt(append(dst, `{"code":`...), int64(answers[e.Reason.Kind()].code), 10)
	dst = append(dst, `,"message":`...)
	quote(e.Message)
	dst = append(dst, `,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":`...)
	quote(string(e.Reason))
	dst = append(dst, `,"domain":"`+errorDomain+`","metadata":{}},{"@type":"type.googleapis.com/google.rpc.RequestInfo","requestId":`...)
	quote(requestID)
	dst = append(dst, `,"servingData":""}`...)
	if d := retryAfter(e); d > 0 {
		dst = append(dst, `,{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"`...)
		dst = append(strconv.AppendFloat(dst, d.Round(time.Millisecond).Seconds(), 'f', 3, 64), `s"}`...)
	}
	return append(dst, `]}`...)
}

// refuse answers an HTTP request with a refusal: {"code", "message", "details"}.
func (q *request) refuse(w http.ResponseWriter, e *refusal.Error) {
	httpStatus := answers[e.Reason.Kind()].http
	body := appendStatus(make([]byte, 0, 1<<10), e, q.id)
	if d := retryAfter(e); d > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
	}
	if httpStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, section 15.5.2
	}
	q.write(w, httpStatus, typeJSON, body)
}
