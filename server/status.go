// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

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

// codeOf is the only table from the kind of a refusal to its gRPC code and HTTP status.
func codeOf(k refusal.Kind) (codes.Code, int) {
	switch k {
	case refusal.Malformed:
		return codes.InvalidArgument, http.StatusBadRequest
	case refusal.Unauthenticated:
		return codes.Unauthenticated, http.StatusUnauthorized
	case refusal.Denied:
		return codes.PermissionDenied, http.StatusForbidden
	case refusal.SlowDown:
		return codes.ResourceExhausted, http.StatusTooManyRequests
	case refusal.Unavailable:
		return codes.Unavailable, http.StatusServiceUnavailable
	case refusal.NotFound:
		return codes.NotFound, http.StatusNotFound
	case refusal.MethodNotAllowed:
		// gRPC also requires this code for a method that a server lacks.
		return codes.Unimplemented, http.StatusMethodNotAllowed
	default:
		return codes.Internal, http.StatusInternalServerError
	}
}

// retryAfter returns when the client can retry; zero if a retry is useless.
func retryAfter(e *refusal.Error) time.Duration {
	switch e.Reason.Kind() {
	case refusal.SlowDown:
		return cmp.Or(e.RetryAfter, time.Second)
	case refusal.Unavailable:
		return cmp.Or(e.RetryAfter, 2*time.Second)
	default:
		return 0
	}
}

// statusOf returns the status of a refusal in every API: the message, and in the details ErrorInfo,
// RequestInfo and, if the client can retry, RetryInfo.
func statusOf(e *refusal.Error, requestID string) *spb.Status {
	code, _ := codeOf(e.Reason.Kind())
	details := []proto.Message{
		&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: errorDomain},
		&errdetails.RequestInfo{RequestId: requestID},
	}
	if d := retryAfter(e); d > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	st := &spb.Status{Code: int32(code), Message: strings.ToValidUTF8(e.Message, "\uFFFD")}
	for _, d := range details {
		if packed, err := anypb.New(d); err == nil {
			st.Details = append(st.Details, packed)
		}
	}
	return st
}

// refuse answers an HTTP request with a refusal: {"code", "message", "details"}.
func (q *request) refuse(w http.ResponseWriter, e *refusal.Error) {
	_, httpStatus := codeOf(e.Reason.Kind())
	body, err := encodeJSON(statusOf(e, q.id))
	if err != nil {
		httpStatus, body = http.StatusInternalServerError, []byte(`{"code":13,"message":"","details":[]}`)
	}
	if d := retryAfter(e); d > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
	}
	if httpStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, section 15.5.2
	}
	q.write(w, httpStatus, typeJSON, body)
}
