// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// Mount is a handler beside the APIs on the HTTP listener, such as an embedded log. Its requests
// are admitted, limited in time, counted and logged like those of the APIs. The handler limits the
// bodies that it reads, and the memory of an answer while it is written.
type Mount struct {
	// Path is the path of the handler, not below /api/, and no other mount's. A path that ends in a
	// slash includes everything below it; the handler gets such paths without that prefix. Any other
	// path is exact, and so is "/".
	Path string
	// Accept, if it is not empty, is a media type: the mount answers only requests whose header Accept
	// names it. To any other request, it does not exist.
	Accept string
	// Name is the mount's value of the label "api" in metrics and logs, a short constant.
	Name string
	// Handler answers its requests.
	Handler http.Handler
}

// mount is a Mount and the places for its reads, far fewer than for certificates.
type mount struct {
	Mount
	reads *share.Places
}

// mountOf returns the mount with this path; otherwise the longest mount that path is below. The
// request's header Accept is accept.
func (s *Server) mountOf(path, accept string) (found *mount) {
	for i := range s.mounts {
		m := &s.mounts[i]
		below := m.Path != "/" && strings.HasSuffix(m.Path, "/") && strings.HasPrefix(path, m.Path)
		if (path == m.Path || below) && strings.Contains(accept, m.Accept) && (found == nil || len(m.Path) > len(found.Path)) {
			found = m
		}
	}
	return found
}

// serveMount answers a request for a mount. A read needs a place among the reads of the mount: an
// answer may be large, and its client slow.
func (s *Server) serveMount(w http.ResponseWriter, r *http.Request, q *request, m *mount, path string) {
	handler := m.Handler
	if prefix, ok := strings.CutSuffix(m.Path, "/"); ok {
		handler = http.StripPrefix(prefix, handler)
	}
	a := s.steady(w)
	q.api, q.method = m.Name, methodUnknown
	refused := s.run(r.Context(), q, s.mountSlots, func(ctx context.Context) error {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			if !m.reads.Take(q.client, time.Time{}) {
				return refusal.New(refusal.Overloaded, "the server is answering as many reads of this path as it can; try again in a moment")
			}
			defer m.reads.Give(q.client)
		}
		inner := r.Clone(ctx)
		inner.URL.Path, inner.URL.RawPath = path, ""
		handler.ServeHTTP(a, inner)
		q.reason = a.reason()
		return nil
	})
	if refused != nil && a.status == 0 {
		q.refuse(w, refused)
	}
}

const (
	// stall limits the time in which a client must read a piece of an answer.
	stall = 5 * time.Second
	// piece is the part of an answer that is written at a time. A client must read at least 6.4 KiB
	// a second.
	piece = 32 << 10
)

// steadyWriter disconnects a client that does not read its answer and so would keep its place.
type steadyWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	end     time.Time // of the whole answer
	status  int       // of the answer; 0 until it begins
	err     error     // of the first write that failed
	begins  *request  // whose answer begins with the first write; it may be nil
}

func (s *Server) steady(w http.ResponseWriter) *steadyWriter {
	return &steadyWriter{ResponseWriter: w, control: http.NewResponseController(w), end: time.Now().Add(writeTimeout)}
}

// WriteHeader records the status.
func (w *steadyWriter) WriteHeader(status int) {
	if w.status = status; w.begins != nil {
		w.begins.answer()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes p in pieces, each of them within stall.
func (w *steadyWriter) Write(p []byte) (n int, err error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	for {
		deadline := time.Now().Add(stall)
		if deadline.After(w.end) {
			deadline = w.end
		}
		_ = w.control.SetWriteDeadline(deadline) // fails only without a connection
		written, err := w.ResponseWriter.Write(p[:min(len(p), piece)])
		n, p = n+written, p[written:]
		if err != nil && w.err == nil {
			w.err = err
		}
		if err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// Flush implements http.Flusher, which the gRPC server requires. An answer without a body begins here.
func (w *steadyWriter) Flush() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = w.control.Flush() // fails only without a connection
}

// reason returns the reason of the answer for the access log: OK, its status, as in HTTP_403, or
// CANCELED. It also keeps the number of metrics' labels small.
func (w *steadyWriter) reason() string {
	switch {
	case w.err != nil:
		return reasonCanceled
	case w.status < http.StatusBadRequest || w.status > 599:
		return reasonOK
	default:
		return fmt.Sprintf("HTTP_%d", w.status)
	}
}
