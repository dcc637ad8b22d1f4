// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/server/trace"
)

// The values of the label and log attribute "api".
const (
	apiGRPC   = "grpc"
	apiRESTv2 = "rest_v2"
	apiRESTv1 = "rest_v1"
)

// The values of the label and log attribute "method", whichever API the request used.
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
	// reasonOwn is counted for a verified caller in place of OVERLOADED, if other requests of the same caller were waiting
	// before this one.
	reasonOwn = "OWN_SHARE_EXCEEDED"
)

const (
	// handlersPerSlot is the number of HTTP/2 requests that may be in progress for each slot. The share
	// of one client address, which may be a proxy's, is larger than all slots, so that many fast
	// requests get OVERLOADED instead of a reset.
	handlersPerSlot = 3
	// ordinaryBody is the expected limit of a request body. A larger body needs a place, because a
	// client can keep it in memory for readTimeout.
	ordinaryBody = 16 << 10
	// slotsPerLarge is the number of slots for each larger body that may arrive at a time.
	slotsPerLarge = 8
)

// request is one request of any API, as its handler, the metrics and the access log need it.
type request struct {
	route
	id     string
	peer   string
	client netip.Addr // from clientAddr
	path   string     // of REST
	body   []byte     // of an API
	err    error      // the request cannot be handled; the refusal has this reason
	reason string     // of an answer that is not a refusal; "" means OK
	caller ca.Caller  // what the authority has verified
	steps  ca.Steps   // of the authority
	span   *trace.Span
	// traceparent has the values of that header; one is expected.
	traceparent []string
	cost        int  // the places that it has in turns
	behindOwn   bool // it got none, and others of its caller were waiting before it
	// The headers that can carry an ID token, beside the message. Only gRPC has the second.
	authorization, token []string

	conn     *conn // nil if it has no place
	http2    bool
	begun    bool   // the request has been read completely
	answered bool   // the answer has begun
	sent     func() // over grpc-go's transport: gives the place back; an answer calls it when it has been sent
}

// serveFunc answers a request.
type serveFunc func(w http.ResponseWriter, r *http.Request, q *request)

// begin returns the handler of a listener. It keeps the connection of a request open from the last
// byte of the body until q.answer, after which the answer may wait for its client.
func (s *Server) begin(serve serveFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := &request{id: requestID(r.Header.Get(requestIDHeader)), peer: r.RemoteAddr, client: s.clientAddr(r.RemoteAddr, r.Header[forwardedFor]), http2: r.ProtoMajor == 2}
		q.traceparent = r.Header["Traceparent"]
		q.conn, _ = r.Context().Value(connKey{}).(*conn)
		w.Header().Set(requestIDHeader, q.id)
		defer q.end()
		if r.ContentLength == 0 {
			q.begin()
		} else {
			r.Body = watchedBody{r.Body, q}
		}
		serve(w, r, q)
	})
}

// watchedBody notes when the body of a request has been read.
type watchedBody struct {
	io.ReadCloser
	q *request
}

func (b watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.q.begin()
	}
	return n, err
}

// begin keeps the connection busy. If it is being closed, the client gets no answer and its request
// has no effect: begin aborts the handler, once the connection is closed. Otherwise net/http would
// reset the stream before the GOAWAY that permits the client to send the request again.
func (q *request) begin() {
	if q.conn == nil || q.begun {
		return
	}
	if q.begun = q.conn.begin(q.http2); !q.begun {
		<-q.conn.ended
		panic(http.ErrAbortHandler)
	}
}

// answer notes that the answer begins. A handler of whose answers few are in progress at a time need
// not call it.
func (q *request) answer() {
	if q.begun && !q.answered {
		q.answered = true
		q.conn.count(-1, 1)
	}
}

func (q *request) end() {
	switch {
	case q.answered:
		q.conn.count(0, -1)
	case q.begun || q.conn != nil && q.conn.begin(q.http2): // an answer to an incomplete request counts too
		q.conn.count(-1, 0)
	}
}

// write writes a complete answer.
func (q *request) write(w http.ResponseWriter, httpStatus int, contentType string, body []byte) {
	q.answer()
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(httpStatus)
	_, _ = w.Write(body) // an error means that the client has disconnected
}

// handler returns the handler of a listener of the APIs. It limits the HTTP/2 requests in progress:
// one for each connection, and a number for all connections together, of which one client address
// gets at most half. Otherwise slow clients could hold connections times streams in memory. A request
// beyond the limit is reset, since any answer may wait for its client.
func (s *Server) handler(serve serveFunc) http.Handler {
	return s.begin(func(w http.ResponseWriter, r *http.Request, q *request) {
		// A proxy cannot repeat a request that crosses GOAWAY, to which net/http converts this header. So
		// HTTP/2 gets it in the second half of the grace: in the first, a proxy notices that readiness
		// fails.
		if q.http2 && isClosed(s.health.leaving) || !q.http2 && isClosed(s.health.stopping) {
			w.Header().Set("Connection", "close")
		}
		if !q.http2 { // one request for each connection in any case
			serve(w, r, q)
			return
		}
		if q.conn != nil {
			defer q.conn.streams.Add(-1)
		}
		if q.conn == nil || q.conn.streams.Add(1) > 1 {
			if !s.handlers.Take(q.client, time.Now()) {
				s.metrics.requests.WithLabelValues(apiRESTv2, methodUnknown, string(refusal.Overloaded)).Inc()
				s.refused.add(string(refusal.Overloaded), time.Now())
				panic(http.ErrAbortHandler)
			}
			defer s.handlers.Give(q.client)
		}
		serve(w, r, q)
		// The rest of the answer waits for its client here, where the request still counts.
		_ = http.NewResponseController(w).Flush()
	})
}

// readBody returns r's body: at most maxBody, plus frame bytes of framing. It never holds more in
// memory.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, q *request, frame int) ([]byte, error) {
	most := int64(maxBody + frame)
	if r.ContentLength > most {
		return nil, errTooLarge()
	}
	bounded := http.MaxBytesReader(w, r.Body, most)
	var buffer bytes.Buffer
	buffer.Grow(bytes.MinRead + int(min(max(r.ContentLength, 0), 4<<10))) // not more before it arrives
	_, err := buffer.ReadFrom(io.LimitReader(bounded, ordinaryBody))
	if err == nil && buffer.Len() == ordinaryBody {
		if !s.large.Take(q.client, time.Now()) {
			return nil, errManyLarge()
		}
		defer s.large.Give(q.client)
		_, err = buffer.ReadFrom(bounded)
	}
	if err == nil {
		return buffer.Bytes(), nil
	}
	if errors.As(err, new(*http.MaxBytesError)) {
		return nil, errTooLarge()
	}
	return nil, incomplete(err)
}

// The refusals of a body that cannot be read.
func errTooLarge() error {
	return refusal.New(refusal.RequestMalformed, "the request is larger than %d bytes, which is the limit", maxBody)
}

func errManyLarge() error {
	return refusal.New(refusal.Overloaded, "the server is reading as many requests of more than %d bytes as it can; try again in a moment", ordinaryBody)
}

func incomplete(err error) *refusal.Error {
	return refusal.New(refusal.RequestMalformed, "the request body ended before it was complete, or took too long to arrive").Because(err)
}

// run passes a request of any API to its handler; no request bypasses it. It admits the request if
// slots has room, limits its time, recovers its panics, counts it, and logs it in the access log. It
// returns nil, or the refusal for the client.
func (s *Server) run(ctx context.Context, q *request, slots chan struct{}, handle func(context.Context) error) *refusal.Error {
	start, err := time.Now(), q.err
	ctx = q.with(ctx)
	if q.method != methodUnknown { // reads of mounts, and requests for what does not exist, are not traced
		q.span = s.cfg.Tracer.Start(q.method, start, q.traceparent)
	}
	if err == nil {
		err = admit(ctx, slots, handle)
	}
	took := time.Since(start)
	reason, failed := cmp.Or(q.reason, reasonOK), false
	var refused *refusal.Error
	if err != nil {
		refused = disclose(err)
		reason = reasonOf(ctx, refused)
		failed = reason != reasonCanceled && ours(refused.Reason.Kind())
	}
	if q.method == methodCreate {
		s.backlog.count(refused, start.Add(took))
	}
	s.record(ctx, q, reason, took, refused)
	q.endSpan(reason, failed, start.Add(took))
	return refused
}

// call runs a request of an API, and returns its answer or the refusal.
func (s *Server) call(ctx context.Context, q *request) (body []byte, refused *refusal.Error) {
	refused = s.run(ctx, q, s.slots, func(ctx context.Context) (err error) {
		body, err = q.handle(s, ctx, q)
		return err
	})
	return body, refused
}

// reasonOf returns the reason of a refusal as it is counted. A failure may follow from the client's
// disconnect; then no client reads the answer.
func reasonOf(ctx context.Context, refused *refusal.Error) string {
	if ctx.Err() != nil && context.Cause(ctx) != errLate && ours(refused.Reason.Kind()) {
		return reasonCanceled
	}
	return string(refused.Reason)
}

// admit runs handle if a slot is free, for at most answerTimeout.
func admit(caller context.Context, slots chan struct{}, handle func(context.Context) error) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		return errOverloaded()
	}
	ctx, cancel := context.WithTimeoutCause(caller, answerTimeout, errLate)
	defer cancel()
	return late(ctx, recovered(func() error { return handle(ctx) }))
}

// errLate is the cause of the end of a context after answerTimeout.
var errLate = errors.New("answerTimeout has passed")

// late returns OVERLOADED for an error that follows from the end of answerTimeout, otherwise err.
func late(ctx context.Context, err error) error {
	var e *refusal.Error
	var p *panicError
	if err != nil && context.Cause(ctx) == errLate && !errors.As(err, &e) && !errors.As(err, &p) {
		return refusal.New(refusal.Overloaded, "there was no answer within %v; try again in a moment", answerTimeout).Because(err)
	}
	return err
}

// disclose returns the refusal in err. A reason that the table of package refusal lacks is hidden
// like any error that is not meant for a client. This also limits the metrics' labels.
func disclose(err error) *refusal.Error {
	refused := jittered(refusal.From(err))
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

// record counts one request and logs it in the access log: of the refusals that slow a client down,
// one in a second for each reason, with the number of those left out.
func (s *Server) record(ctx context.Context, q *request, reason string, took time.Duration, refused *refusal.Error) {
	s.metrics.count(q, reason, took, refused)
	if refused != nil && q.caller.Token == nil && s.cfg.Refused != nil {
		s.cfg.Refused(reason)
	}
	if refused != nil {
		s.refused.add(reason, time.Now())
	}
	left := int64(0)
	if refused != nil && s.quiet[refused.Reason] != nil {
		var pass bool
		if left, pass = s.quiet[refused.Reason].pass(time.Now()); !pass {
			return
		}
	}
	level := slog.LevelInfo
	attrs := append(make([]slog.Attr, 0, 12), slog.String("request_id", q.id), slog.String("api", q.api), slog.String("method", q.method),
		slog.String("peer", q.peer), slog.String("reason", reason), slog.Duration("duration", took))
	if q.client.IsValid() {
		attrs = append(attrs, slog.String("client", q.client.String()))
	}
	if left > 0 {
		attrs = append(attrs, slog.Int64("left_out", left))
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
		attrs = q.caller.AppendAttrs(attrs)
	}
	if s.cfg.Logger.Enabled(ctx, level) {
		line := slog.NewRecord(time.Now(), level, "request", 0) // LogAttrs would look up the caller, which no handler writes
		line.AddAttrs(attrs...)
		_ = s.cfg.Logger.Handler().Handle(ctx, line)
	}
}
