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

// requestIDHeader carries the request ID in both directions, over HTTP and as gRPC metadata, which
// has the name in lower case.
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

// call is one request as metrics and the access log record it.
type call struct {
	api, method, requestID, peer string
	client                       netip.Addr // from clientAddr
	// slots admits the request. Mounts have slots of their own, so that readers of a log take none
	// from callers that need a certificate. Nil means the server's slots.
	slots chan struct{}
	// answered returns the reason of an answer that the handler wrote itself; nil means OK.
	answered func() string
}

// run passes a request of any API to its handler; no request bypasses it. It admits the request,
// limits its time, recovers its panics, counts it, and logs it in the access log. It returns nil,
// or the refusal for the client.
func (s *Server) run(ctx context.Context, c call, handle func(context.Context) error) *refusal.Error {
	start := s.now()
	err := s.admit(ctx, c.slots, handle)
	took := s.now().Sub(start)
	if err == nil {
		reason := reasonOK
		if c.answered != nil {
			reason = c.answered()
		}
		s.record(ctx, c, reason, took, nil)
		return nil
	}
	refused := disclose(err)
	reason := string(refused.Reason)
	if ctx.Err() != nil && ours(refused.Reason.Kind()) {
		// The failure follows from the client's disconnect, and no client reads the answer.
		reason = reasonCanceled
	}
	s.record(ctx, c, reason, took, refused)
	return refused
}

// admit runs handle if a slot is free, for at most Limits.Answer.
func (s *Server) admit(caller context.Context, slots chan struct{}, handle func(context.Context) error) (err error) {
	if slots == nil {
		slots = s.slots
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		return refusal.New(refusal.Overloaded, "the certificate authority is answering as many requests as it can; try again in a moment")
	}
	ctx, cancel := context.WithTimeout(caller, s.limits.Answer)
	defer cancel()
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler: // the connection is being closed
			panic(p)
		default:
			err = panicked(p)
		}
	}()
	err = handle(ctx)
	var e *refusal.Error
	if err != nil && ctx.Err() != nil && caller.Err() == nil && !errors.As(err, &e) {
		return refusal.New(refusal.Overloaded, "there was no answer within %v; try again in a moment", s.limits.Answer).Because(err)
	}
	return err
}

// disclose returns the refusal in err. A reason that the table of package refusal lacks is hidden
// like any error that is not meant for a client. This also limits the metrics' labels.
func disclose(err error) *refusal.Error {
	refused := refusal.From(err)
	if refused.Reason.Kind() == refusal.Internal && refused.Reason != refusal.InternalError {
		return refusal.From(errUnlisted).Because(err)
	}
	return refused
}

// errUnlisted replaces a refusal with a reason that the table of package refusal lacks.
var errUnlisted = errors.New("unlisted reason")

// ours reports whether the operator must act on refusals of kind k.
func ours(k refusal.Kind) bool { return k == refusal.Internal || k == refusal.Unavailable }

// panicError is a panic of a handler. Its text is for the operator only.
type panicError struct {
	value any
	stack []byte
}

// panicked returns the error for a panic that is being recovered. Its stack begins with the
// function that panicked, because a log line has no room for the whole stack.
func panicked(value any) *panicError {
	stack := debug.Stack()
	if _, below, ok := bytes.Cut(stack, []byte("\npanic(")); ok {
		if lines := bytes.SplitN(below, []byte("\n"), 3); len(lines) == 3 {
			stack = lines[2]
		}
	}
	return &panicError{value: value, stack: stack}
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// record counts one request and logs it in the access log.
func (s *Server) record(ctx context.Context, c call, reason string, took time.Duration, refused *refusal.Error) {
	s.metrics.requests.WithLabelValues(c.api, c.method, reason).Inc()
	s.metrics.duration.WithLabelValues(c.api, c.method).Observe(took.Seconds())
	level := slog.LevelInfo
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("request_id", c.requestID),
		slog.String("api", c.api),
		slog.String("method", c.method),
		slog.String("peer", c.peer),
		slog.String("reason", reason),
		slog.Duration("duration", took),
	)
	if c.client.IsValid() {
		attrs = append(attrs, slog.String("client", c.client.String()))
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
	if len(id) < 1 || len(id) > 128 {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
