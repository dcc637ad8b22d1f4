// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// Correlate returns a handler that adds to each record of a request its request_id, unless the record
// has it, and its trace_id, if the request is traced. The context of a record leads to its request.
func Correlate(inner slog.Handler) slog.Handler { return correlating{inner} }

type correlating struct{ slog.Handler }

// Handle implements slog.Handler.
func (c correlating) Handle(ctx context.Context, r slog.Record) error {
	q, ok := ctx.Value(requestKey{}).(*request)
	if !ok {
		return c.Handler.Handle(ctx, r)
	}
	named := false
	r.Attrs(func(a slog.Attr) bool {
		named = a.Key == "request_id"
		return !named
	})
	if !named || q.span != nil {
		r = r.Clone() // which other handlers may share
	}
	if !named {
		r.AddAttrs(slog.String("request_id", q.id))
	}
	if q.span != nil {
		r.AddAttrs(slog.String("trace_id", q.span.ID()))
	}
	return c.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (c correlating) WithAttrs(attrs []slog.Attr) slog.Handler {
	return correlating{c.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (c correlating) WithGroup(name string) slog.Handler {
	return correlating{c.Handler.WithGroup(name)}
}

// endSpan completes the trace of a request. It has only what the access log has, and of that nothing
// about a person. failed states that the operator must act.
func (q *request) endSpan(reason string, failed bool, at time.Time) {
	if q.span == nil {
		return
	}
	q.steps.Each(func(step ca.Step, begin, end time.Time) { q.span.Step(step.String(), begin, end) })
	entry := ""
	if q.caller.Token != nil {
		entry = q.caller.Token.Entry
	}
	authority, logID := q.steps.Signed()
	q.span.End(at, failed, "request_id", q.id, "api", q.api, "method", q.method, "reason", reason, "issuer_entry", entry, "authority", authority, "log_id", logID)
}
