// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// requestIDHeader carries the request ID in both directions.
const requestIDHeader = "X-Request-Id"

// The values of the label and log attribute "api".
const (
	apiGRPC   = "grpc"
	apiRESTv2 = "rest_v2"
	apiRESTv1 = "rest_v1"
)

// The values of the label and log attribute "method": the service's method, whichever API the
// request used, and one value for all others.
const (
	methodCreate  = "CreateSigningCertificate"
	methodTrust   = "GetTrustBundle"
	methodConfig  = "GetConfiguration"
	methodUnknown = "unknown"
)

// The values of the label and log attribute "reason" that are not refusal.Reasons.
const (
	reasonOK       = "OK"
	reasonCanceled = "CANCELED" // the client disconnected before there was an answer
)

// request is one request of any API, as its handler, the metrics and the access log need it.
type request struct {
	id          string
	peer        string
	client      netip.Addr // from clientAddr
	api, method string
	route       route // of a REST API
	body        []byte
	// The headers that can carry an ID token, beside the message. Only gRPC has the second.
	authorization, token []string
	err                  error // the request cannot be handled; the refusal has this reason
}

// requestKey is the context key of a *request. The gRPC server and the gateway pass it on to the
// handlers of the service.
type requestKey struct{}

// newRequest begins the answer to r: every answer has the request ID.
func (s *Server) newRequest(w http.ResponseWriter, r *http.Request) *request {
	q := &request{id: requestID(r.Header.Get(requestIDHeader)), peer: r.RemoteAddr, client: s.clientAddr(r)}
	w.Header().Set(requestIDHeader, q.id)
	return q
}

// with returns a context that carries q.
func (q *request) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, requestKey{}, q)
}

// requestOf returns the request that ctx carries.
func requestOf(ctx context.Context) *request {
	q, _ := ctx.Value(requestKey{}).(*request)
	return q
}

// run passes a request of any API to its handler; no request bypasses it. It admits the request if
// slots has room, limits its time, recovers its panics, counts it, and logs it in the access log. It
// returns nil, or the refusal for the client. If handle succeeds, answered returns the reason of an
// answer that it wrote itself; nil means OK.
func (s *Server) run(ctx context.Context, q *request, slots chan struct{}, answered func() string, handle func(context.Context) error) *refusal.Error {
	start := s.now()
	err := q.err
	if err == nil {
		err = s.admit(ctx, slots, handle)
	}
	took := s.now().Sub(start)
	if err == nil {
		reason := reasonOK
		if answered != nil {
			reason = answered()
		}
		s.record(ctx, q, reason, took, nil)
		return nil
	}
	refused := disclose(err)
	s.record(ctx, q, reasonOf(ctx, refused), took, refused)
	return refused
}

// reasonOf returns the reason of a refusal as it is counted. A failure may follow from the client's
// disconnect; then no client reads the answer.
func reasonOf(ctx context.Context, refused *refusal.Error) string {
	if ctx.Err() != nil && ours(refused.Reason.Kind()) {
		return reasonCanceled
	}
	return string(refused.Reason)
}

// admit runs handle if a slot is free, for at most Limits.Answer.
func (s *Server) admit(caller context.Context, slots chan struct{}, handle func(context.Context) error) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		return refusal.New(refusal.Overloaded, "the certificate authority is answering as many requests as it can; try again in a moment")
	}
	ctx, cancel := context.WithTimeout(caller, s.limits.Answer)
	defer cancel()
	err := recovered(func() error { return handle(ctx) })
	var e *refusal.Error
	var p *panicError
	if err != nil && ctx.Err() != nil && caller.Err() == nil && !errors.As(err, &e) && !errors.As(err, &p) {
		return refusal.New(refusal.Overloaded, "there was no answer within %v; try again in a moment", s.limits.Answer).Because(err)
	}
	return err
}

// disclose returns the refusal in err. A reason that the table of package refusal lacks is hidden
// like any error that is not meant for a client. This also limits the metrics' labels.
func disclose(err error) *refusal.Error {
	refused := refusal.From(err)
	if refused.Reason.Kind() == refusal.Internal && refused.Reason != refusal.InternalError {
		return refusal.From(errors.New("unlisted reason")).Because(err)
	}
	return refused
}

// ours reports whether the operator must act on refusals of kind k.
func ours(k refusal.Kind) bool { return k == refusal.Internal || k == refusal.Unavailable }

// panicError is a panic of a handler. Its text is for the operator only.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// recovered calls f and returns its panic as an error. Its stack begins with the function that
// panicked, because a log line has no room for the whole stack.
func recovered(f func() error) (err error) {
	defer func() {
		value := recover()
		if value == http.ErrAbortHandler { // the connection is being closed
			panic(value)
		}
		if value == nil {
			return
		}
		stack := debug.Stack()
		if _, below, ok := bytes.Cut(stack, []byte("\npanic(")); ok {
			if lines := bytes.SplitN(below, []byte("\n"), 3); len(lines) == 3 {
				stack = lines[2]
			}
		}
		err = &panicError{value, stack}
	}()
	return f()
}

// record counts one request and logs it in the access log.
func (s *Server) record(ctx context.Context, q *request, reason string, took time.Duration, refused *refusal.Error) {
	s.metrics.requests.WithLabelValues(q.api, q.method, reason).Inc()
	s.metrics.duration.WithLabelValues(q.api, q.method).Observe(took.Seconds())
	level := slog.LevelInfo
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("request_id", q.id),
		slog.String("api", q.api),
		slog.String("method", q.method),
		slog.String("peer", q.peer),
		slog.String("reason", reason),
		slog.Duration("duration", took),
	)
	if q.client.IsValid() {
		attrs = append(attrs, slog.String("client", q.client.String()))
	}
	if refused != nil {
		attrs = append(attrs, slog.String("message", refused.Message))
		switch {
		case reason == reasonCanceled:
		case refused.Reason == refusal.IssuerUnreachable:
			level = slog.LevelWarn // any client can cause it with a forged token
		case ours(refused.Reason.Kind()):
			level = slog.LevelError
		}
		if refused.Cause != nil {
			attrs = append(attrs, slog.String("cause", refused.Cause.Error()))
		}
		var p *panicError
		if errors.As(refused.Cause, &p) {
			attrs = append(attrs, slog.String("stack", string(p.stack)))
		}
	}
	s.logger.LogAttrs(ctx, level, "request", attrs...)
}

// requestID returns the caller's request ID if it is usable, otherwise 128 random bits.
func requestID(callers string) string {
	if usableRequestID(callers) {
		return callers
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand stops the process instead
	return hex.EncodeToString(b[:])
}

// usableRequestID reports whether id is 1 to 128 characters of [A-Za-z0-9._-], which is safe in a
// header, in a log and on a terminal.
func usableRequestID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return len(id) >= 1 && len(id) <= 128
}
